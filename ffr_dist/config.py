"""The frozen base of all configurations, and the way from text to one of them.

Each room keeps its own config beside the code that reads it; ``recipe`` composes them. A key that no config knows is
an error that names the nearest one, because a misspelt setting that is silently ignored costs a night of GPU time.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import types
import typing
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from ffr_dist.errors import ConfigError


class Config(BaseModel):
    """Frozen, closed to unknown keys, and strict about types (a number in quotes is not a number)."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, validate_default=True)


C = TypeVar("C", bound=Config)


def parse(model: type[C], text: str, source: str) -> C:
    """Read YAML (or JSON) into ``model``; every mistake of it is told at once, by key, as a ConfigError."""
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{source} is not YAML: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{source} must hold keys and values, as in 'seed: 0'")
    return from_data(model, data, source)


def from_data(model: type[C], data: dict[str, Any], source: str) -> C:
    """As :func:`parse`, for data that is already a mapping."""
    try:
        # Through JSON, where strict mode still takes a list for a tuple.
        return model.model_validate_json(json.dumps(data))
    except TypeError as error:
        raise ConfigError(f"{source}: {error}; write plain strings, numbers, lists and mappings") from error
    except ValidationError as error:
        lines = [_explain(model, detail) for detail in error.errors()]
        raise ConfigError("\n".join([f"{source} cannot be used:", *(f"  {line}" for line in lines)])) from error


def digest(value: Any, length: int = 64) -> str:
    """Hex sha256 of a JSON value in canonical form; the same for equal values in any process."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def flatten(data: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one mapping of dotted keys."""
    if not isinstance(data, dict) or not data:
        return {prefix: data}
    flat: dict[str, Any] = {}
    for key, value in data.items():
        flat.update(flatten(value, f"{prefix}.{key}" if prefix else str(key)))
    return flat


def _explain(model: type[Config], detail: Any) -> str:
    location = detail["loc"]
    key = ".".join(_lead(model, location)[0]) or "recipe"
    if detail["type"] == "extra_forbidden":
        keys, configs = _lead(model, location[:-1])
        key = ".".join([*keys, str(location[-1])])
        names = sorted({name for config in configs for name in config.model_fields})
        near = difflib.get_close_matches(str(location[-1]), names, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(names) or 'nothing'}"
        return f"{key}: unknown key; {hint}"
    if detail["type"] == "missing":
        return f"{key}: missing; it has no default"
    message = str(detail["msg"]).removeprefix("Value error, ")
    given = detail.get("input")
    shown = f" (got {given!r})" if isinstance(given, str | int | float | bool) or given is None else ""
    return f"{key}: {message[0].lower()}{message[1:]}{shown}"


def _lead(model: type[Config], location: tuple[Any, ...]) -> tuple[list[str], list[type[Config]]]:
    """The keys that lead to a place, as the user wrote them, and the configs that may stand there."""
    keys: list[str] = []
    here: list[type[Config]] = [model]
    for part in location:
        fields = [config.model_fields[part] for config in here if part in config.model_fields]
        # A union's tag is a part of pydantic's location, but no key.
        tagged = [] if fields else [config for config in here if _is_tag(config, part)]
        if not tagged:
            keys.append(str(part))
        below = [config for field in fields for config in _configs_in(field.annotation)]
        # Neither field nor tag: the place of a list or the key of a mapping, which leads to what is here already.
        here = below if fields else tagged or here
    return keys, here


def _is_tag(config: type[Config], part: Any) -> bool:
    return any(part in typing.get_args(field.annotation) for field in config.model_fields.values())


def _configs_in(annotation: Any) -> list[type[Config]]:
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return [annotation] if issubclass(annotation, Config) else []
    return [config for part in typing.get_args(annotation) for config in _configs_in(part)]
