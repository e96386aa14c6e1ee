from __future__ import annotations

import pytest

from ffr_dist.report import words
from ffr_dist.report.content import Estimate


@pytest.mark.parametrize(("value", "shown"), [(0.4123, "+41.2"), (-0.004, "−0.4"), (-0.0001, "0.0"), (0.0, "0.0")])
def test_points_are_signed_but_for_nothing(value: float, shown: str) -> None:
    assert words.points(value) == shown


def test_an_interval_needs_both_ends() -> None:
    assert words.bounds(Estimate(0.5, 0.25, 0.75)) == "25.0 – 75.0"
    assert words.bounds(Estimate(0.5, 0.25)) == ""
    assert words.bounds(Estimate(0.0, -0.02, 0.02), signed=True) == "−2.0 – +2.0"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.04, "0.0 s"),
        (9.96, "10.0 s"),
        (59.7, "1 min 00 s"),
        (62.8, "1 min 03 s"),
        (3599.9, "1 h 00 min"),
        (90_000, "25 h 00 min"),
    ],
)
def test_durations(seconds: float, shown: str) -> None:
    assert words.duration(seconds) == shown


@pytest.mark.parametrize(("number", "shown"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 40, "5.0 TiB")])
def test_sizes(number: int, shown: str) -> None:
    assert words.size(number) == shown
