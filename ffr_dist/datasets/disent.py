"""bFFHQ, coloured MNIST and Corrupted CIFAR-10, as the release of DisEnt (Lee et al., NeurIPS 2021) lays them out.

A folder for each share of conflicting pairs holds the training images, ``align/`` and ``conflict/``. Label and bias are
the last two fields of a file's name, ``{id}_{label}_{bias}.png``; folders below a split say nothing more.

Training declares every pair of a label and a bias, even one that it has no image of, as happens at half a percent of
conflict among ten by ten: images are generated for it all the same. A mitigation that balances groups cannot do without,
so that a recipe may have training declare what it holds, as val and test always do.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator

from ffr_dist.config import Config
from ffr_dist.datasets.files import FileRow, Text, check_level, file_split, named, refuse
from ffr_dist.datasets.source import Split
from ffr_dist.errors import DataError
from ffr_dist.groups import Group, Groups
from ffr_dist.store import list_inputs

SHARES = {0.995: "0.5pct", 0.99: "1pct", 0.98: "2pct", 0.95: "5pct"}
"""The release's folder of each bias ratio, named by the share of conflicting pairs."""

CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

_NAME = re.compile(r"[^/]+_(\d{1,9})_(\d{1,9})\.png\Z", re.ASCII)


def _released(bias_ratio: float) -> float:
    if bias_ratio not in SHARES:
        raise ValueError(f"the release has bias ratios {', '.join(map(str, SHARES))} and no others")
    return bias_ratio


Released = Annotated[float, AfterValidator(_released)]
"""A bias ratio that the release has a folder of."""
Declared = Literal["all", "held"]
"""Pairs that training declares: all, or those that it holds."""


class BffhqConfig(Config):
    """bFFHQ: is a face young or old, where the young ones are women and the old ones men."""

    kind: Literal["bffhq"] = "bffhq"
    root: Text
    """Path or URL of the release's folder ``bffhq``."""
    bias_ratio: Released = 0.995

    def splits(self, seed: int) -> tuple[Split, ...]:  # noqa: ARG002 (the release is what it is)
        """Train, val and test. The published number is ``conflicting`` of the test set: it leaves the aligned half out."""
        return _splits(self.kind, self.root, self.bias_ratio, _BFFHQ)


class CmnistConfig(Config):
    """Coloured MNIST: ten digits, each mostly in a colour of its own."""

    kind: Literal["cmnist"] = "cmnist"
    root: Text
    """Path or URL of the release's folder ``cmnist``."""
    bias_ratio: Released = 0.995
    train_groups: Declared = "all"

    def splits(self, seed: int) -> tuple[Split, ...]:  # noqa: ARG002 (as above)
        """Train, val and test."""
        return _splits(self.kind, self.root, self.bias_ratio, _CMNIST, self.train_groups)


class CorruptedCifar10Config(Config):
    """Corrupted CIFAR-10: ten classes, each mostly with a corruption of its own. It is not the test set CIFAR-10-C."""

    kind: Literal["corrupted_cifar10"] = "corrupted_cifar10"
    root: Text
    """Path or URL of the release's folder ``cifar10c``."""
    bias_ratio: Released = 0.995
    train_groups: Declared = "all"

    def splits(self, seed: int) -> tuple[Split, ...]:  # noqa: ARG002 (as above)
        """Train, val and test."""
        return _splits(self.kind, self.root, self.bias_ratio, _CIFAR, self.train_groups)


@dataclass(frozen=True, slots=True)
class _Release:
    """What the three differ in."""

    names: tuple[tuple[str, ...], ...]
    """Name of the group of each label and bias."""
    val: str
    """Where the validation images lie; ``{share}`` is the folder of the bias ratio."""

    def groups(self, declared: Declared, rows: Collection[FileRow]) -> Groups:
        cells = {row.cell for row in rows}
        return Groups.of(
            Group(name, label, bias)
            for label, of_class in enumerate(self.names)
            for bias, name in enumerate(of_class)
            if declared == "all" or (label, bias) in cells
        )


_BFFHQ = _Release((("young_women", "young_men"), ("old_women", "old_men")), val="valid/")
_CMNIST = _Release(
    tuple(tuple(f"digit_{label}_colour_{bias}" for bias in range(10)) for label in range(10)), val="{share}/valid/"
)
_CIFAR = _Release(
    tuple(tuple(f"{name}_corruption_{bias}" for bias in range(10)) for name in CIFAR_CLASSES), val="{share}/valid/"
)


def _splits(
    kind: str, root: str, bias_ratio: float, release: _Release, train_groups: Declared = "all"
) -> tuple[Split, ...]:
    sizes = list_inputs(root)
    share = SHARES[bias_ratio]
    _check_share(root, sizes, share)

    def split(name: str, declared: Declared, *folders: str) -> Split:
        rows = _rows(root, sizes, folders, release)
        return file_split(kind, name, root, rows, release.groups(declared, rows), sizes)

    return (
        split("train", train_groups, f"{share}/align/", f"{share}/conflict/"),
        split("val", "held", release.val.format(share=share)),
        split("test", "held", "test/"),
    )


def _check_share(root: str, files: Collection[str], share: str) -> None:
    """Refuse a root that is not the dataset's folder, or has no folder of this share."""
    present = [other for other in SHARES.values() if any(file.startswith(f"{other}/align/") for file in files)]
    if present and share not in present:
        ratios = ", ".join(str(ratio) for ratio, folder in SHARES.items() if folder in present)
        raise DataError(
            f"{root} has no {share}/align/, only {', '.join(present)}; set bias_ratio to one of {ratios}, or unpack the rest"
        )
    check_level(root, files, f"{share}/align/")


def _rows(root: str, files: Collection[str], folders: tuple[str, ...], release: _Release) -> list[FileRow]:
    rows, unreadable, undeclared = [], [], []
    for folder in folders:
        found = sorted(
            file for file in files if file.startswith(folder) and not file.rpartition("/")[2].startswith(".")
        )
        if not found:
            raise DataError(f"{root} holds no {folder}, which the release has; unpack all of it")
        for file in found:
            match = _NAME.search(file)
            if match is None:
                unreadable.append(file)
                continue
            label, bias = int(match[1]), int(match[2])
            if label >= len(release.names) or bias >= len(release.names[0]):
                undeclared.append(file)
            else:
                rows.append(FileRow(file, label, bias))
    labels, biases = len(release.names) - 1, len(release.names[0]) - 1
    beyond = f"with a label above {labels} or a bias above {biases}"
    refuse(
        root,
        [
            *named(unreadable, "not called {id}_{label}_{bias}.png", "remove what is not of the release"),
            *named(undeclared, beyond, "they are of another dataset, or their names are damaged"),
        ],
    )
    return rows
