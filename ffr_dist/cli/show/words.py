"""Numbers in words, and lines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console

_REASONS = 4
"""Reasons of rejection that fit on a line; the most frequent ones."""


def reasons(counts: Mapping[str, int]) -> str:
    """The most frequent reasons, and how many the others are."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    shown = [f"{reason} {count:,}" for reason, count in ordered[:_REASONS]]
    rest = sum(count for _, count in ordered[_REASONS:])
    return ", ".join([*shown, *([f"others {rest:,}"] if rest else [])])


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 600:
        return f"{seconds / 60:.1f} min"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    if seconds < 360_000:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86_400:,.0f} days"


def workers(count: int) -> str:
    return f"{count:,} worker{'' if count == 1 else 's'}"


def size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"


def between(estimate: Mapping[str, Any], told: Callable[[float], str]) -> str:
    """An estimate with its interval, as far as it has one."""
    expected, low, high = (estimate[name] for name in ("expected", "low", "high"))
    if low is None and high is None:
        return told(expected)
    if high is None:
        return f"{told(expected)} (at least {told(low)})"
    low_told, high_told = told(low), told(high)
    if low_told == high_told:
        return told(expected)
    number, _, unit = low_told.partition(" ")
    if unit and high_told.endswith(f" {unit}"):
        low_told = number
    return f"{told(expected)} ({low_told} – {high_told})"


def money(amount: float) -> str:
    return f"{amount:,.2f}" if amount < 1000 else f"{amount:,.0f}"


def percent(value: float) -> str:
    return f"{100 * value:.1f}"


def say(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False)
