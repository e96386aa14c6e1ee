"""The processes that train together: which of them this is, and how they come to agree.

A process alone is a world of one: nothing is sent.
"""

from __future__ import annotations

import atexit
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import reduce
from torch import distributed

from ffr_dist.errors import FFRError

T = TypeVar("T")

PATIENCE = timedelta(seconds=45)
"""How long a process that trains waits for another: where one is not heard of, the others end within this time."""

_PATIENCE_WITH_MAIN = timedelta(hours=12)
"""While the main process does something alone, as importing a set. That it died is noticed at once all the same."""


class ElsewhereError(FFRError):
    """The main process raised an error, and tells it; the others stop with its exit code."""

    def __init__(self, exit_code: int) -> None:
        super().__init__("the main process stopped, and has told why")
        self.exit_code = exit_code


@dataclass(frozen=True, slots=True)
class World:
    rank: int
    size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes and tells."""
        return self.rank == 0

    def share(self, count: int) -> range:
        """This process's part of ``count`` things in order; the parts differ by at most one."""
        return range(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """The sum of every process's ``values``, which are of one shape and type; on the CPU."""
        if self.size == 1:
            return values.cpu()
        total: torch.Tensor = reduce(values.to(self.device), "sum")
        return total.cpu()

    def by_main(self, act: Callable[[], T]) -> T:
        """What ``act`` answers in the main process, in all of them; the others wait. An error of it stops all."""
        if self.size == 1:
            return act()
        if not self.is_main:
            told: T = _told()
            return told
        try:
            answer = act()
        except Exception as error:
            _tell(None, error.exit_code if isinstance(error, FFRError) else FFRError.exit_code)
            raise
        _tell(answer, None)
        return answer

    def meet(self) -> None:
        """Wait for all, however long it takes them to open their sets and weights."""
        if self.size > 1:
            distributed.barrier(group=_by_word_of_mouth())

    def main_first(self, act: Callable[[], T]) -> T:
        """``act`` in each process, in the main one before the others: what it writes is there when they come."""
        if not self.is_main:
            self.by_main(lambda: None)
            return act()
        answers: list[T] = []
        self.by_main(lambda: answers.append(act()))
        return answers[0]


def _tell(answer: Any, exit_code: int | None) -> None:
    distributed.broadcast_object_list([answer, exit_code], src=0, group=_by_word_of_mouth())


def _told() -> Any:
    heard: list[Any] = [None, None]
    distributed.broadcast_object_list(heard, src=0, group=_by_word_of_mouth())
    answer, exit_code = heard
    if exit_code is not None:
        raise ElsewhereError(exit_code)
    return answer


def world() -> World:
    """The world that the environment describes (``accelerate launch``, ``torchrun``); joins it at the first call."""
    state = PartialState(cpu=not torch.cuda.is_available(), timeout=PATIENCE)
    if state.num_processes > 1:
        _by_word_of_mouth()  # made by all at once
    return World(state.process_index, state.num_processes, state.device)


@cache
def _by_word_of_mouth() -> Any:
    """The same processes with more patience, on the CPU."""
    atexit.register(_leave)
    return distributed.new_group(backend="gloo", timeout=_PATIENCE_WITH_MAIN)


def _leave() -> None:
    """Take leave of the other processes, or a thread of the group may abort this one at its end."""
    _by_word_of_mouth.cache_clear()
    PartialState().destroy_process_group()
