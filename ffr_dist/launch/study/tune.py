"""Rates, chosen once for each way of training, on the biased validation set alone.

Every way tries the same number of alternatives over the same seeds. What counts is the mean of the worst group, then that of
the group mean; of equals the first.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ffr_dist.study import Cell, Way
from ffr_dist.train.stage import Mitigation

Tuned = tuple[str, str, Mitigation]
"""Variant, arm and mitigation: what chooses once, for all bias ratios."""


def tuned_of(way: Way) -> Tuned:
    return way.variant, way.arm, way.mitigation


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What a way of training has chosen."""

    place: int
    report: Mapping[str, Any]
    """For results.json."""


def choose(way: Way, seeds: Sequence[int], tries: Sequence[Sequence[Mapping[str, Any]]]) -> Choice:
    """The best of the tries: for each alternative what its last stage chose, by seed."""
    scores = [
        (
            statistics.fmean(chosen["val_worst_group"] for chosen in of_place),
            statistics.fmean(chosen["val_group_mean"] for chosen in of_place),
        )
        for of_place in tries
    ]
    place = max(range(len(tries)), key=lambda number: scores[number])
    return Choice(
        place=place,
        report={
            "variant": way.variant,
            "bias_ratio": way.bias_ratio,
            "arm": way.arm,
            "mitigation": way.mitigation,
            "seeds": list(seeds),
            "chosen": place,
            "tries": [
                {
                    "val_worst_group": worst,
                    "val_group_mean": mean,
                    "by_seed": [dict(chosen) for chosen in of_place],
                }
                for (worst, mean), of_place in zip(scores, tries, strict=True)
            ],
        },
    )


def try_cells(cells: Sequence[Cell]) -> dict[Way, list[Cell]]:
    """The cells of each way that is to choose."""
    found: dict[Way, list[Cell]] = {}
    for cell in cells:
        found.setdefault(cell.way, []).append(cell)
    return found
