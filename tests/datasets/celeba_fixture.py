"""A few dozen faces in CelebA's published layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SIZE = (178, 218)
ATTRIBUTES = ("5_o_Clock_Shadow", "Blond_Hair", "Male", "Smiling", "Young")
PER_GROUP = {
    "train": {(0, 0): 7, (0, 1): 6, (1, 0): 5, (1, 1): 2},
    "val": {(0, 0): 2, (0, 1): 3, (1, 0): 2, (1, 1): 1},
    "test": {(0, 0): 3, (0, 1): 2, (1, 0): 2, (1, 1): 2},
}
"""Faces of each (Blond_Hair, Male), by split."""

Face = tuple[str, str, int, int]
"""File, split, Blond_Hair, Male."""


def faces() -> list[Face]:
    cells = [
        (split, blond, male)
        for split, counts in PER_GROUP.items()
        for (blond, male), count in counts.items()
        for _ in range(count)
    ]
    return [(f"{number:06}.jpg", *cell) for number, cell in enumerate(cells, start=1)]


def write_images(folder: Path, names: list[str], size: tuple[int, int] = SIZE) -> None:
    folder.mkdir(parents=True)
    for number, name in enumerate(names):
        pixels = np.full((size[1], size[0], 3), (7 * number) % 256, np.uint8)
        pixels[: size[1] // 2, :, number % 3] = 200
        Image.fromarray(pixels).save(folder / name, quality=90)


def attribute_text(rows: list[tuple[str, dict[str, int]]], names: tuple[str, ...] = ATTRIBUTES) -> str:
    """As published: signs are aligned by double blanks, and a blank ends each line."""
    lines = [
        " ".join([file, *(f"{2 * has.get(name, number % 2) - 1:>2}" for name in names)]) + " "
        for number, (file, has) in enumerate(rows)
    ]
    return "\n".join([str(len(rows)), " ".join(names) + " ", *lines, ""])


def partition_text(rows: list[tuple[str, str]]) -> str:
    return "".join(f"{file} {('train', 'val', 'test').index(split)}\n" for file, split in rows)


def write(folder: Path) -> dict[str, Any]:
    """The text tables beside ``img_align_celeba``; the ``data:`` of a recipe."""
    found = faces()
    write_images(folder / "img_align_celeba", [file for file, *_ in found])
    attributes = [(file, {"Blond_Hair": blond, "Male": male}) for file, _, blond, male in found]
    (folder / "list_attr_celeba.txt").write_text(attribute_text(attributes))
    (folder / "list_eval_partition.txt").write_text(partition_text([(file, split) for file, split, *_ in found]))
    return {"kind": "celeba", "root": str(folder)}
