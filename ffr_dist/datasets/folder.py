"""A folder of images with a table of labels (CSV or parquet), as a dataset.

Everything that the table alone can tell is checked before anything is read or written, and all of it is told at once:
unknown classes, cells that no group declares, files that are not there. A table is data from somebody else, so the
names in it must stay inside the folder of images.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Self

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pa_parquet
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

from ffr_dist.config import Config
from ffr_dist.datasets.source import EVALUATED, Sample, Split
from ffr_dist.errors import ConfigError, DataError
from ffr_dist.groups import UNKNOWN_BIAS, Group, Groups
from ffr_dist.store import list_inputs, open_input

_SHOWN = 5
"""So many of the same mistake are named; the rest is counted."""
_NONE = -2
"""Code of a cell whose value no mapping knows."""

Text = Annotated[str, Field(min_length=1)]
Label = Annotated[int, Field(ge=0)]
Bias = Annotated[int, Field(ge=UNKNOWN_BIAS)]
Cells = dict[str, tuple[Label, Bias]]
Codes = NDArray[np.int64]


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
                _declared(cells)
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
        """The splits that the table holds, in the order of ``split_names``; the seed changes nothing.

        An import is known by the table's rows and by the files' sizes: change an image in place without changing its
        size, and the earlier import is still taken for this one.
        """
        table = self._read()
        sizes = list_inputs(self.images)
        rows, problems = self._rows(table, sizes)
        if problems:
            raise DataError("\n".join([f"{self.table} cannot be used:", *(f"  {problem}" for problem in problems)]))
        return tuple(self._split(part, sizes) for part in rows)

    def declared(self, split: str) -> Groups:
        """The groups of a split."""
        return _declared(self.split_groups.get(split, self.groups))

    def _bias_codes(self) -> Mapping[str, int]:
        return self.biases if self.columns.bias is not None else {"": UNKNOWN_BIAS}

    def _read(self) -> pa.Table:
        """The named columns as text."""
        names = list(dict.fromkeys(name for name in self.columns.model_dump().values() if name is not None))
        with open_input(self.table) as file:
            body = pa.py_buffer(file.read())
        try:
            present = _column_names(self.table, body)
            absent = [name for name in names if name not in present]
            if absent:
                raise DataError(
                    f"{self.table} has no column {', '.join(absent)}; it has {', '.join(present)}. "
                    "Say what they are called under 'columns'"
                )
            twice = [name for name in names if present.count(name) > 1]
            if twice:
                raise DataError(f"{self.table} has more than one column {', '.join(twice)}; rename one of them")
            table = _columns(self.table, body, names)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self.table} cannot be read as a table: {error}") from error
        if not table.num_rows:
            raise DataError(f"{self.table} has no rows")
        return table

    def _rows(self, table: pa.Table, sizes: Mapping[str, int]) -> tuple[list[_Rows], list[str]]:
        """The rows of each split, and what is wrong with the table."""
        columns = self.columns
        files = _texts(table[columns.file])
        problems = _bad_files(files, sizes, self.images)
        labels, unknown = _codes(_texts(table[columns.label]), self.classes, f"column {columns.label}", "classes")
        problems += unknown
        if columns.bias is None:
            biases = np.full(len(files), UNKNOWN_BIAS, np.int64)
        else:
            biases, unknown = _codes(_texts(table[columns.bias]), self.biases, f"column {columns.bias}", "biases")
            problems += unknown
        names = list(dict.fromkeys(self.split_names.values()))
        places = {value: names.index(name) for value, name in self.split_names.items()}
        of_split, unknown = _codes(_texts(table[columns.split]), places, f"column {columns.split}", "split_names")
        problems += unknown
        parts = []
        for place, name in enumerate(names):
            chosen = np.flatnonzero((of_split == place) & (labels != _NONE) & (biases != _NONE))
            groups = self.declared(name)
            of_group, undeclared = _group_codes(labels[chosen], biases[chosen], groups, f"split {name}", chosen)
            problems += undeclared
            if len(chosen):
                parts.append(_Rows(name, groups, [files[row] for row in chosen], of_group))
            empty = [group.name for place, group in enumerate(groups) if not np.any(of_group == place)]
            if empty and len(chosen) and name in EVALUATED:
                problems.append(
                    f"split {name}: no row of declared group {', '.join(empty)}; declare this split's own groups under "
                    "'split_groups', or add rows"
                )
        if not problems and all(part.name != "train" for part in parts):
            problems.append(
                "no row is of split train; say under 'split_names' which value of the split column means it"
            )
        return parts, problems

    def _split(self, rows: _Rows, sizes: Mapping[str, int]) -> Split:
        content = hashlib.sha256()
        for file, place in zip(rows.files, rows.groups_of, strict=True):
            content.update(f"{file}\0{sizes[file]}\0{place}\n".encode())
        root = self.images.rstrip("/")

        def samples() -> Iterator[Sample]:
            for file, place in zip(rows.files, rows.groups_of, strict=True):
                with open_input(f"{root}/{file}") as opened:
                    body = opened.read()
                yield Sample(image=body, group=rows.groups.items[place], name=file)

        return Split(
            name=rows.name,
            groups=rows.groups,
            identity={
                "kind": self.kind,
                "split": rows.name,
                "groups": [[group.name, group.label, group.bias] for group in rows.groups],
                "rows": content.hexdigest(),
                "on_bad_image": self.on_bad_image,
            },
            samples=samples,
            counts=rows.counts,
            skip_bad_images=self.on_bad_image == "skip",
        )


@dataclass(frozen=True, slots=True)
class _Rows:
    """The table's rows of one split."""

    name: str
    groups: Groups
    files: Sequence[str]
    groups_of: Codes
    """Place of each row's group among ``groups``."""

    def counts(self) -> dict[str, int]:
        found = np.bincount(self.groups_of, minlength=len(self.groups))
        return dict(zip(self.groups.names, found.tolist(), strict=True))


def _declared(cells: Cells) -> Groups:
    return Groups.of(Group(name, label, bias) for name, (label, bias) in cells.items())


def _column_names(name: str, body: pa.Buffer) -> list[str]:
    if name.endswith(".csv"):
        return list(pa_csv.open_csv(pa.BufferReader(body)).schema.names)
    return list(pa_parquet.read_schema(pa.BufferReader(body)).names)


def _columns(name: str, body: pa.Buffer, names: Sequence[str]) -> pa.Table:
    if name.endswith(".csv"):
        texts = pa_csv.ConvertOptions(include_columns=names, column_types=dict.fromkeys(names, pa.string()))
        return pa_csv.read_csv(pa.BufferReader(body), convert_options=texts)
    return pa_parquet.read_table(pa.BufferReader(body), columns=names)


def _texts(column: pa.ChunkedArray) -> list[str]:
    """Cells as a recipe writes them: 1 for 1.0, true for True, nothing for a missing one."""
    return [_text(value) for value in column.to_pylist()]


def _text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _codes(texts: Sequence[str], mapping: Mapping[str, int], column: str, key: str) -> tuple[Codes, list[str]]:
    """The mapped value of each cell, and the values that ``mapping`` does not know."""
    codes = np.array([mapping.get(text, _NONE) for text in texts], np.int64)
    unknown: dict[str, list[int]] = {}
    for row in np.flatnonzero(codes == _NONE).tolist():
        unknown.setdefault(texts[row], []).append(row)
    known = ", ".join(repr(value) for value in mapping) or "none"
    problems = [
        f"{column}: {value!r} is not in {key!r} ({_count(len(rows), 'row')}, the first is row {rows[0] + 1}); "
        f"there are {known}"
        for value, rows in list(unknown.items())[:_SHOWN]
    ]
    if len(unknown) > _SHOWN:
        problems.append(f"{column}: {len(unknown) - _SHOWN} more values that are not in {key!r}")
    return codes, problems


def _group_codes(labels: Codes, biases: Codes, groups: Groups, where: str, rows: Codes) -> tuple[Codes, list[str]]:
    """The place of each row's group, and the cells that no group declares."""
    places = {(group.label, group.bias): place for place, group in enumerate(groups)}
    cells = list(zip(labels.tolist(), biases.tolist(), strict=True))
    codes = np.array([places.get(cell, _NONE) for cell in cells], np.int64)
    undeclared: dict[tuple[int, int], list[int]] = {}
    for place in np.flatnonzero(codes == _NONE):
        undeclared.setdefault(cells[place], []).append(int(rows[place]))
    problems = [
        f"{where}: no group declares label {label} with bias {bias} "
        f"({_count(len(found), 'row')}, the first is row {found[0] + 1})"
        for (label, bias), found in sorted(undeclared.items())[:_SHOWN]
    ]
    if len(undeclared) > _SHOWN:
        problems.append(f"{where}: {len(undeclared) - _SHOWN} more cells that no group declares")
    return codes, problems


def _bad_files(files: Sequence[str], present: Collection[str], folder: str) -> list[str]:
    unsafe = [file for file in files if not _stays_inside(file)]
    refused = set(unsafe)
    missing = [file for file in files if file not in present and file not in refused]
    twice = [file for file, times in Counter(files).items() if times > 1]
    return [
        *_named(unsafe, "not a path below the folder of images", "write relative paths without .. in them"),
        *_named(missing, f"not in {folder}", "check 'images' and the names"),
        *_named(twice, "in the table twice", "a file that is in two splits would leak from one into the other"),
    ]


def _stays_inside(file: str) -> bool:
    # "::" and "://" would make fsspec read the name as another URL.
    if any(mark in file for mark in ("\\", "\0", "\n", "::", "://")):
        return False
    return all(part not in {"", ".", ".."} for part in file.split("/"))


def _named(files: Sequence[str], wrong: str, cure: str) -> list[str]:
    if not files:
        return []
    more = f" and {len(files) - _SHOWN} more" if len(files) > _SHOWN else ""
    return [f"{_count(len(files), 'file')} {wrong}: {', '.join(map(repr, files[:_SHOWN]))}{more}; {cure}"]


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
