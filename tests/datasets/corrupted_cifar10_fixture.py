"""Corrupted CIFAR-10 as the DisEnt release has it: valid by class inside each share's folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from disent_release import write_ten


def write(folder: Path) -> dict[str, Any]:
    """The folder ``cifar10c``; the ``data:`` of a recipe."""
    write_ten(folder / "cifar10c", valid_by_class=True)
    return {"kind": "corrupted_cifar10", "root": str(folder / "cifar10c"), "bias_ratio": 0.95, "train_groups": "held"}
