"""What a run leaves for people: report.html."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import itertools
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ffr_dist.errors import MissingError
from ffr_dist.launch.audited import audit_content, audit_sheets, read_audit
from ffr_dist.launch.cards import tallies
from ffr_dist.launch.context import Run
from ffr_dist.launch.outcomes import by_way, choices, failed_cells, results_content, skipped_cells
from ffr_dist.launch.planning import summarise
from ffr_dist.launch.rows import Row, read_results, refuse_unfair
from ffr_dist.launch.stages import TrainedStage, read_stage
from ffr_dist.launch.watch.observe import measured_rate
from ffr_dist.plan.document import read_pinned
from ffr_dist.read.dataset import open_dataset
from ffr_dist.recipe import pixel_fields, pixel_hash
from ffr_dist.report import content
from ffr_dist.report.page import render
from ffr_dist.report.sheets import compact, contact_sheet
from ffr_dist.shards import layout
from ffr_dist.shards.log import decided
from ffr_dist.shards.manifest import latest_manifest
from ffr_dist.shards.refs import in_order
from ffr_dist.store import Store

_SHEET_IMAGES = 24
_SHEET_COLUMNS = 8
_SHEET_PIXELS = 64
_SHEET_BYTES = 1_600_000
"""Of all contact sheets together, before base64."""
_CURVES = 24
"""Cells whose curves are shown."""
_READS_AT_ONCE = 8
_LIBRARIES = ("ffr_dist", "torch", "diffusers", "ray", "accelerate", "pyarrow")


def write_report(run: Run) -> str:
    """Write report.html from what the output holds, of a study too; where it lies."""
    run.store.put(layout.REPORT, render(_content(run)).encode())
    return f"{run.store.url}/{layout.REPORT}"


def _content(run: Run) -> content.Report:
    told = read_results(run.store)
    rows: list[Row] = told.get("rows", [])
    refuse_unfair(rows)
    results = results_content(rows, run.recipe.compare.lead) if told else None
    drawn = _drawn(rows, None if results is None else results.lead) if rows else []
    stages, costs = _read_stages(run.store, rows, {folder for row in drawn for folder in row["stages"]})
    manifest = latest_manifest(run.store)
    audit = read_audit(run.store)
    left_out: list[str] = []
    sheets = itertools.chain(
        () if manifest is None else _sheets(run.store),
        () if audit is None else audit_sheets(run.store, audit.get("sheets") or ()),
    )
    ways = by_way(rows)
    return content.Report(
        title=run.recipe.name,
        summary=(
            f"Method {run.method.name}: a pool of synthetic images balanced over {len(run.checked.groups)} groups, and "
            f"{len(ways)} ways of training, scored per group."
        ),
        recipe=run.checked.text,
        provenance=_provenance(run),
        plan=_plan(run, {row["arm"] for row in rows}),
        generation=None if manifest is None else _generation(run),
        sheets=_within(sheets, left_out),
        audit=None if audit is None else audit_content(audit),
        results=results,
        study=_text(run.store, layout.STUDY) if "study" in told else "",
        skipped=skipped_cells(told),
        failed=failed_cells(told),
        tuned=choices(told),
        curves=_curves(drawn, stages),
        more_curves=len(ways) - len(by_way(drawn)),
        costs=_costs(run.store, costs),
        warnings=(f"Contact sheets left out to keep this page small: {', '.join(left_out)}. They lie in audit/.",)
        if left_out
        else (),
    )


def _text(store: Store, key: str) -> str:
    try:
        return store.get(key).decode()
    except MissingError:
        return ""


def _provenance(run: Run) -> tuple[content.Fact, ...]:
    pinned = read_pinned(run.store)
    weights = [] if pinned is None else [pinned.weights_sha256, *pinned.prepared.values()]
    facts = [
        content.Fact("recipe seed", str(run.recipe.seed)),
        content.Fact("recipe sha256", hashlib.sha256(run.checked.text.encode()).hexdigest()),
        *(content.Fact("generator's weights sha256", sha256) for sha256 in weights if sha256),
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


def _plan(run: Run, trained: set[str]) -> content.Plan:
    summary = summarise(run.checked)
    used = trained | {cell.arm for cell in run.recipe.compare.cells}
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
        content.Fact("bias ratio of these counts", str(getattr(run.recipe.data, "bias_ratio", "as it is"))),
    )
    return content.Plan(groups=groups, facts=facts)


def _generation(run: Run) -> content.Generation:
    groups = tuple(
        content.GroupGeneration(group=name, tried=tally.tried, accepted=tally.accepted, rejected=tally.rejected)
        for name, tally in tallies(run.store, run.checked).items()
    )
    return content.Generation(groups=groups, images_per_second=measured_rate(run.store))


def _sheets(store: Store) -> Iterator[content.Sheet]:
    pool = open_dataset(store)
    for name, count in pool.counts().items():
        shown = min(count, _SHEET_IMAGES)
        if not shown:
            continue
        some = pool.lowest({name: shown})
        images = list(some.pixels(np.arange(shown)))
        scale = max(1, _SHEET_PIXELS // max(images[0].shape[:2]))
        yield content.Sheet(
            group=name,
            image=compact(contact_sheet(images, _SHEET_COLUMNS, scale)),
            caption=f"The first {shown} of {count:,} images",
        )


def _within(sheets: Iterable[content.Sheet], left_out: list[str]) -> tuple[content.Sheet, ...]:
    """The sheets that fit into the page, the first ones first."""
    shown, size = [], 0
    for sheet in sheets:
        if size + len(sheet.image) > _SHEET_BYTES:
            left_out.append(f"{sheet.kind} of {sheet.group}")
            continue
        size += len(sheet.image)
        shown.append(sheet)
    return tuple(shown)


@dataclass(frozen=True, slots=True)
class _Cost:
    stage: str
    seconds: float


def _read_stages(
    store: Store, rows: Sequence[Row], wanted: set[str]
) -> tuple[dict[str, TrainedStage], tuple[_Cost, ...]]:
    """The ``wanted`` stages whole, and what each of all stages took: the histories of thousands are not held at once."""
    folders = list(dict.fromkeys(folder for row in rows for folder in row["stages"]))
    whole: dict[str, TrainedStage] = {}
    costs = []
    for stage in in_order(functools.partial(read_stage, store), folders, _READS_AT_ONCE):
        if stage is not None:
            costs.append(_Cost(stage.identity["stage"]["name"], stage.seconds))
            if stage.folder in wanted:
                whole[stage.folder] = stage
    return whole, tuple(costs)


def _drawn(rows: Sequence[Row], lead: tuple[str, str] | None) -> list[Row]:
    """The rows whose curves are shown: of the first cells of the setting that the lead is in, then of others."""
    ways = by_way(rows)
    first = next((way[:3] for way in ways if way[3:] == lead), next(iter(ways))[:3])
    kept = sorted(ways, key=lambda way: way[:3] != first)[:_CURVES]  # a stable sort
    return [row for way in kept for row in ways[way]]


def _curves(rows: Sequence[Row], stages: Mapping[str, TrainedStage]) -> tuple[content.Curve, ...]:
    return tuple(
        content.Curve(
            method=row["method"],
            bias_ratio=row["bias_ratio"],
            variant=row["variant"],
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


def _costs(store: Store, stages: Sequence[_Cost]) -> tuple[content.Cost, ...]:
    commits = list(decided(store))
    images = sum(tally.tried for commit in commits for tally in commit.groups.values())
    size = sum(ref.bytes for commit in commits for ref in (commit.tar, commit.sidecar) if ref is not None)
    costs = []
    if commits:
        seconds = sum(commit.seconds for commit in commits)
        costs.append(
            content.Cost(
                stage="generate", seconds=seconds, images=images, size=size, note="time of all workers together"
            )
        )
    for name in dict.fromkeys(stage.stage for stage in stages):
        seconds_of = [stage.seconds for stage in stages if stage.stage == name]
        costs.append(content.Cost(stage=name, seconds=sum(seconds_of), note=f"{len(seconds_of)} trained"))
    return tuple(costs)
