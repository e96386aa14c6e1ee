"""Batches of decoded images by global step.

Global batch n is a pure function of (seed, n, fingerprints, sampling, batch size): neither the number of processes nor
restarts nor threads change which samples it holds. It is cut among the processes in the order of reading, so that each
reads blocks of its own; a sample's position says where it stands in the order of samples.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, fields

import numpy as np
import torch
from numpy.typing import NDArray

from ffr_dist.config import digest
from ffr_dist.groups import Groups
from ffr_dist.read.config import ReadConfig
from ffr_dist.read.dataset import Dataset
from ffr_dist.read.loader import Loader
from ffr_dist.read.mixture import Mixture, Rows
from ffr_dist.read.order import Order, Shuffle
from ffr_dist.read.sampling import Sampling, as_json, drawing
from ffr_dist.seeds import draw_seed

_BLOCK_BYTES = 2**20
_WINDOW_BLOCKS = 64
_LEAST_WINDOW = 4096
"""Samples. To make a window takes a millisecond at least, however few it holds."""


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

    Groups are those of ``groups`` that hold samples, with ``by_source`` each split into real and synthetic. Where samples
    are seen once an epoch (``natural``, ``subsample``) an epoch's last batch may be short; elsewhere no batch is.
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
        read: ReadConfig = ReadConfig(),  # noqa: B008 - frozen
    ) -> None:
        self._mixture = Mixture(datasets, groups, by_source=by_source)
        self.group_names, self.group_counts = self._mixture.names, self._mixture.counts
        self.shuffle = _shuffle(len(self._mixture), sum(dataset.stored_bytes for dataset in datasets))
        mix = digest([[dataset.fingerprint for dataset in datasets], list(self.group_names), as_json(sampling), batch])
        self._drawing = drawing(sampling, self._mixture, draw_seed(seed, mix, 0, "subsample"))
        self._order = Order(self._drawing.streams, self.shuffle, draw_seed(seed, mix, 0, "order"))
        self._loader = Loader(datasets, read)
        self._batch = batch

    def __len__(self) -> int:
        """Samples of an epoch; where samples are drawn by weight, as many as there are."""
        return self._order.epoch or len(self._mixture)

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self) // self._batch)

    @property
    def skipped(self) -> tuple[str, ...]:
        """What was wrong with each image that this process replaced by another one of its group."""
        return self._loader.skipped

    def rows(self, step: int, rank: int = 0, world: int = 1) -> tuple[Rows, Rows]:
        """A rank's samples of global batch ``step`` (rows of the sets, one after the other) and their positions."""
        low, high = self._span(step)
        draws = self._order.draws(low, high)
        count = high - low
        mine = np.argsort(draws.places)[count * rank // world : count * (rank + 1) // world]
        return self._drawing.rows(draws.streams[mine], draws.entries[mine]), low + mine

    def iterate(self, start: int, rank: int, world: int, stride: int = 1) -> Generator[Batch, None, None]:
        """This rank's part of global batches ``start``, ``start + stride``, … without end, read ahead.

        Closing the iterator ends the threads and processes that read.
        """
        asked: deque[tuple[Rows, Rows]] = deque()

        def rows() -> Iterator[Rows]:
            for step in itertools.count(start, stride):
                mine = self.rows(step, rank, world)
                asked.append(mine)
                yield mine[0]

        with closing(self._loader.stream(rows())) as stream:
            for pixels in stream:
                yield self._batch_of(pixels, *asked.popleft())

    def _span(self, step: int) -> tuple[int, int]:
        """The positions of a global batch."""
        if self._order.epoch is None:
            return step * self._batch, (step + 1) * self._batch
        epoch, within = divmod(step, self.steps_per_epoch)
        low = epoch * self._order.epoch + within * self._batch
        return low, min(low + self._batch, (epoch + 1) * self._order.epoch)

    def _batch_of(self, pixels: NDArray[np.uint8], rows: Rows, positions: Rows) -> Batch:
        facts = self._mixture.facts(rows)
        return Batch(
            images=torch.from_numpy(pixels).permute(0, 3, 1, 2),
            labels=torch.from_numpy(facts.labels),
            groups=torch.from_numpy(facts.groups),
            sources=torch.from_numpy(facts.sources),
            positions=torch.from_numpy(positions),
        )


def _shuffle(samples: int, stored_bytes: int) -> Shuffle:
    """Blocks that are worth a read each; where those would make a window of more than the sets hold, smaller ones."""
    worth = -(-_BLOCK_BYTES * samples // max(1, stored_bytes))
    enough = -(-max(samples, _LEAST_WINDOW) // _WINDOW_BLOCKS)
    return Shuffle(block=min(worth, enough), window=_WINDOW_BLOCKS)
