"""The jobs of a study: each stage that some cell needs, once, and the test of each cell."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ffr_dist.config import digest
from ffr_dist.groups import Groups
from ffr_dist.launch.study.check import SettingKey, cell_config
from ffr_dist.launch.study.dag import Job
from ffr_dist.launch.study.work import Desk, Task
from ffr_dist.methods import build
from ffr_dist.recipe import Recipe
from ffr_dist.store import Store
from ffr_dist.study import Cell, Way
from ffr_dist.train.stage import AnyStage, HeadStage

_HEAD_STEPS = 50
_TEST_STEPS = 20
"""What fitting a head and testing take, in steps of training; for the time that is told."""

ChoiceOf = Callable[[Way], int | None]
"""Which of the recipe's alternatives a way of training takes; None: it tries them all and keeps the best."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """The real data of a setting and seed, imported."""

    folders: Mapping[str, str]
    """Of each split."""
    counts: Mapping[str, int]
    """Training samples of each group."""
    fingerprints: Mapping[str, str]
    """Of each set that a stage may read, the pool among them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Jobs:
    """Jobs, each behind the one that it needs."""

    jobs: tuple[Job[Task], ...]
    desks: Mapping[str, Desk]
    """By the key that tasks know them by."""
    last: Mapping[Cell, str]
    """The job that a cell comes to its end with."""


def union(parts: Iterable[Jobs]) -> Jobs:
    """The jobs of all, each once; ``last`` stays with the parts."""
    jobs: dict[str, Job[Task]] = {}
    desks: dict[str, Desk] = {}
    for part in parts:
        for job in part.jobs:
            jobs.setdefault(job.id, job)
        desks |= part.desks
    return Jobs(jobs=tuple(jobs.values()), desks=desks, last={})


@dataclass(frozen=True, slots=True, kw_only=True)
class Planner:
    """Knows the recipes and the data of a study whose pool is made."""

    store: Store
    recipes: Mapping[SettingKey, Recipe]
    grounds: Mapping[tuple[SettingKey, int], Ground]
    groups: Groups
    threads: int

    def jobs(self, cells: Iterable[Cell], choice_of: ChoiceOf, *, test: bool) -> Jobs:
        """What these cells need. Jobs on the same sets stand together, so that a process need not open others for each."""
        jobs: dict[str, Job[Task]] = {}
        desks: dict[str, Desk] = {}
        last: dict[Cell, str] = {}
        places = {key: place for place, key in enumerate(self.grounds)}
        for cell in sorted(cells, key=lambda cell: places[_ground_key(cell)]):
            desk_key, desk = self._desk(cell, choice_of(cell.way))
            desks[desk_key] = desk
            for job in self._chain(cell, desk_key, desk, test=test):
                jobs.setdefault(job.id, job)
                last[cell] = job.id
        return Jobs(jobs=tuple(jobs.values()), desks=desks, last=last)

    def _desk(self, cell: Cell, choice: int | None) -> tuple[str, Desk]:
        setting, seed = _ground_key(cell)
        recipe = self.recipes[setting]
        if choice is not None:
            recipe = recipe.model_copy(update={"train": recipe.train.with_choice(choice)})
        desk = Desk(
            output=self.store.url,
            storage=self.store.config,
            recipe=recipe,
            groups=self.groups,
            variant=cell.way.variant,
            seed=seed,
            real=self.grounds[setting, seed].folders,
            pool=self.grounds[setting, seed].fingerprints["synthetic"],
            threads=self.threads,
        )
        return digest([*setting, seed, choice], 12), desk

    def _chain(self, cell: Cell, desk_key: str, desk: Desk, *, test: bool) -> Iterable[Job[Task]]:
        """The cell's stages in order, and its test.

        A stage is known by what it follows from, as in its folder's name; by the identities of the stages before it in
        place of their weights, which nobody knows yet.
        """
        recipe, ground = desk.recipe, self.grounds[_ground_key(cell)]
        method = build(recipe.method, groups=desk.groups, seed=recipe.seed, size=recipe.size, training=recipe.train)
        known: dict[str, Any] = {
            "model": recipe.train.model.model_dump(mode="json"),
            "augment": recipe.train.augment.model_dump(mode="json"),
            "seed": cell.seed,
            "val": ground.fingerprints["val"],
            "skip_broken": recipe.read.skip_broken,
            "stages": [],
        }
        config = cell_config(cell.way)
        before: str | None = None
        for stage in method.train(config.arm, config.mitigation, ground.counts):
            # Only what a stage reads: equal stages must be one job, or two workers would train in one folder.
            sets = {source.set: ground.fingerprints[source.set] for source in stage.sources}
            known["stages"] = [*known["stages"], [stage.identity(), sets]]
            job = digest(known, 16)
            task = Task(desk=desk_key, cell=config, until=stage.name, what=f"{stage.name}: {cell}")
            yield Job(job, task, needs=before, weight=_steps(stage))
            before = job
        if test:
            task = Task(desk=desk_key, cell=config, until=None, what=f"test: {cell}")
            yield Job(digest(["test", asdict(cell), before], 16), task, needs=before, weight=_TEST_STEPS)


def _ground_key(cell: Cell) -> tuple[SettingKey, int]:
    return (cell.way.variant, cell.way.bias_ratio), cell.seed


def _steps(stage: AnyStage) -> float:
    return _HEAD_STEPS if isinstance(stage, HeadStage) else sum(fit.steps for fit in stage.fits)
