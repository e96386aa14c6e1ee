"""Parquet files with the images inside: a column of {bytes, path}, or of bytes.

An image is known as its file and its row there. A path in such a file is one of the machine that wrote it, and never
followed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ffr_dist.datasets.files import FileRow, refuse
from ffr_dist.datasets.hub.columns import Found, Names
from ffr_dist.datasets.source import Sample
from ffr_dist.datasets.tables import cell_text
from ffr_dist.errors import DataError
from ffr_dist.groups import Group
from ffr_dist.store import open_input

if TYPE_CHECKING:
    import pyarrow.parquet as pa_parquet

_SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})(-[0-9a-f]{16})?\Z", re.ASCII)
_AT_ONCE = 16
"""So many images are decoded from a row group, which is in memory whole."""


def read_parquet(root: str, files: Sequence[str], names: Names) -> Found:
    """The rows of the files, without reading an image."""
    found = Found()
    for split, shards in _shards(root, files, names).items():
        columns = found.of(split, names)
        if columns is None:
            continue
        for file in shards:
            with _open(root, file) as opened:
                _check_columns(opened, f"{root}/{file}", names)
                labels, found.classes = _texts(opened, names.label)
                biases = [""] * len(labels)
                if names.bias is not None:
                    biases, found.biases = _texts(opened, names.bias)
            columns.add((f"{file}:{row}" for row in range(len(labels))), labels, biases)
    return found


def parquet_samples(
    root: str, rows: Sequence[FileRow], groups: Mapping[tuple[int, int], Group], image: str
) -> Iterator[Sample]:
    """The images of rows, which are of files in their order."""
    of_file: dict[str, dict[int, FileRow]] = {}
    for row in rows:
        file, _, number = row.file.rpartition(":")
        of_file.setdefault(file, {})[int(number)] = row
    for file, chosen in of_file.items():
        with _open(root, file) as opened:
            for place, value in enumerate(_images(opened, image)):
                if place in chosen:
                    row = chosen[place]
                    yield Sample(image=_bytes(value, f"{root}/{row.file}"), group=groups[row.cell], name=row.file)


def _shards(root: str, files: Sequence[str], names: Names) -> dict[str, list[str]]:
    """The files of each of the dataset's splits, in their order."""
    found: dict[str, list[str]] = {}
    numbered: dict[tuple[str, int], list[int]] = {}
    configurations = set()
    for file in files:
        folder, _, name = file.rpartition("/")
        stem = name.removesuffix(".parquet")
        match = _SHARD.match(stem)
        split = match[1] if match else stem
        if match is None and stem not in names.splits:  # as the Hub converts datasets: default/train/0000.parquet
            folder, _, split = folder.rpartition("/")
            split = split.removeprefix("partial-")
        found.setdefault(split, []).append(file)
        if split in names.splits:
            configurations.add(folder)
        if match:
            numbered.setdefault((split, int(match[3])), []).append(int(match[2]))
    if len(configurations) > 1:
        first, *_ = shown = sorted(configurations)
        refuse(
            root, [f"it has several configurations ({', '.join(shown[:5])}); give the folder of one, {root}/{first}"]
        )
    for (split, total), numbers in numbered.items():
        if split in names.splits and sorted(numbers) != list(range(total)):
            have = ", ".join(map(str, sorted(numbers)))
            refuse(
                root,
                [f"split {split} has the files {have} of {total} (they count from 0); fetch all of one version again"],
            )
    return found


@contextmanager
def _open(root: str, file: str) -> Iterator[pa_parquet.ParquetFile]:
    import pyarrow as pa  # noqa: PLC0415 (a recipe is read without it)
    from pyarrow import parquet  # noqa: PLC0415 (as above)

    with open_input(f"{root.rstrip('/')}/{file}") as opened:
        try:
            yield parquet.ParquetFile(opened)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{root}/{file} cannot be read as parquet: {error}; fetch it again") from error


def _check_columns(opened: pa_parquet.ParquetFile, where: str, names: Names) -> None:
    from pyarrow import types  # noqa: PLC0415 (as above)

    schema = opened.schema_arrow
    absent = [name for name in (names.image, *names.described) if name not in schema.names]
    if absent:
        raise DataError(
            f"{where} has no column {', '.join(absent)}; it has {', '.join(schema.names)}. Say what they are called under "
            "'image', 'label' and 'bias'"
        )
    kind = schema.field(names.image).type
    if types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    if not types.is_binary(kind) and not types.is_large_binary(kind):
        raise DataError(
            f"{where}: column {names.image} is of {kind}, and images are bytes; say under 'image' which column has them"
        )


def _texts(opened: pa_parquet.ParquetFile, column: str) -> tuple[list[str], Mapping[str, int] | None]:
    """A column as text; where it is of classes with names, these in place of their numbers, and the numbers of these."""
    values = opened.read(columns=[column])[column].to_pylist()
    classes = _class_names(opened, column)
    if classes is None:
        return [cell_text(value) for value in values], None
    texts = [classes[v] if isinstance(v, int) and 0 <= v < len(classes) else cell_text(v) for v in values]
    return texts, {name: place for place, name in enumerate(classes)}


def _class_names(opened: pa_parquet.ParquetFile, column: str) -> list[str] | None:
    """The names that the Hub's own library notes of a column of classes."""
    try:
        note = json.loads((opened.schema_arrow.metadata or {})[b"huggingface"])
        names = note["info"]["features"][column]["names"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    usable = isinstance(names, list) and all(isinstance(name, str) for name in names) and len(set(names)) == len(names)
    return names if usable else None


def _images(opened: pa_parquet.ParquetFile, column: str) -> Iterator[Any]:
    for part in range(opened.num_row_groups):  # asked for all at once, several would be in memory
        for batch in opened.iter_batches(batch_size=_AT_ONCE, row_groups=[part], columns=[column]):
            for value in batch.column(0):
                yield value.as_py()


def _bytes(image: Any, where: str) -> bytes:
    """The image file of a cell; nothing, which is no image to anybody, where the cell is empty."""
    if isinstance(image, dict):
        if image["bytes"] is None and image.get("path") is not None:
            raise DataError(
                f"{where} holds no image but a path on the machine where it was made; write the dataset with its images "
                "in it, as push_to_hub does"
            )
        image = image["bytes"]
    return image or b""
