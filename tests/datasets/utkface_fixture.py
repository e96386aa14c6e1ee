"""A few dozen faces whose names say what UTKFace's say, the published malformed ones among them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from celeba_fixture import write_images

MALFORMED = (
    "39_1_20170116174525125.jpg.chip.jpg",
    "61_3_20170109150557335.jpg.chip.jpg",
    "53__0_20170116184028385.jpg.chip.jpg",
)
"""Without a race, or a gender."""
ODD = "55_0_0_20170116232725357jpg.chip.jpg"
"""Lacks a point only: it still tells all, but the age is of neither class."""
CLASSES = ((0, 26), (0, 3), (1, 50), (1, 5), (0, 20), (1, 1))
"""Gender and age, in turn."""
NEITHER = (6, 12, 19, 51, 90)
"""Ages of neither class, next to both ends of both."""
FACES = 300
SIZE = (20, 20)
"""The published ones have 200 pixels a side."""


def names(ending: str = ".jpg.chip.jpg", faces: int = FACES) -> list[str]:
    found = []
    for number in range(faces):
        gender, age = CLASSES[number % len(CLASSES)]
        found.append(f"{age}_{gender}_{number % 5}_201701{number:011}{ending}")
    found += [f"{age}_{number % 2}_{number}_20170110{number:09}{ending}" for number, age in enumerate(NEITHER)]
    return [*found, *MALFORMED, ODD]


def write(folder: Path, faces: int = FACES) -> dict[str, Any]:
    """The aligned faces; the ``data:`` of a recipe."""
    write_images(folder, names(faces=faces), SIZE)
    (folder / ".DS_Store").write_bytes(b"\0")
    return {"kind": "utkface", "root": str(folder)}
