"""How sure an accuracy or a difference is: 95 % intervals unless told otherwise."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from scipy.special import stdtr, stdtrit

from ffr_dist.errors import DataError
from ffr_dist.metrics import Count


class Interval(NamedTuple):
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A mean of paired differences, with the interval and two-sided p-value of Student's t."""

    mean: float
    low: float
    high: float
    p: float
    pairs: int


def wilson(correct: int, count: int, confidence: float = 0.95) -> Interval:
    """Wilson's score interval of a proportion; stays within 0 … 1 and is honest for few samples and at the ends."""
    if not 0 <= correct <= count or count == 0:
        raise DataError(f"{correct} correct of {count} is not a proportion; there is no interval for it")
    z = statistics.NormalDist().inv_cdf(0.5 + confidence / 2)
    share, spread = correct / count, z * z / count
    middle = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / count + spread / (4 * count)) / (1 + spread)
    # At 0 and at 1 the bound is exact, which rounding would miss.
    return Interval(0.0 if correct == 0 else middle - half, 1.0 if correct == count else middle + half)


def simultaneous_wilson(counts: Mapping[str, Count], confidence: float = 0.95) -> dict[str, Interval]:
    """Wilson's intervals that hold for all groups at once (Šidák: the groups' samples are independent).

    The lowest of their lower bounds bounds the true worst group, whichever it is.
    """
    each = confidence ** (1 / len(counts))
    return {name: wilson(count.correct, count.count, each) for name, count in counts.items()}


def seed_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Student's interval of the mean over seeds."""
    if len(values) < 2:
        raise DataError(f"{len(values)} seed gives no interval over seeds; run at least two")
    half = _quantile(len(values) - 1, confidence) * statistics.stdev(values) / math.sqrt(len(values))
    mean = statistics.fmean(values)
    return Interval(mean - half, mean + half)


def paired_difference(ours: Sequence[float], theirs: Sequence[float], confidence: float = 0.95) -> Difference:
    """Mean of ``ours - theirs`` over seeds in the same order: what both share (data, pool, test set) cancels."""
    if len(ours) != len(theirs):
        raise DataError(f"{len(ours)} and {len(theirs)} values do not pair; give both for the same seeds")
    differences = [mine - other for mine, other in zip(ours, theirs, strict=True)]
    low, high = seed_interval(differences, confidence)
    mean = statistics.fmean(differences)
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    # Without any spread t is infinite, or 0/0 where nothing differs.
    t = abs(mean) / error if error else (math.inf if mean else 0.0)
    p = 2 * float(stdtr(len(differences) - 1, -t))
    return Difference(mean=mean, low=low, high=high, p=p, pairs=len(differences))


def _quantile(freedom: int, confidence: float) -> float:
    return float(stdtrit(freedom, 0.5 + confidence / 2))
