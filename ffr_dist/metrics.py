"""Measures of a classifier from integer counts: correct answers among the samples of each declared group.

Counts are summed over batches, processes and shards; the one division comes last, so a distributed evaluation gives
exactly the numbers of a single process. Each average has a name of its own, and no two share a column. What cannot be
defined (a rate without samples, a gap between biases that nobody knows) is None, never 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ffr_dist.errors import DataError
from ffr_dist.groups import UNKNOWN_BIAS, Groups

Values = NDArray[np.float64]

_DRAWS = 9_999
"""Permutations behind a null: its mean is then known to a hundredth of its spread, and no p is below 1 in 10,000."""
_TIE = 1e-12
"""Sums of the same shares in another order differ in their last bits, and are equal."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class BiasMetrics:
    """How far answers follow the bias; every number is a fraction, and None where it is not defined."""

    aligned: float | None
    """Correct answers over samples of the groups that are their class's largest in training."""
    conflicting: float | None
    """The same over all other groups."""
    ddp: float | None
    """Demographic parity: the share of answers 1, its range over biases. This and the next four of two classes only."""
    deop: float | None
    """Equal opportunity: the range of the true positive rate over biases."""
    deo_max: float | None
    """Equalised odds: the larger of the ranges of the true and of the false positive rate; next their mean and their sum."""
    deo_mean: float | None
    deo_sum: float | None
    macro_std: float | None
    """The spread of accuracy over the biases within a class, averaged over classes: see :func:`macro_std`."""
    macro_std_null: float | None
    """What it would be on average if being right had nothing to do with bias: small groups alone raise it above 0."""
    macro_std_excess: float | None
    """The first less the second."""
    macro_std_p: float | None
    """One-sided: how often it would be so large then."""
    std_groups: float
    """Population standard deviation of the group accuracies."""


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """The counts of one evaluation as arrays over its groups, or of many draws of it at once.

    Statistics of it keep the leading axes of ``correct``; one that is not defined for these groups is None.
    """

    correct: NDArray[np.int64]
    """(…, groups)."""
    count: NDArray[np.int64]
    """(groups,), as the next two."""
    label: NDArray[np.int64]
    bias: NDArray[np.int64]

    @classmethod
    def of(cls, counts: Mapping[str, Count], groups: Groups) -> Answers:
        """Of the groups that were counted, each of which ``groups`` declares."""
        cells = [groups.by_name(name) for name in counts]
        return cls(
            np.array([count.correct for count in counts.values()], np.int64),
            np.array([count.count for count in counts.values()], np.int64),
            np.array([group.label for group in cells], np.int64),
            np.array([group.bias for group in cells], np.int64),
        )

    @property
    def biases(self) -> NDArray[np.int64]:
        """Those that occur; none where that of a group is unknown."""
        return np.unique(self.bias) if (self.bias != UNKNOWN_BIAS).all() else np.zeros(0, np.int64)

    def share(self, of: NDArray[np.int64], among: NDArray[np.bool_]) -> Values | None:
        """Counts ``of`` samples over all samples of some groups."""
        total = self.count[among].sum()
        return of[..., among].sum(-1) / total if total else None


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


def bias_metrics(
    counts: Mapping[str, Count], groups: Groups, train_counts: Mapping[str, int], train_groups: Groups
) -> BiasMetrics:
    """How far the answers on the evaluated ``groups`` follow the bias that the training groups have.

    Of how many classes the task is, the training groups say. Groups of the two are the same where label and bias are,
    whatever they are called.
    """
    answers = Answers.of(counts, groups)
    largest = aligned_cells(train_counts, train_groups)
    cells = list(zip(answers.label.tolist(), answers.bias.tolist(), strict=True))
    aligned = np.array([cell in largest for cell in cells], np.bool_)
    known = bool(largest) and len(answers.biases) > 0
    two = train_groups.classes == 2
    spread, null, p = macro_std_test(answers)
    return BiasMetrics(
        aligned=_number(answers.share(answers.correct, aligned)) if known else None,
        conflicting=_number(answers.share(answers.correct, ~aligned)) if known else None,
        ddp=_number(demographic_parity_gap(answers)) if two else None,
        deop=_number(opportunity_gap(answers)) if two else None,
        deo_max=_number(odds_gap(answers, "max")) if two else None,
        deo_mean=_number(odds_gap(answers, "mean")) if two else None,
        deo_sum=_number(odds_gap(answers, "sum")) if two else None,
        macro_std=spread,
        macro_std_null=null,
        macro_std_excess=None if spread is None or null is None else spread - null,
        macro_std_p=p,
        std_groups=float((answers.correct / answers.count).std()),
    )


def aligned_cells(train_counts: Mapping[str, int], train_groups: Groups) -> frozenset[tuple[int, int]]:
    """Of each class the label and bias of the group, or groups, with the most training samples; none where the bias of one is
    unknown.
    """
    if any(group.bias == UNKNOWN_BIAS for group in train_groups):
        return frozenset()
    most = {
        label: max(train_counts.get(group.name, 0) for group in train_groups if group.label == label)
        for label in {group.label for group in train_groups}
    }
    return frozenset(
        (group.label, group.bias) for group in train_groups if 0 < train_counts.get(group.name, 0) == most[group.label]
    )


def micro(answers: Answers) -> Values:
    """Correct answers over samples."""
    found: Values = answers.correct.sum(-1) / answers.count.sum()
    return found


def group_mean(answers: Answers) -> Values:
    """Unweighted mean of the group accuracies."""
    found: Values = (answers.correct / answers.count).mean(-1)
    return found


def demographic_parity_gap(answers: Answers) -> Values | None:
    """DDP of a task of the classes 0 and 1: the range of P(answer = 1) over the biases that occur."""
    return _range(answers, np.ones(len(answers.count), np.bool_))


def opportunity_gap(answers: Answers) -> Values | None:
    """DEOp: the range of the true positive rate."""
    return _range(answers, answers.label == 1)


def odds_gap(answers: Answers, form: str) -> Values | None:
    """DEO: ``max``, ``mean`` or ``sum`` of the ranges of the true and of the false positive rate."""
    true, false = _range(answers, answers.label == 1), _range(answers, answers.label == 0)
    if true is None or false is None:
        return None
    both = np.stack([true, false])
    forms: dict[str, Values] = {"max": both.max(0), "mean": both.mean(0), "sum": both.sum(0)}
    return forms[form]


def macro_std(answers: Answers) -> Values | None:
    """The spread of a class's accuracy over its groups, √ Σ_g (n_g/n) (a_g − a)² with a the class's accuracy, averaged over
    classes. Groups without samples have no part in it.
    """
    if not len(answers.biases):
        return None
    spreads = []
    for label in np.unique(answers.label):
        here = (answers.label == label) & (answers.count > 0)
        if here.any():
            correct, count = answers.correct[..., here], answers.count[here]
            apart = correct / count - (correct.sum(-1) / count.sum())[..., None]
            spreads.append(np.sqrt((count / count.sum() * apart**2).sum(-1)))
    return np.mean(spreads, axis=0) if spreads else None


def macro_std_test(answers: Answers, draws: int = _DRAWS) -> tuple[float | None, float | None, float | None]:
    """MacroStd of one evaluation, its mean under the null, and a one-sided p.

    The null keeps what is exact, the number of right answers in each class, and shuffles which samples they are of: the counts
    of a class's groups are then multivariate hypergeometric. The evaluation itself counts as one of the permutations, so
    that p never claims more than it may. The same counts give the same numbers.
    """
    found = _number(macro_std(answers))
    if found is None:
        return None, None, None
    rng = np.random.default_rng(0)
    correct = np.zeros((draws, len(answers.count)), np.int64)
    for label in np.unique(answers.label):
        here = answers.label == label
        right = int(answers.correct[here].sum())
        correct[:, here] = rng.multivariate_hypergeometric(answers.count[here], right, draws, method="marginals")
    null = macro_std(replace(answers, correct=correct))
    assert null is not None  # noqa: S101 (the same groups)
    return found, float(null.mean()), float(1 + (null >= found - _TIE).sum()) / (1 + draws)


def _range(answers: Answers, among: NDArray[np.bool_]) -> Values | None:
    """Of the share of answers 1 among the samples of some groups, over biases; None where one has no such sample."""
    ones = _ones(answers)
    shares = [answers.share(ones, among & (answers.bias == bias)) for bias in answers.biases]
    known = [share for share in shares if share is not None]
    if len(known) < max(2, len(shares)):
        return None
    found: Values = np.ptp(np.stack(known), axis=0)
    return found


def rates_by_bias(answers: Answers, among: NDArray[np.bool_]) -> list[Count] | None:
    """Of one evaluation, the answers 1 among the samples of some groups, by bias; None where their range is not defined."""
    ones = _ones(answers)
    places = [among & (answers.bias == bias) for bias in answers.biases]
    found = [Count(int(ones[here].sum()), int(answers.count[here].sum())) for here in places]
    return found if len(found) > 1 and all(one.count for one in found) else None


def _ones(answers: Answers) -> NDArray[np.int64]:
    """How many samples of each group were answered 1, of two classes."""
    return np.where(answers.label == 1, answers.correct, answers.count - answers.correct)


def _number(value: Values | None) -> float | None:
    return None if value is None else float(value)
