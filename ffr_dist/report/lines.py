"""Worst group over bias ratio, or over another setting: one small chart for each mitigation, one line for each arm, and a
legend for all of them.

Ten lines in one chart would be a tangle; an arm has the same colour, mark and dash in every chart of the page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ffr_dist.report.content import Cell, Estimate
from ffr_dist.report.drawing import Axis, path, rule, svg
from ffr_dist.report.markup import Html, el, fragment
from ffr_dist.report.words import percent

_MARKS = {
    "circle": "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z",
    "square": "M-3.5 -3.5h7v7h-7z",
    "diamond": "M0 -5l5 5l-5 5l-5 -5z",
    "up": "M0 -4.8l4.6 8h-9.2z",
    "down": "M0 4.8l4.6 -8h-9.2z",
}
_STYLES = 10
"""Colours in ``page.css``; the marks of the second five are hollow."""


def setting_chart(
    lines: Mapping[str, Mapping[float, Estimate]],
    arms: Sequence[str],
    title: str,
    *,
    ident: str,
    setting: str = "bias ratio",
    names: Mapping[float, str] | None = None,
    size: tuple[int, int] = (340, 236),
) -> Html:
    """The lines of one mitigation by arm; ``arms`` are all arms of the page, in the order of the legend.

    ``names`` are what values of the setting are called, where they are not the numbers themselves.
    """
    width, height = size
    top, bottom = 14, height - 40
    values = sorted({value for line in lines.values() for value in line})
    called = {value: (names or {}).get(value, f"{value:g}") for value in values}
    frame = Axis(0, 1, 36, width - 4)
    across = Axis(0, max(len(values) - 1, 1), 60, width - 26)
    accuracy = Axis(0, 1, bottom, top)
    shown = [arm for arm in arms if arm in lines]
    # Side by side, so that intervals at the same value do not hide each other.
    shift = {arm: 3.4 * (place - (len(shown) - 1) / 2) for place, arm in enumerate(shown)}
    told = "; ".join(
        f"{arm}: {', '.join(f'{percent(found.value)} % at {called[at]}' for at, found in sorted(lines[arm].items()))}"
        for arm in shown
    )
    return svg(
        width,
        height,
        ident,
        f"Worst-group accuracy over the {setting}, {title}",
        told,
        [rule(frame, accuracy.at(value), f"{100 * value:.0f}") for value in (0.0, 0.25, 0.5, 0.75, 1.0)],
        [
            el("text", called[value], x=across.at(place), y=bottom + 17, class_="axis mid")
            for place, value in enumerate(values)
        ],
        [
            _line(
                [(across.at(values.index(at)) + shift[arm], found) for at, found in sorted(lines[arm].items())],
                accuracy,
                style_of(arm, arms),
            )
            for arm in shown
        ],
        el("text", setting, x=(across.start + across.end) / 2, y=bottom + 34, class_="axis mid"),
    )


def legend(shown: Sequence[str], arms: Sequence[str]) -> Html:
    """Which line is which; the charts' own descriptions say it to screen readers."""
    return el("ul", [el("li", sample(style_of(arm, arms)), arm) for arm in shown], class_="legend")


def lines_of(cells: Sequence[Cell]) -> dict[str, dict[str, dict[float, Estimate]]]:
    """Worst group by mitigation, arm and ratio, of cells of one method and variant."""
    found: dict[str, dict[str, dict[float, Estimate]]] = {}
    for cell in cells:
        if cell.bias_ratio is not None:
            line = found.setdefault(cell.mitigation, {}).setdefault(cell.arm, {})
            line[cell.bias_ratio] = cell.worst_group
    return found


def style_of(arm: str, arms: Sequence[str]) -> int:
    return arms.index(arm) % _STYLES


def _line(points: Sequence[tuple[float, Estimate]], accuracy: Axis, style: int) -> Html:
    return el(
        "g",
        [
            el("line", x1=x, x2=x, y1=accuracy.at(found.low), y2=accuracy.at(found.high), class_="bounds")
            for x, found in points
            if found.low is not None and found.high is not None
        ],
        path([(x, accuracy.at(found.value)) for x, found in points], "line"),
        [_mark(x, accuracy.at(found.value), style) for x, found in points],
        class_=f"arm arm{style}",
    )


def _mark(x: float, y: float, style: int) -> Html:
    names = list(_MARKS)
    hollow = " hollow" if style >= len(names) else ""
    return el(
        "path", d=_MARKS[names[style % len(names)]], transform=f"translate({x:.5g} {y:.5g})", class_=f"mark{hollow}"
    )


def sample(style: int) -> Html:
    """A piece of a line, for a legend."""
    return el(
        "svg",
        el("g", fragment(path([(0, 8), (30, 8)], "line"), _mark(15, 8, style)), class_=f"arm arm{style}"),
        viewBox="0 0 30 16",
        width=30,
        height=16,
        aria_hidden="true",
        class_="chart sample",
    )
