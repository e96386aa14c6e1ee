"""The whole recipe: one file that says what is generated, trained and compared.

Composed of the rooms' own configs; only this module, ``launch`` and ``cli`` see it whole.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from ffr_dist.config import Config, Name, Seed, digest, flatten, from_data, read_mapping
from ffr_dist.datasets import DataConfig
from ffr_dist.errors import ConfigError, ConflictError, MissingError
from ffr_dist.evaluate.audit.config import AuditConfig
from ffr_dist.generate.keep import KeepConfig
from ffr_dist.groups import Groups
from ffr_dist.methods import Method, MethodConfig, build
from ffr_dist.read.config import ReadConfig
from ffr_dist.shards.codec import CodecConfig
from ffr_dist.store import Mine, Store, Theirs, open_store
from ffr_dist.store.config import StoreConfig
from ffr_dist.train.stage import Mitigation, TrainConfig

KEY = "recipe.yaml"


class GenerateConfig(Config):
    """How the pool is made."""

    batch: PositiveInt = 32
    """Images sampled at once. It belongs to the pixels: another batch shape changes low bits."""
    images_per_shard: PositiveInt = 256
    keep: KeepConfig = KeepConfig()
    workers: PositiveInt | Literal["auto"] = "auto"
    """Actors; ``auto`` is one per GPU, or without GPUs one per ``threads`` CPU cores."""
    threads: PositiveInt = 1
    """CPU threads of each worker's sampler."""
    images_per_second: PositiveFloat | None = None
    """Rate of one worker where it is known; ``ffr plan`` computes the time from it."""
    gpus_per_worker: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """Where there are GPUs: 0.5 puts two workers on each."""
    place: Mapping[str, str] = Field(default_factory=dict)
    """Labels of the Ray nodes that workers may run on, such as ``ray.io/accelerator-type: H100``."""
    price_per_gpu_hour: PositiveFloat | None = None
    """What a worker's whole GPU costs an hour (without GPUs: a worker), in any currency."""
    max_cost: PositiveFloat | None = None
    """Stop, resumably, before this output has cost more, over all its starts; needs the price."""
    max_hours: PositiveFloat | None = None
    """Stop, resumably, this long after a start."""

    @model_validator(mode="after")
    def _priced(self) -> Self:
        if self.max_cost is not None and self.price_per_gpu_hour is None:
            raise ValueError("max_cost needs price_per_gpu_hour")
        return self


class CellConfig(Config):
    """One way of training that is compared."""

    arm: str
    mitigation: Mitigation = "erm"


class CompareConfig(Config):
    """What is trained and compared."""

    cells: tuple[CellConfig, ...] = Field(min_length=1)
    seeds: tuple[Seed, ...] = Field(default=(0,), min_length=1)
    lead: CellConfig | None = None
    """The cell that the comparison sets out to test, named before its test accuracy is known."""

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        for what, values in (("cells", self.cells), ("seeds", self.seeds)):
            if len(set(values)) != len(values):
                raise ValueError(f"{what} lists something twice")
        if self.lead is not None and self.lead not in self.cells:
            raise ValueError("lead is not one of the cells")
        return self


class Recipe(Config):
    """Everything that one run does."""

    name: Name
    seed: Seed = 0
    output: str = Field(min_length=1)
    """A folder or a bucket's URL, where all results go."""
    storage: StoreConfig = StoreConfig()
    """How that bucket is reached; it has no part in what is made."""
    data: DataConfig = Field(discriminator="kind")
    size: PositiveInt
    """Height and width of all images, real and synthetic."""
    codec: CodecConfig = CodecConfig()
    method: MethodConfig
    generate: GenerateConfig = GenerateConfig()
    audit: AuditConfig = AuditConfig()
    read: ReadConfig = ReadConfig()
    """How training reads its sets."""
    train: TrainConfig
    compare: CompareConfig


def load_recipe(path: str) -> tuple[Recipe, str]:
    """A recipe and its text, from a file, by the name of a built-in one, or from a bucket: an output's own copy."""
    if path in builtin_recipes() and not Path(path).is_file():  # a folder of that name is its output
        text = builtin_text(path)
    else:
        try:
            text = read_text(path)
        except (OSError, UnicodeDecodeError, MissingError) as error:
            if resources.files("ffr_dist").joinpath("studies", f"{path}.yaml").is_file():
                raise ConfigError(f"{path} is a built-in study, not a recipe; run it with: ffr study {path}") from error
            raise ConfigError(
                f"recipe {path} cannot be read: {error}; give a file, or one of {', '.join(builtin_recipes())}"
            ) from error
    refuse_secrets(text, path)
    data = read_mapping(text, path)
    if "grids" in data:
        raise ConfigError(f"{path} is a study, not a recipe; run it with: ffr study {path}")
    return from_data(Recipe, data, path), text


def read_text(path: str) -> str:
    """The text of a file, or of an object in a bucket."""
    if "://" not in path:
        return Path(path).read_text()
    folder, _, name = path.rpartition("/")
    return open_store(folder, create=False).get(name).decode()


_SECRET = re.compile(
    r"://[^/@\s]+:[^/@\s]+@|[?&](sig|signature|token|key|x-(amz|goog)-(signature|credential|security-token))=",
    re.IGNORECASE,
)


def refuse_secrets(text: str, path: str) -> None:
    """A recipe is copied into its output and into reports: it must not carry a password or a signature."""
    if _SECRET.search(text):
        raise ConfigError(
            f"{path} holds a URL with a password or a signature; leave credentials to the environment (AWS_*, GOOGLE_*, AZURE_*)"
        )


def builtin_recipes() -> list[str]:
    """Names of the recipes that the package carries."""
    return sorted(
        entry.name.removesuffix(".yaml")
        for entry in resources.files("ffr_dist").joinpath("recipes").iterdir()
        if entry.name.endswith(".yaml")
    )


def builtin_text(name: str) -> str:
    """The text of a built-in recipe."""
    if name not in builtin_recipes():
        raise ConfigError(f"no built-in recipe {name!r}; there are {', '.join(builtin_recipes())}")
    return resources.files("ffr_dist").joinpath("recipes", f"{name}.yaml").read_text()


def build_method(recipe: Recipe, groups: Groups) -> Method:
    """The recipe's method for the groups of its training split, checked."""
    method = build(recipe.method, groups=groups, seed=recipe.seed, size=recipe.size, training=recipe.train)
    method.check()
    for cell in recipe.compare.cells:
        if cell.arm not in method.arms:
            raise ConfigError(
                f"compare.cells: {method.name} has no arm {cell.arm!r}; it knows {', '.join(method.arms)}"
            )
    return method


def pixel_fields(recipe: Recipe, method: Method) -> dict[str, Any]:
    """The declared settings that determine the pixels of the pool."""
    return {
        "seed": recipe.seed,
        "size": recipe.size,
        "codec": recipe.codec.model_dump(mode="json"),
        "batch": recipe.generate.batch,
        "method": {"name": method.name, **method.pixel_fields()},
    }


def pixel_hash(fields: Mapping[str, Any]) -> str:
    """Guards an output folder: images of different settings never mix in one pool."""
    return digest(dict(fields))


def claim_output(store: Store, text: str, fields: Mapping[str, Any]) -> None:
    """Write the recipe into the output first of all; refuse an output that holds other pixels, naming what differs."""
    body = _with_fields(text, fields)
    outcome = store.put_if_absent(KEY, body)
    if isinstance(outcome, Mine):
        return
    theirs = _fields_of(outcome, store)
    mine = flatten(dict(fields))
    other = flatten(theirs)
    differing = sorted(key for key in mine.keys() | other.keys() if mine.get(key) != other.get(key))
    if differing:
        raise ConflictError(
            f"{store.url} holds images of other settings; these keys differ: {', '.join(differing)}. "
            "Write to another folder (--out), or restore the settings"
        )


_MARK = "# The settings that determine the images, as the output was claimed with them:\n# pixels: "


def _with_fields(text: str, fields: Mapping[str, Any]) -> bytes:
    return f"{text.rstrip()}\n\n{_MARK}{json.dumps(dict(fields), sort_keys=True)}\n".encode()


def _fields_of(outcome: Theirs, store: Store) -> dict[str, Any]:
    _, mark, rest = outcome.body.decode(errors="replace").rpartition(_MARK)
    try:
        found = json.loads(rest) if mark else None
    except json.JSONDecodeError:
        found = None
    if not isinstance(found, dict):
        raise ConflictError(f"{store.url}/{KEY} was not written by this program; write to another folder (--out)")
    return found
