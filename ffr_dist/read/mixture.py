"""Several sets as one: their rows one set after the other, and the groups that hold samples in any of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ffr_dist.errors import DataError
from ffr_dist.groups import Groups
from ffr_dist.read.dataset import SOURCES, Dataset

Rows = NDArray[np.int64]

_CHUNK = 2**18


class Facts(NamedTuple):
    """What is known of some samples without a look at them."""

    labels: Rows
    groups: Rows
    """Places in ``Mixture.names``."""
    sources: Rows
    """Places in ``SOURCES``."""


@dataclass(frozen=True, slots=True, eq=False)
class Members:
    """The samples of a group, set after set."""

    parts: tuple[tuple[int, Rows], ...]
    """Where a set begins in the mixture, and which of its rows are meant."""

    def rows(self, entries: Rows) -> Rows:
        """Rows in the mixture."""
        found = np.empty(len(entries), np.int64)
        low = 0
        for start, rows in self.parts:
            here = (entries >= low) & (entries < low + len(rows))
            found[here] = start + rows[entries[here] - low]
            low += len(rows)
        return found


class Mixture:
    """The samples of one or several sets, by row.

    Its groups are those of ``groups`` that hold samples, with ``by_source`` each split into real and synthetic. Nothing is
    kept for each sample but what the sets keep.
    """

    def __init__(self, datasets: Sequence[Dataset], groups: Groups, *, by_source: bool = False) -> None:
        self.datasets = tuple(datasets)
        self.starts: Rows = np.cumsum([0, *(len(dataset) for dataset in datasets)])
        if len(self) == 0:
            raise DataError("there is nothing to train on: the sets hold no image")
        _refuse_sizes(datasets)
        self._labels = [np.array([group.label for group in dataset.groups], np.int64) for dataset in datasets]

        # A sample's cell is its group, or its group and source, in the order of the set that it lies in.
        self._split = len(SOURCES) if by_source else 1
        self.declared = groups.names
        if by_source:
            self.declared = tuple(f"{name}/{source}" for name in groups.names for source in SOURCES)
        declared = [_declared(dataset, groups, self._split) for dataset in datasets]
        self._counts = [self._counted(number) for number in range(len(datasets))]
        counts = np.zeros(len(self.declared), np.int64)
        for places, here in zip(declared, self._counts, strict=True):
            np.add.at(counts, places[here > 0], here[here > 0])
        present = np.flatnonzero(counts)
        self.names = tuple(self.declared[place] for place in present.tolist())
        self.counts: tuple[int, ...] = tuple(counts[present].tolist())
        """Samples of each of ``names``."""
        of_group = counts.reshape(len(groups), self._split).sum(1)
        self.empty = tuple(name for name, count in zip(groups.names, of_group.tolist(), strict=True) if not count)
        """Declared groups of which no set holds a sample."""
        places_in_names = np.full(len(self.declared) + 1, -1)
        places_in_names[present] = np.arange(len(present))
        self._cells = [places_in_names[places] for places in declared]

    def __len__(self) -> int:
        return int(self.starts[-1])

    def owners(self, rows: Rows) -> Rows:
        """The number of the set that each row belongs to."""
        return np.searchsorted(self.starts, rows, side="right") - 1

    def facts(self, rows: Rows) -> Facts:
        if len(self.datasets) == 1:
            return self._facts(0, rows)
        owners = self.owners(rows)
        facts = Facts(*(np.empty(len(rows), np.int64) for _ in Facts._fields))
        for number in np.unique(owners).tolist():
            here = owners == number
            for column, values in zip(facts, self._facts(number, rows[here] - self.starts[number]), strict=True):
                column[here] = values
        return facts

    def _facts(self, number: int, rows: Rows) -> Facts:
        ids, sources = self._columns(number, rows)
        cells = ids if self._split == 1 else ids * self._split + sources
        return Facts(self._labels[number][ids], self._cells[number][cells], sources)

    def members(self, name: int) -> Members:
        """The samples of one of ``names``, by its place."""
        parts: list[tuple[int, Rows]] = []
        for number, (dataset, start) in enumerate(zip(self.datasets, self.starts.tolist(), strict=False)):
            for cell in np.flatnonzero(self._cells[number] == name).tolist():
                group, source = divmod(cell, self._split)
                rows = dataset.rows_of(group)
                if len(rows) > self._counts[number][cell]:
                    rows = rows[self._columns(number, rows)[1] == source]
                parts.append((start, rows))
        return Members(tuple(parts))

    def _columns(self, number: int, rows: Rows) -> tuple[Rows, Rows]:
        """Groups and sources of some rows of a set, as it counts them."""
        dataset = self.datasets[number]
        columns, rows = dataset.whole.columns, dataset.absolute(rows)
        return columns.group[rows].astype(np.int64), columns.source[rows].astype(np.int64)

    def _counted(self, number: int) -> Rows:
        """Samples of each cell of a set."""
        dataset = self.datasets[number]
        if self._split == 1:
            return np.array(list(dataset.counts().values()), np.int64)
        counts = np.zeros(len(dataset.groups) * self._split, np.int64)
        for low in range(0, len(dataset), _CHUNK):
            ids, sources = self._columns(number, np.arange(low, min(low + _CHUNK, len(dataset))))
            counts += np.bincount(ids * self._split + sources, minlength=len(counts))
        return counts


def _declared(dataset: Dataset, groups: Groups, split: int) -> Rows:
    """Each cell's place among the declared ones, by label and bias: sets may declare them in other orders."""
    places: list[int] = []
    for group, count in zip(dataset.groups, dataset.counts().values(), strict=True):
        same = groups.of_cell(group.label, group.bias)
        if same is None and count:
            raise DataError(
                f"a training set holds {count:,} images of group {group.name} (label {group.label}, bias {group.bias}), "
                f"which is not declared; declared are {', '.join(groups.names)}"
            )
        first = -1 if same is None else groups.names.index(same.name) * split
        places += [first if first < 0 else first + source for source in range(split)]
    return np.array(places, np.int64)


def _refuse_sizes(datasets: Sequence[Dataset]) -> None:
    sides = {dataset.side for dataset in datasets}
    if len(sides) > 1:
        raise DataError(
            f"the sets hold images of sizes {sorted(map(str, sides))}, which do not fit one batch; import at one size"
        )
