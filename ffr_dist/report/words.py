"""Numbers as a reader sees them: one place, so that a figure looks the same in text, tables and charts."""

from __future__ import annotations

from ffr_dist.report.content import Estimate

NONE = "–"
"""Stands where there is no number."""


def percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}".replace("-", "−")


def points(fraction: float) -> str:
    """A difference of two percentages, always signed."""
    value = round(100 * fraction, 1)
    return "0.0" if value == 0 else f"{'+' if value > 0 else '−'}{abs(value):.1f}"


def bounds(estimate: Estimate, *, signed: bool = False) -> str:
    """'66.2 – 79.1', or nothing where the estimate has no interval."""
    if estimate.low is None or estimate.high is None:
        return ""
    show = points if signed else percent
    return f"{show(estimate.low)} – {show(estimate.high)}"


def p_value(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p {p:.3f}"


def count(number: int) -> str:
    return f"{number:,}"


def duration(seconds: float) -> str:
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes:02d} min"


def size(number: int) -> str:
    value = float(number)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:,.1f} TiB"


def setting(bias_ratio: float | None, variant: str = "") -> str:
    ratio = "bias as in the data" if bias_ratio is None else f"bias ratio {bias_ratio:g}"
    return f"{ratio}, {variant}" if variant else ratio


def seeds(number: int) -> str:
    return "1 seed" if number == 1 else f"{number} seeds"
