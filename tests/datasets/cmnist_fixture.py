"""Coloured MNIST as the DisEnt release has it: valid flat inside each share's folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from disent_release import write_ten


def write(folder: Path) -> dict[str, Any]:
    """The folder ``cmnist``; the ``data:`` of a recipe."""
    write_ten(folder / "cmnist", valid_by_class=False)
    return {"kind": "cmnist", "root": str(folder / "cmnist"), "bias_ratio": 0.995}
