"""Group accuracies from integer counts.

Counts are summed over batches, processes and shards; the one division comes last, so a distributed evaluation gives
exactly the numbers of a single process. Four averages have four names and never share a column.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ffr_dist.errors import DataError


@dataclass(frozen=True, slots=True)
class Count:
    """Correct answers among ``count`` samples of a group."""

    correct: int
    count: int

    def __add__(self, other: Count) -> Count:
        return Count(self.correct + other.correct, self.count + other.count)

    @property
    def accuracy(self) -> float:
        return self.correct / self.count


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupMetrics:
    """The summary of one evaluation; every number is a fraction."""

    worst_group: float
    """Lowest group accuracy. Any group may be the worst, a majority too."""
    worst_name: str
    n_worst: int
    """Samples in the worst group: with few of them the number above is mostly noise."""
    group_mean: float
    """Unweighted mean of the group accuracies (what FFR calls balanced)."""
    train_weighted_mean: float | None
    """Group accuracies weighted by the groups' training counts; None where those are not given."""
    micro: float
    """Correct answers over samples of the evaluated set."""


def group_metrics(counts: Mapping[str, Count], train_counts: Mapping[str, int] | None = None) -> GroupMetrics:
    """Worst group, group mean, train-weighted mean and micro accuracy.

    Every declared group must be in ``counts``; one without samples is an error, never a silent 1.0.
    """
    if not counts:
        raise DataError("no group was evaluated")
    empty = sorted(name for name, count in counts.items() if count.count == 0)
    if empty:
        raise DataError(
            f"no sample of declared group {', '.join(empty)}: a worst-group accuracy without it would mean nothing; "
            "declare only the groups that the split holds, or add samples"
        )
    worst_name = min(counts, key=lambda name: counts[name].accuracy)
    total = sum(counts.values(), Count(0, 0))
    weighted = None
    weight = {name: (train_counts or {}).get(name, 0) for name in counts}
    if sum(weight.values()):
        weighted = math.fsum(weight[name] * counts[name].accuracy for name in counts) / sum(weight.values())
    return GroupMetrics(
        worst_group=counts[worst_name].accuracy,
        worst_name=worst_name,
        n_worst=counts[worst_name].count,
        group_mean=math.fsum(count.accuracy for count in counts.values()) / len(counts),
        train_weighted_mean=weighted,
        micro=total.accuracy,
    )
