"""Run the demo's comparison with several seeds and tuned rates at each size of the camera gap, and record it in docs/results.md.

python jobs/record_results.py run --gap moderate --out results/moderate     # resumes; once for each gap
python jobs/record_results.py write results                                # tables and picture from what is there
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ffr_dist.config import parse
from ffr_dist.evaluate.intervals import paired_difference, seed_interval
from ffr_dist.launch.context import check_recipe, start_run
from ffr_dist.launch.events import Ended, Event, Warned
from ffr_dist.launch.local import run_all
from ffr_dist.launch.publish import results_content
from ffr_dist.launch.rows import read_rows
from ffr_dist.recipe import Recipe, load_recipe
from ffr_dist.report.picture import result_picture
from ffr_dist.store import open_store

GAPS = ("none", "moderate", "strong")
SEEDS = (0, 1, 2)
RATES = (0.002, 0.001)
FINETUNE_RATES = (0.0002, 0.00005)
DOCS = Path(__file__).parents[1] / "docs"
BEGIN, END = "<!-- tables: written by jobs/record_results.py -->", "<!-- end of tables -->"

Row = Mapping[str, Any]


def recipe_of(gap: str) -> Recipe:
    """The demo's recipe at a gap, with more seeds and two rates for every arm."""
    demo, _ = load_recipe("ffr-demo")
    return demo.model_copy(
        update={
            "data": demo.data.model_copy(update={"camera_gap": gap}),
            "train": demo.train.model_copy(update={"lrs": RATES, "finetune_lrs": FINETUNE_RATES}),
            "compare": demo.compare.model_copy(update={"seeds": SEEDS}),
        }
    )


def run(gap: str, out: str) -> None:
    """The whole way at one gap."""
    text = yaml.safe_dump(recipe_of(gap).model_dump(mode="json"), sort_keys=False)

    def tell(event: Event) -> None:
        if isinstance(event, Ended | Warned):
            print(event, flush=True)

    checked = check_recipe(parse(Recipe, text, gap), text)
    run_all(
        start_run(checked, out=out, command=f"python jobs/record_results.py run --gap {gap} --out {out}", tell=tell)
    )


def write(results: str) -> None:
    """Tables into docs/results.md, the picture of the moderate gap beside it, rows as JSON."""
    tables = []
    for gap in GAPS:
        rows = read_rows(open_store(f"{results}/{gap}", create=False))
        if not rows:
            raise SystemExit(f"{results}/{gap} holds no results; run it first")
        tables.append(f"### Camera gap: {gap}\n\n{_table(rows)}\n")
        (DOCS / "img").mkdir(exist_ok=True)
        (DOCS / f"results-{gap}.json").write_text(json.dumps({"rows": [_public(row) for row in rows]}) + "\n")
        if gap == "moderate":
            checked = check_recipe(recipe_of(gap), "")
            (DOCS / "img" / "result.svg").write_text(result_picture(results_content(checked.recipe, rows)))
    page = DOCS / "results.md"
    head, _, rest = page.read_text().partition(BEGIN)
    page.write_text(f"{head}{BEGIN}\n\n" + "\n".join(tables) + f"\n{END}{rest.partition(END)[2]}")


def _table(rows: Sequence[Row]) -> str:
    cells: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        cells.setdefault((row["arm"], row["mitigation"]), []).append(row)
    baseline = [row["worst_group"] for row in cells["none", "erm"]]
    lead = [row["worst_group"] for row in cells["ffr", "erm"]]
    lines = [
        "| arm × mitigation | worst group % | group mean % | worst, minus none × erm | worst, minus ffr × erm |",
        "|---|---|---|---|---|",
    ]
    for (arm, mitigation), found in cells.items():
        worst = [row["worst_group"] for row in found]
        mean = [row["group_mean"] for row in found]
        lines.append(
            f"| {arm} × {mitigation} | {_interval(worst)} | {_interval(mean)} | "
            f"{_difference(worst, baseline)} | {_difference(worst, lead)} |"
        )
    return "\n".join(lines)


def _interval(values: Sequence[float]) -> str:
    low, high = seed_interval(values)
    return f"{100 * statistics.fmean(values):.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def _difference(ours: Sequence[float], theirs: Sequence[float]) -> str:
    if ours == theirs:
        return "–"
    found = paired_difference(ours, theirs)
    return f"{100 * found.mean:+.1f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"


def _public(row: Row) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "stages"}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    running = verbs.add_parser("run")
    running.add_argument("--gap", choices=GAPS, required=True)
    running.add_argument("--out", required=True)
    writing = verbs.add_parser("write")
    writing.add_argument("results")
    arguments = parser.parse_args()
    if arguments.verb == "run":
        run(arguments.gap, arguments.out)
    else:
        write(arguments.results)
