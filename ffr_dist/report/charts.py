"""Charts as SVG written by hand: a plotting library would be the report's heaviest dependency, and its output could take
neither the page's fonts nor its dark mode.

Colours stand in classes (``page.css``, or ``picture`` for a file of its own). Two series never differ by colour alone:
filled dot and hollow diamond, solid and dashed line.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ffr_dist.report.content import BASELINE, Cell, Curve, Distances, Estimate, cell_name
from ffr_dist.report.markup import Child, Html, el, fragment
from ffr_dist.report.words import percent

WIDE = 1000
NARROW = 350
"""Width below which labels stand above their rows instead of beside them: a phone held upright."""

_TICKS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
_FRIENDLY = (1.0, 1.2, 1.6, 2.0, 3.0, 4.0, 6.0, 8.0, 10.0)
_MOST_POINTS = 240
"""More than that on a line 300 pixels wide is file size only."""


@dataclass(frozen=True, slots=True)
class _Axis:
    """A linear scale from values to pixels."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        share = (min(max(value, self.low), self.high) - self.low) / ((self.high - self.low) or 1.0)
        return round(self.start + share * (self.end - self.start), 2)


def interval_chart(cells: Sequence[Cell], lead: tuple[str, str] | None, *, ident: str, width: int = WIDE) -> Html:
    """Worst group (dot) and group mean (diamond) of each cell with 95 % intervals; small ticks are single seeds."""
    beside = width > NARROW
    margin = min(340, 34 + 8 * max((len(cell.name) for cell in cells), default=0)) if beside else 14
    axis = _Axis(0.0, 1.0, margin, width - (126 if beside else 14))
    top, row = 46, (38 if beside else 54)
    bottom = top + row * len(cells)
    height = bottom + 42
    baseline = next((c.worst_group.value for c in cells if (c.arm, c.mitigation) == BASELINE), None)
    summary = "; ".join(
        f"{c.name}: worst group {percent(c.worst_group.value)} %, group mean {percent(c.group_mean.value)} %"
        for c in cells
    )
    return _svg(
        width,
        height,
        ident,
        "Worst-group accuracy and group mean of each arm and mitigation",
        summary,
        _legend(axis.start, 16, beside=beside),
        [
            el("rect", x=0, y=top + row * number, width=width, height=row, rx=4, class_="band")
            for number, cell in enumerate(cells)
            if (cell.arm, cell.mitigation) == lead
        ],
        _frame(axis, top, bottom),
        _baseline(axis.at(baseline), top, bottom) if baseline is not None else None,
        [
            _interval_row(cell, axis, top + row * number, row, width, leads=(cell.arm, cell.mitigation) == lead)
            for number, cell in enumerate(cells)
        ],
        el("text", "accuracy on the test set, %", x=(axis.start + axis.end) / 2, y=bottom + 36, class_="axis mid"),
    )


def training_chart(curves: Sequence[Curve], *, ident: str, width: int = 340) -> Html:
    """Loss (above) and validation worst group (below) over the stages of one cell; one line per seed."""
    stages = max((curve.stages for curve in curves), key=len)
    lengths = [
        max((step for curve in curves for step in _steps(curve, number)), default=1) for number in range(len(stages))
    ]
    starts = [sum(lengths[:number]) for number in range(len(stages))]
    across = _Axis(0, sum(lengths) or 1, 40, width - 10)
    losses = [value for curve in curves for stage in curve.stages for _, value in stage.loss if math.isfinite(value)]
    ceiling = _round_up(max(losses, default=1.0))
    loss, worst = _Axis(0, ceiling, 96, 24), _Axis(0, 1, 216, 124)
    name = cell_name(curves[0].arm, curves[0].mitigation)
    return _svg(
        width,
        252,
        ident,
        f"Training of {name}",
        _training_summary(curves),
        [_rule(across, loss.at(value), f"{value:g}") for value in (0.0, ceiling)],
        [_rule(across, worst.at(value), f"{100 * value:.0f}") for value in (0.0, 0.5, 1.0)],
        [
            _stage_marks(stage.name, across.at(start), across.at(start + length), start > 0)
            for stage, start, length in zip(stages, starts, lengths, strict=True)
        ],
        el("text", "loss", x=across.end, y=34, class_="axis end"),
        el("text", "validation worst group, %", x=across.end, y=115, class_="axis end"),
        [
            fragment(
                _path([(across.at(start + s), loss.at(v)) for s, v in stage.loss if math.isfinite(v)], "loss-line"),
                _path([(across.at(start + s), worst.at(v)) for s, v in stage.worst_group], "worst-line"),
                _kept(stage.worst_group, stage.best_step, start, across, worst),
            )
            for curve in curves
            for stage, start in zip(curve.stages, starts, strict=False)
        ],
        [
            el("text", f"{start + length:,}", x=across.at(start + length), y=232, class_="axis end")
            for start, length in zip(starts, lengths, strict=True)
        ],
        el("text", "steps", x=across.start, y=232, class_="axis"),
    )


def distance_chart(distances: Distances, *, ident: str, width: int = WIDE) -> Html:
    """Spread of nearest-neighbour distances: generated images against held-out real ones."""
    beside = width > NARROW
    top, row = 12, (34 if beside else 48)
    rows = (("generated", distances.generated), ("held-out real", distances.real))
    ceiling = _round_up(max((*distances.generated, *distances.real), default=1.0))
    axis = _Axis(0, ceiling, 130 if beside else 14, width - 20)
    bottom = top + row * len(rows)
    return _svg(
        width,
        bottom + 40,
        ident,
        "Distance to the nearest training image of the generator",
        "; ".join(f"{name}: {', '.join(f'{value:.1f}' for value in values)}" for name, values in rows),
        [
            fragment(
                el("line", x1=axis.at(value), x2=axis.at(value), y1=top, y2=bottom, class_="grid"),
                el("text", f"{value:g}", x=axis.at(value), y=bottom + 15, class_="axis mid"),
            )
            for value in (0.0, ceiling / 2, ceiling)
        ],
        [
            _spread(name, dict(zip(distances.quantiles, values, strict=True)), axis, top + row * number, row)
            for number, (name, values) in enumerate(rows)
        ],
        el("text", "RMS pixel distance", x=(axis.start + axis.end) / 2, y=bottom + 33, class_="axis mid"),
    )


def _svg(width: int, height: float, ident: str, title: str, summary: str, *children: Child) -> Html:
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


def _legend(x: float, y: float, *, beside: bool) -> Html:
    step = 150 if beside else 112
    return fragment(
        _dot(x + 6, y),
        el("text", "worst group", x=x + 18, y=y + 4, class_="label"),
        _diamond(x + step, y),
        el("text", "group mean", x=x + step + 12, y=y + 4, class_="label"),
        el("line", x1=x + 2 * step - 10, x2=x + 2 * step + 14, y1=y, y2=y, class_="worst interval"),
        el("text", "95 % interval" if beside else "95 %", x=x + 2 * step + 22, y=y + 4, class_="label"),
    )


def _frame(axis: _Axis, top: float, bottom: float) -> Html:
    return fragment(
        [
            fragment(
                el("line", x1=axis.at(tick), x2=axis.at(tick), y1=top - 6, y2=bottom, class_="grid"),
                el("text", f"{100 * tick:.0f}", x=axis.at(tick), y=bottom + 16, class_="axis mid"),
            )
            for tick in _TICKS
        ]
    )


def _baseline(x: float, top: float, bottom: float) -> Html:
    return el(
        "line",
        el("title", f"worst group of {cell_name(*BASELINE)}"),
        x1=x,
        x2=x,
        y1=top - 6,
        y2=bottom,
        class_="baseline",
    )


def _interval_row(cell: Cell, axis: _Axis, top: float, row: float, width: int, *, leads: bool) -> Html:
    beside = width > NARROW
    middle = top + row / 2 if beside else top + 34
    worst, mean = middle - 6, middle + 6
    label = el(
        "text",
        cell.name,
        x=axis.start - 16 if beside else axis.start,
        y=middle + 4 if beside else top + 18,
        class_=f"label name{' end' if beside else ''}",
    )
    figures = el(
        "text",
        el("tspan", percent(cell.worst_group.value), class_="figure"),
        el("tspan", f"  {percent(cell.group_mean.value)}", class_="soft", dx=8),
        x=width - 12 if beside else axis.end,
        y=middle + 4 if beside else top + 18,
        class_="label end",
    )
    return el(
        "g",
        label,
        figures,
        _whisker(cell.group_mean, axis, mean, "mean"),
        _whisker(cell.worst_group, axis, worst, "worst"),
        [
            el("line", x1=axis.at(value), x2=axis.at(value), y1=worst - 7, y2=worst - 2, class_="seed")
            for value in (cell.worst_by_seed if len(cell.worst_by_seed) > 1 else ())
        ],
        _diamond(axis.at(cell.group_mean.value), mean),
        _dot(axis.at(cell.worst_group.value), worst),
        class_="leading" if leads else None,
    )


def _whisker(estimate: Estimate, axis: _Axis, y: float, series: str) -> Html | None:
    if estimate.low is None or estimate.high is None:
        return None
    return el("line", x1=axis.at(estimate.low), x2=axis.at(estimate.high), y1=y, y2=y, class_=f"{series} interval")


def _dot(x: float, y: float) -> Html:
    return el("circle", cx=x, cy=y, r=5, class_="worst dot")


def _diamond(x: float, y: float) -> Html:
    return el("path", d=f"M{x:g} {y - 5.5:g}l5.5 5.5l-5.5 5.5l-5.5 -5.5z", class_="mean diamond")


def _rule(across: _Axis, y: float, text: str) -> Html:
    return fragment(
        el("line", x1=across.start, x2=across.end, y1=y, y2=y, class_="grid"),
        el("text", text, x=across.start - 6, y=y + 4, class_="axis end"),
    )


def _stage_marks(name: str, start: float, end: float, divided: bool) -> Html:
    return fragment(
        [el("line", x1=start, x2=start, y1=top, y2=bottom, class_="divider") for top, bottom in ((20, 98), (122, 218))]
        if divided
        else None,
        el("text", name, x=(start + end) / 2, y=13, class_="axis mid"),
    )


def _kept(
    points: Sequence[tuple[int, float]], best: int | None, start: int, across: _Axis, worst: _Axis
) -> Html | None:
    value = dict(points).get(best) if best is not None else None
    if value is None or best is None:
        return None
    return el(
        "circle", el("title", "weights kept"), cx=across.at(start + best), cy=worst.at(value), r=3.5, class_="worst dot"
    )


def _path(points: Sequence[tuple[float, float]], series: str) -> Html | None:
    if not points:
        return None
    stride = -(-len(points) // _MOST_POINTS)
    kept = [*points[::stride], *([points[-1]] if (len(points) - 1) % stride else [])]
    return el("path", d="M" + "L".join(f"{x:g} {y:g}" for x, y in kept), class_=series)


def _spread(name: str, at: Mapping[float, float], axis: _Axis, top: float, row: float) -> Html:
    """One distribution, by quantile."""
    generated = name == "generated"
    series = "worst" if generated else "mean"
    beside = axis.start > NARROW / 4
    y = top + (row / 2 if beside else 34)
    box = (at.get(0.25), at.get(0.75))
    return fragment(
        el(
            "text",
            name,
            x=axis.start - 14 if beside else axis.start,
            y=y + 4 if beside else top + 18,
            class_=f"label{' end' if beside else ''}",
        ),
        el("line", x1=axis.at(min(at.values())), x2=axis.at(max(at.values())), y1=y, y2=y, class_=f"{series} interval"),
        el("line", x1=axis.at(box[0]), x2=axis.at(box[1]), y1=y, y2=y, class_=f"{series} thick")
        if box[0] is not None and box[1] is not None
        else None,
        (_dot if generated else _diamond)(axis.at(at[0.5]), y) if 0.5 in at else None,
    )


def _steps(curve: Curve, stage: int) -> Iterator[int]:
    if stage < len(curve.stages):
        for points in (curve.stages[stage].loss, curve.stages[stage].worst_group):
            yield from (step for step, _ in points)


def _training_summary(curves: Sequence[Curve]) -> str:
    parts = []
    for curve in curves:
        for stage in curve.stages:
            if stage.worst_group:
                first, last = stage.worst_group[0][1], stage.worst_group[-1][1]
                parts.append(f"seed {curve.seed}, {stage.name}: from {percent(first)} % to {percent(last)} %")
    return "Validation worst group. " + "; ".join(parts) if parts else "Training loss."


def _round_up(value: float) -> float:
    """The next friendly number: an axis ends there, and has a tick at its half."""
    if not value > 1e-9:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in _FRIENDLY if step * power >= value * (1 - 1e-9))
