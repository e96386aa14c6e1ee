"""Validation images for data that has none: a share of each group of the training images."""

from __future__ import annotations

from collections.abc import Sequence

from ffr_dist.datasets.files import Cell, FileRow
from ffr_dist.seeds import draw_seed


def hold_out(rows: Sequence[FileRow], share: float, split_seed: int) -> tuple[tuple[FileRow, ...], tuple[FileRow, ...]]:
    """Rows that stay in ``train``, and those of ``val``, both in their order.

    Of each group the share, rounded, but at least one of two. Which ones is decided by a hash of their names, so that no
    machine and no other file has a say in it.
    """
    drawn: dict[Cell, list[tuple[int, int]]] = {}
    for place, row in enumerate(rows):
        drawn.setdefault(row.cell, []).append((draw_seed(split_seed, row.file, 0, "val"), place))
    held = set()
    for draws in drawn.values():
        most = len(draws) - 1
        held |= {place for _, place in sorted(draws)[: min(most, max(1, round(share * len(draws))))]}
    return (
        tuple(row for place, row in enumerate(rows) if place not in held),
        tuple(row for place, row in enumerate(rows) if place in held),
    )
