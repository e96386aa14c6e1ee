"""bFFHQ as the DisEnt release has it: one share of conflict, valid and test flat beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from disent_release import write_pairs

COUNTS = {"train": (8, 1, 2, 6), "val": (3, 1, 1, 3), "test": (3, 4, 4, 3)}
"""Images of (young, women), (young, men), (old, women), (old, men)."""


def write(folder: Path) -> dict[str, Any]:
    """The folder ``bffhq``; the ``data:`` of a recipe."""
    root = folder / "bffhq"
    cells = [(0, 0), (0, 1), (1, 0), (1, 1)]
    pairs = {
        split: [cell for cell, count in zip(cells, counts, strict=True) for _ in range(count)]
        for split, counts in COUNTS.items()
    }
    for half, is_aligned in (("align", True), ("conflict", False)):
        some = [pair for pair in pairs["train"] if (pair[0] == pair[1]) == is_aligned]
        write_pairs(root / "0.5pct" / half, some, by_class=True, first=1000 * is_aligned)
    write_pairs(root / "valid", pairs["val"], by_class=False)
    write_pairs(root / "test", pairs["test"], by_class=False)
    return {"kind": "bffhq", "root": str(root), "bias_ratio": 0.995}
