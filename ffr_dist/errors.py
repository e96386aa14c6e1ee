"""Every error a caller may want to tell apart.

    FFRError
    ├── InputError         what the user gave is wrong          exit 2
    │   ├── ConfigError    a recipe key or value
    │   ├── DataError      an image, a table of labels, a dataset
    │   └── ConflictError  the output folder holds something else
    ├── StoppedError       stopped, and the same command goes on   exit 3
    ├── BrokenError        checked, and found damaged              exit 4
    └── StoreError         object storage answered with an error
        ├── MissingError   no such object
        └── AccessError    no credentials, or wrong ones       exit 2

A message names the key or file, says what is wrong, and ends with what to do about it.
"""

from __future__ import annotations


class FFRError(Exception):
    """Base of all errors this package raises on purpose."""

    exit_code = 1


class InputError(FFRError):
    """What the user gave cannot be used."""

    exit_code = 2


class ConfigError(InputError):
    """A recipe has a key or a value that it may not have."""


class DataError(InputError):
    """A real image, a table of labels or a dataset cannot be read as declared."""


class ConflictError(InputError):
    """The output already holds something that this run would contradict."""


class StoppedError(FFRError):
    """The work stopped before its end; what is done is kept."""

    exit_code = 3


class BrokenError(FFRError):
    """Stored data is not what its manifest, index or checksum says."""

    exit_code = 4


class StoreError(FFRError):
    """Object storage refused or failed."""

    exit_code = 3


class MissingError(StoreError):
    """The store holds no object of that key."""


class AccessError(StoreError):
    """Object storage does not know who asks, or may not let them: nothing that waiting would cure."""

    exit_code = 2
