"""MetaShift's cats and dogs as their makers lay them out, small."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pictures import write_picture

FOLDERS = {
    "train/cat/cat(sofa)": (0, 0),
    "train/cat/cat(bed)": (0, 1),
    "train/dog/dog(bench)": (1, 2),
    "train/dog/dog(bike)": (1, 3),
    "test/cat/cat(shelf)": (0, 4),
    "test/dog/dog(shelf)": (1, 4),
}
COUNTS = dict(zip(FOLDERS, (4, 7, 3, 7, 18, 22), strict=True))
PUBLISHED = dict(zip(FOLDERS, (202, 348, 124, 350, 235, 306), strict=True))


def names(counts: Mapping[str, int]) -> list[tuple[str, int, int, int]]:
    """File, label, bias and number of each image."""
    return [
        (f"{folder}/{2315000 + 7 * number}.jpg", *FOLDERS[folder], number)
        for folder, images in counts.items()
        for number in range(images)
    ]


def write(folder: Path) -> dict[str, Any]:
    """With surroundings that other variants use."""
    for file, label, bias, number in names(COUNTS):
        write_picture(folder / file, label, bias, number)
    write_picture(folder / "train/dog/dog(cabinet)/1.jpg", 1, 0, 0)
    write_picture(folder / "test/cat/cat(grass)/1.jpg", 0, 0, 0)
    return {"kind": "metashift", "root": str(folder)}
