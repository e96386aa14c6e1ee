"""The audit of a pool as a report tells it: whether its images are what was asked for, and how they differ from real ones."""

from __future__ import annotations

from collections.abc import Sequence

from ffr_dist.report.charts import distance_chart
from ffr_dist.report.content import (
    Audit,
    Check,
    Distances,
    Duplicates,
    Estimate,
    FeatureDistances,
    Gap,
    Gaps,
    RealOrFake,
)
from ffr_dist.report.markup import Child, Html, el
from ffr_dist.report.results import both_widths
from ffr_dist.report.tables import Column, Entry, estimate, heat, number, share, table, text
from ffr_dist.report.words import count, percent

_DEEPEST_GAP = 0.3
"""A gap this large has the deepest colour."""


def fidelity_section(audit: Audit) -> Child:
    return [
        _verdict(audit),
        _probes(audit),
        _real_or_fake(audit.real_or_fake) if audit.real_or_fake is not None else None,
        _features(audit.feature_distances) if audit.feature_distances is not None else None,
        _gaps(audit.gaps) if audit.gaps is not None else None,
        _duplicates(audit.duplicates) if audit.duplicates is not None else None,
        _distances(audit.distances) if audit.distances is not None else None,
    ]


def _verdict(audit: Audit) -> Child:
    missed = [check for check in audit.checks if not check.passed]
    if audit.failures or missed:
        word = el("span", "Failed.", class_="verdict bad")
    elif audit.checks:
        word = el("span", "Passed.", class_="verdict good")
    else:
        return el("p", "The recipe sets no threshold: the numbers below are for reading, nothing was held to them.")
    return [
        el("p", word, " What the recipe asks of the pool:"),
        el("ul", [el("li", failure) for failure in audit.failures]) if audit.failures else None,
        _checks(audit.checks) if audit.checks else None,
    ]


def _checks(checks: Sequence[Check]) -> Html:
    columns = [
        Column("Measured", numeric=False),
        Column("Group", numeric=False),
        Column("Found"),
        Column("Asked for"),
        Column("Verdict", numeric=False),
    ]
    rows = [
        [
            text(check.name),
            text(check.group or "all"),
            number(check.measured, _plain(check.measured, check)),
            _asked(check),
            Entry(_word(good=check.passed)),
        ]
        for check in checks
    ]
    return table("audit-checks", "Thresholds of the recipe and what was found.", columns, rows)


def _word(*, good: bool) -> Html:
    return el("span", "passed" if good else "failed", class_=f"verdict {'good' if good else 'bad'}")


def _asked(check: Check) -> Entry:
    if check.at_least is not None:
        return number(check.at_least, f"at least {_plain(check.at_least, check)}")
    return number(check.at_most, None if check.at_most is None else f"at most {_plain(check.at_most, check)}")


def _plain(value: float, check: Check) -> str:
    return {"share": f"{percent(value)} %", "ratio": f"{value:.2f}", "count": f"{value:,.0f}"}[check.unit]


def _probes(audit: Audit) -> Html:
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
    return table("audit-groups", caption, columns, rows)


def _real_or_fake(found: RealOrFake) -> Child:
    return [
        el("h3", "Can a probe tell generated from real?"),
        el(
            "p",
            f"It is right for {percent(found.accuracy)} % of {count(found.count)} held-out images. With labels shuffled "
            f"({count(found.permutations)} times) it is right for {percent(found.null_low)} to {percent(found.null_high)} %: p = "
            f"{found.p:.3g}. ",
            found.advice,
        ),
    ]


def _features(found: FeatureDistances) -> Child:
    columns = [
        Column("Group", numeric=False),
        Column("Generated"),
        Column("Real"),
        Column("FD"),
        Column("FD, floor", hint="of real images to other real ones"),
        Column("KID × 1000"),
        Column("KID × 1000, floor", hint="of real images to other real ones"),
    ]
    rows = [
        [
            text(group.group),
            number(group.generated),
            number(group.real),
            _amount(group.fd),
            _amount(Estimate(group.fd_real)),
            _amount(group.kid, 1000),
            _amount(Estimate(group.kid_real), 1000),
        ]
        for group in found.groups
    ]
    caption = (
        f"Distance of generated to real images in {count(found.features)} features (weights {found.weights_sha256[:12]}), with 95 % "
        "intervals. The floor is the distance of as many real images to other real ones: a perfect generator would reach it. Both "
        "depend on the number of images, so compare a group with its own floor."
    )
    return [el("h3", "How far are they in features?"), table("audit-features", caption, columns, rows)]


def _amount(value: Estimate, times: float = 1.0) -> Entry:
    shown: list[Child] = [el("span", f"{value.value * times:.2f}", class_="value")]
    if value.low is not None and value.high is not None:
        shown.append(el("span", f"{value.low * times:.2f} – {value.high * times:.2f}", class_="bounds"))
    return Entry(shown, value.value)


def _gaps(found: Gaps) -> Child:
    generated = {gap.group: gap for gap in found.trained_on_generated}
    real = {gap.group: gap for gap in found.trained_on_real}
    columns = [
        Column("Group", numeric=False),
        *(
            Column(f"{title}{what}")
            for title in ("Learned from generated: ", "Learned from real: ")
            for what in ("generated, %", "real, %", "gap, points")
        ),
    ]
    rows = [
        [text(name), *_gap_entries(generated.get(name)), *_gap_entries(real.get(name))]
        for name in dict.fromkeys((*generated, *real))
    ]
    caption = (
        "Held-out accuracy of two probes. A gap is accuracy on generated images minus that on real ones: large where what was "
        "learned from generated images does not carry over to real ones. Orange: better on generated images; blue: better on real ones."
    )
    return [el("h3", "What carries over from generated to real?"), table("audit-gaps", caption, columns, rows)]


def _gap_entries(gap: Gap | None) -> tuple[Entry, Entry, Entry]:
    if gap is None:
        return number(None), number(None), number(None)
    return estimate(gap.generated), estimate(gap.real), heat(gap.gap, _DEEPEST_GAP)


def _duplicates(found: Duplicates) -> Child:
    alike = f"(at most {found.bits} of 256 bits of a perceptual hash differ)"
    said = (
        f"Of {count(found.images)} images {count(found.near)} look like an earlier one {alike}; {count(found.exact)} of them equal "
        "it pixel by pixel."
        if found.near
        else f"None of {count(found.images)} images looks like an earlier one {alike}."
    )
    rows = [[text(name), number(copies)] for name, copies in found.groups.items()]
    columns = [Column("Group", numeric=False), Column("Look alike")]
    caption = "Images of a group that look like an earlier one."
    return [
        el("h3", "Are there duplicates?"),
        el("p", said),
        table("audit-duplicates", caption, columns, rows) if any(found.groups.values()) else None,
    ]


def _distances(distances: Distances) -> Child:
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
            both_widths(lambda ident, width: distance_chart(distances, ident=ident, width=width), "distance-chart"),
            el("figcaption", "Thin: the outermost quantiles. Thick: the middle half. Mark: the median."),
        ),
        table("audit-distances", "Quantiles of the RMS pixel distance (0 to 255) to the nearest one.", columns, rows),
    ]
