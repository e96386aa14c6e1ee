"""The parts that charts are drawn with: a scale, marks and the frame of an SVG.

Colours stand in classes (``page.css``, or ``picture`` for a file of its own).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ffr_dist.report.markup import Child, Html, el, fragment

_FRIENDLY = (1.0, 1.2, 1.6, 2.0, 3.0, 4.0, 6.0, 8.0, 10.0)
_MOST_POINTS = 120
"""More than that on a line 300 pixels wide is file size only."""


@dataclass(frozen=True, slots=True)
class Axis:
    """A linear scale from values to pixels."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        share = (min(max(value, self.low), self.high) - self.low) / ((self.high - self.low) or 1.0)
        return round(self.start + share * (self.end - self.start), 2)


def svg(width: int, height: float, ident: str, title: str, summary: str, *children: Child) -> Html:
    return el(
        "svg",
        el("title", title, id=f"{ident}-title"),
        el("desc", summary, id=f"{ident}-desc"),
        *children,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width} {height:g}",
        width=width,
        height=f"{height:g}",
        role="img",
        aria_labelledby=f"{ident}-title {ident}-desc",
        class_="chart",
    )


def dot(x: float, y: float) -> Html:
    return el("circle", cx=x, cy=y, r=5, class_="worst dot")


def diamond(x: float, y: float) -> Html:
    return el("path", d=f"M{x:g} {y - 5.5:g}l5.5 5.5l-5.5 5.5l-5.5 -5.5z", class_="mean diamond")


def rule(across: Axis, y: float, text: str) -> Html:
    return fragment(
        el("line", x1=across.start, x2=across.end, y1=y, y2=y, class_="grid"),
        el("text", text, x=across.start - 6, y=y + 4, class_="axis end"),
    )


def path(points: Sequence[tuple[float, float]], series: str) -> Html | None:
    if not points:
        return None
    return el("path", d=f"M{_through(_thinned(points))}", class_=series)


def area(above: Sequence[tuple[float, float]], below: Sequence[tuple[float, float]], series: str) -> Html | None:
    """What lies between two lines over the same places."""
    if not above:
        return None
    return el("path", d=f"M{_through([*_thinned(above), *reversed(_thinned(below))])}z", class_=series)


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    stride = -(-len(points) // _MOST_POINTS)
    return [*points[::stride], *([points[-1]] if (len(points) - 1) % stride else [])]


def _through(points: Sequence[tuple[float, float]]) -> str:
    return "L".join(f"{x:.5g} {y:.5g}" for x, y in points)


def round_up(value: float) -> float:
    """The next friendly number: an axis ends there, and has a tick at its half."""
    if not value > 1e-9:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in _FRIENDLY if step * power >= value * (1 - 1e-9))
