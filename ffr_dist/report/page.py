"""One HTML file that tells a run: what was asked, what was made, whether it may be believed, and what came of it.

The file stands alone. Its content security policy forbids every request and every script but its own, so that neither
a prompt nor a file name can make it fetch or run anything.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from importlib.resources import files

from ffr_dist.report.content import BASELINE, Cost, Fact, Generation, Plan, Report, Results, Sheet
from ffr_dist.report.fidelity import fidelity_section
from ffr_dist.report.findings import findings
from ffr_dist.report.markup import Child, Html, el
from ffr_dist.report.results import by_setting, find, results_section, training_section
from ffr_dist.report.sheets import describe
from ffr_dist.report.tables import Column, Entry, bar, number, share, table, text
from ffr_dist.report.words import NONE, bounds, count, duration, percent, points, seeds, setting, size

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
            el("p", role="status", class_="unseen"),
            el("script", Html(script)),
        ),
        lang="en",
    )


def _sections(report: Report) -> Iterable[tuple[str, str, Child]]:
    """Results first: most readers come for them; how they came about follows in the order of the run."""
    yield "results", "Results", results_section(report)
    yield "training", "Training", training_section(report.curves, report.more_curves)
    yield "plan", "Plan", _plan(report.plan) if report.plan else None
    yield "generation", "Generation", _generation(report.generation) if report.generation else None
    yield "images", "Images", _images(report.sheets) if report.sheets else None
    yield "fidelity", "Fidelity of the generated images", fidelity_section(report.audit) if report.audit else None
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
    """Of the first setting that has it: the cell that was to be tested, the baseline and their difference. Never the best cell,
    which would be chosen by looking at the test set.
    """
    if results is None:
        return
    parts = by_setting(results.cells)
    cells = next((part for part in parts if find(part, results.lead)), parts[0] if parts else [])
    lead, baseline = find(cells, results.lead), find(cells, BASELINE)
    where = f" · {setting(*cells[0].setting[1:])}" if len(parts) > 1 else ""
    for cell in (lead, baseline):
        if cell is not None and not (cell is baseline and lead is baseline):
            interval = bounds(cell.worst_group)
            note = f"{interval + ' · ' if interval else ''}{seeds(len(cell.seeds))}{where}"
            yield f"Worst group, {cell.name}", f"{percent(cell.worst_group.value)} %", note
    if lead is not None and lead.gain is not None and lead is not baseline:
        interval = bounds(lead.gain, signed=True)
        none = "one pair: no interval" if lead.gain.pairs == 1 else "the seeds agree: no interval"
        yield "Difference, in points", points(lead.gain.value), interval or none


def _pool_figures(generation: Generation | None) -> Iterable[tuple[str, str, str]]:
    if generation is not None:
        accepted = sum(group.accepted for group in generation.groups)
        tried = sum(group.tried for group in generation.groups)
        note = f"{percent(accepted / tried)} % of {count(tried)} tried" if tried else ""
        yield f"Generated, {len(generation.groups)} groups", count(accepted), note


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


_SHEETS = {
    "first": "",
    "best": "Best",
    "worst": "Worst",
    "nearest": "Nearest to training images",
    "rejected": "Rejected",
}


def _images(sheets: Sequence[Sheet]) -> Child:
    found = [(title, [sheet for sheet in sheets if sheet.kind == kind]) for kind, title in _SHEETS.items()]
    return [
        [el("h3", title) if title else None, el("div", [_sheet(sheet) for sheet in some], class_="sheets")]
        for title, some in found
        if some
    ]


def _sheet(sheet: Sheet) -> Html:
    kind, width, height = describe(sheet.image)
    source = f"data:{kind};base64,{base64.b64encode(sheet.image).decode()}"
    group = sheet.group or "all groups"
    what = f"{_SHEETS[sheet.kind] or 'Generated'}, {group}: {sheet.caption}"
    return el(
        "figure",
        el("img", src=source, width=width, height=height, alt=what, decoding="async"),
        el("figcaption", el("b", group), f" {sheet.caption}"),
    )


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
        el("details", el("summary", "The study"), el("pre", el("code", report.study), tabindex=0))
        if report.study
        else None,
    ]


def _facts(facts: Sequence[Fact]) -> Html | None:
    if not facts:
        return None
    return el("dl", [[el("dt", fact.name), el("dd", fact.value)] for fact in facts], class_="facts")


def _policy(script: str) -> str:
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


def _asset(name: str) -> str:
    return files("ffr_dist.report").joinpath(name).read_text(encoding="utf-8")
