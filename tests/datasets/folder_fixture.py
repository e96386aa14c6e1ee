"""One's own folder of images with a table of labels."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from pictures import write_picture

COUNTS = {"train": (7, 2, 1, 6), "val": (2, 1, 1, 2), "test": (2, 2, 2, 2)}
"""Images of each (label, place)."""


def write(folder: Path) -> dict[str, Any]:
    """``images/`` and ``labels.csv``; the ``data:`` of a recipe."""
    rows = []
    for split, counts in COUNTS.items():
        for place, count in enumerate(counts):
            label, bias = divmod(place, 2)
            for number in range(count):
                file = f"{split}/{place}-{number}.png"
                write_picture(folder / "images" / file, label, bias, number)
                rows.append((file, ("cat", "dog")[label], ("sofa", "garden")[bias], split))
    with (folder / "labels.csv").open("w", newline="") as table:
        csv.writer(table).writerows([("file", "label", "bias", "split"), *rows])
    return {
        "kind": "folder",
        "table": str(folder / "labels.csv"),
        "images": str(folder / "images"),
        "classes": {"cat": 0, "dog": 1},
        "biases": {"sofa": 0, "garden": 1},
        "groups": {"cat_sofa": [0, 0], "cat_garden": [0, 1], "dog_sofa": [1, 0], "dog_garden": [1, 1]},
    }
