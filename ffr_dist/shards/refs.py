"""Objects named together with what they must hold, and reading them with that check."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from ffr_dist.errors import BrokenError, MissingError
from ffr_dist.shards.documents import Count, Sha256
from ffr_dist.store import Store

A = TypeVar("A")
B = TypeVar("B")


@dataclass(frozen=True, slots=True)
class ObjectRef:
    """An object by key, with what it must hold."""

    key: str
    sha256: Sha256
    bytes: Count


def fetch(store: Store, ref: ObjectRef) -> bytes:
    """The named object's bytes; BrokenError where it is gone or not what it must be."""
    try:
        body = store.get(ref.key)
    except MissingError as error:
        raise BrokenError(f"{ref.key} is missing; restore it") from error
    if len(body) != ref.bytes:
        raise BrokenError(f"{ref.key} has {len(body)} bytes instead of {ref.bytes}; restore it")
    if hashlib.sha256(body).hexdigest() != ref.sha256:
        raise BrokenError(f"{ref.key} does not have the sha256 it was stored with; restore it")
    return body


def confirm(store: Store, ref: ObjectRef) -> None:
    """As :func:`fetch`, from the object's length alone."""
    try:
        size = store.head(ref.key).size
    except MissingError as error:
        raise BrokenError(f"{ref.key} is missing; restore it") from error
    if size != ref.bytes:
        raise BrokenError(f"{ref.key} has {size} bytes instead of {ref.bytes}; restore it")


def in_order(function: Callable[[A], B], items: Iterable[A], ahead: int) -> Generator[B, None, None]:
    """``map`` in ``ahead`` threads that never runs more than ``ahead`` results ahead of its reader."""
    with ThreadPoolExecutor(ahead) as pool:
        waiting: deque[Future[B]] = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
