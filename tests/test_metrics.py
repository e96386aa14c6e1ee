"""Group metrics against fairlearn's, against a count of every sample, and MacroStd against its null."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ffr_dist.errors import DataError
from ffr_dist.groups import Group, Groups
from ffr_dist.metrics import Answers, Count, aligned_cells, bias_metrics, group_metrics, macro_std, macro_std_test

ANSWERS = st.lists(st.tuples(st.sampled_from("abcd"), st.booleans()), min_size=1, max_size=60)


def counted(answers: list[tuple[str, bool]]) -> dict[str, Count]:
    return {
        name: Count(sum(right for at, right in answers if at == name), sum(at == name for at, _ in answers))
        for name in sorted({name for name, _ in answers})
    }


@given(ANSWERS)
def test_as_fairlearn(answers):
    from fairlearn.metrics import MetricFrame
    from sklearn.metrics import accuracy_score

    right = [int(good) for _, good in answers]
    frame = MetricFrame(
        metrics=accuracy_score, y_true=[1] * len(right), y_pred=right, sensitive_features=[name for name, _ in answers]
    )
    ours = group_metrics(counted(answers))
    assert ours.worst_group == pytest.approx(frame.group_min())
    assert ours.group_mean == pytest.approx(frame.by_group.mean())
    assert ours.micro == pytest.approx(frame.overall)
    assert frame.by_group[ours.worst_name] == pytest.approx(ours.worst_group)


@given(st.dictionaries(st.sampled_from("abcd"), st.tuples(st.integers(1, 50), st.integers(1, 50)), min_size=1))
def test_train_weighted_mean(numbers):
    counts = {name: Count(min(pair), max(pair)) for name, pair in numbers.items()}
    train = {name: number for number, name in enumerate(sorted(counts), 1)}
    expected = np.average([counts[name].accuracy for name in train], weights=list(train.values()))
    assert group_metrics(counts, train).train_weighted_mean == pytest.approx(expected)


def test_four_numbers_of_waterbirds_like_counts():
    counts = {"a": Count(2200, 2255), "b": Count(1800, 2255), "c": Count(500, 642), "d": Count(600, 642)}
    found = group_metrics(counts, {"a": 3498, "b": 184, "c": 56, "d": 1057})
    assert (found.worst_name, found.n_worst) == ("c", 642)
    assert found.worst_group == 500 / 642
    assert found.micro == 5100 / 5794
    assert found.group_mean == pytest.approx((2200 / 2255 + 1800 / 2255 + 500 / 642 + 600 / 642) / 4)
    weighted = 3498 * 2200 / 2255 + 184 * 1800 / 2255 + 56 * 500 / 642 + 1057 * 600 / 642
    assert found.train_weighted_mean == pytest.approx(weighted / 4795)


def test_an_empty_declared_group_is_an_error():
    with pytest.raises(DataError, match="group b"):
        group_metrics({"a": Count(1, 1), "b": Count(0, 0)})
    with pytest.raises(DataError, match="no group"):
        group_metrics({})


def test_groups_that_training_did_not_have_weigh_nothing():
    counts = {"a": Count(1, 2), "b": Count(1, 1)}
    assert group_metrics(counts, {"a": 5}).train_weighted_mean == 0.5
    assert group_metrics(counts, {"c": 5}).train_weighted_mean is None
    assert group_metrics(counts).train_weighted_mean is None


def test_counts_add_up_like_shards():
    whole = Count(3, 7) + Count(2, 3)
    assert (whole, whole.accuracy) == (Count(5, 10), 0.5)


SAMPLES = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 3), st.integers(0, 1)), min_size=1, max_size=80)
"""Label, bias and answer of each."""
GAPS = ("ddp", "deop", "deo_max", "deo_mean", "deo_sum")


def cell(label, bias):
    return Group(f"y{label}_b{bias}", label, bias)


def told(samples):
    """Groups, counts and the metrics of samples, each group's share in training as in the samples."""
    cells = Counter(sample[:2] for sample in samples)
    right = Counter(sample[:2] for sample in samples if sample[0] == sample[2])
    groups = Groups.of(cell(*at) for at in sorted(cells))
    counts = {cell(*at).name: Count(right[at], cells[at]) for at in sorted(cells)}
    train = Groups.of(cell(label, bias) for label in (0, 1) for bias in range(4))
    return bias_metrics(counts, groups, {name: count.count for name, count in counts.items()}, train)


@given(SAMPLES)
def test_gaps_as_fairlearn(samples):
    from fairlearn.metrics import (
        demographic_parity_difference,
        equal_opportunity_difference,
        equalized_odds_difference,
    )

    ours = told(samples)
    y, b, answer = (list(column) for column in zip(*samples, strict=True))
    biases = set(b)
    given = {"y_true": y, "y_pred": answer, "sensitive_features": b}
    if len(biases) == 1:
        assert {getattr(ours, name) for name in GAPS} == {None}
        return
    assert ours.ddp == pytest.approx(demographic_parity_difference(**given))
    positives = all((1, bias) in {sample[:2] for sample in samples} for bias in biases)
    negatives = all((0, bias) in {sample[:2] for sample in samples} for bias in biases)
    assert (ours.deop is None) == (not positives)
    assert (ours.deo_max is None) == (not (positives and negatives))
    if positives:
        assert ours.deop == pytest.approx(equal_opportunity_difference(**given))
    if positives and negatives:
        assert ours.deo_max == pytest.approx(equalized_odds_difference(**given, agg="worst_case"))
        assert ours.deo_mean == pytest.approx(equalized_odds_difference(**given, agg="mean"))
        assert ours.deo_sum == pytest.approx(2 * ours.deo_mean)


@given(SAMPLES)
def test_bias_metrics_as_counted_sample_by_sample(samples):
    ours = told(samples)
    sizes = Counter(sample[:2] for sample in samples)
    most = {y: max(count for at, count in sizes.items() if at[0] == y) for y in {at[0] for at in sizes}}
    for name, wanted in (("aligned", True), ("conflicting", False)):
        rights = [y == answer for y, b, answer in samples if (sizes[y, b] == most[y]) == wanted]
        expected = np.mean(rights) if rights else None
        assert getattr(ours, name) == (None if expected is None else pytest.approx(expected))
    accuracies = {at: np.mean([y == answer for y, b, answer in samples if (y, b) == at]) for at in sizes}
    assert ours.std_groups == pytest.approx(np.std(list(accuracies.values())))
    # The spread over the samples of a class, when each sample stands for the accuracy of its group.
    spreads = [np.std([accuracies[y, b] for y, b, _ in samples if y == label]) for label in sorted(most)]
    assert ours.macro_std == pytest.approx(np.mean(spreads), abs=1e-9)
    shares = [np.mean([answer for _, b, answer in samples if b == bias]) for bias in {b for _, b, _ in samples}]
    if len(shares) > 1:
        assert ours.ddp == pytest.approx(max(shares) - min(shares))


def test_waterbirds_like_gaps_by_hand():
    groups = Groups.of([Group("a", 0, 0), Group("b", 0, 1), Group("c", 1, 0), Group("d", 1, 1)])
    counts = {"a": Count(90, 100), "b": Count(40, 100), "c": Count(10, 50), "d": Count(45, 50)}
    found = bias_metrics(counts, groups, {"a": 3498, "b": 184, "c": 56, "d": 1057}, groups)
    assert (found.aligned, found.conflicting) == (135 / 150, 50 / 150)
    assert found.ddp == pytest.approx((60 + 45) / 150 - (10 + 10) / 150)
    assert found.deop == pytest.approx(45 / 50 - 10 / 50)
    assert (found.deo_max, found.deo_mean, found.deo_sum) == pytest.approx((0.7, 0.6, 1.2))
    assert found.macro_std == pytest.approx((0.25 + 0.35) / 2)
    assert found.macro_std_excess == pytest.approx(found.macro_std - found.macro_std_null)
    assert found.macro_std_p == 1e-4


def test_what_is_not_defined_is_none():
    unknown = Groups.of([Group("cat", 0, -1), Group("dog", 1, -1)])
    found = bias_metrics({"cat": Count(3, 4), "dog": Count(1, 2)}, unknown, {"cat": 5, "dog": 5}, unknown)
    assert [name for name in found.__slots__ if getattr(found, name) is not None] == ["std_groups"]
    three = Groups.of(cell(label, bias) for label in range(3) for bias in range(2))
    counts = {name: Count(1, 2) for name in three.names}
    found = bias_metrics(counts, three, dict.fromkeys(three.names, 1), three)
    assert {getattr(found, name) for name in GAPS} == {None}
    assert (found.aligned, found.conflicting) == (0.5, None)  # where training is balanced nothing conflicts
    # A test set of two classes of which the model knows three: an answer that is wrong need not be the other one.
    two = Groups.of([cell(0, 0), cell(0, 1), cell(1, 0), cell(1, 1)])
    counts = {name: Count(1, 2) for name in two.names}
    assert bias_metrics(counts, two, {}, three).ddp is None
    assert bias_metrics(counts, two, {}, three).aligned is None


def test_test_groups_that_training_never_saw_conflict():
    train = Groups.of([Group("cat_sofa", 0, 0), Group("dog_bench", 1, 1)])
    test = Groups.of([Group("cat_shelf", 0, 2), Group("dog_shelf", 1, 2)])
    found = bias_metrics(
        {"cat_shelf": Count(3, 4), "dog_shelf": Count(1, 4)}, test, {"cat_sofa": 9, "dog_bench": 9}, train
    )
    assert (found.aligned, found.conflicting, found.ddp) == (None, 0.5, None)


def test_the_largest_of_each_class_is_aligned():
    groups = Groups.of(cell(label, bias) for label in range(2) for bias in range(3))
    counts = {"y0_b0": 7, "y0_b1": 7, "y0_b2": 3, "y1_b0": 1, "y1_b1": 0}
    assert aligned_cells(counts, groups) == {(0, 0), (0, 1), (1, 0)}
    # A test set that calls the same cells otherwise.
    named = Groups.of(Group(f"test_{group.name}", group.label, group.bias) for group in groups)
    answers = {name: Count(place, 10) for place, name in enumerate(named.names)}
    found = bias_metrics(answers, named, counts, groups)
    assert (found.aligned, found.conflicting) == ((0 + 1 + 3) / 30, (2 + 4 + 5) / 30)


def table(cells):
    """Answers of {(label, bias): (correct, count)}."""
    return Answers.of(
        {cell(*at).name: Count(*pair) for at, pair in cells.items()}, Groups.of(cell(*at) for at in cells)
    )


CELLS = st.dictionaries(
    st.tuples(st.integers(0, 2), st.integers(0, 4)),
    st.tuples(st.integers(0, 30), st.integers(0, 30)).map(sorted),
    min_size=1,
)


def test_macro_std_by_hand():
    found = macro_std(table({(0, 0): (3, 4), (0, 1): (1, 4), (1, 0): (2, 2), (1, 1): (3, 6), (1, 2): (0, 0)}))
    second = math.sqrt(2 / 8 * (1 - 5 / 8) ** 2 + 6 / 8 * (1 / 2 - 5 / 8) ** 2)
    assert found == pytest.approx((0.25 + second) / 2)


@given(CELLS, st.permutations(range(5)))
def test_macro_std_does_not_know_what_groups_are_called(cells, names):
    if not any(count for _, count in cells.values()):
        return
    moved = {(label, names[bias]): pair for (label, bias), pair in cells.items()}
    assert macro_std(table(moved)) == pytest.approx(macro_std(table(cells)), abs=1e-12)


@given(st.integers(1, 9), st.integers(1, 9), st.lists(st.integers(1, 20), min_size=1, max_size=8))
def test_macro_std_of_equal_cells_is_nothing(correct, wrong, sizes):
    cells = {(0, bias): (correct * size, (correct + wrong) * size) for bias, size in enumerate(sizes)}
    assert macro_std(table(cells)) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    "cells",
    [
        {(0, 0): (3, 4), (0, 1): (0, 3)},
        {(0, 0): (1, 2), (0, 1): (2, 3), (0, 2): (0, 2), (1, 0): (2, 2), (1, 1): (0, 1)},
    ],
)
def test_the_null_is_that_of_all_permutations(cells):
    """Every way to share out the right answers of a class among its samples."""
    ways = []
    for label in sorted({label for label, _ in cells}):
        own = {at: pair for at, pair in cells.items() if at[0] == label}
        places = [at for at, (_, count) in own.items() for _ in range(count)]
        right = sum(correct for correct, _ in own.values())
        ways.append([(Counter(chosen), own) for chosen in itertools.combinations(places, right)])
    values = np.array(
        [
            macro_std(table({at: (hits[at], own[at][1]) for hits, own in way for at in own}))
            for way in itertools.product(*ways)
        ]
    )
    found, null, p = macro_std_test(table(cells), draws=40_000)
    assert null == pytest.approx(values.mean(), abs=4 * values.std() / 200)
    assert p == pytest.approx((values >= found - 1e-12).mean(), abs=0.01)
    assert macro_std_test(table(cells), draws=40_000) == (found, null, p)


# Images of CIFAR10-B by class and background where they are published, and by background alone over all classes.
KNOWN = (
    (171, 130, 137, 57, 84, 299, 63, 59),
    (71, 88, 711, 45, 15, 56, 0, 14),
    (85, 112, 609, 81, 7, 102, 4, 0),
)
TOTALS = (2863, 1040, 2467, 676, 401, 2114, 168, 271)
NULLS = {0.90: 2.35, 0.93: 2.00, 0.94: 1.87, 0.95: 1.70, 0.96: 1.53, 0.97: 1.33}
"""The published expectation in points when correctness is binomial, at six accuracies."""


def cifar_cells():
    """Cells of about the published sizes: the seven classes that are not known share what the three leave, alike."""
    left = (np.array(TOTALS) - np.sum(KNOWN, axis=0)) / 7
    return np.array([*KNOWN, *([np.round(left * 1000 / left.sum()).astype(int)] * 7)])


@pytest.mark.parametrize(("accuracy", "points"), NULLS.items())
def test_the_null_at_the_sizes_of_cifar10_b(accuracy, points):
    sizes = cifar_cells()
    rng = np.random.default_rng(1)
    answers = table({(c, b): (0, int(n)) for c, row in enumerate(sizes) for b, n in enumerate(row)})
    binomial = rng.binomial(answers.count, accuracy, (2000, 80))
    drawn = Answers(binomial, answers.count, answers.label, answers.bias)
    assert 100 * macro_std(drawn).mean() == pytest.approx(points, abs=0.05)
    # Given how many of a class are right, hardly anything changes.
    rows = {(c, b): (round(accuracy * n) if n else 0, int(n)) for c, row in enumerate(sizes) for b, n in enumerate(row)}
    raw, null, p = macro_std_test(table(rows), draws=500)
    assert 100 * null == pytest.approx(points, abs=0.07)
    assert (raw < null, p > 0.99) == (True, True)  # rounded to the accuracy, the cells are more alike than by chance
