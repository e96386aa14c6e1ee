"""What the files of a dataset say about its images, before anybody has said what it means."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """What a dataset calls its columns, and its splits."""

    image: str
    label: str
    bias: str | None
    splits: Mapping[str, str]
    """A recipe's name for each of the dataset's splits that is read."""

    @property
    def described(self) -> list[str]:
        """The columns that say what an image is."""
        return [self.label] if self.bias is None else [self.label, self.bias]


@dataclass(slots=True)
class Columns:
    """The images of a split; label and bias as text, the latter empty where there is none."""

    images: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    biases: list[str] = field(default_factory=list)

    def add(self, images: Iterable[str], labels: Iterable[str], biases: Iterable[str]) -> None:
        self.images += images
        self.labels += labels
        self.biases += biases


@dataclass(slots=True)
class Found:
    """All of a dataset that a recipe asks for."""

    columns: dict[str, Columns] = field(default_factory=dict)
    """By the recipe's names of the splits."""
    splits: set[str] = field(default_factory=set)
    """The dataset's own names, also of splits that are not read."""
    classes: Mapping[str, int] | None = None
    """Numbers of the dataset's own class names, where it has them."""
    biases: Mapping[str, int] | None = None

    def of(self, split: str, names: Names) -> Columns | None:
        """Where to add images of one of the dataset's splits; None if it is not read."""
        self.splits.add(split)
        return self.columns.setdefault(names.splits[split], Columns()) if split in names.splits else None
