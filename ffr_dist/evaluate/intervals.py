"""How sure an accuracy or a difference is: 95 % intervals unless told otherwise."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from scipy.special import stdtr, stdtrit

from ffr_dist.errors import DataError
from ffr_dist.groups import Groups
from ffr_dist.metrics import Answers, Count, Values, group_mean, micro, rates_by_bias

_DRAWS = 9_999
_FEWEST_FLIPPED, _MOST_FLIPPED = 6, 40
"""Pairs that a sign-flip test is made of: of five, no p is below 0.06; of more than forty it takes too long."""
_TIE = 1e-12


class Interval(NamedTuple):
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A mean of paired differences, with its interval and two-sided p-values, each by its test's name.

    Bounds and ``p`` are None where all differences are equal: few numbers that agree tell nothing of what the next would be.
    """

    mean: float
    low: float | None
    high: float | None
    p: float | None
    pairs: int
    test: str = "paired t"
    """What ``p`` and the interval rest on: that differences are spread normally."""
    p_sign_flip: float | None = None
    """Of the exact test that rests on less: had the two been alike, each difference could as well have had the other sign.
    None with fewer than 6 pairs, of which no result is rare."""


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


def bootstrap(
    answers: Answers, statistic: Callable[[Answers], Values | None], confidence: float = 0.95, draws: int = _DRAWS
) -> Interval | None:
    """Percentiles of a statistic over resamples of the test set, each group resampled within itself.

    Resampling n answers of which c are right is drawing a binomial of n and c/n. So a group whose answers are all right stays so:
    of few samples this interval is too narrow, and Wilson's is not. The same counts give the same interval; None where the
    statistic is not defined, and where every group is all right or all wrong, so that every resample is the test set itself.
    """
    if answers.count.min(initial=1) < 1:
        raise DataError("a group without samples cannot be resampled; leave it out")
    if ((answers.correct == 0) | (answers.correct == answers.count)).all():
        return None
    rng = np.random.default_rng(0)
    drawn = rng.binomial(answers.count, answers.correct / answers.count, (draws, len(answers.count)))
    values = statistic(replace(answers, correct=drawn))
    if values is None:
        return None
    low, high = np.quantile(values, ((1 - confidence) / 2, (1 + confidence) / 2))
    return Interval(float(low), float(high))


def intervals_of(counts: Mapping[str, Count], groups: Groups, classes: int) -> dict[str, Interval | None]:
    """What the size of the test set leaves open of one evaluation's measures, by their names in ``metrics``.

    The worst group's are bounds of the true worst one, whichever it is, and a gap's follow from bounds of its rates: no
    resampling could tell that a gap is 0, as noise alone makes one. Those of means are a bootstrap's. None where a measure is
    not defined, or a bootstrap has nothing to tell.
    """
    each = simultaneous_wilson(counts)
    answers = Answers.of(counts, groups)
    two = classes == 2
    all_rates, true, false = (
        rates_by_bias(answers, among) if two else None
        for among in (answers.label >= 0, answers.label == 1, answers.label == 0)
    )
    odds = None if true is None or false is None else (true, false)
    return {
        "worst_group": Interval(min(one.low for one in each.values()), min(one.high for one in each.values())),
        "group_mean": bootstrap(answers, group_mean),
        "micro": bootstrap(answers, micro),
        "ddp": None if all_rates is None else _gap_interval((all_rates,), max),
        "deop": None if true is None else _gap_interval((true,), max),
        "deo_max": None if odds is None else _gap_interval(odds, max),
        "deo_mean": None if odds is None else _gap_interval(odds, statistics.fmean),
        "deo_sum": None if odds is None else _gap_interval(odds, sum),
    }


def _gap_interval(rates: Sequence[Sequence[Count]], combine: Callable[[Sequence[float]], float]) -> Interval:
    """Of ranges of rates, or of what is made of several: from intervals that hold for all the rates at once (Šidák)."""
    sure = 0.95 ** (1 / sum(len(of_range) for of_range in rates))
    bounds = [[wilson(one.correct, one.count, sure) for one in of_range] for of_range in rates]
    lows = [max(0.0, max(one.low for one in each) - min(one.high for one in each)) for each in bounds]
    highs = [max(one.high for one in each) - min(one.low for one in each) for each in bounds]
    return Interval(combine(lows), combine(highs))


def seed_interval(values: Sequence[float], confidence: float = 0.95) -> Interval | None:
    """Student's interval of the mean over seeds; None where they agree, as it would have no width however few they are."""
    if len(values) < 2:
        raise DataError(f"{len(values)} seed gives no interval over seeds; run at least two")
    spread = statistics.stdev(values)
    if spread <= _TIE * max(1.0, *map(abs, values)):  # equal but for rounding
        return None
    half = _quantile(len(values) - 1, confidence) * spread / math.sqrt(len(values))
    mean = statistics.fmean(values)
    return Interval(mean - half, mean + half)


def paired_difference(ours: Sequence[float], theirs: Sequence[float], confidence: float = 0.95) -> Difference:
    """Mean of ``ours - theirs`` over seeds in the same order: what both share (data, pool, test set) cancels."""
    if len(ours) != len(theirs):
        raise DataError(f"{len(ours)} and {len(theirs)} values do not pair; give both for the same seeds")
    differences = [mine - other for mine, other in zip(ours, theirs, strict=True)]
    interval = seed_interval(differences, confidence)
    mean = statistics.fmean(differences)
    low = high = p = None
    if interval is not None:
        low, high = interval
        t = abs(mean) * math.sqrt(len(differences)) / statistics.stdev(differences)
        p = 2 * float(stdtr(len(differences) - 1, -t))
    return Difference(mean=mean, low=low, high=high, p=p, pairs=len(differences), p_sign_flip=sign_flip(differences))


def sign_flip(differences: Sequence[float]) -> float | None:
    """Two-sided p of a mean of 0: the share of all 2ⁿ choices of signs whose sum is as far from 0 as what was found.

    Exact, in the square root of so many steps: the sums of one half are looked up among those of the other.
    """
    if not _FEWEST_FLIPPED <= len(differences) <= _MOST_FLIPPED:
        return None
    half = len(differences) // 2
    first, second = _signed_sums(differences[:half]), np.sort(_signed_sums(differences[half:]))
    least = abs(math.fsum(differences)) - _TIE * math.fsum(map(abs, differences))
    if least <= 0:
        return 1.0
    above = len(second) - np.searchsorted(second, least - first, side="left")
    below = np.searchsorted(second, -least - first, side="right")
    return float((above + below).sum() / 2 ** len(differences))


def _signed_sums(values: Sequence[float]) -> Values:
    """Of all choices of their signs."""
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums - value, sums + value])
    return sums


def _quantile(freedom: int, confidence: float) -> float:
    return float(stdtrit(freedom, 0.5 + confidence / 2))
