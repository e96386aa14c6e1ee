"""A checked recipe with its method, and a run of it with an output: opened once, used by all stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ffr_dist.datasets import SEEDED
from ffr_dist.datasets.ingest import ingest
from ffr_dist.datasets.source import Split
from ffr_dist.errors import ConfigError, DataError, InputError
from ffr_dist.groups import Groups
from ffr_dist.launch.events import Began, Ended, Tell, silent
from ffr_dist.launch.possible import refuse_impossible
from ffr_dist.methods import Method
from ffr_dist.models.features import check_features
from ffr_dist.models.pretrained import check_classifier
from ffr_dist.quota import Exact, Quota, Survivors
from ffr_dist.recipe import KEY, Recipe, build_method, claim_output, load_recipe, pixel_fields
from ffr_dist.store import Store, open_store

NEEDED = ("train", "val", "test")
"""The splits of real data that a comparison takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedRecipe:
    """A recipe, read and checked; nothing of it written yet."""

    recipe: Recipe
    text: str
    method: Method
    groups: Groups
    """The groups of the training split, which the pool is balanced over."""
    _splits: dict[int, dict[str, Split]] = field(default_factory=dict, repr=False, compare=False)

    def splits(self, seed: int) -> dict[str, Split]:
        """The real data of a seed. Asked for once: a table of labels takes seconds to read."""
        drawn = _drawn(self.recipe, seed)
        if drawn not in self._splits:
            self._splits[drawn] = _read_splits(self.recipe, seed)
        return self._splits[drawn]

    def real_counts(self, seed: int) -> Mapping[str, int]:
        return self.splits(seed)["train"].counts()

    def quota(self) -> Quota:
        """The pool's quota: for each group the most that the real data of any seed asks for."""
        quotas = [self.method.quota(self.real_counts(seed)) for seed in self.recipe.compare.seeds]
        largest = {name: max(quota.counts.get(name, 0) for quota in quotas) for name in self.groups.names}
        return Survivors(largest) if isinstance(quotas[0], Survivors) else Exact(largest)


def load_checked(path: str) -> CheckedRecipe:
    """A recipe file, or a built-in recipe, read and checked."""
    recipe, text = load_recipe(path)
    return check_recipe(recipe, text)


def check_recipe(recipe: Recipe, text: str, method: Method | None = None) -> CheckedRecipe:
    """A recipe in memory, checked; ``method`` stands in for the recipe's own."""
    checked = check_parts(recipe, text, lambda groups: method or build_method(recipe, groups))
    refuse_small_pool(checked)
    for seed in recipe.compare.seeds:
        for cell in recipe.compare.cells:
            refuse_impossible(checked.method, cell, checked.splits(seed))
    return checked


def check_parts(recipe: Recipe, text: str, method: Callable[[Groups], Method]) -> CheckedRecipe:
    """A recipe whose data, method, classifier and audit were checked, each by itself; not yet its cells."""
    first = recipe.compare.seeds[0]
    splits = _read_splits(recipe, first)
    absent = [name for name in NEEDED if name not in splits]
    if absent:
        raise ConfigError(f"data: there is no {' and no '.join(absent)} split; a comparison needs train, val and test")
    groups = splits["train"].groups
    chosen = method(groups)
    chosen.check()
    check_classifier(recipe.train.model)
    recipe.audit.refuse_unknowable(groups, generator="generator" in splits)
    if recipe.audit.features is not None:
        check_features(recipe.audit.features)
    return CheckedRecipe(
        recipe=recipe, text=text, method=chosen, groups=groups, _splits={_drawn(recipe, first): splits}
    )


def _read_splits(recipe: Recipe, seed: int) -> dict[str, Split]:
    try:
        return {split.name: split for split in recipe.data.splits(seed)}
    except DataError as error:
        key = "data.root" if "root" in type(recipe.data).model_fields else "data"
        raise DataError(f"{key}: {error}\nWhat must lie where: ffr datasets {recipe.data.kind}") from error


def _drawn(recipe: Recipe, seed: int) -> int:
    """What tells one drawing of the real data from another: published data have one only."""
    return seed if isinstance(recipe.data, SEEDED) else 0


def refuse_small_pool(checked: CheckedRecipe) -> None:
    """ConfigError where an arm of the recipe's cells trains on more images than its quota makes."""
    quota = checked.quota().counts
    for seed in checked.recipe.compare.seeds:
        real = checked.real_counts(seed)
        for arm in dict.fromkeys(cell.arm for cell in checked.recipe.compare.cells):
            for name, wanted in checked.method.arm_counts(arm, real).items():
                if wanted > quota.get(name, 0):
                    raise ConfigError(
                        f"arm {arm} trains on {wanted:,} synthetic images of group {name}, the quota makes "
                        f"{quota.get(name, 0):,}; raise method.quota, or set method.allow_fraction to take a share of all groups"
                    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A checked recipe and where its results go."""

    checked: CheckedRecipe
    store: Store
    command: str
    """How this run is started, for messages that say how to go on."""
    tell: Tell = silent
    variant: str = ""
    """In a study: which of its variants of the recipe this is."""

    @property
    def recipe(self) -> Recipe:
        return self.checked.recipe

    @property
    def method(self) -> Method:
        return self.checked.method


def start_run(checked: CheckedRecipe, *, out: str | None = None, command: str, tell: Tell = silent) -> Run:
    """Open the output and claim it: the recipe is the first thing written there."""
    store = open_store(checked.recipe.output if out is None else out, config=checked.recipe.storage)
    claim_output(store, checked.text, pixel_fields(checked.recipe, checked.method))
    return Run(checked=checked, store=store, command=command, tell=tell)


def open_begun(checked: CheckedRecipe, out: str | None = None) -> Store | None:
    """The output, to look at, where something was begun there; None where there is nothing, and nothing is made."""
    try:
        store = open_store(checked.recipe.output if out is None else out, create=False, config=checked.recipe.storage)
        return store if store.exists(KEY) else None
    except InputError:
        return None


def import_real(run: Run, seed: int) -> dict[str, Store]:
    """Import the splits of a seed that are not there yet; the store of each, by split."""
    stores: dict[str, Store] = {}
    for name, split in run.checked.splits(seed).items():
        store = run.store.below(f"real/{split.folder}")
        known = store.exists("manifest.json")
        if not known:
            run.tell(Began(f"import {name}"))
        manifest = ingest(split, store, codec=run.recipe.codec, size=run.recipe.size)
        run.tell(Ended(f"import {name}", f"{manifest.images:,} images", reused=known))
        stores[name] = store
    return stores
