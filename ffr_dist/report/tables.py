"""Tables that sort: captioned, scrollable by keyboard on a narrow screen, numbers aligned."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ffr_dist.report.content import Estimate, Gain
from ffr_dist.report.markup import Child, Html, el
from ffr_dist.report.words import NONE, bounds, count, p_value, percent, points, seeds

_MANY = 9
"""More columns than that need smaller letters on paper."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What a cell shows, and the number it sorts by (None: it sorts by its text)."""

    shown: Child
    number: float | None = None
    style: str | None = None


@dataclass(frozen=True, slots=True)
class Column:
    title: str
    numeric: bool = True
    hint: str | None = None


def table(
    ident: str, caption: Child, columns: Sequence[Column], rows: Sequence[Sequence[Entry]], lead: int | None = None
) -> Html:
    """The first entry of each row is its header. ``lead`` is the row to set off. Two rows and more can be sorted."""
    sortable = len(rows) > 1
    head = el("tr", [_head(column, sortable=sortable) for column in columns])
    body = [
        el(
            "tr",
            [
                _cell(entry, column, first=place == 0)
                for place, (entry, column) in enumerate(zip(row, columns, strict=True))
            ],
            class_="lead" if number == lead else None,
        )
        for number, row in enumerate(rows)
    ]
    return el(
        "div",
        el(
            "table",
            el("caption", el("span", caption), id=f"{ident}-caption"),
            el("thead", head),
            el("tbody", body),
            id=ident,
            class_="many" if len(columns) > _MANY else None,
            data_sortable=sortable,
        ),
        class_="scroll",
        role="region",
        tabindex=0,
        aria_labelledby=f"{ident}-caption",
    )


def text(value: str) -> Entry:
    return Entry(value)


def number(value: float | None, shown: str | None = None) -> Entry:
    if value is None:
        return Entry(NONE, math.nan)
    return Entry(shown if shown is not None else count(int(value)), value)


def share(fraction: float | None) -> Entry:
    """A percentage without an interval."""
    return number(fraction, None if fraction is None else percent(fraction))


def estimate(value: Estimate | None, *, style: str | None = None) -> Entry:
    if value is None:
        return number(None)
    return _with_notes(percent(value.value), [bounds(value)], value.value, style)


def difference(found: Gain | None, most: int) -> Entry:
    """A paired difference, with its p; marked where it rests on fewer seeds than the ``most`` of its table."""
    if found is None:
        return number(None)
    notes = [
        bounds(found, signed=True),
        "" if found.p is None else p_value(found.p),
        f"over {seeds(found.pairs)}" if found.pairs < most else "",
    ]
    return _with_notes(points(found.value), notes, found.value)


def _with_notes(shown: str, notes: Sequence[str], value: float, style: str | None = None) -> Entry:
    below = [el("span", note, class_="bounds") for note in notes if note]
    return Entry([el("span", shown, class_="value"), *below], value, style)


def bar(value: int, most: int) -> Entry:
    """A count with a bar below it, as long as its share of the column's largest."""
    return Entry(
        [count(value), el("span", class_="bar", style=f"--share:{100 * value / (most or 1):.1f}%", aria_hidden="true")],
        value,
    )


def heat(value: float | None, deepest: float) -> Entry:
    """A difference on a ground that is the deeper the larger it is; its sign is in the number too."""
    if value is None:
        return number(None)
    depth = f"--depth:{32 * min(abs(value) / deepest, 1):.0f}%"
    return Entry(
        el("span", points(value), class_=f"heat {'above' if value > 0 else 'below'}", style=depth), value, "heated"
    )


def _head(column: Column, *, sortable: bool) -> Html:
    title = el("button", column.title, type="button", title=column.hint) if sortable else column.title
    return el(
        "th",
        title,
        scope="col",
        class_="n" if column.numeric else None,
        title=None if sortable else column.hint,
        aria_sort="none" if sortable else None,
    )


def _cell(entry: Entry, column: Column, *, first: bool) -> Html:
    missing = entry.number is not None and math.isnan(entry.number)
    sort_key = None if entry.number is None else "" if missing else repr(float(entry.number))
    classes = " ".join(name for name in ("n" if column.numeric else "", entry.style or "") if name)
    if first:
        return el("th", entry.shown, scope="row", class_=classes or None, data_value=sort_key)
    return el("td", entry.shown, class_=classes or None, data_value=sort_key)
