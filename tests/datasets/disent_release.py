"""The DisEnt release as it is unpacked, small: what its three datasets share."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pictures import write_picture

Pair = tuple[int, int]


def write_pairs(folder: Path, pairs: Iterable[Pair], by_class: bool, first: int = 0) -> None:
    """An image of each pair, called ``{id}_{label}_{bias}.png``, below a folder of its class or flat."""
    for number, (label, bias) in enumerate(pairs, start=first):
        below = folder / str(label) if by_class else folder
        write_picture(below / f"{number}_{label}_{bias}.png", label, bias, number, width=28)


def write_ten(root: Path, valid_by_class: bool) -> None:
    """Ten classes, at two shares of conflict. Some pairs are in the test alone, as happens at half a percent."""
    aligned = [(label, label) for label in range(10)]
    for share, conflicting in (("0.5pct", 6), ("5pct", 12)):
        conflict = [(label % 10, (label + 1 + label // 10) % 10) for label in range(conflicting)]
        write_pairs(root / share / "align", 4 * aligned, by_class=True)
        write_pairs(root / share / "conflict", conflict, by_class=True, first=100)
        write_pairs(root / share / "valid", aligned + conflict[:3], by_class=valid_by_class, first=200)
    write_pairs(root / "test", aligned + [(label, (label + 1) % 10) for label in range(10)], by_class=True)
    (root / "test" / "0" / "._0_0_0.png").write_bytes(b"what a Mac leaves in an archive")
