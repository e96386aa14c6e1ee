"""Bias as the paper injects it: in each class the rarer group is thinned, the most frequent one stays whole.

Counts follow the released arithmetic, floats and truncation included, so that they are the published ones to the last
image. Which images go is decided by a hash of their names: the same ones on any machine, and what a higher ratio keeps
is among what a lower one keeps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from ffr_dist.datasets.files import Cell, FileRow
from ffr_dist.errors import DataError
from ffr_dist.groups import Groups
from ffr_dist.seeds import draw_seed

FIRST_CUT = 0.9
"""Faces are brought to this ratio before they are thinned."""
VAL_FLOOR = 10
"""Thinning leaves so many images to a group of ``val``, as far as it has them; ``train`` has no floor."""

Counts = dict[Cell, int]


def thin(
    rows: Sequence[FileRow],
    bias_ratio: float,
    *,
    split: str,
    groups: Groups,
    split_seed: int,
    first_cut: bool = False,
) -> tuple[FileRow, ...]:
    """The rows of ``train`` or ``val`` that stay at this ratio, in their order; ``first_cut`` as for the faces.

    A declared group that would be left empty is a DataError.
    """
    before = dict(Counter(row.cell for row in rows))
    after = thinned_counts(
        cut_faces(before) if first_cut else before, bias_ratio, floor=VAL_FLOOR if split == "val" else 0
    )
    empty = [group.name for group in groups if not after.get((group.label, group.bias))]
    if empty:
        told = (f"{g.name} {before.get((g.label, g.bias), 0)} → {after.get((g.label, g.bias), 0)}" for g in groups)
        raise DataError(
            f"bias_ratio {bias_ratio} leaves split {split} no image of group {', '.join(empty)} ({', '.join(told)}); "
            "lower bias_ratio, or give a larger dataset"
        )
    return _kept(rows, after, split_seed)


def thinned_counts(counts: Mapping[Cell, int], bias_ratio: float, floor: int = 0) -> Counts:
    """What stays of each cell: in each class the smallest group keeps ``n_max · (1 - r) / r``, unless it is smaller."""
    after = dict(counts)
    # 1 - (1 - r) is not r: this is the order of operations that gives the released counts.
    rare = 1 - bias_ratio
    for label in sorted({label for label, _ in counts}):
        of_class = sorted(cell for cell in counts if cell[0] == label)
        most = max(of_class, key=counts.__getitem__)
        least = min((cell for cell in of_class if cell != most), key=counts.__getitem__, default=most)
        keep = counts[most] * rare / (1 - rare)
        if least != most and keep <= counts[least]:
            after[least] -= max(0, int(counts[least] - max(keep, floor)))
    return after


def cut_faces(counts: Mapping[Cell, int]) -> Counts:
    """The faces' first cut, of two classes and two biases.

    The rarer bias of class 1 says what is cut: that group, and the opposite one of class 0, larger or not.
    """
    after = dict(counts)
    rare = 1 - FIRST_CUT
    smallest = min((0, 1), key=lambda bias: counts.get((1, bias), 0))
    for label, bias in ((1, smallest), (0, 1 - smallest)):
        keep = int((rare * counts.get((label, 1 - bias), 0)) / (1 - rare))
        after[label, bias] = min(counts.get((label, bias), 0), keep)
    return after


def _kept(rows: Sequence[FileRow], counts: Mapping[Cell, int], split_seed: int) -> tuple[FileRow, ...]:
    drawn: dict[Cell, list[tuple[int, int]]] = {}
    for place, row in enumerate(rows):
        drawn.setdefault(row.cell, []).append((draw_seed(split_seed, row.file, 0, "thin"), place))
    places = (place for cell, draws in drawn.items() for _, place in sorted(draws)[: counts[cell]])
    return tuple(rows[place] for place in sorted(places))
