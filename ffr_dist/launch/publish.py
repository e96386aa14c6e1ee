"""What a run leaves for people: report.html."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ffr_dist.errors import MissingError
from ffr_dist.evaluate.intervals import paired_difference, seed_interval, wilson
from ffr_dist.launch.context import Run
from ffr_dist.launch.planning import summarise
from ffr_dist.launch.rows import Row, cell_of, read_rows
from ffr_dist.launch.stages import TrainedStage, read_stage
from ffr_dist.launch.watch.observe import measured_rate
from ffr_dist.read.dataset import open_dataset
from ffr_dist.recipe import Recipe, pixel_fields, pixel_hash
from ffr_dist.report import content
from ffr_dist.report.page import render
from ffr_dist.report.sheets import contact_sheet
from ffr_dist.shards import layout
from ffr_dist.shards.log import decided
from ffr_dist.shards.manifest import latest_manifest
from ffr_dist.store import Store

AUDIT = "audit.json"
_SHEET_IMAGES = 24
_SHEET_COLUMNS = 8
_SHEET_PIXELS = 64
_LIBRARIES = ("ffr_dist", "torch", "diffusers", "ray", "accelerate", "pyarrow")


def write_report(run: Run) -> str:
    """Write report.html from what the output holds; where it lies."""
    page = render(_content(run))
    run.store.put(layout.REPORT, page.encode())
    return f"{run.store.url}/{layout.REPORT}"


def _content(run: Run) -> content.Report:
    rows = read_rows(run.store)
    stages = _stages(run, rows)
    manifest = latest_manifest(run.store)
    return content.Report(
        title=run.recipe.name,
        summary=(
            f"Method {run.method.name}: a pool of synthetic images balanced over {len(run.checked.groups)} groups, and "
            f"{len({cell_of(row)[:4] for row in rows})} ways of training, scored per group."
        ),
        recipe=run.checked.text,
        provenance=_provenance(run),
        plan=_plan(run),
        generation=None if manifest is None else _generation(run.store),
        sheets=() if manifest is None else _sheets(run.store),
        audit=_audit(run.store),
        results=results_content(run.recipe, rows) if rows else None,
        curves=_curves(rows, stages),
        costs=_costs(run.store, stages),
    )


def _provenance(run: Run) -> tuple[content.Fact, ...]:
    facts = [
        content.Fact("recipe seed", str(run.recipe.seed)),
        content.Fact("pixel hash", pixel_hash(pixel_fields(run.recipe, run.method))),
        content.Fact("output", run.store.url),
    ]
    manifest = latest_manifest(run.store)
    if manifest is not None:
        facts.append(content.Fact("manifest_sha256", manifest.manifest_sha256))
        for environment in manifest.environments:
            told = ", ".join(f"{name} {value}" for name, value in sorted(environment.items()))
            facts.append(content.Fact("generated with", told))
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _LIBRARIES)
    facts.append(content.Fact("reported with", f"{versions}, Python {platform.python_version()}"))
    return tuple(facts)


def _plan(run: Run) -> content.Plan:
    summary = summarise(run.checked)
    used = {cell.arm for cell in run.recipe.compare.cells}
    groups = tuple(
        content.GroupPlan(
            group=group.name,
            label=group.label,
            bias=group.bias,
            real=summary["groups"][group.name]["real"],
            quota=summary["groups"][group.name]["quota"],
            arms={arm: n for arm, n in summary["groups"][group.name]["arms"].items() if arm in used},
        )
        for group in run.checked.groups
    )
    facts = (
        content.Fact("intervals", str(summary["intervals"])),
        content.Fact("batch", str(summary["batch"])),
        content.Fact("bias ratio", str(getattr(run.recipe.data, "bias_ratio", "as it is"))),
    )
    return content.Plan(groups=groups, facts=facts)


def _generation(store: Store) -> content.Generation:
    tallies: dict[str, list[Any]] = {}
    for commit in decided(store):
        for name, tally in commit.groups.items():
            tallies.setdefault(name, []).append(tally)
    groups = []
    for name, found in tallies.items():
        reasons = sorted({reason for tally in found for reason in tally.rejected})
        groups.append(
            content.GroupGeneration(
                group=name,
                tried=sum(tally.tried for tally in found),
                accepted=sum(tally.accepted for tally in found),
                rejected={reason: sum(tally.rejected.get(reason, 0) for tally in found) for reason in reasons},
            )
        )
    return content.Generation(groups=tuple(groups), images_per_second=measured_rate(store))


def _sheets(store: Store) -> tuple[content.Sheet, ...]:
    pool = open_dataset(store)
    sheets = []
    for name, count in pool.counts().items():
        shown = min(count, _SHEET_IMAGES)
        if not shown:
            continue
        some = pool.lowest({name: shown})
        images = list(some.pixels(np.arange(shown)))
        scale = max(1, _SHEET_PIXELS // max(images[0].shape[:2]))
        sheets.append(
            content.Sheet(
                group=name,
                image=contact_sheet(images, _SHEET_COLUMNS, scale),
                caption=f"The first {shown} of {count:,} images",
            )
        )
    return tuple(sheets)


def _audit(store: Store) -> content.Audit | None:
    try:
        found = json.loads(store.get(AUDIT))
    except MissingError:
        return None
    distances = found["distances"]
    groups = [_group_audit(group) for group in (*found["groups"], found["overall"])]
    return content.Audit(
        groups=tuple(groups[:-1]),
        overall=groups[-1],
        distances=None if distances is None else content.Distances(**{k: _frozen(v) for k, v in distances.items()}),
        checks=tuple(
            content.Check(name=check["name"], measured=check["measured"], at_least=check["at_least"])
            for check in found["checks"]
        ),
        failures=tuple(found["failures"]),
    )


def _group_audit(values: Mapping[str, Any]) -> content.GroupAudit:
    return content.GroupAudit(**values)


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def results_content(recipe: Recipe, rows: Sequence[Row]) -> content.Results:
    """Rows as the report shows them: a cell for each way of training, over its seeds."""
    cells: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        cells.setdefault(cell_of(row)[:4], []).append(row)
    lead = recipe.compare.lead
    return content.Results(
        cells=tuple(_cell(key, found, cells) for key, found in cells.items()),
        lead=None if lead is None else (lead.arm, lead.mitigation),
    )


def _cell(key: tuple[Any, ...], rows: Sequence[Row], cells: Mapping[tuple[Any, ...], Sequence[Row]]) -> content.Cell:
    method, ratio, arm, mitigation = key
    baseline = {row["seed"]: row for row in cells.get((method, ratio, *content.BASELINE), ())}
    pairs = [(row, baseline[row["seed"]]) for row in rows if row["seed"] in baseline]
    weighted = [row["train_weighted_mean"] for row in rows]
    return content.Cell(
        method=method,
        bias_ratio=ratio,
        arm=arm,
        mitigation=mitigation,
        seeds=tuple(row["seed"] for row in rows),
        worst_group=_worst(rows),
        worst_by_seed=tuple(row["worst_group"] for row in rows),
        group_mean=_over_seeds([row["group_mean"] for row in rows]),
        train_weighted_mean=None if None in weighted else _over_seeds(weighted),
        micro=_over_seeds([row["micro"] for row in rows]),
        n_worst=min(row["n_worst"] for row in rows),
        gain=_gain(pairs) if (arm, mitigation) != content.BASELINE and pairs else None,
        groups=tuple(_group(name, rows) for name in rows[0]["groups"]),
    )


def _worst(rows: Sequence[Row]) -> content.Estimate:
    if len(rows) > 1:
        return _over_seeds([row["worst_group"] for row in rows])
    row = rows[0]
    worst = min(row["groups"].values(), key=lambda counts: counts["correct"] / counts["count"])
    return content.Estimate(row["worst_group"], *wilson(worst["correct"], worst["count"]))


def _over_seeds(values: Sequence[float]) -> content.Estimate:
    if len(values) == 1:
        return content.Estimate(values[0])
    return content.Estimate(statistics.fmean(values), *seed_interval(values))


def _gain(pairs: Sequence[tuple[Row, Row]]) -> content.Estimate:
    differences = [row["worst_group"] - base["worst_group"] for row, base in pairs]
    if len(pairs) == 1:
        return content.Estimate(differences[0])
    found = paired_difference([row["worst_group"] for row, _ in pairs], [base["worst_group"] for _, base in pairs])
    return content.Estimate(found.mean, found.low, found.high)


def _group(name: str, rows: Sequence[Row]) -> content.GroupScore:
    counts = [row["groups"][name] for row in rows]
    correct = sum(count["correct"] for count in counts)
    total = sum(count["count"] for count in counts)
    if len(rows) == 1:
        accuracy = content.Estimate(correct / total, *wilson(correct, total))
    else:  # the seeds share one test set: its samples are not so many samples more
        accuracy = _over_seeds([count["correct"] / count["count"] for count in counts])
    return content.GroupScore(group=name, accuracy=accuracy, correct=correct, count=total)


def _stages(run: Run, rows: Sequence[Row]) -> dict[str, TrainedStage]:
    folders = {folder for row in rows for folder in row["stages"]}
    found = {folder: read_stage(run.store, folder) for folder in sorted(folders)}
    return {folder: stage for folder, stage in found.items() if stage is not None}


def _curves(rows: Sequence[Row], stages: Mapping[str, TrainedStage]) -> tuple[content.Curve, ...]:
    return tuple(
        content.Curve(
            method=row["method"],
            bias_ratio=row["bias_ratio"],
            arm=row["arm"],
            mitigation=row["mitigation"],
            seed=row["seed"],
            stages=tuple(_curve(stages[folder]) for folder in row["stages"] if folder in stages),
        )
        for row in rows
    )


def _curve(stage: TrainedStage) -> content.StageCurve:
    return content.StageCurve(
        name=stage.identity["stage"]["name"],
        loss=tuple((row["step"], row["loss"]) for row in stage.history if "loss" in row),
        worst_group=tuple((row["step"], row["score"][0]) for row in stage.history if "score" in row),
        best_step=stage.chosen["step"],
    )


def _costs(store: Store, stages: Mapping[str, TrainedStage]) -> tuple[content.Cost, ...]:
    commits = list(decided(store))
    images = sum(tally.tried for commit in commits for tally in commit.groups.values())
    size = sum(ref.bytes for commit in commits for ref in (commit.tar, commit.sidecar) if ref is not None)
    costs = []
    if commits:
        rate = measured_rate(store)
        seconds = None if rate is None else images / rate
        costs.append(
            content.Cost(stage="generate", seconds=seconds, images=images, size=size, note="at the measured rate")
        )
    for name in dict.fromkeys(stage.identity["stage"]["name"] for stage in stages.values()):
        of_name = [stage for stage in stages.values() if stage.identity["stage"]["name"] == name]
        costs.append(
            content.Cost(stage=name, seconds=sum(stage.seconds for stage in of_name), note=f"{len(of_name)} trained")
        )
    return tuple(costs)
