"""The JSON objects of an output: dataclasses to canonical bytes and, strictly, back.

Each carries ``protocol``. A document of another protocol is refused, not guessed at; one that does not hold exactly
the declared fields with the declared types is damaged.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic_core import from_json, to_json

from ffr_dist.errors import BrokenError, ConfigError, ConflictError
from ffr_dist.records import PROTOCOL

T = TypeVar("T")

CLOSED = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
"""Goes into ``__pydantic_config__`` of each document class."""

Count = Annotated[int, Field(ge=0, lt=1 << 63)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


def to_bytes(document: Any) -> bytes:
    """A document as JSON that is equal for equal values: sorted keys, one line each, a final newline."""
    values = _adapter(type(document)).dump_python(document, mode="json")
    text = json.dumps({"protocol": PROTOCOL, **values}, sort_keys=True, indent=1, ensure_ascii=True, allow_nan=False)
    return f"{text}\n".encode()


def from_bytes(kind: type[T], body: bytes, source: str) -> T:
    """Read a document; ``source`` (its key) is named in errors."""
    try:
        data = from_json(body)
    except ValueError as error:
        raise BrokenError(f"{source} is not JSON ({error}); restore it or use another output") from error
    if not isinstance(data, dict) or "protocol" not in data:
        raise BrokenError(f"{source} is not a document of this program: it states no protocol; restore or remove it")
    protocol = data.pop("protocol")
    if protocol != PROTOCOL or isinstance(protocol, bool):
        raise ConflictError(
            f"{source} was written by protocol {protocol!r}, this version reads {PROTOCOL}; "
            "use the version that wrote it, or another output"
        )
    try:
        # Through JSON, where strict mode still takes a list for a tuple.
        document: T = _adapter(kind).validate_json(to_json(data))
    except (ValidationError, ConfigError, ValueError, RecursionError) as error:
        raise BrokenError(f"{source} is damaged: {_first_line(error)}; restore it or use another output") from error
    return document


_adapters: dict[type[Any], TypeAdapter[Any]] = {}


def _adapter(kind: type[Any]) -> TypeAdapter[Any]:
    if kind not in _adapters:
        _adapters[kind] = TypeAdapter(kind)
    return _adapters[kind]


def _first_line(error: Exception) -> str:
    if isinstance(error, ValidationError):
        detail = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in detail["loc"])
        return f"{where}: {detail['msg']}" if where else str(detail["msg"])
    return str(error)
