"""What is asked of pixels alone: duplicates, and the nearest training image of the generator.

Sets are passed through in parts; of an image that is judged stay two hashes and at most 3,072 numbers, of one that the generator
learned from nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ffr_dist.errors import DataError
from ffr_dist.evaluate.audit.findings import Distances, Duplicates
from ffr_dist.read.dataset import Dataset
from ffr_dist.shards.codec import blake2b16
from ffr_dist.shards.look import look
from ffr_dist.shards.near import near_earlier

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)

_COMPARED_SIDE = 32
_PART, _PART_VALUES = 256, 2**25
_CHUNK = 1024


def parts(dataset: Dataset) -> Iterator[NDArray[np.uint8]]:
    """The images of a set, some at a time."""
    step = max(1, min(_PART, _PART_VALUES // (3 * (dataset.side or 1) ** 2)))
    for start in range(0, len(dataset), step):
        yield dataset.pixels(range(start, min(start + step, len(dataset))))


def duplicates(dataset: Dataset, bits: int) -> Duplicates:
    """The images that look like an earlier one, of any group."""
    looks, hashes = [], []
    for images in parts(dataset):
        looks += [look(image) for image in images]
        hashes += [blake2b16(image) for image in images]
    near = near_earlier(np.frombuffer(b"".join(looks), np.uint64).reshape(-1, 4), bits)
    names = dataset.groups.names
    by_group = Counter(names[place] for place in dataset.group_ids[near])
    return Duplicates(
        exact=len(hashes) - len(set(hashes)),
        near=int(near.sum()),
        bits=bits,
        images=len(dataset),
        groups={name: by_group[name] for name, count in dataset.counts().items() if count},
    )


@dataclass(frozen=True, slots=True, eq=False)
class Nearest:
    """For each image of a set the nearest of another one."""

    distances: NDArray[np.float64]
    """RMS over pixels."""
    rows: NDArray[np.int64]
    """Which one: the first of equals."""


def compare(
    generated: Dataset, real: Dataset, itself: NDArray[np.int64] | None, generator: Dataset
) -> tuple[Distances, Nearest]:
    """Generated images, and held-out real ones, against the images that the generator learned from; and the generated ones'
    nearest. ``itself`` gives the rows of the real ones where they are the generator's own: each is told from itself.
    """
    places = np.full(len(generated) + len(real), -1)
    if itself is not None:
        places[len(generated) :] = itself
    hashes: list[bytes] = []
    ours: list[NDArray[np.float32]] = []
    for images in parts(generated):
        hashes += [blake2b16(image) for image in images]
        ours.append(flattened(images))
    ours += [flattened(images) for images in parts(real)]
    made, copied = set(hashes), set()

    def seen() -> Iterator[NDArray[np.float32]]:
        for images in parts(generator):
            copied.update(made.intersection(blake2b16(image) for image in images))
            yield flattened(images)

    found = nearest(np.concatenate(ours), seen(), places)
    split = len(generated)
    return Distances(
        quantiles=QUANTILES,
        generated=_quantiles(found.distances[:split]),
        real=_quantiles(found.distances[split:]),
        copies=sum(one in copied for one in hashes),
    ), Nearest(found.distances[:split], found.rows[:split])


def nearest(
    ours: NDArray[np.float32], theirs: Iterator[NDArray[np.float32]], itself: NDArray[np.int64] | None = None
) -> Nearest:
    """The nearest row of the parts of ``theirs`` to each of ``ours``; ``itself`` gives the one that does not count, or -1."""
    best = Nearest(np.full(len(ours), np.inf), np.full(len(ours), -1))
    first = 0
    for part in theirs:
        if part.shape[1] != ours.shape[1]:
            raise DataError(
                "generated and real images differ in size, so that no distance can be taken; import at one size"
            )
        squares = (part**2).sum(1)
        for start in range(0, len(ours), _CHUNK):
            some = slice(start, start + _CHUNK)
            rough = squares - 2 * ours[some] @ part.T
            if itself is not None:
                here = itself[some] - first
                own = np.flatnonzero((here >= 0) & (here < len(part)))
                rough[own, here[own]] = np.inf
            closest = rough.argmin(1)
            # Exactly, for the one that was found: the fast form cancels where it matters most, near 0.
            apart = np.sqrt(((ours[some] - part[closest]).astype(np.float64) ** 2).mean(1))
            apart[np.isinf(rough[np.arange(len(closest)), closest])] = np.inf
            nearer = np.flatnonzero(apart < best.distances[some])
            best.distances[start + nearer] = apart[nearer]
            best.rows[start + nearer] = first + closest[nearer]
        first += len(part)
    return best


def flattened(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """One row of pixels per image, centred; large images averaged down to at most 32 squares a side."""
    side = max(images.shape[1:3])
    by = -(-side // _COMPARED_SIDE)
    values = images.astype(np.float32) - 127.5
    if by > 1:
        starts = [np.arange(0, size, by) for size in images.shape[1:3]]
        sums = np.add.reduceat(np.add.reduceat(values, starts[0], axis=1), starts[1], axis=2)
        areas = np.multiply.outer(
            *(np.diff([*start, size]) for start, size in zip(starts, images.shape[1:3], strict=True))
        )
        values = sums / areas[None, :, :, None].astype(np.float32)
    return values.reshape(len(images), -1)


def _quantiles(values: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(float(value) for value in np.quantile(values, QUANTILES))
