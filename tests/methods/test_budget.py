"""The budget rule against the counts that the paper's released splits give."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ffr_dist.errors import ConfigError
from ffr_dist.methods.ffr.budget import equal_share, fill_up, total_budget

CELEBA_HQ = [
    ((592, 5335, 7797, 866), 16598, 4149),
    ((281, 5335, 7797, 411), 17364, 4341),
    ((166, 5335, 7797, 242), 17648, 4412),
    ((54, 5335, 7797, 79), 17923, 4480),
    ((6, 5335, 7797, 8), 18042, 4510),
]
UTKFACE = [
    ((103, 934, 5731, 636), 15520, 3880),
    ((50, 934, 5731, 302), 15907, 3976),
    ((29, 934, 5731, 178), 16052, 4013),
    ((10, 934, 5731, 58), 16191, 4047),
    ((1, 934, 5731, 6), 16252, 4063),
]
SPUCO = [((10_000, 500, 500, 10_000, 10_000, 500, 500, 10_000), 38_000, 4750)]


def named(counts):
    return {f"g{number}": count for number, count in enumerate(counts)}


@pytest.mark.parametrize(("counts", "total", "share"), CELEBA_HQ + UTKFACE + SPUCO)
def test_the_papers_numbers(counts, total, share):
    real = named(counts)
    assert total_budget(real) == total
    assert equal_share(real) == dict.fromkeys(real, share)


@given(st.lists(st.integers(0, 10_000), min_size=2, max_size=10))
def test_filling_up_balances_exactly(counts):
    real = named(counts)
    assert {real[name] + extra for name, extra in fill_up(real).items()} == {max(counts)}


@given(st.lists(st.integers(0, 10_000), min_size=2, max_size=10))
def test_both_ways_cost_the_same_up_to_rounding(counts):
    real = named(counts)
    if total_budget(real) < len(counts):
        with pytest.raises(ConfigError, match="budget rule asks for no synthetic image"):
            equal_share(real)
    else:
        assert 0 <= sum(fill_up(real).values()) - sum(equal_share(real).values()) < len(counts)
