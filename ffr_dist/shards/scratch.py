"""Scratch disk: what does not fit into memory waits there for a moment, and nothing rests on it afterwards."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ffr_dist.errors import StoreError


@contextmanager
def scratch_folder(purpose: str) -> Iterator[Path]:
    """A folder that is gone afterwards. StoreError, which says where it was, where the disk fails it or is full."""
    try:
        with tempfile.TemporaryDirectory(prefix=f"ffr-{purpose}-") as folder:
            yield Path(folder)
    except OSError as error:
        raise StoreError(
            f"{purpose} needs scratch space in {tempfile.tempdir or 'the folder of TMPDIR'}: {error.strerror or error}; free "
            "some there, or set TMPDIR to a folder of another disk, and run the same command again"
        ) from error
