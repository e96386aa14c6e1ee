"""The frozen base of all configurations, and the way from text to one of them.

Each room keeps its own config beside the code that reads it; ``recipe`` composes them. A key that no config knows is
an error that names the nearest one, because a misspelt setting that is silently ignored costs a night of GPU time.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import types
import typing
from collections.abc import Sequence
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from ffr_dist.errors import ConfigError


class Config(BaseModel):
    """Frozen, closed to unknown keys, and strict about types (a number in quotes is not a number)."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, validate_default=True)


C = TypeVar("C", bound=Config)


def matching(pattern: str, wanted: str) -> AfterValidator:
    """Of a string that must be of this pattern; ``wanted`` says in words what to write."""

    def check(text: str) -> str:
        if re.fullmatch(pattern, text) is None:
            raise ValueError(wanted)
        return text

    return AfterValidator(check)


Name = Annotated[
    str,
    matching(r"[a-z0-9]+(-[a-z0-9]+)*", "write small letters and digits, in words joined by '-', as in my-run-2"),
]
"""What a file calls itself."""
Seed = Annotated[int, Field(ge=0, lt=2**63)]
"""As :mod:`ffr_dist.seeds` makes them."""


def parse(model: type[C], text: str, source: str) -> C:
    """Read YAML (or JSON) into ``model``; every mistake of it is told at once, by key, as a ConfigError."""
    return from_data(model, read_mapping(text, source), source)


def read_mapping(text: str, source: str) -> dict[str, Any]:
    """The keys and values of YAML (or JSON), each key once; else ConfigError."""
    try:
        data = yaml.load(text, _EachKeyOnce)  # noqa: S506 - it is a SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: as of the date 2024-13-01
        raise ConfigError(f"{source} is not YAML: {error}") from error
    if not isinstance(data, dict):
        raise ConfigError(f"{source} must hold keys and values, as in 'seed: 0'")
    return data


def from_data(model: type[C], data: dict[str, Any], source: str) -> C:
    """As :func:`parse`, for data that is already a mapping."""
    try:
        # Through JSON, where strict mode still takes a list for a tuple.
        text = json.dumps(data)
    except (TypeError, ValueError, RecursionError) as error:  # ValueError: an alias inside what it stands for
        raise ConfigError(f"{source}: {error}; write plain strings, numbers, lists and mappings") from error
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        lines = _explain(model, error.errors())
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


class _EachKeyOnce(yaml.SafeLoader):
    """Refuses a key that is given twice, of which YAML's own loader takes the last without a word."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in lines:
                told = f"the key {key.value!r} is given twice, first in line {lines[key.value]}; leave one out"
                raise yaml.MarkedYAMLError(problem=told, problem_mark=key.start_mark)
            lines[key.value] = key.start_mark.line + 1
        return node


_PLAIN = {
    **dict.fromkeys(("tuple_type", "list_type"), "input should be a list, as in [a, b]"),
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type"), "input should be keys and values"),
    **dict.fromkeys(("too_short", "string_too_short"), "input should not be empty"),
}
"""What pydantic says in words that are not YAML's, by kind of mistake."""


def _explain(model: type[Config], details: Sequence[Any]) -> list[str]:
    told: dict[str, list[str]] = {}
    shown: dict[str, str] = {}
    for detail in details:
        place = detail["loc"]
        # A list whose items are wrong is not empty: pydantic counts the good ones.
        if detail["type"] == "too_short" and any(
            other["loc"][: len(place)] == place and len(other["loc"]) > len(place) for other in details
        ):
            continue
        key, message = _mistake(model, detail)
        given = detail.get("input")
        shown[key] = f" (got {given!r})" if isinstance(given, str | int | float | bool) or given is None else ""
        told.setdefault(key, []).append(message)
    return [_line(key, messages, shown[key]) for key, messages in told.items()]


def _mistake(model: type[Config], detail: Any) -> tuple[str, str]:
    """The key, and what is wrong with it."""
    location, kind = detail["loc"], detail["type"]
    key = ".".join(_lead(model, location)[0])
    if kind == "extra_forbidden":
        keys, configs = _lead(model, location[:-1])
        key = ".".join([*keys, str(location[-1])])
        names = sorted({name for config in configs for name in config.model_fields})
        near = difflib.get_close_matches(str(location[-1]), names, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(names) or 'nothing'}"
        return key, f"unknown key; {hint}"
    if kind == "missing":
        return key, "missing; it has no default"
    if kind == "union_tag_not_found":
        return f"{key}.{detail['ctx']['discriminator'][1:-1]}", "missing; it has no default"
    if kind == "union_tag_invalid":
        context = detail["ctx"]
        return f"{key}.{context['discriminator'][1:-1]}", f"{context['tag']!r} is none of {context['expected_tags']}"
    message = _PLAIN.get(kind, str(detail["msg"]).removeprefix("Value error, "))
    return key, f"{message[0].lower()}{message[1:]}"


def _line(key: str, messages: Sequence[str], shown: str) -> str:
    """Several messages of one key are of a union: each says what a branch of it would take."""
    first, *others = messages
    told = " or ".join([first, *(other.removeprefix("input should be ") for other in others)])
    return f"{key}: {told}{shown}" if key else f"{told}{shown}"


def _lead(model: type[Config], location: tuple[Any, ...]) -> tuple[list[str], list[type[Config]]]:
    """The keys that lead to a place, as the user wrote them, and the configs that may stand there."""
    keys: list[str] = []
    here: list[type[Config]] = [model]
    at_branch = False
    for part in location:
        if at_branch:  # pydantic's own name of one of a union's types
            at_branch = False
            continue
        fields = [config.model_fields[part] for config in here if part in config.model_fields]
        # A union's tag is a part of pydantic's location, but no key.
        tagged = [] if fields else [config for config in here if _is_tag(config, part)]
        if not tagged:
            keys.append(str(part))
        at_branch = any(_branches(field.annotation) for field in fields)
        below = [config for field in fields for config in configs_in(field.annotation)]
        # Neither field nor tag: the place of a list or the key of a mapping, which leads to what is here already.
        here = below if fields else tagged or here
    return keys, here


def _is_tag(config: type[Config], part: Any) -> bool:
    return any(part in typing.get_args(field.annotation) for field in config.model_fields.values())


def _branches(annotation: Any) -> bool:
    """Whether pydantic puts a type of this annotation into the location: no config, and not just one type or None."""
    if typing.get_origin(annotation) not in {typing.Union, types.UnionType} or configs_in(annotation):
        return False
    return len([part for part in typing.get_args(annotation) if part is not types.NoneType]) > 1


def configs_in(annotation: Any) -> list[type[Config]]:
    """The configs that may stand where a field has this type."""
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return [annotation] if issubclass(annotation, Config) else []
    return [config for part in typing.get_args(annotation) for config in configs_in(part)]
