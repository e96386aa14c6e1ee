"""Charts as SVG written by hand: a plotting library would be the report's heaviest dependency, and its output could take
neither the page's fonts nor its dark mode.

Colours stand in classes (``page.css``, or ``picture`` for a file of its own). Two series never differ by colour alone:
filled dot and hollow diamond, solid and dashed line.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ffr_dist.report.content import BASELINE, Cell, Curve, Distances, Estimate, StageCurve, cell_name
from ffr_dist.report.drawing import Axis, area, diamond, dot, path, round_up, rule, svg
from ffr_dist.report.markup import Html, el, fragment
from ffr_dist.report.words import percent

WIDE = 1000
NARROW = 350
"""Width below which labels stand above their rows instead of beside them: a phone held upright."""

_MANY = 16
"""Rows of more cells than that are closer together."""
_TICKS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


def interval_chart(cells: Sequence[Cell], lead: tuple[str, str] | None, *, ident: str, width: int = WIDE) -> Html:
    """Worst group (dot) and group mean (diamond) of each cell with 95 % intervals; small ticks are single seeds."""
    beside = width > NARROW
    margin = min(340, 34 + 8 * max((len(cell.name) for cell in cells), default=0)) if beside else 14
    axis = Axis(0.0, 1.0, margin, width - (126 if beside else 14))
    top, row = 46, ((38 if len(cells) <= _MANY else 28) if beside else 54)
    bottom = top + row * len(cells)
    height = bottom + 42
    baseline = next((c.worst_group.value for c in cells if (c.arm, c.mitigation) == BASELINE), None)
    told = [
        f"{c.name}: worst group {percent(c.worst_group.value)} %, group mean {percent(c.group_mean.value)} %"
        for c in cells
    ]
    return svg(
        width,
        height,
        ident,
        "Worst-group accuracy and group mean of each arm and mitigation",
        "; ".join(told)
        if len(cells) <= _MANY
        else f"{len(cells)} cells; the table that follows says the same in numbers.",
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
    """Loss (above) and validation worst group (below) over the stages of one cell: the mean of its seeds, and from the
    least to the most of them as a band.
    """
    stages = [_over_seeds([c.stages[n] for c in curves if n < len(c.stages)]) for n in range(_most_stages(curves))]
    lengths = [stage.length for stage in stages]
    starts = [sum(lengths[:number]) for number in range(len(stages))]
    across = Axis(0, sum(lengths) or 1, 40, width - 10)
    ceiling = round_up(max((high for stage in stages for _, _, high in stage.loss.values()), default=1.0))
    loss, worst = Axis(0, ceiling, 96, 24), Axis(0, 1, 216, 124)
    name = cell_name(curves[0].arm, curves[0].mitigation)
    return svg(
        width,
        252,
        ident,
        f"Training of {name}",
        _training_summary(stages, len(curves)),
        [rule(across, loss.at(value), f"{value:g}") for value in (0.0, ceiling)],
        [rule(across, worst.at(value), f"{100 * value:.0f}") for value in (0.0, 0.5, 1.0)],
        [
            _stage_marks(stage.name, across.at(start), across.at(start + stage.length), start > 0)
            for stage, start in zip(stages, starts, strict=True)
        ],
        el("text", "loss", x=across.end - 8, y=34, class_="axis end"),
        el("text", "validation worst group, %", x=across.end, y=115, class_="axis end"),
        [
            fragment(
                _seed_lines(stage.loss, start, across, loss, "loss", banded=len(curves) > 1),
                _seed_lines(stage.worst_group, start, across, worst, "worst", banded=len(curves) > 1),
                [_kept(point, start, across, worst) for point in stage.kept],
            )
            for stage, start in zip(stages, starts, strict=True)
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
    ceiling = round_up(max((*distances.generated, *distances.real), default=1.0))
    axis = Axis(0, ceiling, 130 if beside else 14, width - 20)
    bottom = top + row * len(rows)
    return svg(
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


def _legend(x: float, y: float, *, beside: bool) -> Html:
    step = 150 if beside else 112
    return fragment(
        dot(x + 6, y),
        el("text", "worst group", x=x + 18, y=y + 4, class_="label"),
        diamond(x + step, y),
        el("text", "group mean", x=x + step + 12, y=y + 4, class_="label"),
        el("line", x1=x + 2 * step - 10, x2=x + 2 * step + 14, y1=y, y2=y, class_="worst interval"),
        el("text", "95 % interval" if beside else "95 %", x=x + 2 * step + 22, y=y + 4, class_="label"),
    )


def _frame(axis: Axis, top: float, bottom: float) -> Html:
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


def _interval_row(cell: Cell, axis: Axis, top: float, row: float, width: int, *, leads: bool) -> Html:
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
        diamond(axis.at(cell.group_mean.value), mean),
        dot(axis.at(cell.worst_group.value), worst),
        class_="leading" if leads else None,
    )


def _whisker(estimate: Estimate, axis: Axis, y: float, series: str) -> Html | None:
    if estimate.low is None or estimate.high is None:
        return None
    return el("line", x1=axis.at(estimate.low), x2=axis.at(estimate.high), y1=y, y2=y, class_=f"{series} interval")


def _stage_marks(name: str, start: float, end: float, divided: bool) -> Html:
    return fragment(
        [el("line", x1=start, x2=start, y1=top, y2=bottom, class_="divider") for top, bottom in ((20, 98), (122, 218))]
        if divided
        else None,
        el("text", name, x=(start + end) / 2, y=13, class_="axis mid"),
    )


def _kept(point: tuple[int, float], start: int, across: Axis, worst: Axis) -> Html:
    step, value = point
    return el(
        "circle", el("title", "weights kept"), cx=across.at(start + step), cy=worst.at(value), r=3.5, class_="worst dot"
    )


Band = Mapping[int, tuple[float, float, float]]
"""Mean, least and most of the seeds at a step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stage:
    """One stage of a cell, over its seeds."""

    name: str
    length: int
    loss: Band
    worst_group: Band
    kept: tuple[tuple[int, float], ...]


def _most_stages(curves: Sequence[Curve]) -> int:
    return max((len(curve.stages) for curve in curves), default=0)


def _over_seeds(stages: Sequence[StageCurve]) -> _Stage:
    loss = _banded([stage.loss for stage in stages])
    worst = _banded([stage.worst_group for stage in stages])
    kept = tuple(
        (stage.best_step, dict(stage.worst_group)[stage.best_step])
        for stage in stages
        if stage.best_step is not None and stage.best_step in dict(stage.worst_group)
    )
    return _Stage(
        name=stages[0].name, length=max((*loss, *worst), default=1) or 1, loss=loss, worst_group=worst, kept=kept
    )


def _banded(lines: Sequence[Sequence[tuple[int, float]]]) -> Band:
    """At the steps that all lines have: a mean over fewer would jump where a line ends."""
    found = [{step: value for step, value in line if math.isfinite(value)} for line in lines]
    steps = sorted(set.intersection(*map(set, found))) if found else []
    at = {step: [line[step] for line in found] for step in steps}
    return {step: (statistics.fmean(values), min(values), max(values)) for step, values in at.items()}


def _seed_lines(found: Band, start: int, across: Axis, axis: Axis, series: str, *, banded: bool) -> Html:
    along = [(across.at(start + step), axis.at(mean)) for step, (mean, _, _) in found.items()]
    above = [(across.at(start + step), axis.at(most)) for step, (_, _, most) in found.items()]
    below = [(across.at(start + step), axis.at(least)) for step, (_, least, _) in found.items()]
    return fragment(
        area(above, below, f"{series}-band") if banded else None,
        # A line of one point has no length.
        el("circle", cx=along[0][0], cy=along[0][1], r=3, class_=f"{series}-point")
        if len(along) == 1
        else path(along, f"{series}-line"),
    )


def _spread(name: str, at: Mapping[float, float], axis: Axis, top: float, row: float) -> Html:
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
        (dot if generated else diamond)(axis.at(at[0.5]), y) if 0.5 in at else None,
    )


def _training_summary(stages: Sequence[_Stage], seeds: int) -> str:
    parts = []
    for stage in stages:
        if stage.worst_group:
            means = [mean for mean, _, _ in stage.worst_group.values()]
            parts.append(f"{stage.name}: from {percent(means[0])} % to {percent(means[-1])} %")
    if not parts:
        return "Training loss."
    return f"Validation worst group{', mean over seeds' if seeds > 1 else ''}. {'; '.join(parts)}"
