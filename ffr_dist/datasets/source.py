"""What a dataset offers to be imported: named splits of labelled images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ffr_dist.config import digest
from ffr_dist.groups import Group, Groups

EVALUATED = ("val", "test")
"""Splits that accuracies are taken of: each group that they declare must hold samples."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One real image with its group."""

    image: NDArray[np.uint8] | bytes
    """Pixels (height, width, 3), or an encoded file as its publisher wrote it."""
    group: Group
    name: str
    """What its publisher calls it: a file name, or a row of a table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """A split that can be imported: ``train``, ``val``, ``test``, and what a dataset has beside them."""

    name: str
    groups: Groups
    identity: Mapping[str, Any]
    """A JSON value of all that determines the samples: equal identities, equal samples."""
    samples: Callable[[], Iterator[Sample]]
    """Makes the samples, in a fixed order, afresh at each call."""
    counts: Callable[[], Mapping[str, int]]
    """Samples of each declared group, 0 included; cheap: a plan is made from it before any image is read."""
    skip_bad_images: bool = False
    """Leave out images that cannot be decoded, and count them, where otherwise they refuse the split."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Images of the publisher's that are not in the split, by reason; the import's manifest keeps it."""

    @property
    def folder(self) -> str:
        """Where the import lies below ``real/``."""
        return f"{self.name}-{digest(dict(self.identity), 12)}"
