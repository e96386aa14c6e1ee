"""A dataset as the Hugging Face Hub has them: parquet files with the images inside, or a folder of images.

Which label and bias an image has is text in a column; the recipe, or the dataset's own list of class names, says what
that text means.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal, Self

from pydantic import Field, model_validator

from ffr_dist.config import Config
from ffr_dist.datasets.files import FileRow, Text, cell_problems, file_split, refuse
from ffr_dist.datasets.holdout import hold_out
from ffr_dist.datasets.hub.columns import Columns, Found, Names
from ffr_dist.datasets.hub.folder import METADATA, read_folder
from ffr_dist.datasets.hub.parquet import parquet_samples, read_parquet
from ffr_dist.datasets.labels import (
    Bias,
    Cells,
    Label,
    codes,
    declared_groups,
    held_groups,
    occurring_groups,
    own_codes,
)
from ffr_dist.datasets.source import Split
from ffr_dist.groups import UNKNOWN_BIAS, Groups
from ffr_dist.store import list_inputs

Codes = Mapping[str, int]


class HuggingfaceConfig(Config):
    """A dataset of the Hub's layout, as a recipe names it."""

    kind: Literal["huggingface"] = "huggingface"
    root: Text
    """Path or URL of the dataset's folder, or of one configuration's where it has several; ``hf://datasets/owner/name`` is
    read through ``huggingface_hub``.
    """
    image: Text = "image"
    """The column of the images, in parquet files."""
    label: Text = "label"
    """The column of the labels. In a folder of images without metadata, the folders' names are the labels."""
    bias: Text | None
    """The column of the biases; null where nobody knows them: they are -1 then."""
    split_names: dict[str, Text] = Field(
        default_factory=lambda: {"train": "train", "validation": "val", "val": "val", "test": "test"}
    )
    """Split of each of the dataset's splits; others are not read."""
    classes: dict[str, Label] | None = None
    """Label of each value of the label column; null: by the dataset's own class names, or the numbers in the column."""
    biases: dict[str, Bias] | None = None
    """Bias of each value of the bias column, likewise."""
    groups: Cells | None = None
    """[label, bias] of each declared group, by name; null: each split declares the pairs that it holds."""
    split_groups: dict[str, Cells] = Field(default_factory=dict)
    """Groups of the splits that declare others than ``train`` does."""
    val_share: float | None = Field(default=None, gt=0, lt=1)
    """Where the dataset has no validation split: hold out this share of each training group."""
    split_seed: int = 0
    """Which images are held out."""
    on_bad_image: Literal["refuse", "skip"] = "refuse"
    """What to do about an image that cannot be decoded: name it and stop, or leave it out and count it."""

    @model_validator(mode="after")
    def _usable_groups(self) -> Self:
        for cells in (self.groups, *self.split_groups.values()):
            if cells is not None:
                declared_groups(cells)
        return self

    def splits(self, seed: int) -> tuple[Split, ...]:  # noqa: ARG002 (a dataset holds what it holds)
        """The splits that the dataset holds; the seed changes nothing.

        An import is known by the files' sizes and by the rows: change an image without changing its file's size, and the
        earlier import is still taken for this one.
        """
        sizes = {file: size for file, size in list_inputs(self.root).items() if not _hidden(file)}
        names = Names(image=self.image, label=self.label, bias=self.bias, splits=self.split_names)
        parquet = sorted(file for file in sizes if file.endswith(".parquet") and not file.endswith(METADATA))
        found = read_parquet(self.root, parquet, names) if parquet else read_folder(self.root, sizes, names)
        if "train" not in found.columns:
            has = ", ".join(sorted(found.splits - {""})) or "files outside any"
            refuse(self.root, [f"of its splits ({has}) none is train; say under 'split_names' which one is"])
        classes, biases = self._codes(found)
        parts = self._held_out(
            {
                name: self._rows(name, found.columns[name], classes, biases)
                for name in dict.fromkeys(self.split_names.values())
                if name in found.columns
            }
        )
        # Named together: a pair is called the same in each split.
        occurring = occurring_groups((row.cell for rows in parts.values() for row in rows), classes, biases)
        groups = {name: self._groups(name, rows, occurring) for name, rows in parts.items()}
        refuse(self.root, [problem for name in parts for problem in cell_problems(name, parts[name], groups[name])])
        make = self._parquet_split if parquet else self._folder_split
        return tuple(make(name, rows, groups[name], sizes) for name, rows in parts.items())

    def _codes(self, found: Found) -> tuple[Codes, Codes]:
        """What the texts of the label column mean, and those of the bias column."""
        problems: list[str] = []
        classes = self.classes or found.classes
        if classes is None:
            classes, problems = own_codes([of.labels for of in found.columns.values()], "classes", 0)
        biases: Codes | None = {"": UNKNOWN_BIAS}
        if self.bias is not None:
            biases = self.biases or found.biases
        if biases is None:
            biases, more = own_codes([of.biases for of in found.columns.values()], "biases", UNKNOWN_BIAS)
            problems += more
        refuse(self.root, problems)
        return classes, biases

    def _rows(self, name: str, columns: Columns, classes: Codes, biases: Codes) -> Sequence[FileRow]:
        labels, problems = codes(columns.labels, classes, f"split {name}: column {self.label}", "classes")
        of_bias, more = codes(columns.biases, biases, f"split {name}: column {self.bias}", "biases")
        refuse(self.root, [*problems, *more])
        return [
            FileRow(image, label, bias)
            for image, label, bias in zip(columns.images, labels, of_bias, strict=True)
            if label is not None and bias is not None
        ]

    def _held_out(self, parts: Mapping[str, Sequence[FileRow]]) -> Mapping[str, Sequence[FileRow]]:
        if self.val_share is None:
            return parts
        if "val" in parts:
            refuse(self.root, ["it has a validation split; leave val_share out, or name another under 'split_names'"])
        train, val = hold_out(parts["train"], self.val_share, self.split_seed)
        return {**parts, "train": train, "val": val}

    def _groups(self, name: str, rows: Sequence[FileRow], occurring: Groups) -> Groups:
        cells = self.split_groups.get(name, self.groups)
        return held_groups(occurring, (row.cell for row in rows)) if cells is None else declared_groups(cells)

    def _folder_split(self, name: str, rows: Sequence[FileRow], groups: Groups, sizes: Mapping[str, int]) -> Split:
        extra = {"on_bad_image": self.on_bad_image}
        skip = self.on_bad_image == "skip"
        return file_split(self.kind, name, self.root, rows, groups, sizes, extra, skip_bad_images=skip)

    def _parquet_split(self, name: str, rows: Sequence[FileRow], groups: Groups, sizes: Mapping[str, int]) -> Split:
        of_cell = {(group.label, group.bias): group for group in groups}
        found = Counter(row.cell for row in rows)
        content = hashlib.sha256()
        for row in rows:
            content.update(f"{row.file}\0{of_cell[row.cell].name}\n".encode())
        return Split(
            name=name,
            groups=groups,
            identity={
                "kind": self.kind,
                "split": name,
                "groups": [[group.name, group.label, group.bias] for group in groups],
                "files": {file: sizes[file] for file in dict.fromkeys(row.file.rpartition(":")[0] for row in rows)},
                "image": self.image,
                "rows": content.hexdigest(),
                "on_bad_image": self.on_bad_image,
            },
            samples=lambda: parquet_samples(self.root, rows, of_cell, self.image),
            counts=lambda: {group.name: found[group.label, group.bias] for group in groups},
            skip_bad_images=self.on_bad_image == "skip",
        )


def _hidden(file: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in file.split("/"))
