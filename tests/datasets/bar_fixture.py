"""BAR as it was first published: flat, by names, and without a validation set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pictures import write_picture

TRAIN = {"climbing": 8, "diving": 7, "fishing": 4, "racing": 5, "throwing": 5, "vaulting": 4}
TEST = 2
"""Of each action."""


def write(folder: Path) -> dict[str, Any]:
    """The folder ``BAR``; the ``data:`` of a recipe."""
    root = folder / "BAR"
    for label, (action, count) in enumerate(TRAIN.items()):
        for number in range(count):
            ending = "png" if (label, number) == (0, 1) else "jpg"
            write_picture(root / "train" / f"{action}_{number}.{ending}", label, 0, number, width=24 + number)
        for number in range(TEST):
            write_picture(root / "test" / f"{action}_{number}.jpg", label, 1, number)
    (root / "train" / "Thumbs.db").write_bytes(b"what Windows leaves in a folder")
    return {"kind": "bar", "root": str(root), "val_share": 0.2}
