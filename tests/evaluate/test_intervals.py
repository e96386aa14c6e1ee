from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ffr_dist.errors import DataError
from ffr_dist.evaluate.intervals import (
    bootstrap,
    intervals_of,
    paired_difference,
    seed_interval,
    sign_flip,
    simultaneous_wilson,
    wilson,
)
from ffr_dist.groups import Group, Groups
from ffr_dist.metrics import (
    Answers,
    Count,
    demographic_parity_gap,
    group_mean,
    micro,
    odds_gap,
    opportunity_gap,
)

VALUES = st.lists(st.floats(0, 1), min_size=2, max_size=12)


@given(st.integers(1, 500).flatmap(lambda count: st.tuples(st.integers(0, count), st.just(count))))
def test_wilson_as_scipy(numbers):
    from scipy.stats import binomtest

    correct, count = numbers
    theirs = binomtest(correct, count).proportion_ci(0.95, method="wilson")
    ours = wilson(correct, count)
    assert ours == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert 0 <= ours.low <= correct / count <= ours.high <= 1


def test_wilson_by_hand():
    # (p + z²/2n ± z√(p(1-p)/n + z²/4n²)) / (1 + z²/n) for 8 of 10, z = 1.959964.
    assert wilson(8, 10) == pytest.approx((0.490162, 0.943318), abs=1e-6)
    for correct, count in ((0, 0), (3, 2), (-1, 2)):
        with pytest.raises(DataError):
            wilson(correct, count)


def test_simultaneous_intervals_hold_for_all_groups_at_once():
    rng = np.random.default_rng(0)
    truth, sizes = np.array([0.6, 0.8, 0.9, 0.7]), [200, 50, 100, 400]
    both = every = 0
    for _ in range(2000):
        counts = {str(g): Count(int(rng.binomial(n, p)), n) for g, (n, p) in enumerate(zip(sizes, truth, strict=True))}
        joint = simultaneous_wilson(counts)
        both += all(joint[str(g)].low <= p <= joint[str(g)].high for g, p in enumerate(truth))
        single = {name: wilson(count.correct, count.count) for name, count in counts.items()}
        every += all(single[str(g)].low <= p <= single[str(g)].high for g, p in enumerate(truth))
    assert 0.935 < both / 2000 < 0.975
    assert every / 2000 < 0.87  # one by one they miss about one in five times


@given(VALUES)
def test_seed_interval_as_scipy(values):
    from scipy import stats

    spread = np.std(values, ddof=1) / np.sqrt(len(values))
    ours = seed_interval(values)
    if spread > 1e-9:
        assert ours is not None
        expected = stats.t.interval(0.95, len(values) - 1, np.mean(values), spread)
        assert ours == pytest.approx(expected, abs=1e-9)
    with pytest.raises(DataError, match="1 seed"):
        seed_interval([0.5])


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 1000)), min_size=2, max_size=12))
def test_paired_difference_as_scipy(pairs):
    from scipy import stats

    ours, theirs = ([value / 1000 for value in side] for side in zip(*pairs, strict=True))
    found = paired_difference(ours, theirs)
    assert found.pairs == len(pairs)
    if len({one - other for one, other in pairs}) > 1:
        test = stats.ttest_rel(ours, theirs)
        assert found.p == pytest.approx(test.pvalue, abs=1e-9)
        assert (found.low, found.high) == pytest.approx(tuple(test.confidence_interval()), abs=1e-9)


def test_differences_without_spread():
    """They tell nothing of what the next would be; also where rounding alone makes some."""
    for ours, theirs, mean in (
        ([0.5, 0.7], [0.5, 0.7], 0),
        ([1.0, 1.0], [0.5, 0.5], 0.5),
        ([0.8, 0.5], [0.6, 0.3], 0.2),
    ):
        found = paired_difference(ours, theirs)
        assert (found.mean, found.low, found.high, found.p) == (pytest.approx(mean), None, None, None)
    assert seed_interval([0.3, 0.3, 0.3]) is None
    with pytest.raises(DataError, match="do not pair"):
        paired_difference([1.0], [1.0, 2.0])


@given(st.lists(st.integers(-20, 20).map(lambda value: value / 16), min_size=6, max_size=11))
def test_sign_flips_as_counted_one_by_one_and_as_scipy(differences):
    from scipy import stats

    sums = [
        math.fsum(s * d for s, d in zip(signs, differences, strict=True))
        for signs in itertools.product((-1, 1), repeat=len(differences))
    ]
    found = abs(math.fsum(differences))
    assert sign_flip(differences) == np.mean([abs(total) >= found for total in sums])
    theirs = stats.permutation_test(
        (np.array(differences),), np.mean, permutation_type="samples", n_resamples=np.inf, alternative="two-sided"
    )
    # Theirs doubles the smaller tail; of a symmetric distribution that is the same, but for the middle.
    assert sign_flip(differences) == pytest.approx(theirs.pvalue)


def test_sign_flips_come_with_a_difference_of_six_pairs():
    ours, theirs = [0.5, 0.6, 0.7, 0.8, 0.9, 0.95], [0.4, 0.4, 0.4, 0.4, 0.4, 0.4]
    found = paired_difference(ours, theirs)
    assert (found.test, found.p_sign_flip) == ("paired t", 2 / 64)
    assert paired_difference(ours[:5], theirs[:5]).p_sign_flip is None
    assert sign_flip([0.1] * 30) == 2 / 2**30  # all at once, not one by one
    assert sign_flip([0.0] * 6) == 1
    assert sign_flip([0.1] * 41) is None


ANSWERS = Answers(*np.array([[90, 40, 10, 45], [100, 100, 50, 50], [0, 0, 1, 1], [0, 1, 0, 1]]))


@pytest.mark.parametrize("statistic", [micro, group_mean])
def test_a_bootstrap_as_scipys(statistic):
    from scipy import stats

    samples = tuple(
        np.repeat([1, 0], [right, count - right]) for right, count in zip(ANSWERS.correct, ANSWERS.count, strict=True)
    )

    def over_samples(*groups, axis):
        return statistic(
            Answers(np.stack([group.sum(axis) for group in groups], -1), *[ANSWERS.count, ANSWERS.label, ANSWERS.bias])
        )

    theirs = stats.bootstrap(
        samples, over_samples, n_resamples=4000, method="percentile", rng=np.random.default_rng(1), batch=500
    ).confidence_interval
    ours = bootstrap(ANSWERS, statistic)
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.006)
    assert bootstrap(ANSWERS, statistic) == ours


def test_a_bootstrap_of_two_samples_a_group_as_all_resamples():
    """All 4⁴ resamples of four groups of two, against many draws."""
    answers = Answers(np.array([1, 2, 0, 1]), np.full(4, 2), ANSWERS.label, ANSWERS.bias)
    groups = [(0, 1), (1, 1), (0, 0), (0, 1)]
    for statistic in (demographic_parity_gap, opportunity_gap, lambda drawn: odds_gap(drawn, "sum")):
        every = [
            [sum(chosen) for chosen in resample]
            for resample in itertools.product(*(itertools.product(group, repeat=2) for group in groups))
        ]
        values = statistic(Answers(np.array(every), answers.count, answers.label, answers.bias))
        for confidence in (0.6, 0.9):  # quantiles between the atoms, which are of sixteenths
            found = bootstrap(answers, statistic, confidence, draws=40_000)
            assert found == pytest.approx(
                tuple(np.quantile(values, ((1 - confidence) / 2, (1 + confidence) / 2))), abs=1e-9
            )


def test_what_the_test_set_leaves_open():
    groups = Groups.of([Group("a", 0, 0), Group("b", 0, 1), Group("c", 1, 0), Group("d", 1, 1)])
    counts = {"a": Count(95, 100), "b": Count(60, 100), "c": Count(12, 20), "d": Count(99, 100)}
    found = intervals_of(counts, groups, 2)
    each = simultaneous_wilson(counts)
    assert found["worst_group"] == (each["c"].low, each["b"].high), (
        "the small group may be far worse, the large one not better"
    )
    answers = Answers.of(counts, groups)
    for name, gap in (("ddp", demographic_parity_gap), ("deop", opportunity_gap)):
        assert found[name].low <= float(gap(answers)) <= found[name].high
    low, high = ([getattr(found[f"deo_{form}"], end) for form in ("mean", "max", "sum")] for end in ("low", "high"))
    assert low[0] <= low[1] <= low[2] == 2 * low[0]
    assert high[0] <= high[1] <= high[2] == pytest.approx(2 * high[0])
    assert found["group_mean"].low < float(group_mean(answers)) < found["group_mean"].high
    assert intervals_of(counts, groups, 3)["ddp"] is None


def test_the_interval_of_a_gap_holds_what_there_is_as_often_as_it_says():
    """A gap of 0 above all, of which noise alone makes more."""
    groups = Groups.of([Group("a", 0, 0), Group("b", 0, 1), Group("c", 1, 0), Group("d", 1, 1)])
    rng = np.random.default_rng(0)
    for true in (0.0, 0.05):
        held = dict.fromkeys(("ddp", "deop", "deo_max", "deo_mean", "deo_sum"), 0)
        wanted = {"ddp": true, "deop": true, "deo_max": true, "deo_mean": true, "deo_sum": 2 * true}
        for _ in range(100):
            drawn = rng.binomial(200, (0.8 - true, 0.8, 0.8 + true, 0.8))
            found = intervals_of({g.name: Count(int(n), 200) for g, n in zip(groups, drawn, strict=True)}, groups, 2)
            for name in held:
                held[name] += found[name].low <= wanted[name] <= found[name].high
        assert min(held.values()) >= 93, held


def test_what_a_bootstrap_cannot_say():
    one = Answers(np.array([1]), np.array([2]), np.array([0]), np.array([0]))
    assert bootstrap(one, demographic_parity_gap) is None
    edge = Answers(np.array([0, 9]), np.array([5, 9]), np.array([0, 1]), np.array([0, 0]))
    assert bootstrap(edge, micro) is None, "every resample is the same"
    with pytest.raises(DataError, match="without samples"):
        bootstrap(Answers(np.array([0]), np.array([0]), np.array([0]), np.array([0])), micro)
