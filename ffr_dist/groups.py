"""Subgroups: the (label, bias) cells that a split declares.

Groups are a declared list and never the cross product of labels and biases: SpuCo Animals has eight groups of
sixteen cells, MetaShift's test set has two.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile

from ffr_dist.errors import ConfigError

UNKNOWN_BIAS = -1
"""The bias of a sample whose bias attribute nobody knows."""

_NAME = re.compile(r"[a-z0-9]+(_[a-z0-9]+)*\Z")
LONGEST_NAME = 40


@dataclass(frozen=True, slots=True)
class Group:
    """One (label, bias) cell with a name fit for keys: ``a-z 0-9 _``, at most 40 characters."""

    name: str
    label: int
    bias: int

    def __post_init__(self) -> None:
        if not _NAME.match(self.name) or len(self.name) > LONGEST_NAME:
            raise ConfigError(
                f"group name {self.name!r} is not usable: write a-z, 0-9 and single _ between them, "
                f"at most {LONGEST_NAME} characters"
            )
        if self.label < 0:
            raise ConfigError(f"group {self.name}: label is {self.label}; classes count from 0")
        if self.bias < UNKNOWN_BIAS:
            raise ConfigError(f"group {self.name}: bias is {self.bias}; use -1 for unknown, else 0, 1, …")


@dataclass(frozen=True, slots=True)
class Groups:
    """The declared groups of a split, in their declared order."""

    items: tuple[Group, ...]

    def __post_init__(self) -> None:
        if not self.items:
            raise ConfigError("a split declares no group")
        _refuse_twice("name", [group.name for group in self.items])
        _refuse_twice("(label, bias)", [(group.label, group.bias) for group in self.items])

    @classmethod
    def of(cls, groups: Iterable[Group]) -> Groups:
        return cls(tuple(groups))

    def __iter__(self) -> Iterator[Group]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(group.name for group in self.items)

    @property
    def classes(self) -> int:
        """Number of classes: labels are 0 … classes - 1."""
        return max(group.label for group in self.items) + 1

    @property
    def class_names(self) -> tuple[str, ...]:
        """For people: the words that the names of a class's groups begin with; numbers where that does not tell them apart."""
        names = ["_".join(_beginning([g.name for g in self.items if g.label == y])) for y in range(self.classes)]
        if "" in names or len(set(names)) < len(names):
            return tuple(map(str, range(self.classes)))
        return tuple(names)

    def by_name(self, name: str) -> Group:
        for group in self.items:
            if group.name == name:
                return group
        raise ConfigError(f"no group {name!r}; declared are {', '.join(self.names)}")

    def of_cell(self, label: int, bias: int) -> Group | None:
        """The group of a (label, bias) cell, or None where the split declares none."""
        for group in self.items:
            if group.label == label and group.bias == bias:
                return group
        return None


def _beginning(names: Sequence[str]) -> list[str]:
    """The words that all names begin with."""
    alike = takewhile(lambda words: len(set(words)) == 1, zip(*(name.split("_") for name in names), strict=False))
    return [words[0] for words in alike]


def _refuse_twice(what: str, values: Sequence[object]) -> None:
    for value in values:
        if values.count(value) > 1:
            raise ConfigError(f"two groups share the {what} {value!r}")
