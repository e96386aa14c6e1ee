"""Waterbirds as its publisher lays it out, small."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pictures import write_picture

HEADER = "img_id,img_filename,y,split,place,place_filename"
SPECIES = {0: ("009.Brewer_Blackbird", "110.Geococcyx"), 1: ("001.Black_footed_Albatross", "059.California_Gull")}
MISLABELLED = ("021.Eastern_Towhee", "088.Western_Meadowlark", "102.Western_Wood_Pewee")
PLACES = {0: ("/b/bamboo_forest", "/f/forest/broadleaf"), 1: ("/l/lake/natural", "/o/ocean")}
COUNTS = {"train": (10, 2, 2, 5), "val": (3, 3, 2, 2), "test": (3, 3, 2, 2)}
"""Images of (land, land), (land, water), (water, land), (water, water)."""
PUBLISHED = {"train": (3_498, 184, 56, 1_057), "val": (467, 466, 133, 133), "test": (2_255, 2_255, 642, 642)}


def table(counts: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Lines below the header, one of the mislabelled species in each split's last group."""
    lines = []
    for code, split in enumerate(("train", "val", "test")):
        for group, images in enumerate(counts[split]):
            y, place = divmod(group, 2)
            for number in range(images):
                species = SPECIES[y][number % 2] if group < 3 or number else MISLABELLED[code]
                file = f"{species}/{species[4:]}_{number:04d}_{code}{group}.jpg"
                where = f"{PLACES[place][number % 2]}/{number:08d}.jpg"
                lines.append(f"{len(lines) + 1},{file},{y},{code},{place},{where}")
    return lines


def write(folder: Path) -> dict[str, Any]:
    lines = table(COUNTS)
    for line in lines:
        number, file, y, _, place, _ = line.split(",")
        write_picture(folder / file, int(y), int(place), int(number))
    (folder / "metadata.csv").write_text("\n".join([HEADER, *lines, ""]))
    (folder / "RELEASE.txt").write_text("what it is\n")
    return {"kind": "waterbirds", "root": str(folder)}
