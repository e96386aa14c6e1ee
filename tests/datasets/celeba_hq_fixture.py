"""A few dozen faces in CelebAMask-HQ's published layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from celeba_fixture import attribute_text, write_images

FACES = 200
SIZE = (16, 16)
"""The published ones have 1024 pixels a side."""


def smiling_male(number: int) -> tuple[int, int]:
    """Shares as published: two thirds of the smiling ones are women."""
    return [(0, 0), (0, 1), (1, 0), (1, 0), (0, 0), (1, 1), (0, 1), (1, 0), (0, 0), (1, 1)][number % 10]


def write(folder: Path, faces: int = FACES) -> dict[str, Any]:
    """Images, attributes and the mapping to CelebA, a folder of masks beside them; the ``data:`` of a recipe."""
    names = [f"{number}.jpg" for number in range(faces)]
    write_images(folder / "CelebA-HQ-img", names, SIZE)
    attributes = [
        (name, dict(zip(("Smiling", "Male"), smiling_male(number), strict=True))) for number, name in enumerate(names)
    ]
    (folder / "CelebAMask-HQ-attribute-anno.txt").write_text(attribute_text(attributes))
    masks = folder / "CelebAMask-HQ-mask-anno" / "0"
    masks.mkdir(parents=True)
    (masks / "00000_skin.png").write_bytes(b"")
    mapping = [f"{number:>10}{original(number):>12}{original_file(number):>16}" for number in range(faces)]
    head = "       idx    orig_idx       orig_file"
    (folder / "CelebA-HQ-to-CelebA-mapping.txt").write_text("\n".join([head, *mapping, ""]))
    return {"kind": "celeba_hq", "root": str(folder)}


def original(number: int) -> int:
    """Where the image stands in CelebA, counted from 0."""
    return 7 * number + 3


def original_file(number: int) -> str:
    return f"{original(number) + 1:06}.jpg"
