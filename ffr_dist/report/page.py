"""One HTML file that tells a run: what was asked, what was made, whether it may be believed, and what came of it.

The file stands alone. Its content security policy forbids every request and every script but its own, so that neither
a prompt nor a file name can make it fetch or run anything.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable, Sequence
from importlib.resources import files

from ffr_dist.report.charts import NARROW, WIDE, distance_chart, interval_chart, training_chart
from ffr_dist.report.content import (
    BASELINE,
    Audit,
    Cell,
    Cost,
    Curve,
    Fact,
    Generation,
    Plan,
    Report,
    Results,
    Sheet,
    cell_name,
)
from ffr_dist.report.findings import findings
from ffr_dist.report.markup import Child, Html, el, fragment
from ffr_dist.report.sheets import describe
from ffr_dist.report.tables import Column, Entry, bar, estimate, number, share, table, text
from ffr_dist.report.words import NONE, bounds, count, duration, percent, points, seeds, setting, size

_BASELINE_NAME = cell_name(*BASELINE)
_WARNINGS_SHOWN = 6


def render(report: Report) -> str:
    """The whole page. The same report gives the same bytes."""
    style, script = _asset("page.css"), _asset("page.js")
    sections = [(ident, title, body) for ident, title, body in _sections(report) if body]
    return "<!doctype html>\n" + el(
        "html",
        el(
            "head",
            el("meta", charset="utf-8"),
            el("meta", http_equiv="Content-Security-Policy", content=_policy(script)),
            el("meta", name="viewport", content="width=device-width, initial-scale=1"),
            el("meta", name="color-scheme", content="light dark"),
            el("title", report.title),
            el("link", rel="icon", href="data:,"),
            el("style", Html(style)),
        ),
        el(
            "body",
            el("a", "Skip to the content", href="#main", class_="skip"),
            el("header", _header(report)),
            el(
                "nav",
                el("ul", [el("li", el("a", title, href=f"#{ident}")) for ident, title, _ in sections]),
                aria_label="Sections",
            ),
            el(
                "main",
                [
                    el(
                        "section",
                        el("h2", title, id=f"{ident}-title"),
                        body,
                        id=ident,
                        aria_labelledby=f"{ident}-title",
                    )
                    for ident, title, body in sections
                ],
                id="main",
            ),
            el("footer", "Written by ffr_dist. This file needs no network: images, styles and charts are inside it."),
            el("script", Html(script)),
        ),
        lang="en",
    )


def _sections(report: Report) -> Iterable[tuple[str, str, Child]]:
    """Results first: most readers come for them; how they came about follows in the order of the run."""
    yield "results", "Results", _results(report.results) if report.results and report.results.cells else None
    yield "training", "Training", _training(report.curves) if report.curves else None
    yield "plan", "Plan", _plan(report.plan) if report.plan else None
    yield "generation", "Generation", _generation(report.generation) if report.generation else None
    yield "images", "Images", _images(report.sheets) if report.sheets else None
    yield "fidelity", "Fidelity of the generated images", _audit(report.audit) if report.audit else None
    yield "cost", "Time and cost", _costs(report.costs) if report.costs else None
    provenance = _provenance(report) if report.recipe or report.provenance else None
    yield "provenance", "Recipe and provenance", provenance


def _header(report: Report) -> Child:
    warnings = findings(report)
    return [
        el("h1", report.title),
        el("p", report.summary, class_="lede") if report.summary else None,
        _figures(report),
        _warnings(warnings) if warnings else None,
    ]


def _warnings(warnings: Sequence[str]) -> Html:
    first, rest = warnings[:_WARNINGS_SHOWN], warnings[_WARNINGS_SHOWN:]
    return el(
        "aside",
        el("h2", "Before you believe a number", id="warnings"),
        el("ul", [el("li", warning) for warning in first]),
        el("details", el("summary", f"{len(rest)} more"), el("ul", [el("li", warning) for warning in rest]))
        if rest
        else None,
        class_="warnings",
        aria_labelledby="warnings",
    )


def _figures(report: Report) -> Html | None:
    figures = [*_result_figures(report.results), *_pool_figures(report.generation)]
    if not figures:
        return None
    return el(
        "dl",
        [
            el(
                "div",
                el("dt", name),
                el("dd", value, class_="big"),
                el("dd", note, class_="note") if note else None,
                class_="first" if place == 0 else None,
            )
            for place, (name, value, note) in enumerate(figures)
        ],
        class_="figures",
    )


def _result_figures(results: Results | None) -> Iterable[tuple[str, str, str]]:
    """Of the first bias ratio: the cell that was to be tested, the baseline and their difference. Never the best cell,
    which would be chosen by looking at the test set.
    """
    cells = [] if results is None else next(iter(_tables(results.cells)), [])
    lead = _find(cells, None if results is None else results.lead)
    baseline = _find(cells, BASELINE)
    for cell in (lead, baseline):
        if cell is not None and not (cell is baseline and lead is baseline):
            interval = bounds(cell.worst_group)
            note = f"{interval + ' · ' if interval else ''}{seeds(len(cell.seeds))}"
            yield f"Worst group, {cell.name}", f"{percent(cell.worst_group.value)} %", note
    if lead is not None and lead.gain is not None and lead is not baseline:
        interval = bounds(lead.gain, signed=True)
        yield "Difference, in points", points(lead.gain.value), interval or "one pair: no interval"


def _pool_figures(generation: Generation | None) -> Iterable[tuple[str, str, str]]:
    if generation is not None:
        accepted = sum(group.accepted for group in generation.groups)
        tried = sum(group.tried for group in generation.groups)
        note = f"{percent(accepted / tried)} % of {count(tried)} tried" if tried else ""
        yield f"Generated, {len(generation.groups)} groups", count(accepted), note


def _results(results: Results) -> Child:
    tables = _tables(results.cells)
    return [_result_table(cells, results.lead, ordinal, titled=len(tables) > 1) for ordinal, cells in enumerate(tables)]


def _result_table(cells: Sequence[Cell], lead: tuple[str, str] | None, ordinal: int, *, titled: bool) -> Html:
    first = cells[0]
    most = max(len(cell.seeds) for cell in cells)
    title = f"{first.method}, {setting(first.bias_ratio)}"
    leads = next((place for place, cell in enumerate(cells) if (cell.arm, cell.mitigation) == lead), None)
    return fragment(
        el("h3", title) if titled else None,
        el(
            "figure",
            _both_widths(
                lambda ident, width: interval_chart(cells, lead, ident=ident, width=width), f"results-chart-{ordinal}"
            ),
            el(
                "figcaption",
                _interval_note(most),
                f" The dashed line is the worst group of {_BASELINE_NAME}." if _find(cells, BASELINE) else "",
                " Small ticks are single seeds." if most > 1 else "",
                " The shaded row is the one that the recipe set out to test." if leads is not None else "",
            ),
        ),
        _score_table(cells, leads, ordinal, title, most),
        _group_table(cells, leads, ordinal, title, most),
    )


def _score_table(cells: Sequence[Cell], leads: int | None, ordinal: int, title: str, most: int) -> Html:
    columns = [
        Column("Arm", numeric=False),
        Column("Mitigation", numeric=False),
        Column("Worst group, %"),
        Column(f"Against {_BASELINE_NAME}, points", hint="worst group, paired over the seeds that both have"),
        Column("Group mean, %", hint="unweighted mean of the group accuracies"),
        Column("Train-weighted mean, %", hint="group accuracies weighted by the groups' training counts"),
        Column("Micro, %", hint="correct answers over test samples"),
        Column("n worst", hint="test samples of the worst group"),
        Column("Seeds"),
    ]
    rows = [
        [
            text(cell.arm),
            text(cell.mitigation),
            estimate(cell.worst_group),
            estimate(cell.gain, signed=True),
            estimate(cell.group_mean),
            estimate(cell.train_weighted_mean),
            estimate(cell.micro),
            number(cell.n_worst),
            number(len(cell.seeds)),
        ]
        for cell in cells
    ]
    caption = f"{title}: accuracy on the test set, models chosen on validation data only. {_interval_note(most)}"
    return table(f"scores-{ordinal}", caption, columns, rows, leads)


def _group_table(cells: Sequence[Cell], leads: int | None, ordinal: int, title: str, most: int) -> Html:
    names = list(dict.fromkeys(score.group for cell in cells for score in cell.groups))
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
    )
    columns = [
        Column("Arm and mitigation", numeric=False),
        *(Column(f"{name}, {_samples(cells, name)}") for name in names),
    ]
    return table(f"groups-{ordinal}", caption, columns, rows, leads)


def _samples(cells: Sequence[Cell], group: str) -> str:
    counts = {score.count for cell in cells for score in cell.groups if score.group == group}
    least, most = count(min(counts)), count(max(counts))
    return f"n = {least}" if least == most else f"n = {least} to {most}"


def _interval_note(most: int) -> str:
    if most == 1:
        return "One seed: differences of a few points are noise. Intervals are Wilson's for the size of the test set, 95 %."
    return "Means over seeds with 95 % intervals."


def _training(curves: Sequence[Curve]) -> Child:
    cells: dict[tuple[str, float | None, str, str], list[Curve]] = {}
    for curve in curves:
        cells.setdefault((curve.method, curve.bias_ratio, curve.arm, curve.mitigation), []).append(curve)
    settings = {(method, ratio) for method, ratio, _, _ in cells}
    return [
        el(
            "p",
            "Loss above, accuracy of the worst validation group below; dotted lines part the stages, one line per seed. "
            "The dot is the step whose weights were kept; a stage begins with what the stage before it kept.",
        ),
        el(
            "div",
            [
                el(
                    "figure",
                    el(
                        "figcaption",
                        cell_name(arm, mitigation),
                        el("span", f" · {method}, {setting(ratio)}", class_="soft") if len(settings) > 1 else None,
                    ),
                    training_chart(of_cell, ident=f"curve-{ordinal}"),
                )
                for ordinal, ((method, ratio, arm, mitigation), of_cell) in enumerate(cells.items())
            ],
            class_="curves",
        ),
    ]


def _plan(plan: Plan) -> Child:
    arms = list(dict.fromkeys(arm for group in plan.groups for arm in group.arms))
    most_real = max((group.real for group in plan.groups), default=0)
    most_quota = max((group.quota for group in plan.groups), default=0)
    columns = [
        Column("Group", numeric=False),
        Column("Label"),
        Column("Bias", hint="-1: unknown"),
        Column("Real"),
        Column("Quota", hint="images to generate: the most that any arm needs"),
        *(Column(arm, hint=f"synthetic images that {arm} takes") for arm in arms),
    ]
    rows = [
        [
            Entry([group.group, el("span", group.meaning, class_="small") if group.meaning else None]),
            number(group.label, str(group.label)),
            number(group.bias, "unknown" if group.bias < 0 else str(group.bias)),
            bar(group.real, most_real),
            bar(group.quota, most_quota),
            *(number(group.arms.get(arm)) for arm in arms),
        ]
        for group in plan.groups
    ]
    caption = (
        "What the real training data holds of each group, how many images are generated, and how many each arm uses: "
        "always the first ones of one pool."
    )
    return [table("plan-groups", caption, columns, rows), _facts(plan.facts)]


def _generation(generation: Generation) -> Child:
    reasons = sorted({reason for group in generation.groups for reason in group.rejected})
    timed = any(group.seconds is not None for group in generation.groups)
    columns = [
        Column("Group", numeric=False),
        Column("Tried"),
        Column("Accepted"),
        Column("Acceptance, %"),
        *(Column(reason, hint=f"rejected: {reason}") for reason in reasons),
        *((Column("Device time"), Column("Images/s")) if timed else ()),
    ]
    rows = [
        [
            text(group.group),
            number(group.tried),
            number(group.accepted),
            share(group.accepted / group.tried if group.tried else None),
            *(number(group.rejected.get(reason, 0)) for reason in reasons),
            *(_timed(group.accepted, group.seconds) if timed else ()),
        ]
        for group in generation.groups
    ]
    accepted = sum(group.accepted for group in generation.groups)
    measured = generation.images_per_second
    rate = "" if measured is None else f", made at {measured:.1f} candidates a second by all workers together"
    caption = "Candidates per group: what was tried, kept, and rejected for which reason."
    return [
        el("p", f"{count(accepted)} images accepted{rate}."),
        table("generation-groups", caption, columns, rows),
    ]


def _timed(accepted: int, seconds: float | None) -> tuple[Entry, Entry]:
    if not seconds:
        return number(None), number(None)
    return number(seconds, duration(seconds)), number(accepted / seconds, f"{accepted / seconds:.1f}")


def _images(sheets: Sequence[Sheet]) -> Child:
    kept = [sheet for sheet in sheets if not sheet.rejects]
    rejects = [sheet for sheet in sheets if sheet.rejects]
    return [
        el("div", [_sheet(sheet) for sheet in kept], class_="sheets") if kept else None,
        [el("h3", "Rejected"), el("div", [_sheet(sheet) for sheet in rejects], class_="sheets")] if rejects else None,
    ]


def _sheet(sheet: Sheet) -> Html:
    kind, width, height = describe(sheet.image)
    source = f"data:{kind};base64,{base64.b64encode(sheet.image).decode()}"
    what = f"{'Rejected' if sheet.rejects else 'Generated'} images of {sheet.group}"
    return el(
        "figure",
        el("img", src=source, width=width, height=height, alt=what, decoding="async"),
        el("figcaption", el("b", sheet.group), f" {sheet.caption}"),
    )


def _audit(audit: Audit) -> Child:
    rows = [
        [
            text(group.group),
            number(group.images),
            share(group.label_generated),
            share(group.label_real),
            share(group.bias_generated),
            share(group.bias_real),
        ]
        for group in (*audit.groups, audit.overall)
    ]
    columns = [
        Column("Group", numeric=False),
        Column("Images"),
        Column("Label, generated, %"),
        Column("Label, real, %"),
        Column("Bias, generated, %"),
        Column("Bias, real, %"),
    ]
    caption = (
        "How often probes trained on real images find in a generated image what was asked for. "
        "The columns of held-out real images say how good the probes are at best."
    )
    return [
        _verdict(audit),
        table("audit-groups", caption, columns, rows),
        _distances(audit) if audit.distances is not None else None,
    ]


def _verdict(audit: Audit) -> Child:
    missed = [check for check in audit.checks if not check.passed]
    if audit.failures or missed:
        word = el("span", "Failed.", class_="verdict bad")
    elif audit.checks:
        word = el("span", "Passed.", class_="verdict good")
    else:
        return el("p", "The recipe sets no threshold: the numbers below are for reading, nothing was held to them.")
    limits = "; ".join(
        f"{check.name} {percent(check.measured)} % (at least {percent(check.at_least)} %)" for check in audit.checks
    )
    return [
        el("p", word, f" {limits}." if limits else ""),
        el("ul", [el("li", failure) for failure in audit.failures]) if audit.failures else None,
    ]


def _distances(audit: Audit) -> Child:
    distances = audit.distances
    if distances is None:
        return None
    copies = (
        "No generated image equals a training image."
        if distances.copies == 0
        else f"{count(distances.copies)} generated images equal a training image."
    )
    columns = [
        Column("Nearest training image", numeric=False),
        *(Column(f"{100 * quantile:g} %", hint="quantile") for quantile in distances.quantiles),
    ]
    rows = [
        [text(name), *(number(value, f"{value:.1f}") for value in values)]
        for name, values in (("generated", distances.generated), ("held-out real", distances.real))
    ]
    return [
        el("h3", "Has the generator copied its training images?"),
        el(
            "p",
            copies,
            " Copies, even faint ones, would lie much nearer to the training images than real images do that it never saw.",
        ),
        el(
            "figure",
            _both_widths(lambda ident, width: distance_chart(distances, ident=ident, width=width), "distance-chart"),
            el("figcaption", "Thin: the outermost quantiles. Thick: the middle half. Mark: the median."),
        ),
        table("audit-distances", "Quantiles of the RMS pixel distance (0 to 255) to the nearest one.", columns, rows),
    ]


def _costs(costs: Sequence[Cost]) -> Child:
    noted = any(cost.note for cost in costs)
    columns = [
        Column("Stage", numeric=False),
        Column("Time"),
        Column("Images"),
        Column("Images/s"),
        Column("Written"),
        *((Column("Note", numeric=False),) if noted else ()),
    ]
    rows = [
        [
            text(cost.stage),
            number(cost.seconds, None if cost.seconds is None else duration(cost.seconds)),
            number(cost.images),
            _timed(cost.images, cost.seconds)[1] if cost.images is not None else number(None),
            number(cost.size, None if cost.size is None else size(cost.size)),
            *((text(cost.note or NONE),) if noted else ()),
        ]
        for cost in costs
    ]
    total = sum(cost.seconds for cost in costs if cost.seconds is not None)
    return table("costs", f"What each stage took; {duration(total)} in all.", columns, rows)


def _provenance(report: Report) -> Child:
    return [
        _facts(report.provenance),
        el("details", el("summary", "The recipe"), el("pre", el("code", report.recipe), tabindex=0))
        if report.recipe
        else None,
    ]


def _facts(facts: Sequence[Fact]) -> Html | None:
    if not facts:
        return None
    return el("dl", [[el("dt", fact.name), el("dd", fact.value)] for fact in facts], class_="facts")


def _tables(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Cells of one (method, bias ratio) belong together: no other two are comparable."""
    found: dict[tuple[str, float | None], list[Cell]] = {}
    for cell in cells:
        found.setdefault((cell.method, cell.bias_ratio), []).append(cell)
    return list(found.values())


def _find(cells: Sequence[Cell], key: tuple[str, str] | None) -> Cell | None:
    return next((cell for cell in cells if (cell.arm, cell.mitigation) == key), None)


def _both_widths(draw: Callable[[str, int], Html], ident: str) -> Html:
    """The chart for a wide page and for a phone; the style sheet shows one. Scaling one would shrink its words."""
    return fragment(
        el("div", draw(ident, WIDE), class_="wide"),
        el("div", draw(f"{ident}-narrow", NARROW), class_="narrow"),
    )


def _policy(script: str) -> str:
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


def _asset(name: str) -> str:
    return files("ffr_dist.report").joinpath(name).read_text(encoding="utf-8")
