"""A folder of images: ``train/cat/1.jpg``, or ``metadata.csv`` (``.jsonl``, ``.parquet``) beside the images.

Metadata names files from its own folder on, in the column ``file_name``. It is from somebody else: whoever makes files of
its names must see to it that they stay inside the dataset's folder.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence

from ffr_dist.datasets.files import IMAGES, named, refuse
from ffr_dist.datasets.hub.columns import Found, Names
from ffr_dist.datasets.tables import cell_text, read_columns
from ffr_dist.errors import DataError
from ffr_dist.store import open_input

METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
_FILE_NAME = "file_name"
_CURE = "Say what they are called under 'label' and 'bias'"


def read_folder(root: str, files: Collection[str], names: Names) -> Found:
    """What metadata says about the images, or their folders."""
    images = sorted(file for file in files if file.lower().endswith(IMAGES))
    if not images:
        saved = any(file.endswith(".arrow") for file in files)
        raise DataError(
            f"{root} holds neither parquet files nor images; "
            + ("it is what save_to_disk writes: use to_parquet instead" if saved else "check the path")
        )
    metadata = sorted(file for file in files if file.rpartition("/")[2] in METADATA)
    if metadata:
        return _described(root, metadata, images, names)
    if names.bias is not None:
        raise DataError(
            f"{root} is a folder of images without metadata.csv or metadata.jsonl, where column {names.bias} would stand; "
            "add one, or set bias to null"
        )
    found = Found()
    for image in images:
        _add(found, image, image.split("/")[-2] if "/" in image else "", "", names)
    classes = sorted({label for columns in found.columns.values() for label in columns.labels})
    found.classes = {name: place for place, name in enumerate(classes)}
    return found


def _described(root: str, metadata: Sequence[str], images: Sequence[str], names: Names) -> Found:
    found = Found()
    without = set(images)
    for file in metadata:
        folder = file.rpartition("/")[0]
        table = _read(root, file, [_FILE_NAME, *names.described])
        biases = [""] * len(table[_FILE_NAME]) if names.bias is None else table[names.bias]
        for name, label, bias in zip(table[_FILE_NAME], table[names.label], biases, strict=True):
            image = f"{folder}/{name}" if folder else name
            without.discard(image)
            _add(found, image, label, bias, names)
    refuse(root, named(sorted(without), f"without a row in {', '.join(metadata[:3])}", "add rows, or remove them"))
    return found


def _add(found: Found, image: str, label: str, bias: str, names: Names) -> None:
    """One image, if a folder above it is called as a split that is read."""
    folders = image.split("/")[:-1]
    split = next((folder for folder in folders if folder in names.splits), "/".join(folders[:1]))
    columns = found.of(split, names)
    if columns is not None:
        columns.add([image], [label], [bias])


def _read(root: str, file: str, names: Sequence[str]) -> dict[str, list[str]]:
    if not file.endswith(".jsonl"):
        return read_columns(f"{root.rstrip('/')}/{file}", names, _CURE)
    with open_input(f"{root.rstrip('/')}/{file}") as opened:
        lines = opened.read().splitlines()
    columns: dict[str, list[str]] = {name: [] for name in names}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{root}/{file}, line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where} is not JSON ({error}); repair it") from error
        absent = [name for name in names if not isinstance(row, dict) or name not in row]
        if absent:
            raise DataError(f"{where} has no {', '.join(absent)}. {_CURE}")
        for name in names:
            columns[name].append(cell_text(row[name]))
    return columns
