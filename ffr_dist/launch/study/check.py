"""A study checked against its data and its method, before anything is written: all that cannot be is told at once."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from ffr_dist.config import digest, from_data
from ffr_dist.errors import ConfigError, FFRError, InputError
from ffr_dist.groups import Groups
from ffr_dist.launch.context import NEEDED, CheckedRecipe, check_parts, refuse_small_pool
from ffr_dist.launch.possible import refuse_impossible
from ffr_dist.methods import Method, build
from ffr_dist.recipe import CellConfig, Recipe
from ffr_dist.study import RATIO, Cell, StudyConfig, Way, cells_of, load_study, overridden, tuning_cells

SettingKey = tuple[str, float | None]
"""Variant and bias ratio: what a recipe of its own follows from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedStudy:
    """A study, read and checked; nothing of it written yet."""

    study: StudyConfig
    text: str
    raw: Mapping[str, Any]
    """The recipe's keys and values, with the study's own settings."""
    cells: tuple[Cell, ...]
    """Those that can be trained, in the order of results."""
    tuning: tuple[Cell, ...]
    """Those that rates are chosen by, in order."""
    settings: Mapping[SettingKey, CheckedRecipe]
    """The recipe of each (variant, bias ratio), with its cells and seeds."""
    skipped: Mapping[Way, str]
    """Those that cannot be trained, and why."""

    def demand(self) -> dict[str, int]:
        """Images of each group that the pool must hold: the most that any seed of any setting asks for."""
        quotas = [checked.quota().counts for checked in self.settings.values()]
        return {name: max(quota[name] for quota in quotas) for name in quotas[0]}

    def base(self, quota: Mapping[str, int]) -> CheckedRecipe:
        """The recipe of the pool, and of the output: all cells over one another, and the quota that serves them all."""
        recipe = _recipe(self.raw, {"method.quota": dict(quota)}, self.study, self.cells, self.study.name)
        one = next(iter(self.settings.values()))
        return _checked(recipe, _text(recipe, self.study), one)


@dataclass(slots=True)
class _Findings:
    """What is wrong, with whom: equal reasons are told once."""

    mistakes: dict[str, dict[str, None]] = field(default_factory=dict)
    impossible: dict[Way, str] = field(default_factory=dict)
    of_data: set[str] = field(default_factory=set)
    """Reasons that hold for every way of training on a bias ratio."""

    def mistake(self, why: str, where: object = "") -> None:
        """Of the file: nothing can be skipped to mend it."""
        self.mistakes.setdefault(why, {})[str(where)] = None

    def lines(self, asked: Sequence[Cell]) -> list[str]:
        """A line for each reason. Ways that only ``tune`` names, and share one, are told by its bias ratio."""
        own = {cell.way for cell in asked}
        reasons = {why: list(where) for why, where in self.mistakes.items()}
        for way, why in self.impossible.items():
            name = str(way) if way in own else f"tune, r {way.bias_ratio}" if why in self.of_data else f"tune, {way}"
            if name not in reasons.setdefault(why, []):
                reasons[why].append(name)
        return [f"{'; '.join(where)}: {why}" if any(where) else why for why, where in reasons.items()]


def load_checked_study(path: str) -> CheckedStudy:
    """A study file, or a built-in study, read and checked."""
    study, text, recipe_text = load_study(path)
    return check_study(study, text, yaml.safe_load(recipe_text))


def check_study(study: StudyConfig, text: str, raw: Mapping[str, Any]) -> CheckedStudy:
    """ConfigError, which names every cell that cannot be and every mistake of the file."""
    raw = overridden(raw, {**study.set, "name": study.name, "output": study.output})
    own = from_data(Recipe, dict(raw), f"study {study.name}: its recipe, with 'set',")
    ratio = getattr(own.data, "bias_ratio", None)
    asked, tuning = cells_of(study, ratio), tuning_cells(study, ratio)
    findings = _Findings()
    has_ratio = "bias_ratio" in type(own.data).model_fields
    settings: dict[SettingKey, CheckedRecipe] = {}
    for key, cells in _by_setting([*asked, *tuning]).items():
        where = _setting_name(key)
        if key[1] is not None and not has_ratio:
            findings.mistake(f"data of kind {own.data.kind} has no bias_ratio; leave it out", where)
            continue
        try:
            checked = _check_setting(study, raw, key, cells)
        except FFRError as error:
            findings.mistake(_by_own_key(str(error), key[1], study), where)
            continue
        settings[key] = checked
        _look_at_cells(checked, cells, where, findings)
    _same_for_all(settings, findings)
    # A way that cannot be tuned cannot be trained as the study wants it.
    untuned = {(w.variant, w.arm, w.mitigation): why for w, why in findings.impossible.items() if _has(tuning, w)}
    impossible = dict(findings.impossible)
    for cell in asked:
        why = untuned.get((cell.way.variant, cell.way.arm, cell.way.mitigation))
        if why is not None:
            impossible.setdefault(cell.way, f"cannot be tuned: {why}")
    if tuning and settings and all(checked.recipe.train.choices == 1 for checked in settings.values()):
        findings.mistake(
            "tune: the recipe has one rate for each way of training, so there is nothing to choose; set several, as in "
            "'set: {train.lrs: [...], train.finetune_lrs: [...]}', or leave 'tune' out"
        )
    skipped = {cell.way: impossible[cell.way] for cell in asked if cell.way in impossible}
    left = tuple(cell for cell in asked if cell.way not in skipped)
    if findings.mistakes or (findings.impossible and not study.skip_impossible):
        cure = [] if findings.mistakes else ["take them out of 'grids', or set skip_impossible: true"]
        lines = "\n".join(f"  {line}" for line in [*findings.lines(asked), *cure])
        raise ConfigError(f"study {study.name} cannot be run:\n{lines}")
    if not left:
        lines = "\n".join(f"  {line}" for line in findings.lines(asked))
        raise ConfigError(f"study {study.name}: every cell is impossible, so there is nothing to train:\n{lines}")
    wanted = {(cell.way.variant, cell.way.arm, cell.way.mitigation) for cell in left}
    return CheckedStudy(
        study=study,
        text=text,
        raw=raw,
        cells=left,
        tuning=tuple(c for c in tuning if (c.way.variant, c.way.arm, c.way.mitigation) in wanted),
        settings=settings,
        skipped=skipped,
    )


def _by_setting(cells: Sequence[Cell]) -> dict[SettingKey, list[Cell]]:
    found: dict[SettingKey, list[Cell]] = {}
    for cell in cells:
        found.setdefault((cell.way.variant, cell.way.bias_ratio), []).append(cell)
    return found


def _setting_name(key: SettingKey) -> str:
    variant, ratio = key
    parts = [*([] if ratio is None else [f"r {ratio}"]), *([f"variant {variant}"] if variant else [])]
    return ", ".join(parts)


def _by_own_key(error: str, ratio: float | None, study: StudyConfig) -> str:
    """An error of a setting's recipe on one line, without a head, by the key that the study has for a bias ratio."""
    head = re.compile(r"study .* cannot be used:")
    lines = [line.strip() for line in error.splitlines() if not head.fullmatch(line)]
    given = any(ratio in grid.bias_ratios for grid in study.grids)
    return "; ".join(lines).replace(f"{RATIO}:", "bias_ratios:" if given else "tune.bias_ratio:")


def _has(cells: Sequence[Cell], way: Way) -> bool:
    return any(cell.way == way for cell in cells)


def _check_setting(study: StudyConfig, raw: Mapping[str, Any], key: SettingKey, cells: Sequence[Cell]) -> CheckedRecipe:
    variant, ratio = key
    changes = dict(study.variants[variant])
    if ratio is not None:
        changes[RATIO] = ratio
    source = f"study {study.name}" + (f", variant {variant}" if variant else "")
    recipe = _recipe(raw, changes, study, cells, source)
    checked = check_parts(recipe, "", lambda groups: _method(recipe, groups))
    method = checked.method
    unknown = [arm for arm in dict.fromkeys(cell.way.arm for cell in cells) if arm not in method.arms]
    if unknown:
        raise ConfigError(f"{method.name} has no arm {', '.join(unknown)}; it knows {', '.join(method.arms)}")
    return checked


def _look_at_cells(checked: CheckedRecipe, cells: Sequence[Cell], where: str, findings: _Findings) -> None:
    """Note the cells that the method refuses, or that these data leave no samples for."""
    seen: set[str] = set()
    for seed in dict.fromkeys(cell.seed for cell in cells):
        empty = _empty_groups(checked, seed)
        counts = {name: dict(split.counts()) for name, split in checked.splits(seed).items()}
        for cell in cells:
            if cell.seed != seed or cell.way in findings.impossible:
                continue
            alike = digest([counts, str(cell.way)])  # as a rule the seeds have equal counts
            if alike not in seen:
                seen.add(alike)
                why = empty or _refused(checked, cell)
                findings.of_data |= {empty} if empty else set()
                if why:
                    findings.impossible[cell.way] = why
    if any(cell.way not in findings.impossible for cell in cells):
        try:
            refuse_small_pool(checked)
        except InputError as error:
            findings.mistake(str(error), where)


def _empty_groups(checked: CheckedRecipe, seed: int) -> str | None:
    splits = checked.splits(seed)
    for name in NEEDED:
        empty = [group for group, count in splits[name].counts().items() if count == 0]
        if empty:
            return (
                f"the {name} split has no sample of group {', '.join(empty)}; lower the bias ratio, or take more images"
            )
    return None


def _refused(checked: CheckedRecipe, cell: Cell) -> str | None:
    try:
        refuse_impossible(checked.method, cell_config(cell.way), checked.splits(cell.seed))
    except InputError as error:
        return str(error)
    return None


def _same_for_all(settings: Mapping[SettingKey, CheckedRecipe], findings: _Findings) -> None:
    """Note settings that one pool cannot serve, or whose cells would have more tries than others."""
    if not settings:
        return
    first, *others = settings.items()
    tries = first[1].recipe.train.choices
    for key, checked in others:
        if checked.groups != first[1].groups:
            findings.mistake(
                "the training split declares other groups than the study's first recipe, so that one pool cannot serve both",
                _setting_name(key),
            )
        if checked.recipe.train.choices != tries:
            findings.mistake(
                f"{checked.recipe.train.choices} rates to choose from, where others have {tries}; give each way of training "
                "the same number of tries",
                _setting_name(key),
            )


def _recipe(
    raw: Mapping[str, Any], changes: Mapping[str, Any], study: StudyConfig, cells: Sequence[Cell], source: str
) -> Recipe:
    """A recipe of the study that compares these cells."""
    ways = dict.fromkeys((cell.way.arm, cell.way.mitigation) for cell in cells)
    compare: dict[str, Any] = {
        "seeds": list(dict.fromkeys(cell.seed for cell in cells)),
        "cells": [{"arm": arm, "mitigation": mitigation} for arm, mitigation in ways],
    }
    lead = study.lead
    if lead is not None and (lead.arm, lead.mitigation) in ways:
        compare["lead"] = lead.model_dump()
    return from_data(Recipe, overridden(raw, {**changes, "compare": compare}), source)


def _checked(recipe: Recipe, text: str, like: CheckedRecipe) -> CheckedRecipe:
    return CheckedRecipe(recipe=recipe, text=text, method=_method(recipe, like.groups), groups=like.groups)


def _method(recipe: Recipe, groups: Groups) -> Method:
    """Its arms are not held against the cells yet: those are told all at once."""
    return build(recipe.method, groups=groups, seed=recipe.seed, size=recipe.size, training=recipe.train)


def _text(recipe: Recipe, study: StudyConfig) -> str:
    values = recipe.model_dump(mode="json", exclude_unset=True)
    body = yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120)
    return f"# The recipe {study.recipe} as study {study.name} runs it; see study.yaml beside it.\n{body}"


def cell_config(way: Way) -> CellConfig:
    """A way of training as a recipe names it."""
    return CellConfig(arm=way.arm, mitigation=way.mitigation)
