"""Group metrics against fairlearn's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ffr_dist.errors import DataError
from ffr_dist.metrics import Count, group_metrics

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
