"""Tars in the WebDataset convention: key.png, key.cls, key.json."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from huggingface_fixture import png

COUNTS = {"train": (7, 2, 1, 6), "val": (2, 1, 1, 2), "test": (2, 2, 2, 2)}
"""Images of each (label, place)."""

Member = tuple[str, bytes]


def write_tar(file: Path, members: Iterable[Member]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as tar:
        for name, body in members:
            info = tarfile.TarInfo(name)
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))


def sample(key: str, label: int, bias: int, number: int) -> list[Member]:
    note = {"place": bias, "caption": f"number {number}"}
    return [
        (f"{key}.png", png(label, bias, number)),
        (f"{key}.cls", str(label).encode()),
        (f"{key}.json", json.dumps(note).encode()),
    ]


def write(folder: Path) -> dict[str, Any]:
    """Tars of up to six samples; the ``data:`` of a recipe."""
    cells = [(0, 0), (0, 1), (1, 0), (1, 1)]
    for split, counts in COUNTS.items():
        some = [(*cell, n) for cell, count in zip(cells, counts, strict=True) for n in range(count)]
        for first in range(0, len(some), 6):
            members = [m for place, row in enumerate(some[first : first + 6]) for m in sample(f"{place:04d}", *row)]
            write_tar(folder / f"{split}-{first // 6:04d}.tar", members)
    return {
        "kind": "webdataset",
        "train": f"{folder}/train-{{0000..0002}}.tar",
        "val": f"{folder}/val-*.tar",
        "test": [f"{folder}/test-0000.tar", f"{folder}/test-0001.tar"],
        "bias": "place",
        "groups": {"cat_sofa": [0, 0], "cat_garden": [0, 1], "dog_sofa": [1, 0], "dog_garden": [1, 1]},
    }
