"""Run the studies of the embedded world and record them in docs/results.md: the tables, the curves and the verdicts.

    python jobs/record_results.py run results      # every study that is not done yet, one after another; resumes
    python jobs/record_results.py write results    # the page's tables and pictures, from what is there

``run`` takes hours on two cores, and goes on where it was stopped; ``--only`` names the studies to run. A generator that
is not shipped (``jobs/train_demo_generator.py --bias-ratio``) is taken from ``--generators``, a folder of such folders.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from ffr_dist.cli.show.live import Show
from ffr_dist.config import parse
from ffr_dist.errors import InputError
from ffr_dist.evaluate.intervals import Difference, paired_difference, seed_interval
from ffr_dist.launch.outcomes import results_content
from ffr_dist.launch.rows import Row, read_results
from ffr_dist.launch.study.check import check_study
from ffr_dist.launch.study.run import run_study
from ffr_dist.report.content import Estimate
from ffr_dist.report.picture import result_picture, setting_picture
from ffr_dist.store import open_store
from ffr_dist.study import StudyConfig, load_study

MAIN, WHY, POOL = "embedded-world", "embedded-why", "embedded-pool"
DOCS = Path(__file__).parents[1] / "docs"
BEGIN, END = "<!-- tables: written by jobs/record_results.py -->", "<!-- end of tables -->"
RATIO = 0.95
PICTURED = ("erm", "resample", "groupdro")
"""The paper's own mitigations: all eight would make the README's picture three screens high."""
GENERATORS = ("balanced", "biased")
"""Trained by ``jobs/train_demo_generator.py`` on 1,500 real images: equal groups, or the classifiers' own at r = 0.95."""

OTHER_RATIOS = (0.9, 0.97, 0.99)

Way = tuple[str, str]
"""Arm and mitigation."""
FFR, RESAMPLED, ASB, USB = ("ffr", "erm"), ("ffr", "resample"), ("asb", "erm"), ("usb", "erm")
REAL, GENERATED, GENERATORS_OWN = ("none", "erm"), ("synthetic_only", "erm"), ("generator_data", "erm")


@dataclass(frozen=True, slots=True)
class Claim:
    """What the paper says of two ways of training, one better than the other."""

    text: str
    better: Way
    worse: Way
    ratios: tuple[float, ...] = (RATIO,)


CLAIMS = (
    Claim("FFR betters training on real data alone", FFR, REAL),
    Claim("FFR betters mixing, every group filled up (USB)", FFR, USB),
    Claim("FFR betters mixing, equal synthetic groups (ASB)", FFR, ASB),
    Claim("… with resampling, USB source-aware", RESAMPLED, ("usb", "resample")),
    Claim("… with resampling, ASB source-aware", RESAMPLED, ("asb", "resample")),
    Claim("… with GroupDRO, USB source-aware", ("ffr", "groupdro"), ("usb", "groupdro")),
    Claim("… with GroupDRO, ASB source-aware", ("ffr", "groupdro"), ("asb", "groupdro")),
    Claim("… with DFR, USB", ("ffr", "dfr"), ("usb", "dfr")),
    Claim("A mitigation on the real step betters FFR further (resampling)", RESAMPLED, FFR),
    Claim("… GroupDRO", ("ffr", "groupdro"), FFR),
    Claim("FFR with GroupDRO betters GroupDRO on real data", ("ffr", "groupdro"), ("none", "groupdro")),
    Claim("The second step is needed: FFR betters synthetic data alone", FFR, GENERATED),
    Claim("Not a claim of the paper: the images are worth more than the generator's own data", FFR, GENERATORS_OWN),
    Claim("At other bias ratios too: over real data alone", FFR, REAL, OTHER_RATIOS),
    Claim("… over USB", FFR, USB, OTHER_RATIOS),
    Claim("… over ASB", FFR, ASB, OTHER_RATIOS),
    Claim("… over synthetic data alone", FFR, GENERATED, OTHER_RATIOS),
    Claim("… over USB, source-aware, both with GroupDRO", ("ffr", "groupdro"), ("usb", "groupdro"), OTHER_RATIOS),
    Claim("… over ASB, source-aware, both with GroupDRO", ("ffr", "groupdro"), ("asb", "groupdro"), OTHER_RATIOS),
)


@dataclass(frozen=True, slots=True)
class Curve:
    """Worst group over one setting: the points are (where its rows are, what the setting is there called)."""

    name: str
    setting: str
    points: tuple[tuple[tuple[str, str], str], ...]
    """((study, variant), the value in words)."""
    ways: tuple[Way, ...]
    differences: tuple[tuple[Way, Way], ...] = ()
    """Whose difference is told too, at each point."""


def _variants(name: str, values: Sequence[str], base: str) -> tuple[tuple[tuple[str, str], str], ...]:
    return tuple(((WHY, "" if value == base else f"{name}-{value}"), value) for value in values)


def _pools(name: str, values: Sequence[str], base: str) -> tuple[tuple[tuple[str, str], str], ...]:
    return tuple((((WHY, "") if value == base else (f"{POOL}-{name}-{value}", "")), value) for value in values)


CURVES = (
    Curve(
        "budget",
        "synthetic images, in budgets of the paper",
        _variants("budget", ("0.25", "0.5", "1", "2", "4"), "1"),
        (FFR, GENERATED, ASB),
        ((FFR, GENERATED), (FFR, ASB)),
    ),
    Curve(
        "rate",
        "learning rate of the second step",
        _variants("rate", ("5e-6", "2e-5", "5e-5", "2e-4", "1e-3"), "5e-5"),
        (FFR, RESAMPLED),
        ((RESAMPLED, FFR),),
    ),
    Curve(
        "gap",
        "gap between real and generated images",
        _variants("gap", ("none", "moderate", "strong"), "moderate"),
        (REAL, USB, ASB, GENERATED, FFR, RESAMPLED),
        ((FFR, REAL), (FFR, USB), (FFR, ASB), (FFR, GENERATED), (RESAMPLED, FFR)),
    ),
    Curve(
        "leak",
        "gap; what the first step learns from",
        _variants("gap", ("none", "moderate", "strong"), "moderate"),
        (FFR, GENERATORS_OWN),
        ((FFR, GENERATORS_OWN),),
    ),
    Curve(
        "guidance",
        "guidance scale",
        _pools("guidance", ("1", "2", "3", "5", "8"), "2"),
        (GENERATED, FFR, RESAMPLED),
    ),
    Curve(
        "fidelity",
        "steps of the sampler",
        _pools("steps", ("1", "2", "4", "10"), "10"),
        (GENERATED, FFR, RESAMPLED),
    ),
    Curve(
        "generator",
        "what the generator learned from",
        tuple(((f"{POOL}-generator-{name}", ""), name) for name in GENERATORS),
        (GENERATED, FFR, RESAMPLED),
    ),
)


def studies(generators: Path | None) -> dict[str, dict[str, Any]]:
    """Every study of the page, by the name of its folder: the built-in one that it is, and what it sets beside."""
    found: dict[str, dict[str, Any]] = {MAIN: {}, WHY: {}}
    for guidance in (1.0, 3.0, 5.0, 8.0):
        found[f"{POOL}-guidance-{guidance:g}"] = {"method.generator.guidance": guidance}
    for steps in (1, 2, 4):
        found[f"{POOL}-steps-{steps}"] = {"method.generator.steps": steps}
    if generators is not None:
        for name in GENERATORS:
            found[f"{POOL}-generator-{name}"] = {"method.generator.weights": str((generators / name).resolve())}
    return found


def run(results: str, only: Sequence[str], generators: Path | None) -> None:
    """Each study into its folder."""
    every = studies(generators)
    unknown = [name for name in only if name not in every]
    if unknown:
        raise SystemExit(f"there is no study {', '.join(unknown)}; there are {', '.join(every)}")
    console = Console(soft_wrap=True)
    for name, settings in every.items():
        if only and name not in only:
            continue
        built_in = POOL if name.startswith(POOL) else name
        text, recipe = _study_text(built_in, settings)
        checked = check_study(parse(StudyConfig, text, name), text, yaml.safe_load(recipe))
        console.rule(f"{name}: {len(checked.cells)} cells", align="left")
        command = f"python jobs/record_results.py run {results} --only {name}"
        with Show(console) as show:
            run_study(checked, out=f"{results}/{name}", command=command, tell=show)


def _study_text(name: str, settings: Mapping[str, Any]) -> tuple[str, str]:
    study, text, recipe = load_study(name)
    if settings:
        raw = yaml.safe_load(text)
        text = yaml.safe_dump({**raw, "set": {**study.set, **settings}}, sort_keys=False)
    return text, recipe


def write(results: str) -> None:
    """Tables into docs/results.md, pictures and rows beside it."""
    (DOCS / "img").mkdir(exist_ok=True)
    told = _told(results, MAIN)
    if told is None:
        raise SystemExit(f"{results}/{MAIN} holds no results; run it first")
    rows = told["rows"]
    parts = [_main(rows, told["tuning"]), _against(rows), _ratios(rows), _claims(rows), *_curves(results)]
    (DOCS / "results.json").write_text(_short({**told, "rows": [_public(row) for row in rows]}))
    pictured = [row for row in _at(rows, RATIO) if row["mitigation"] in PICTURED]
    (DOCS / "img" / "result.svg").write_text(result_picture(results_content(pictured, load_study(MAIN)[0].lead)))
    page = DOCS / "results.md"
    head, _, rest = page.read_text().partition(BEGIN)
    page.write_text(f"{head}{BEGIN}\n\n" + "\n".join(parts) + f"\n{END}{rest.partition(END)[2]}")


def _told(results: str, name: str) -> dict[str, Any] | None:
    try:
        told = read_results(open_store(f"{results}/{name}", create=False))
    except InputError:  # that study was not run
        return None
    return told if told.get("rows") else None


def _main(rows: Sequence[Row], tuning: Sequence[Mapping[str, Any]]) -> str:
    chosen = {(one["arm"], one["mitigation"], one["variant"]): one for one in tuning}
    here = _at(rows, RATIO)
    ways = _by_way(here)
    lines = [
        f"### Every arm and mitigation at r = {RATIO:g}",
        "",
        "| arm × mitigation | worst group % | n | group mean % | DEO (max) | minus none × erm | minus ffr × erm | choice |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for way, found in ways.items():
        lines.append(
            f"| {_name(way)} | {_interval(found, 'worst_group')} | {min(row['n_worst'] for row in found)} | "
            f"{_interval(found, 'group_mean')} | {_interval(found, 'deo_max')} | "
            f"{_gain(found, ways.get(('none', 'erm')))} | {_gain(found, ways.get(('ffr', 'erm')))} | "
            f"{_choice(chosen.get((*way, '')))} |"
        )
    variants = sorted({row["variant"] for row in rows} - {""})
    for variant in variants:
        for way, found in _by_way([row for row in rows if row["variant"] == variant]).items():
            lines.append(
                f"| {_name(way)}, {variant} | {_interval(found, 'worst_group')} | {min(row['n_worst'] for row in found)} | "
                f"{_interval(found, 'group_mean')} | {_interval(found, 'deo_max')} | "
                f"{_gain(found, ways.get(('none', 'erm')))} | {_gain(found, ways.get(('ffr', 'erm')))} | "
                f"{_choice(chosen.get((*way, variant)))} |"
            )
    return "\n".join([*lines, ""])


def _against(rows: Sequence[Row]) -> str:
    """FFR with each mitigation against every other arm with the same."""
    ways = _by_way(_at(rows, RATIO))
    arms = [arm for arm in dict.fromkeys(arm for arm, _ in ways) if arm not in {"ffr", "group_balanced"}]
    lines = [
        f"### Worst group of ffr minus that of another arm, with the same mitigation, at r = {RATIO:g}",
        "",
        f"| points | {' | '.join(arms)} |",
        f"|---|{'---|' * len(arms)}",
    ]
    for mitigation in dict.fromkeys(mitigation for arm, mitigation in ways if arm == "ffr"):
        gains = [_gain(ways["ffr", mitigation], ways.get((arm, mitigation))) for arm in arms]
        lines.append(f"| {mitigation} | {' | '.join(gains)} |")
    return "\n".join([*lines, ""])


def _choice(choice: Mapping[str, Any] | None) -> str:
    return "–" if choice is None else f"{choice['chosen'] + 1} of {len(choice['tries'])}"


def _ratios(rows: Sequence[Row]) -> str:
    plain = [row for row in rows if row["variant"] == ""]
    ratios = sorted({row["bias_ratio"] for row in plain})
    ways = [way for way in _by_way(plain) if all(way in _by_way(_at(plain, ratio)) for ratio in ratios)]
    lines = [
        "### Worst group over the bias ratio",
        "",
        f"| arm × mitigation | {' | '.join(f'r = {ratio:g}' for ratio in ratios)} |",
        f"|---|{'---|' * len(ratios)}",
    ]
    for way in ways:
        cells = [_interval(_by_way(_at(plain, ratio))[way], "worst_group") for ratio in ratios]
        lines.append(f"| {_name(way)} | {' | '.join(cells)} |")
    for mitigation in dict.fromkeys(way[1] for way in ways):
        lines_of = {
            arm: {ratio: _estimate(_by_way(_at(plain, ratio))[arm, mitigation]) for ratio in ratios}
            for arm, other in ways
            if other == mitigation
        }
        picture = f"img/ratio-{mitigation}.svg"
        (DOCS / picture).write_text(setting_picture(lines_of, mitigation, "bias ratio"))
        lines += ["", f"![Worst group over the bias ratio, {mitigation}]({picture})"]
    return "\n".join([*lines, ""])


def _claims(rows: Sequence[Row]) -> str:
    lines = [
        "### The paper's claims",
        "",
        "| claim | r | difference of worst groups, points | verdict here |",
        "|---|---|---|---|",
    ]
    for claim in CLAIMS:
        for ratio in claim.ratios:
            ways = _by_way(_at(rows, ratio))
            if claim.better in ways and claim.worse in ways:
                found = _paired(ways[claim.better], ways[claim.worse])
                lines.append(f"| {claim.text} | {ratio:g} | {_points(found)} | {_verdict(found)} |")
    return "\n".join([*lines, ""])


def _verdict(found: Difference) -> str:
    if found.low is None or found.high is None:
        return "undecided"
    if found.low > 0:
        return "agrees"
    return "the contrary" if found.high < 0 else "undecided"


def _curves(results: str) -> Iterator[str]:
    """The curves whose studies are there."""
    for curve in CURVES:
        points = []
        for (study, variant), value in curve.points:
            told = _told(results, study)
            if told is not None:
                points.append((value, _by_way([row for row in told["rows"] if row["variant"] == variant]), study))
        if len(points) < 2:
            continue
        picture = f"img/curve-{curve.name}.svg"
        names = {float(place): value for place, (value, _, _) in enumerate(points)}
        lines_of = {
            _name(way): {float(place): _estimate(ways[way]) for place, (_, ways, _) in enumerate(points)}
            for way in curve.ways
        }
        (DOCS / picture).write_text(setting_picture(lines_of, curve.name, curve.setting, names))
        audits = [_fidelity(results, study) for _, _, study in points]
        lines = [
            f"### {curve.setting[0].upper()}{curve.setting[1:]}",
            "",
            f"| worst group % | {' | '.join(value for value, _, _ in points)} |",
            f"|---|{'---|' * len(points)}",
            *(
                f"| {_name(way)} | {' | '.join(_interval(ways[way], 'worst_group') for _, ways, _ in points)} |"
                for way in curve.ways
            ),
            *(
                f"| {_name(one)} minus {_name(other)} | "
                f"{' | '.join(_points(_paired(ways[one], ways[other])) for _, ways, _ in points)} |"
                for one, other in curve.differences
            ),
        ]
        if any(study.startswith(POOL) for _, _, study in points):
            lines.append(f"| label and bias found by the audit's probes | {' | '.join(audits)} |")
        yield "\n".join([*lines, "", f"![Worst group by {curve.setting}]({picture})", ""])


def _fidelity(results: str, study: str) -> str:
    audit = json.loads(open_store(f"{results}/{study}", create=False).get("audit.json"))
    overall = audit["overall"]
    return f"{100 * overall['label_generated']:.1f} / {100 * overall['bias_generated']:.1f}"


def _at(rows: Sequence[Row], ratio: float) -> list[Row]:
    return [row for row in rows if row["bias_ratio"] == ratio and row["variant"] == ""]


def _by_way(rows: Sequence[Row]) -> dict[Way, list[Row]]:
    ways: dict[Way, list[Row]] = {}
    for row in rows:
        ways.setdefault((row["arm"], row["mitigation"]), []).append(row)
    return ways


def _name(way: Way) -> str:
    return f"{way[0]} × {way[1]}"


def _estimate(rows: Sequence[Row]) -> Estimate:
    values = [row["worst_group"] for row in rows]
    return Estimate(statistics.fmean(values), *(seed_interval(values) or ()))


def _interval(rows: Sequence[Row], measure: str) -> str:
    values = [row[measure] for row in rows]
    mean, found = f"{100 * statistics.fmean(values):.1f}", seed_interval(values)
    return mean if found is None else f"{mean} [{100 * found.low:.1f}, {100 * found.high:.1f}]"


def _gain(rows: Sequence[Row], others: Sequence[Row] | None) -> str:
    if others is None or rows is others:
        return "–"
    return _points(_paired(rows, others))


def _paired(rows: Sequence[Row], others: Sequence[Row]) -> Difference:
    theirs = {row["seed"]: row["worst_group"] for row in others}
    return paired_difference([row["worst_group"] for row in rows], [theirs[row["seed"]] for row in rows])


def _points(found: Difference) -> str:
    mean = f"{100 * found.mean:+.1f}"
    if found.low is None or found.high is None:
        return mean
    return f"{mean} [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"


def _short(told: Mapping[str, Any]) -> str:
    """As JSON, to five digits: nobody can tell more, and it lies in the repository."""
    return json.dumps(json.loads(json.dumps(told), parse_float=lambda text: round(float(text), 5))) + "\n"


def _public(row: Row) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "stages"}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    running = verbs.add_parser("run")
    running.add_argument("results")
    running.add_argument("--only", nargs="+", default=(), metavar="STUDY")
    running.add_argument("--generators", type=Path)
    writing = verbs.add_parser("write")
    writing.add_argument("results")
    arguments = parser.parse_args()
    if arguments.verb == "run":
        run(arguments.results, arguments.only, arguments.generators)
    else:
        write(arguments.results)
