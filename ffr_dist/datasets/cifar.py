"""CIFAR-10 and CIFAR-100 in the batches for Python, and the backgrounds of their test images (CIFAR10-B, CIFAR100-B).

Nobody has labelled the backgrounds of the training images: their bias is unknown. The published labels of the test images
know an image by its class and its place among the images of that class, counted from 1 in the order of the test batch.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveInt, model_validator

from ffr_dist.config import Config
from ffr_dist.datasets.files import SHOWN, Text, check_level, read_file
from ffr_dist.datasets.pickles import Array, read_object, read_pickle
from ffr_dist.datasets.source import Sample, Split
from ffr_dist.errors import DataError
from ffr_dist.groups import UNKNOWN_BIAS, Group, Groups
from ffr_dist.seeds import draw_seed
from ffr_dist.store import list_inputs, open_input

SIDE = 32
"""Height and width of an image."""
BACKGROUNDS = 8
"""Backgrounds are numbered from 0; which colour a number means is not published."""

Places = list[tuple[str, int]]
"""Batch and row of images."""


@dataclass(frozen=True, slots=True)
class _Layout:
    """What the files of one of the two sets are called, and their fields."""

    classes: int
    train: tuple[str, ...]
    test: str
    meta: str
    labels: str
    names: str


_LAYOUTS = {
    "cifar10": _Layout(
        10,
        tuple(f"data_batch_{number}" for number in range(1, 6)),
        "test_batch",
        "batches.meta",
        "labels",
        "label_names",
    ),
    "cifar100": _Layout(100, ("train",), "test", "meta", "fine_labels", "fine_label_names"),
}


class CifarConfig(Config):
    """CIFAR-10 or CIFAR-100 as a recipe names it."""

    kind: Literal["cifar10", "cifar100"]
    root: Text
    """Path or URL of the folder of batches: ``cifar-10-batches-py`` or ``cifar-100-python``."""
    backgrounds: Text | None = None
    """Path or URL of the test images' backgrounds, a ``.npy``; without it their bias is unknown too."""
    val: PositiveInt = 5_000
    """So many training images become ``val``, the same number of each class."""
    split_seed: int = 0
    """Says which ones."""

    @model_validator(mode="after")
    def _same_of_each_class(self) -> Self:
        if self.val % self._layout.classes:
            raise ValueError(f"val is {self.val}; write a multiple of the {self._layout.classes} classes")
        return self

    def splits(self, seed: int) -> tuple[Split, ...]:  # noqa: ARG002 (published data has no seed)
        """``train`` and ``val`` without bias; ``test`` with a group for each class and background that occur together."""
        layout = self._layout
        check_level(self.root, list_inputs(self.root), layout.meta)
        names = self._class_names()
        batches = {name: self._read(name)[0] for name in (*layout.train, layout.test)}
        classes = Groups.of(Group(name, label, UNKNOWN_BIAS) for label, name in enumerate(names))
        train, val = self._part({name: batches[name] for name in layout.train}, names)
        test = [(layout.test, row) for row in range(len(batches[layout.test].labels))]
        if self.backgrounds is None:
            tested, of_test = classes, list(batches[layout.test].labels)
        else:
            tested, of_test = self._tested(batches[layout.test].labels, names, self.backgrounds)
        return (
            self._split("train", classes, train, [batches[name].labels[row] for name, row in train], batches),
            self._split("val", classes, val, [batches[name].labels[row] for name, row in val], batches),
            self._split("test", tested, test, of_test, batches),
        )

    @property
    def _layout(self) -> _Layout:
        return _LAYOUTS[self.kind]

    def _class_names(self) -> list[str]:
        layout = self._layout
        where = f"{self.root}/{layout.meta}"
        names = _field(read_pickle(read_file(self.root, layout.meta), where), layout.names, where)
        if not isinstance(names, list) or len(names) != layout.classes or not all(isinstance(n, str) for n in names):
            raise DataError(f"{where} does not name {layout.classes} classes; take the files of {self.kind}")
        return names

    def _read(self, name: str) -> tuple[_Batch, NDArray[np.uint8]]:
        """A batch, and its images (n, height, width, 3)."""
        layout = self._layout
        where = f"{self.root}/{name}"
        body = read_file(self.root, name)
        found = read_pickle(body, where)
        labels, data = _field(found, layout.labels, where), _field(found, "data", where)
        if (
            not isinstance(labels, list)
            or not all(isinstance(label, int) and 0 <= label < layout.classes for label in labels)
            or not isinstance(data, Array)
            or data.value.dtype != np.uint8
            or data.value.shape != (len(labels), 3 * SIDE * SIDE)
        ):
            raise DataError(
                f"{where} is not a batch of {self.kind}; take the version for Python, as its publisher offers it"
            )
        planes = data.value.reshape(-1, 3, SIDE, SIDE)
        return _Batch(labels, hashlib.sha256(body).hexdigest()), planes.transpose(0, 2, 3, 1)

    def _part(self, batches: Mapping[str, _Batch], names: Sequence[str]) -> tuple[Places, Places]:
        """Training images that stay, and those that become ``val``."""
        drawn: list[list[tuple[int, str, int]]] = [[] for _ in names]
        for name, batch in batches.items():
            for row, label in enumerate(batch.labels):
                drawn[label].append((draw_seed(self.split_seed, name, row, "val"), name, row))
        share = self.val // len(names)
        short = [name for name, draws in zip(names, drawn, strict=True) if len(draws) <= share]
        if short:
            raise DataError(
                f"val is {self.val:,}, {share:,} images of each class, which leaves split train none of "
                f"{', '.join(short[:SHOWN])}; lower it"
            )
        chosen = {(name, row) for draws in drawn for _, name, row in sorted(draws)[:share]}
        places = [(name, row) for name, batch in batches.items() for row in range(len(batch.labels))]
        return [place for place in places if place not in chosen], [place for place in places if place in chosen]

    def _tested(self, labels: Sequence[int], names: Sequence[str], where: str) -> tuple[Groups, list[int]]:
        """The groups that occur in the test batch, and the place of each image's."""
        with open_input(where) as opened:
            found = _by_rank(read_object(opened.read(), where), names, where)
        ranks: Counter[int] = Counter()
        cells = []
        for label in labels:
            ranks[label] += 1
            background = found[names[label]].pop(ranks[label], None)
            if background is None:
                raise DataError(
                    f"{where} has no background of image {ranks[label]} of class {names[label]}; take the labels of {self.kind}, "
                    "whole"
                )
            cells.append((label, background))
        left = [name for name, more in found.items() if more]
        if left:
            raise DataError(
                f"{where} labels more images than the test batch has, of {', '.join(left[:SHOWN])}; take the labels of {self.kind}"
            )
        occurring = sorted(set(cells))
        place_of = {cell: place for place, cell in enumerate(occurring)}
        groups = Groups.of(Group(f"{names[label]}_background_{number}", label, number) for label, number in occurring)
        return groups, [place_of[cell] for cell in cells]

    def _split(
        self, name: str, groups: Groups, places: Places, groups_of: Sequence[int], batches: Mapping[str, _Batch]
    ) -> Split:
        content = hashlib.sha256()
        for (batch, row), place in zip(places, groups_of, strict=True):
            content.update(f"{batch}\0{row}\0{place}\n".encode())
        used = sorted({batch for batch, _ in places})
        found = Counter(groups_of)

        def samples() -> Iterator[Sample]:
            in_batches = groupby(zip(places, groups_of, strict=True), key=lambda found: found[0][0])
            for batch, rows in in_batches:
                _, images = self._read(batch)
                for (_, row), place in rows:
                    yield Sample(image=images[row], group=groups.items[place], name=f"{batch}/{row:05d}")

        return Split(
            name=name,
            groups=groups,
            identity={
                "kind": self.kind,
                "split": name,
                "groups": [[group.name, group.label, group.bias] for group in groups],
                "files": {batch: batches[batch].sha256 for batch in used},
                "rows": content.hexdigest(),
            },
            samples=samples,
            counts=lambda: {group.name: found[place] for place, group in enumerate(groups)},
        )


@dataclass(frozen=True, slots=True)
class _Batch:
    labels: list[int]
    sha256: str
    """Of its file."""


def _field(found: Any, name: str, where: str) -> Any:
    if not isinstance(found, dict) or name not in found:
        raise DataError(f"{where} has no field {name!r}; take the version for Python, as its publisher offers it")
    return found[name]


def _by_rank(found: Any, names: Collection[str], where: str) -> dict[str, dict[int, int]]:
    """Background of each image of each class, by its place there, from 1."""
    if not isinstance(found, dict) or not all(isinstance(of_class, dict) for of_class in found.values()):
        raise DataError(f"{where} does not hold images by class; take the file as its publisher offers it")
    if set(found) != set(names):
        other = sorted(map(str, set(found) ^ set(names)))[:SHOWN]
        raise DataError(
            f"{where} labels other classes than the set has ({', '.join(other)}); take the labels of this set"
        )
    ranks = {}
    for name, of_class in found.items():
        if "0000.png" in of_class:
            raise DataError(
                f"{where} counts the images of class {name} from 0000.png; the published labels count from 0001.png, and "
                "with others every image would get its neighbour's background. Take the file as its publisher offers it"
            )
        ranks[name] = {_rank(file, where): _background(number, file, where) for file, number in of_class.items()}
    return ranks


def _rank(file: Any, where: str) -> int:
    stem = str(file).removesuffix(".png")
    if not (stem.isascii() and stem.isdecimal()):
        raise DataError(f"{where} names an image {file!r}, where 0001.png and so on are meant")
    return int(stem)


def _background(number: Any, file: str, where: str) -> int:
    if not isinstance(number, int) or not 0 <= number < BACKGROUNDS:
        raise DataError(f"{where} gives {file} background {number!r}; backgrounds are 0 … {BACKGROUNDS - 1}")
    return number
