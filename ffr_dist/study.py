"""A study: a grid of cells over one pool, as a file says it.

Here is only what follows from the file: its settings, the cells that it asks for, and the recipe that each of them is
trained by. ``launch.study`` checks them against the data and the method, and runs them.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import Field, PositiveInt, field_validator, model_validator

from ffr_dist.config import Config, Name, Seed, configs_in, from_data, matching, read_mapping
from ffr_dist.errors import ConfigError, MissingError
from ffr_dist.recipe import CellConfig, Recipe, builtin_recipes, load_recipe, read_text, refuse_secrets
from ffr_dist.train.stage import Mitigation

T = TypeVar("T")

RATIO = "data.bias_ratio"

_OWN = ("name", "output", "compare")
"""Parts of a recipe that a study says itself."""
_VARIED = ("data", "train", "read")
"""Parts of a recipe of which no pixel of the pool follows."""
_BUDGET = "method.budget"
"""How much of the pool the arms take: no pixel follows of that either."""


def _no_sections(settings: dict[str, Any]) -> dict[str, Any]:
    """A section in place of a key would drop all other keys of that section; one that says its kind is meant to."""
    for key, value in settings.items():
        if isinstance(value, dict) and "kind" not in value and _is_section(key):
            raise ValueError(f"{key} is a whole section; write single keys, as in {key}.{next(iter(value), 'KEY')}")
    return settings


def _is_section(key: str) -> bool:
    here: list[type[Config]] = [Recipe]
    for part in key.split("."):
        fields = [config.model_fields[part] for config in here if part in config.model_fields]
        here = [config for field in fields for config in configs_in(field.annotation)]
    return bool(here)


class VariantConfig(Config):
    """A recipe that differs in some settings, by a name."""

    name: Annotated[
        str, matching(r"[a-z0-9]+([.-][a-z0-9]+)*", "write small letters and digits, in words joined by '-' or '.'")
    ]
    set: dict[str, Any] = Field(min_length=1)
    """Values by dotted key, as in ``train.finetune_trainable: head``."""

    @field_validator("set")
    @classmethod
    def _of_no_pixel(cls, settings: dict[str, Any]) -> dict[str, Any]:
        for key in settings:
            part, _, rest = key.partition(".")
            if key == "data.kind":
                raise ValueError("data.kind: a variant cannot change it; make other data a study of their own")
            if key == RATIO:
                raise ValueError(f"{key}: list it under 'bias_ratios' of the grid")
            if part in _OWN:
                raise ValueError(f"{key}: the study itself says its {part}")
            if key != _BUDGET and (part not in _VARIED or not rest):
                raise ValueError(
                    f"{key}: a variant sets keys below data., train. or read., or {_BUDGET}, since all cells share one pool; to try "
                    "another pool, make it a study of its own: 'set' at the top of the file, and another output"
                )
        return _no_sections(settings)


class GridConfig(Config):
    """Every combination of these."""

    arms: tuple[str, ...] = Field(min_length=1)
    mitigations: tuple[Mitigation, ...] = Field(default=("erm",), min_length=1)
    bias_ratios: tuple[float | None, ...] = Field(default=(None,), min_length=1)
    """null: as the recipe has it."""
    seeds: tuple[Seed, ...] = Field(default=(0,), min_length=1)
    variant: VariantConfig | None = None


class TuneConfig(Config):
    """Where each way of training chooses its rates, once for all bias ratios."""

    bias_ratio: float | None = None
    """null: as the recipe has it."""
    seeds: tuple[Seed, ...] = Field(min_length=1)


class StudyConfig(Config):
    """Everything that one study compares."""

    name: Name
    recipe: str
    """A built-in recipe, or a file beside the study's; its own ``compare`` has no part in the study."""
    output: str = Field(min_length=1)
    """A folder or a bucket's URL, where all results go."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Settings of the recipe, for all cells and the pool, by dotted key."""
    grids: tuple[GridConfig, ...] = Field(min_length=1)
    """Their union is what is trained: a cell that several ask for is one cell."""
    tune: TuneConfig | None = None
    """None: each cell chooses among the recipe's rates by itself."""
    lead: CellConfig | None = None
    """The way of training that the study sets out to test, named before its test accuracy is known."""
    skip_impossible: bool = False
    """Leave out combinations that cannot be trained, and list them, instead of refusing the study."""
    workers: PositiveInt | Literal["auto"] = "auto"
    """Stages that are trained at a time; ``auto`` is one per GPU, or without GPUs one per ``threads`` CPU cores."""
    threads: PositiveInt = 1
    """CPU threads of each. They belong to the results: another number changes low bits."""

    @field_validator("set")
    @classmethod
    def _not_its_own(cls, settings: dict[str, Any]) -> dict[str, Any]:
        for key in settings:
            if key.partition(".")[0] in _OWN:
                raise ValueError(f"{key}: the study itself says its {key.partition('.')[0]}")
        return _no_sections(settings)

    @model_validator(mode="after")
    def _variants_agree(self) -> Self:
        known: dict[str, Any] = {}
        for grid in self.grids:
            if grid.variant is not None and known.setdefault(grid.variant.name, grid.variant.set) != grid.variant.set:
                raise ValueError(f"variant {grid.variant.name} sets different things in two grids; name one otherwise")
        return self

    @model_validator(mode="after")
    def _lead_is_a_cell(self) -> Self:
        lead = self.lead
        if lead is not None and not any(
            lead.arm in grid.arms and lead.mitigation in grid.mitigations for grid in self.grids
        ):
            raise ValueError(f"lead: no grid has {lead.arm} × {lead.mitigation}")
        return self

    @property
    def variants(self) -> dict[str, Mapping[str, Any]]:
        """What each variant sets, by name; the recipe as it is has the empty name."""
        named = {grid.variant.name: grid.variant.set for grid in self.grids if grid.variant is not None}
        return {"": {}, **named}


@dataclass(frozen=True, slots=True)
class Way:
    """A way of training on one bias ratio: what the seeds of a cell share."""

    variant: str
    """Empty: the recipe as it is."""
    bias_ratio: float | None
    """None: of a dataset that has no such thing, or its own."""
    arm: str
    mitigation: Mitigation

    def __str__(self) -> str:
        ratio = [] if self.bias_ratio is None else [f"r {self.bias_ratio}"]
        return ", ".join([f"{self.arm} × {self.mitigation}", *ratio, *([self.variant] if self.variant else [])])


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of the study: a way of training, and a seed."""

    way: Way
    seed: int

    def __str__(self) -> str:
        return f"{self.way}, seed {self.seed}"


def cells_of(study: StudyConfig, own_ratio: float | None) -> tuple[Cell, ...]:
    """The cells that a study asks for, each once, in the order in which its grids first name them.

    ``own_ratio`` is the recipe's, which stands for a ratio that is not given. Seeds are innermost.
    """
    return _once(cell for grid in study.grids for cell in _cells_of_grid(grid, own_ratio))


def tuning_cells(study: StudyConfig, own_ratio: float | None) -> tuple[Cell, ...]:
    """The cells that rates are chosen by: each (variant, arm, mitigation) of the study on the ratio and seeds of ``tune``."""
    tune = study.tune
    if tune is None:
        return ()
    ratio = own_ratio if tune.bias_ratio is None else tune.bias_ratio
    ways = _once(Way(cell.way.variant, ratio, cell.way.arm, cell.way.mitigation) for cell in cells_of(study, own_ratio))
    return _once(Cell(way, seed) for way in ways for seed in tune.seeds)


def _cells_of_grid(grid: GridConfig, own_ratio: float | None) -> Iterator[Cell]:
    variant = "" if grid.variant is None else grid.variant.name
    for given in grid.bias_ratios:
        ratio = own_ratio if given is None else given
        for arm in grid.arms:
            for mitigation in grid.mitigations:
                for seed in grid.seeds:
                    yield Cell(Way(variant, ratio, arm, mitigation), seed)


def _once(values: Iterable[T]) -> tuple[T, ...]:
    return tuple(dict.fromkeys(values))


def overridden(recipe: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's keys and values with some of them set, by dotted key."""
    changed = copy.deepcopy(dict(recipe))
    for key, value in settings.items():
        *folders, last = key.split(".")
        place = changed
        for folder in folders:
            below = place.get(folder)
            if not isinstance(below, dict):
                below = place[folder] = {}
            place = below
        place[last] = copy.deepcopy(value)
    return changed


def load_study(path: str) -> tuple[StudyConfig, str, str]:
    """A study, its text, and the text of its recipe; from a file or a bucket, or by the name of a built-in one."""
    if path in builtin_studies() and not Path(path).is_file():
        text, folder = resources.files("ffr_dist").joinpath("studies", f"{path}.yaml").read_text(), ""
    else:
        try:
            text = read_text(path)
        except (OSError, UnicodeDecodeError, MissingError) as error:
            if path in builtin_recipes():
                raise ConfigError(f"{path} is a built-in recipe, not a study; run it with: ffr run {path}") from error
            raise ConfigError(
                f"study {path} cannot be read: {error}; give a file, or one of {', '.join(builtin_studies())}"
            ) from error
        folder = path.rpartition("/")[0] if "://" in path else str(Path(path).parent)
    refuse_secrets(text, path)
    data = read_mapping(text, path)
    if "method" in data and "grids" not in data:
        raise ConfigError(f"{path} is a recipe, not a study; run it with: ffr run {path}")
    study = from_data(StudyConfig, data, path)
    return study, text, load_recipe(_recipe_path(study.recipe, folder))[1]


def builtin_studies() -> list[str]:
    """Names of the studies that the package carries."""
    return sorted(
        entry.name.removesuffix(".yaml")
        for entry in resources.files("ffr_dist").joinpath("studies").iterdir()
        if entry.name.endswith(".yaml")
    )


def _recipe_path(recipe: str, folder: str) -> str:
    if "://" in recipe or not folder:
        return recipe
    beside = f"{folder}/{recipe}"
    if recipe in builtin_recipes() and ("://" in folder or not Path(beside).is_file()):
        return recipe
    return recipe if Path(recipe).is_absolute() else beside
