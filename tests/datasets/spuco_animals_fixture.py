"""SpuCo Animals as its publisher lays it out, small."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pictures import write_picture

FOLDERS = {
    "spuco_birds/{}/landbirds/land": (0, 0),
    "spuco_birds/{}/landbirds/water": (0, 1),
    "spuco_birds/{}/waterbirds/land": (1, 0),
    "spuco_birds/{}/waterbirds/water": (1, 1),
    "spuco_dogs/{}/small_dogs/indoor": (2, 2),
    "spuco_dogs/{}/small_dogs/outdoor": (2, 3),
    "spuco_dogs/{}/big_dogs/indoor": (3, 2),
    "spuco_dogs/{}/big_dogs/outdoor": (3, 3),
}
COUNTS = {"train": (8, 2), "val": (3, 2), "test": (3, 3)}
"""Images of an aligned group, and of another."""
PUBLISHED = {"train": (10_000, 500), "val": (500, 25), "test": (500, 500)}


def names(counts: dict[str, tuple[int, int]]) -> list[tuple[str, int, int, int]]:
    """File, label, bias and number of each image."""
    return [
        (f"{folder.format(split)}/n{label:04d}{bias:04d}_{number}.JPEG", label, bias, number)
        for split, (aligned, other) in counts.items()
        for folder, (label, bias) in FOLDERS.items()
        for number in range(aligned if label == bias else other)
    ]


def write(folder: Path) -> dict[str, Any]:
    """With one grey and one CMYK image, as ImageNet has them, and what an operating system leaves behind."""
    for place, (file, label, bias, number) in enumerate(names(COUNTS)):
        mode = {0: "L", 1: "CMYK"}.get(place, "RGB")
        write_picture(folder / file, label, bias, number, mode=mode, width=20 + number)
    (folder / "spuco_birds" / ".DS_Store").write_bytes(b"\0")
    (folder / "spuco_dogs/train/big_dogs/indoor/._n1.JPEG").write_bytes(b"\0")
    return {"kind": "spuco_animals", "root": str(folder)}
