"""Batches of decoded images by global step.

Global batch n is a pure function of (seed, n, fingerprints, sampling, batch size): neither the number of processes nor
restarts nor threads change which samples it holds, or their order.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ffr_dist.config import digest
from ffr_dist.errors import DataError
from ffr_dist.groups import Groups
from ffr_dist.read.dataset import SOURCES, Dataset
from ffr_dist.read.order import Rows, Shuffle, balanced_order, batch_slice, natural_order, steps_per_epoch
from ffr_dist.seeds import draw_seed
from ffr_dist.shards.refs import in_order

Sampling = Literal["natural", "balanced"]

_READ_BYTES = 2**20
_WINDOW_BLOCKS = 64
_AHEAD = 2
_CACHED_EPOCHS = 2


@dataclass(frozen=True, slots=True)
class Batch:
    """A process's part of a global batch; may be empty."""

    images: torch.Tensor
    """uint8, (n, 3, height, width)."""
    labels: torch.Tensor
    groups: torch.Tensor
    """Places in ``ImageBatches.group_names``."""
    sources: torch.Tensor
    """Places in ``SOURCES``."""
    positions: torch.Tensor
    """Places in the endless sequence of samples: what draws of augmentation are seeded with."""

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> Batch:
        return Batch(*(getattr(self, field.name).to(device, non_blocking=True) for field in fields(self)))


class ImageBatches:
    """Endless batches over the samples of one or several sets.

    ``natural`` sees every sample once an epoch; ``balanced`` draws as many with replacement, each group equally likely. Its
    groups are those of ``groups`` that hold samples, with ``by_source`` each split into real and synthetic.
    """

    def __init__(
        self,
        datasets: Sequence[Dataset],
        groups: Groups,
        *,
        sampling: Sampling = "natural",
        by_source: bool = False,
        batch: int,
        seed: int,
    ) -> None:
        self._datasets = tuple(datasets)
        self._sampling = sampling
        self._batch = batch
        self._starts = np.cumsum([0, *(len(dataset) for dataset in datasets)])
        self._count = int(self._starts[-1])
        if self._count == 0:
            raise DataError("there is nothing to train on: the sets hold no image")
        sides = {dataset.side for dataset in datasets}
        if len(sides) > 1:
            raise DataError(
                f"the sets hold images of sizes {sorted(map(str, sides))}, which do not fit one batch; import at one size"
            )
        self._labels = np.concatenate([dataset.labels for dataset in datasets])
        self._sources = np.concatenate([dataset.sources for dataset in datasets]).astype(np.int64)
        cells = np.concatenate([_cells(dataset, groups) for dataset in datasets])
        names = groups.names
        if by_source:
            cells = cells * len(SOURCES) + self._sources
            names = tuple(f"{name}/{source}" for name in groups.names for source in SOURCES)
        present, self._groups = np.unique(cells, return_inverse=True)
        self.group_names = tuple(names[place] for place in present.tolist())
        self.group_counts = tuple(np.bincount(self._groups).tolist())
        mean_bytes = max(1, sum(dataset.stored_bytes for dataset in datasets) // self._count)
        self.shuffle = Shuffle(block=-(-_READ_BYTES // mean_bytes), window=_WINDOW_BLOCKS)
        mix = digest([[dataset.fingerprint for dataset in datasets], list(names), sampling, batch])
        self._order = lru_cache(maxsize=_CACHED_EPOCHS)(
            lambda epoch: self._order_of_epoch(draw_seed(seed, mix, epoch, "order"))
        )

    def __len__(self) -> int:
        """Samples of an epoch."""
        return self._count

    @property
    def steps_per_epoch(self) -> int:
        return steps_per_epoch(self._count, self._batch)

    def rows(self, step: int, rank: int = 0, world: int = 1) -> tuple[Rows, Rows]:
        """A rank's samples of global batch ``step`` (rows of the sets, one after the other) and their positions."""
        epoch, within = divmod(step, self.steps_per_epoch)
        places = np.asarray(batch_slice(self._count, self._batch, within, rank, world), np.int64)
        return self._order(epoch)[places], places + epoch * self._count

    def iterate(self, start: int, rank: int, world: int) -> Iterator[Batch]:
        """This rank's part of global batches ``start``, ``start + 1``, …; a few are read ahead, in threads."""
        return in_order(lambda step: self._make(*self.rows(step, rank, world)), itertools.count(start), _AHEAD)

    def _make(self, rows: Rows, positions: Rows) -> Batch:
        return Batch(
            images=torch.from_numpy(self._pixels(rows)).permute(0, 3, 1, 2),
            labels=torch.from_numpy(self._labels[rows]),
            groups=torch.from_numpy(self._groups[rows]),
            sources=torch.from_numpy(self._sources[rows]),
            positions=torch.from_numpy(positions),
        )

    def _pixels(self, rows: Rows) -> NDArray[np.uint8]:
        if len(rows) == 0:
            # Of no image, but of the right height and width.
            some = next(dataset for dataset in self._datasets if len(dataset))
            return some.pixels(np.zeros(1, np.int64))[:0]
        owner = np.searchsorted(self._starts, rows, side="right") - 1
        parts = {
            number: self._datasets[number].pixels(rows[owner == number] - self._starts[number])
            for number in np.unique(owner).tolist()
        }
        shapes = {part.shape[1:] for part in parts.values()}
        if len(shapes) > 1:
            raise DataError(
                "the sets hold images of several sizes, which do not fit one batch; import them at one size"
            )
        pixels = np.empty((len(rows), *shapes.pop()), np.uint8)
        for number, part in parts.items():
            pixels[owner == number] = part
        return pixels

    def _order_of_epoch(self, seed: int) -> Rows:
        if self._sampling == "balanced":
            return balanced_order(self._groups, seed)
        return natural_order(self._count, self.shuffle, seed)


def _cells(dataset: Dataset, groups: Groups) -> NDArray[np.int64]:
    """Each row's place in ``groups``, by label and bias: sets may declare them in other orders."""
    places: list[int] = []
    for group, count in zip(dataset.groups, dataset.counts().values(), strict=True):
        same = groups.of_cell(group.label, group.bias)
        if same is None and count:
            raise DataError(
                f"a training set holds {count:,} images of group {group.name} (label {group.label}, bias {group.bias}), "
                f"which is not declared; declared are {', '.join(groups.names)}"
            )
        places.append(-1 if same is None else groups.names.index(same.name))
    return np.array(places, np.int64)[dataset.group_ids]
