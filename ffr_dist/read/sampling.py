"""How often each sample is drawn: the modes of sampling, as streams for an order.

``natural``: every sample once an epoch. ``balanced``: every group equally often, a small one's samples therefore more often.
``subsample``: as many of every group as the smallest holds, each once an epoch; the same ones in each.
:class:`GroupWeights`: every group as often as it is asked for. :class:`Shares`: so many of every set. :class:`Repeated`: some
samples more often than the others.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any, Literal

import numpy as np

from ffr_dist.errors import ConfigError, DataError
from ffr_dist.read.mixture import Mixture, Rows
from ffr_dist.read.order import Stream, thinned


@dataclass(frozen=True, slots=True)
class GroupWeights:
    """How often each group is drawn, by name and in any unit."""

    weights: Mapping[str, float]

    def __post_init__(self) -> None:
        _refuse_useless({f"the sampling weight of group {name}": weight for name, weight in self.weights.items()})


@dataclass(frozen=True, slots=True)
class Shares:
    """How often each set is drawn from, in their order and in any unit."""

    shares: tuple[float, ...]

    def __post_init__(self) -> None:
        _refuse_useless({f"the share of set {number}": share for number, share in enumerate(self.shares, 1)})


@dataclass(frozen=True, slots=True, eq=False)
class Repeated:
    """Some samples so many times as often as each of the others."""

    rows: Rows
    """Of the sets, one after the other; in ascending order, each once."""
    times: int


Sampling = Literal["natural", "balanced", "subsample"] | GroupWeights | Shares | Repeated


@dataclass(frozen=True, slots=True, eq=False)
class Drawing:
    """Streams, and which row of the mixture each entry of them is."""

    streams: tuple[Stream, ...]
    rows: Callable[[Rows, Rows], Rows]
    """Of (streams, entries)."""


def drawing(sampling: Sampling, mixture: Mixture, seed: int) -> Drawing:
    """The streams that ``sampling`` draws from."""
    if isinstance(sampling, Shares):
        return _from_sets(mixture, sampling.shares)
    if isinstance(sampling, GroupWeights):
        return _from_groups(mixture, _weights(mixture, sampling.weights))
    if isinstance(sampling, Repeated) and 0 < len(sampling.rows) < len(mixture):
        return _repeated(mixture, sampling)
    if sampling == "natural" or isinstance(sampling, Repeated):
        return Drawing((Stream(len(mixture)),), lambda _, entries: entries)
    if mixture.empty:
        raise DataError(
            f"there is no image of group {', '.join(mixture.empty)}, so that sampling cannot be {sampling}: "
            "add some, or do not declare it"
        )
    if sampling == "balanced":
        return _from_groups(mixture, [1] * len(mixture.names))
    return _subsample(mixture, seed)


def as_json(sampling: Sampling) -> Any:
    """A JSON value; equal samplings, equal values."""
    if isinstance(sampling, Repeated):
        return {"rows": hashlib.sha256(sampling.rows.astype("<i8").tobytes()).hexdigest(), "times": sampling.times}
    return sampling if isinstance(sampling, str) else asdict(sampling)


def _from_groups(mixture: Mixture, weights: Sequence[float]) -> Drawing:
    members = [mixture.members(place) for place in range(len(mixture.names))]

    def rows(streams: Rows, entries: Rows) -> Rows:
        found = np.empty(len(entries), np.int64)
        for number in np.unique(streams).tolist():
            found[streams == number] = members[number].rows(entries[streams == number])
        return found

    return Drawing(_streams(mixture.counts, weights), rows)


def _from_sets(mixture: Mixture, shares: Sequence[float]) -> Drawing:
    sizes = [len(dataset) for dataset in mixture.datasets]
    if len(shares) != len(sizes):
        raise ConfigError(f"{len(shares)} shares are given for {len(sizes)} sets; give each set one")
    if 0 in sizes:
        raise DataError(
            f"set {sizes.index(0) + 1} has a share of the samples, but holds no image; leave it and its share out"
        )
    return Drawing(_streams(sizes, shares), lambda streams, entries: mixture.starts[streams] + entries)


def _repeated(mixture: Mixture, sampling: Repeated) -> Drawing:
    others = np.ones(len(mixture), np.bool_)
    others[sampling.rows] = False
    parts = (np.flatnonzero(others), sampling.rows)
    sizes = [len(part) for part in parts]

    def rows(streams: Rows, entries: Rows) -> Rows:
        found = np.empty(len(entries), np.int64)
        for number, part in enumerate(parts):
            found[streams == number] = part[entries[streams == number]]
        return found

    return Drawing(_streams(sizes, (sizes[0], sizes[1] * sampling.times)), rows)


def _subsample(mixture: Mixture, seed: int) -> Drawing:
    """The groups take turns, so that what lies side by side stays so."""
    members = [mixture.members(place) for place in range(len(mixture.names))]
    smallest = min(mixture.counts)

    def rows(_: Rows, entries: Rows) -> Rows:
        found = np.empty(len(entries), np.int64)
        turns, groups = np.divmod(entries, len(members))
        for number, (group, count) in enumerate(zip(members, mixture.counts, strict=True)):
            here = groups == number
            found[here] = group.rows(thinned(turns[here], count, smallest, seed))
        return found

    return Drawing((Stream(smallest * len(members)),), rows)


def _streams(counts: Sequence[int], weights: Sequence[float]) -> tuple[Stream, ...]:
    # As they were written: 0.1 is a tenth.
    return tuple(Stream(count, Fraction(str(weight))) for count, weight in zip(counts, weights, strict=True))


def _weights(mixture: Mixture, weights: Mapping[str, float]) -> list[float]:
    """The weights of the groups that hold samples; each must have one, and no other group may."""
    unknown = [name for name in weights if name not in mixture.declared]
    if unknown:
        raise ConfigError(
            f"a sampling weight is given to {', '.join(unknown)}, which is not declared; "
            f"declared are {', '.join(mixture.declared)}"
        )
    empty = [name for name in weights if name not in mixture.names]
    if empty:
        raise DataError(
            f"a sampling weight is given to group {', '.join(empty)}, but there is no image of it; add some, or leave it out"
        )
    missing = [name for name in mixture.names if name not in weights]
    if missing:
        raise ConfigError(
            f"no sampling weight is given to group {', '.join(missing)}, so that its images would never be seen; "
            "give it one, or leave the images out of the set"
        )
    return [weights[name] for name in mixture.names]


def _refuse_useless(values: Mapping[str, float]) -> None:
    for what, value in values.items():
        if not (math.isfinite(value) and value > 0):
            raise ConfigError(
                f"{what} is {value:g}, but must be above 0; what is never to be seen is left out of the sets"
            )
