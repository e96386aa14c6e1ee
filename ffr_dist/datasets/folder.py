"""A folder of images with a table of labels (CSV or parquet), as a dataset.

Everything that the table alone can tell is checked before anything is read or written, and all of it is told at once:
unknown classes, cells that no group declares, files that are not there. A table is data from somebody else, so the
names in it must stay inside the folder of images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from ffr_dist.config import Config
from ffr_dist.datasets.files import FileRow, Text, cell_problems, file_problems, file_split, refuse
from ffr_dist.datasets.labels import Bias, Cells, Label, codes, declared_groups
from ffr_dist.datasets.source import Split
from ffr_dist.datasets.tables import read_columns
from ffr_dist.errors import ConfigError
from ffr_dist.groups import UNKNOWN_BIAS, Groups
from ffr_dist.store import list_inputs


class ColumnsConfig(Config):
    """What the table calls its columns."""

    file: Text = "file"
    """Paths below the folder of images."""
    label: Text = "label"
    bias: Text | None = "bias"
    """None where nobody knows the bias: it is -1 then."""
    split: Text = "split"


class FolderConfig(Config):
    """A folder of images and its table, as a recipe names them."""

    kind: Literal["folder"] = "folder"
    table: Text
    """Path or URL of the table: ``.csv`` with a header line, or ``.parquet``."""
    images: Text
    """Path or URL of the folder that the table's file names start from."""
    columns: ColumnsConfig = ColumnsConfig()
    classes: dict[str, Label] = Field(min_length=1)
    """Label of each value of the label column."""
    biases: dict[str, Bias] = Field(default_factory=dict)
    """Bias of each value of the bias column."""
    split_names: dict[str, Text] = Field(default_factory=lambda: {name: name for name in ("train", "val", "test")})
    """Split of each value of the split column."""
    groups: Cells = Field(min_length=1)
    """[label, bias] of each declared group, by name."""
    split_groups: dict[str, Cells] = Field(default_factory=dict)
    """Groups of the splits that declare others than ``train`` does."""
    on_bad_image: Literal["refuse", "skip"] = "refuse"
    """What to do about an image that cannot be decoded: name it and stop, or leave it out and count it."""

    @field_validator("table")
    @classmethod
    def _known_format(cls, table: str) -> str:
        if not table.endswith((".csv", ".parquet")):
            raise ValueError("the table must be a .csv or a .parquet file")
        return table

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for where, cells in {"groups": self.groups, **self.split_groups}.items():
            try:
                declared_groups(cells)
            except ConfigError as error:
                raise ValueError(f"{where}: {error}") from error
            for name, (label, bias) in cells.items():
                if label not in self.classes.values():
                    raise ValueError(f"{where}: group {name} has label {label}, which no value of 'classes' gives")
                if bias not in self._bias_codes().values():
                    raise ValueError(f"{where}: group {name} has bias {bias}, which no value of 'biases' gives")
        unused = sorted(set(self.split_groups) - set(self.split_names.values()))
        if unused:
            raise ValueError(f"split_groups: no value of 'split_names' gives {', '.join(unused)}")
        if self.columns.bias is None and self.biases:
            raise ValueError("biases: there is no bias column to read; set columns.bias or leave 'biases' out")
        return self

    def splits(self, seed: int) -> tuple[Split, ...]:  # noqa: ARG002 (a folder holds what it holds)
        """The splits that the table holds, in the order of ``split_names``; the seed changes nothing."""
        table = self._read()
        sizes = list_inputs(self.images)
        parts, problems = self._rows(table, sizes)
        refuse(self.table, problems)
        extra = {"on_bad_image": self.on_bad_image}
        skip = self.on_bad_image == "skip"
        return tuple(
            file_split(self.kind, name, self.images, rows, self.declared(name), sizes, extra, skip_bad_images=skip)
            for name, rows in parts.items()
        )

    def declared(self, split: str) -> Groups:
        """The groups of a split."""
        return declared_groups(self.split_groups.get(split, self.groups))

    def _bias_codes(self) -> Mapping[str, int]:
        return self.biases if self.columns.bias is not None else {"": UNKNOWN_BIAS}

    def _read(self) -> dict[str, list[str]]:
        named = [name for name in self.columns.model_dump().values() if name is not None]
        return read_columns(self.table, named, "Say what they are called under 'columns'")

    def _rows(
        self, table: Mapping[str, list[str]], sizes: Mapping[str, int]
    ) -> tuple[dict[str, list[FileRow]], list[str]]:
        """The rows of each split that has any, and what is wrong with the table."""
        columns = self.columns
        files = table[columns.file]
        problems = file_problems(files, sizes, self.images)
        labels, unknown = codes(table[columns.label], self.classes, f"column {columns.label}", "classes")
        problems += unknown
        biases: Sequence[int | None] = [UNKNOWN_BIAS] * len(files)
        if columns.bias is not None:
            biases, unknown = codes(table[columns.bias], self.biases, f"column {columns.bias}", "biases")
            problems += unknown
        names, unknown = codes(table[columns.split], self.split_names, f"column {columns.split}", "split_names")
        problems += unknown
        parts: dict[str, list[FileRow]] = {name: [] for name in self.split_names.values()}
        for file, label, bias, name in zip(files, labels, biases, names, strict=True):
            if label is not None and bias is not None and name is not None:
                parts[name].append(FileRow(file, label, bias))
        for name, rows in parts.items():
            problems += cell_problems(name, rows, self.declared(name))
        if not problems and not parts.get("train"):
            problems.append(
                "no row is of split train; say under 'split_names' which value of the split column means it"
            )
        return {name: rows for name, rows in parts.items() if rows}, problems
