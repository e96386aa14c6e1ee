from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ffr_dist.plan.interleave import candidates, counts_at

BOUND = Fraction(336, 200)
"""Half the sum of reciprocal Fibonacci numbers, 1.67994…, rounded up."""

totals_of = st.dictionaries(st.sampled_from([f"g{n}" for n in range(12)]), st.integers(0, 10_000), min_size=1).filter(
    lambda totals: sum(totals.values()) > 0
)


@given(totals_of, st.data())
def test_counts_sum_rise_and_stay_near_their_share(totals, data):
    size = sum(totals.values())
    position = data.draw(st.integers(0, size))
    counts = counts_at(position, totals)
    assert sum(counts.values()) == position
    assert all(abs(counts[g] - Fraction(position * totals[g], size)) < BOUND for g in totals)
    if position:
        before = counts_at(position - 1, totals)
        assert all(counts[g] - before[g] in (0, 1) for g in totals)
    assert counts_at(size, totals) == totals


@given(st.integers(1, 8), st.integers(1, 5_000), st.data())
def test_up_to_eight_equal_groups_stay_within_one(groups, each, data):
    totals = {f"g{n}": each for n in range(groups)}
    position = data.draw(st.integers(0, groups * each))
    counts = counts_at(position, totals)
    assert all(abs(counts[g] - Fraction(position, groups)) < 1 for g in totals)


@given(totals_of, st.data())
def test_candidates_agree_with_counts_and_k_rises_by_one(totals, data):
    size = sum(totals.values())
    start = data.draw(st.integers(0, size))
    stop = data.draw(st.integers(start, min(size, start + 300)))
    first_k = {g: 10 * place for place, g in enumerate(totals)}
    seen = counts_at(start, totals)
    for group, k in candidates(start, stop, totals, first_k):
        assert k == first_k[group] + seen[group]
        seen[group] += 1
    assert seen == counts_at(stop, totals)


def test_one_pass_equals_many_pieces():
    totals = {"a": 37, "b": 11, "c": 0, "d": 200}
    first_k = {"a": 5, "b": 0, "c": 3, "d": 7}
    whole = candidates(0, 248, totals, first_k)
    assert whole == [c for start in range(0, 248, 31) for c in candidates(start, start + 31, totals, first_k)]
    assert len(set(whole)) == 248


def test_the_order_of_a_mapping_does_not_matter():
    totals = {"a": 3, "b": 3, "c": 7}
    turned = dict(reversed(totals.items()))
    assert candidates(0, 13, totals, {}) == candidates(0, 13, turned, {})


def test_an_enormous_round_is_as_quick_as_a_small_one():
    totals = {f"g{n}": 10**12 + n for n in range(8)}
    last = candidates(8 * 10**12, 8 * 10**12 + 28, totals, {})
    assert max(k for _, k in last) < 10**12 + 8


def test_places_outside_are_refused():
    with pytest.raises(ValueError, match="no places"):
        candidates(0, 4, {"a": 3}, {})
