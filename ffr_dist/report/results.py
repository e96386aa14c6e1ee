"""The results of a report: for each setting a chart and tables, worst group over bias ratios, training curves."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

from ffr_dist.report.charts import NARROW, WIDE, interval_chart, training_chart
from ffr_dist.report.content import BASELINE, Cell, Curve, Estimate, Missing, Report, Setting, cell_name
from ffr_dist.report.lines import legend, lines_of, setting_chart
from ffr_dist.report.markup import Child, Html, el, fragment
from ffr_dist.report.measures import MEASURES
from ffr_dist.report.tables import Column, Entry, difference, estimate, number, share, table, text
from ffr_dist.report.words import count, setting

_BASELINE_NAME = cell_name(*BASELINE)
_MOST_DRAWN = 24
"""Cells of a chart that is shown unasked."""
_MOST_GROUPS = 16
"""Columns of the table of groups."""

Lead = tuple[str, str] | None


def by_setting(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Cells of one (method, bias ratio, variant) belong together: no other two are comparable."""
    found: dict[Setting, list[Cell]] = {}
    for cell in cells:
        found.setdefault(cell.setting, []).append(cell)
    return list(found.values())


def find(cells: Sequence[Cell], key: Lead) -> Cell | None:
    return next((cell for cell in cells if (cell.arm, cell.mitigation) == key), None)


def results_section(report: Report) -> Child:
    if report.results is None or not (report.results.cells or report.failed):
        return None
    cells, lead = report.results.cells, report.results.lead
    parts = by_setting(cells)
    titled = len(parts) > 1
    return [
        _over_ratios(cells) if titled else None,
        [_setting_part(of_setting, lead, ordinal, titled=titled) for ordinal, of_setting in enumerate(parts)],
        _choices(report),
        _missing("skipped", "Cells that cannot exist", report.skipped),
        _missing("failed", "Cells that failed", report.failed),
    ]


def interval_note(most: int) -> str:
    if most == 1:
        return "One seed: differences of a few points are noise. Intervals are of the test set's size alone, 95 %."
    return "Means over seeds with 95 % intervals."


def both_widths(draw: Callable[[str, int], Html], ident: str) -> Html:
    """The chart for a wide page and for a phone; the style sheet shows one. Scaling one would shrink its words."""
    return fragment(
        el("div", draw(ident, WIDE), class_="wide"),
        el("div", draw(f"{ident}-narrow", NARROW), class_="narrow"),
    )


def training_section(curves: Sequence[Curve], more: int) -> Child:
    if not curves:
        return None
    cells: dict[tuple[Setting, str, str], list[Curve]] = {}
    for curve in curves:
        cells.setdefault((curve.setting, curve.arm, curve.mitigation), []).append(curve)
    settings = {of for of, _, _ in cells}
    seeds = max(len(of_cell) for of_cell in cells.values())
    over = "the line is the mean of the seeds, the band all of them; " if seeds > 1 else ""
    left = (
        f" Shown are {len(cells)} of {len(cells) + more} cells, to keep this page small; the history of each stage is in its "
        "stage.json."
        if more
        else ""
    )
    return [
        el(
            "p",
            f"Loss above, accuracy of the worst validation group below; {over}dotted lines part the stages. A dot is the step "
            f"whose weights were kept; a stage begins with what the stage before it kept.{left}",
        ),
        el(
            "div",
            [
                el(
                    "figure",
                    el(
                        "figcaption",
                        cell_name(arm, mitigation),
                        el("span", f" · {_titled(of)}", class_="soft") if len(settings) > 1 else None,
                    ),
                    training_chart(of_cell, ident=f"curve-{ordinal}"),
                )
                for ordinal, ((of, arm, mitigation), of_cell) in enumerate(cells.items())
            ],
            class_="curves",
        ),
    ]


def _titled(of: Setting) -> str:
    method, ratio, variant = of
    return f"method {method}, {setting(ratio, variant)}"


def _setting_part(cells: Sequence[Cell], lead: Lead, ordinal: int, *, titled: bool) -> Html:
    most = max(len(cell.seeds) for cell in cells)
    title = _titled(cells[0].setting)
    leads = next((place for place, cell in enumerate(cells) if (cell.arm, cell.mitigation) == lead), None)
    chart = el(
        "figure",
        both_widths(
            lambda ident, width: interval_chart(cells, lead, ident=ident, width=width), f"results-chart-{ordinal}"
        ),
        el(
            "figcaption",
            interval_note(most),
            f" The dashed line is the worst group of {_BASELINE_NAME}." if find(cells, BASELINE) else "",
            " Small ticks are single seeds." if most > 1 else "",
            " The shaded row is the one that was set out to be tested." if leads is not None else "",
        ),
    )
    groups = _group_table(cells, leads, ordinal, title, most)
    return fragment(
        el("h3", title, id=f"setting-{ordinal}") if titled else None,
        chart if ordinal == 0 and len(cells) <= _MOST_DRAWN else el("details", el("summary", "Chart"), chart),
        _score_table(cells, leads, ordinal, title, most),
        groups if not titled else el("details", el("summary", "Accuracy of each group"), groups),
        _measure_details(cells, leads, ordinal, title, most),
    )


def _score_table(cells: Sequence[Cell], leads: int | None, ordinal: int, title: str, most: int) -> Html:
    lead_name = None if leads is None else cells[leads].name
    against_lead = lead_name is not None and any(cell.lead_gain is not None for cell in cells)
    columns = [
        Column("Arm", numeric=False),
        Column("Mitigation", numeric=False),
        Column("Worst group, %"),
        Column(
            f"Against {_BASELINE_NAME}, points",
            hint="worst group, paired over the seeds that both have; interval and p of a paired t",
        ),
        *((Column(f"Against {lead_name}, points", hint="the same"),) if against_lead else ()),
        Column("Group mean, %", hint="unweighted mean of the group accuracies"),
        Column("Micro, %", hint="correct answers over test samples"),
        Column("n worst", hint="test samples of the worst group"),
        Column("Seeds"),
    ]
    rows = [
        [
            text(cell.arm),
            text(cell.mitigation),
            estimate(cell.worst_group),
            difference(cell.gain, most),
            *((difference(cell.lead_gain, most),) if against_lead else ()),
            estimate(cell.group_mean),
            estimate(cell.micro),
            number(cell.n_worst),
            number(len(cell.seeds)),
        ]
        for cell in cells
    ]
    caption = f"{title}: accuracy on the test set, models chosen on validation data only. {interval_note(most)}"
    return table(f"scores-{ordinal}", caption, columns, rows, leads)


def _measure_details(cells: Sequence[Cell], leads: int | None, ordinal: int, title: str, most: int) -> Html | None:
    """The measures that any cell has: a table of its own, since few readers want twenty columns."""
    known = [key for key in MEASURES if any(key in cell.measures for cell in cells)]
    if not known:
        return None
    columns = [
        Column("Arm and mitigation", numeric=False),
        *(Column(MEASURES[key].title, hint=MEASURES[key].hint) for key in known),
    ]
    rows = [[text(cell.name), *(estimate(cell.measures.get(key)) for key in known)] for cell in cells]
    caption = [
        f"{title}: further measures, all times 100. {interval_note(most) if most > 1 else ''} ",
        "; ".join(f"{MEASURES[key].title}: {MEASURES[key].hint}" for key in known),
        ".",
    ]
    return el("details", el("summary", "Further measures"), table(f"measures-{ordinal}", caption, columns, rows, leads))


def _group_table(cells: Sequence[Cell], leads: int | None, ordinal: int, title: str, most: int) -> Html:
    every = list(dict.fromkeys(score.group for cell in cells for score in cell.groups))
    names = _lowest(cells, every)
    rows = []
    for cell in cells:
        scores = {score.group: score for score in cell.groups}
        lowest = min((score.accuracy.value for score in cell.groups), default=None)
        row = [text(cell.name)]
        for name in names:
            score = scores.get(name)
            if score is None:
                row.append(number(None))
                continue
            row.append(estimate(score.accuracy, style="low" if score.accuracy.value == lowest else None))
        rows.append(row)
    caption = (
        f"{title}: accuracy of each group in % with its 95 % interval; n: its test samples"
        f"{', summed over seeds' if most > 1 else ''}. ▾ marks the lowest group of a row."
        f"{'' if names == every else f' Shown are {len(names)} of {len(every)} groups, the lowest ones on average.'}"
    )
    columns = [
        Column("Arm and mitigation", numeric=False),
        *(Column(f"{name}, {_samples(cells, name)}") for name in names),
    ]
    return table(f"groups-{ordinal}", caption, columns, rows, leads)


def _lowest(cells: Sequence[Cell], names: list[str]) -> list[str]:
    """All groups, or the lowest ones where a table would have too many columns to be read, or to be small."""
    if len(names) <= _MOST_GROUPS:
        return names
    accuracies: dict[str, list[float]] = {name: [] for name in names}
    for cell in cells:
        for score in cell.groups:
            accuracies[score.group].append(score.accuracy.value)
    kept = sorted(names, key=lambda name: statistics.fmean(accuracies[name]))[:_MOST_GROUPS]
    return [name for name in names if name in kept]


def _samples(cells: Sequence[Cell], group: str) -> str:
    counts = {score.count for cell in cells for score in cell.groups if score.group == group}
    least, most = count(min(counts)), count(max(counts))
    return f"n = {least}" if least == most else f"n = {least} to {most}"


def _over_ratios(cells: Sequence[Cell]) -> Child:
    """Charts and a table for each (method, variant) that has several bias ratios."""
    arms = list(dict.fromkeys(cell.arm for cell in cells))
    families: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        if cell.bias_ratio is not None:
            families.setdefault((cell.method, cell.variant), []).append(cell)
    several = {key: found for key, found in families.items() if len({cell.bias_ratio for cell in found}) > 1}
    return [
        _family(key, found, arms, ordinal, titled=len(several) > 1)
        for ordinal, (key, found) in enumerate(several.items())
    ]


def _family(
    key: tuple[str, str], cells: Sequence[Cell], arms: Sequence[str], ordinal: int, *, titled: bool
) -> Html | None:
    method, variant = key
    name = f"method {method}, {variant}" if variant else f"method {method}"
    lines = {
        mitigation: by_arm
        for mitigation, by_arm in lines_of(cells).items()
        if any(len(line) > 1 for line in by_arm.values())
    }
    if not lines:
        return None
    shown = [arm for arm in arms if any(arm in by_arm for by_arm in lines.values())]
    return fragment(
        el("h3", f"Worst group over the bias ratio{f', {name}' if titled else ''}", id=f"ratios-{ordinal}-title"),
        legend(shown, arms),
        el(
            "div",
            [
                el(
                    "figure",
                    el("figcaption", mitigation),
                    setting_chart(by_arm, arms, f"{name}, {mitigation}", ident=f"ratios-chart-{ordinal}-{place}"),
                )
                for place, (mitigation, by_arm) in enumerate(lines.items())
            ],
            class_="curves",
        ),
        el("details", el("summary", "The same in numbers"), _ratio_table(cells, ordinal, name)),
    )


def _ratio_table(cells: Sequence[Cell], ordinal: int, name: str) -> Html:
    ratios = sorted({cell.bias_ratio for cell in cells if cell.bias_ratio is not None})
    found: dict[tuple[str, str], dict[float | None, Estimate]] = {}
    for cell in cells:
        found.setdefault((cell.arm, cell.mitigation), {})[cell.bias_ratio] = cell.worst_group
    rows: list[list[Entry]] = [
        [text(arm), text(mitigation), *(estimate(of.get(ratio)) for ratio in ratios)]
        for (arm, mitigation), of in found.items()
    ]
    columns = [
        Column("Arm", numeric=False),
        Column("Mitigation", numeric=False),
        *(Column(f"{ratio:g}", hint=f"worst group at bias ratio {ratio:g}, %") for ratio in ratios),
    ]
    caption = f"{name}: worst-group accuracy in % by bias ratio, with 95 % intervals. – : not trained."
    return table(f"ratios-{ordinal}", caption, columns, rows)


def _choices(report: Report) -> Child:
    if not report.tuned:
        return None
    varied = any(choice.variant for choice in report.tuned)
    columns = [
        *((Column("Variant", numeric=False),) if varied else ()),
        Column("Arm", numeric=False),
        Column("Mitigation", numeric=False),
        Column("Chosen", numeric=False),
        Column("Validation, %", hint="mean of the worst validation group"),
    ]
    rows = [
        [
            *((text(choice.variant or "as in the recipe"),) if varied else ()),
            text(choice.arm),
            text(choice.mitigation),
            text(choice.chosen),
            share(choice.score),
        ]
        for choice in report.tuned
    ]
    caption = "What was chosen for each way of training, by validation data alone, and then used at every bias ratio."
    return el("details", el("summary", "Tuning"), table("tuned", caption, columns, rows))


def _missing(ident: str, title: str, cells: Sequence[Missing]) -> Html | None:
    if not cells:
        return None
    columns = [Column("Cell", numeric=False), Column("Why", numeric=False)]
    rows = [[text(one.cell), text(one.why)] for one in cells]
    return el("details", el("summary", f"{title}: {len(cells)}"), table(ident, f"{title}, and why.", columns, rows))
