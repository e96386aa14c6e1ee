"""Rows of results as a report shows them: one cell for each way of training, over its seeds, with intervals."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from ffr_dist.evaluate.intervals import paired_difference, seed_interval, wilson
from ffr_dist.launch.rows import Row, way_of
from ffr_dist.recipe import CellConfig
from ffr_dist.report import content
from ffr_dist.report.measures import MEASURES
from ffr_dist.report.words import setting

Ways = Mapping[tuple[Any, ...], Sequence[Row]]
"""Rows by the way of training that they share."""


def results_content(rows: Sequence[Row], named: CellConfig | None) -> content.Results:
    """Cells in the order of their first rows; ``named`` is the lead."""
    ways = by_way(rows)
    lead = None if named is None else (named.arm, named.mitigation)
    return content.Results(cells=tuple(_cell(key, found, ways, lead) for key, found in ways.items()), lead=lead)


def by_way(rows: Sequence[Row]) -> dict[tuple[Any, ...], list[Row]]:
    ways: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        ways.setdefault(way_of(row), []).append(row)
    return ways


def skipped_cells(told: Mapping[str, Any]) -> tuple[content.Missing, ...]:
    """Of a study's results.json; of a run's there are none, nor any of the next two."""
    return tuple(content.Missing(cell=_named(one), why=one["why"]) for one in told.get("skipped", ()))


def failed_cells(told: Mapping[str, Any]) -> tuple[content.Missing, ...]:
    return tuple(
        content.Missing(cell=f"{_named(one)}, seed {one['seed']}", why=f"{one['stage']}: {one['error']}")
        for one in told.get("failures", ())
    )


def choices(told: Mapping[str, Any]) -> tuple[content.Tuned, ...]:
    return tuple(_choice(one) for one in told.get("tuning", ()))


def _choice(one: Mapping[str, Any]) -> content.Tuned:
    tried = one["tries"][one["chosen"]]
    rate = tried["by_seed"][0].get("lr")
    return content.Tuned(
        variant=one["variant"],
        arm=one["arm"],
        mitigation=one["mitigation"],
        chosen=f"{one['chosen'] + 1} of {len(one['tries'])}{'' if rate is None else f': lr {rate:g}'}",
        score=tried["val_worst_group"],
    )


def _named(one: Mapping[str, Any]) -> str:
    return f"{content.cell_name(one['arm'], one['mitigation'])}, {setting(one['bias_ratio'], one['variant'])}"


def _cell(key: tuple[Any, ...], rows: Sequence[Row], ways: Ways, lead: tuple[str, str] | None) -> content.Cell:
    method, ratio, variant, arm, mitigation = key
    return content.Cell(
        method=method,
        bias_ratio=ratio,
        variant=variant,
        arm=arm,
        mitigation=mitigation,
        seeds=tuple(row["seed"] for row in rows),
        worst_group=_mean("worst_group", rows),
        worst_by_seed=tuple(row["worst_group"] for row in rows),
        group_mean=_mean("group_mean", rows),
        micro=_mean("micro", rows),
        n_worst=min(row["n_worst"] for row in rows),
        gain=_gain(key, rows, ways, content.BASELINE),
        lead_gain=None if lead is None or lead == content.BASELINE else _gain(key, rows, ways, lead),
        measures={name: found for name in MEASURES if (found := _measure(name, rows)) is not None},
        groups=tuple(_group(name, rows) for name in rows[0]["groups"]),
    )


def _measure(name: str, rows: Sequence[Row]) -> content.Estimate | None:
    """None where it is undefined for a seed: a mean over the others would be of another kind of test set."""
    values = [row.get(name) for row in rows]
    if None in values:
        return None
    return _over_seeds(values) if len(rows) > 1 else _of_one(rows[0], name)


def _mean(name: str, rows: Sequence[Row]) -> content.Estimate:
    """Over the seeds; of one seed, with what the size of the test set leaves open."""
    if len(rows) > 1:
        return _accuracy([row[name] for row in rows])
    return _of_one(rows[0], name)


def _of_one(row: Row, name: str) -> content.Estimate:
    return content.Estimate(row[name], *(row["intervals"].get(name) or ()))


def _accuracy(values: Sequence[float]) -> content.Estimate:
    """Of few seeds, Student's interval may reach where no accuracy can be."""
    found = _over_seeds(values)
    if found.low is None or found.high is None:
        return found
    return content.Estimate(found.value, max(found.low, 0.0), min(found.high, 1.0))


def _over_seeds(values: Sequence[Any]) -> content.Estimate:
    return content.Estimate(statistics.fmean(values), *(seed_interval(values) or ()))


def _gain(key: tuple[Any, ...], rows: Sequence[Row], ways: Ways, against: tuple[str, str]) -> content.Gain | None:
    """Of the worst group, against another way of the same setting, over the seeds that both have."""
    *setting, arm, mitigation = key
    if (arm, mitigation) == against:
        return None
    theirs = {row["seed"]: row["worst_group"] for row in ways.get((*setting, *against), ())}
    pairs = [(row["worst_group"], theirs[row["seed"]]) for row in rows if row["seed"] in theirs]
    if not pairs:
        return None
    if len(pairs) == 1:
        return content.Gain(pairs[0][0] - pairs[0][1])
    found = paired_difference([mine for mine, _ in pairs], [other for _, other in pairs])
    low = None if found.low is None else max(found.low, -1.0)
    high = None if found.high is None else min(found.high, 1.0)
    return content.Gain(found.mean, low, high, pairs=found.pairs, p=found.p, test=found.test)


def _group(name: str, rows: Sequence[Row]) -> content.GroupScore:
    counts = [row["groups"][name] for row in rows]
    correct = sum(count["correct"] for count in counts)
    total = sum(count["count"] for count in counts)
    if len(rows) == 1:
        accuracy = content.Estimate(correct / total, *wilson(correct, total))
    else:  # the seeds share one test set: its samples are not so many samples more
        accuracy = _accuracy([count["correct"] / count["count"] for count in counts])
    return content.GroupScore(group=name, accuracy=accuracy, correct=correct, count=total)
