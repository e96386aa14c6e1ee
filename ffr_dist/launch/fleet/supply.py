"""A driver as those who run it see it: alone or beside others, for the whole or for the pilot only."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from ffr_dist.generate.driver import Driver, Finished
from ffr_dist.generate.work import Work
from ffr_dist.plan.rounds import Unfillable, Wait
from ffr_dist.shards.commit import Commit

_RELIST_S = 2.0


@dataclass(frozen=True, slots=True)
class Piloted:
    """The pilot is decided, and no more was asked for."""


End = Finished | Unfillable | Piloted


class Supply:
    """``joined``: whether others commit too, so that the store is listed again before intervals go out, at most every
    other second.

    ``pilot``: ends with :class:`Piloted` once round 0 is decided.
    """

    def __init__(
        self,
        driver: Driver,
        *,
        joined: Callable[[], bool] = lambda: False,
        pilot: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._driver = driver
        self._joined = joined
        self._pilot = pilot
        self._clock = clock
        self._listed = clock()

    def next(self) -> Work | Wait | End:
        if self._joined() and self._clock() - self._listed >= _RELIST_S:
            self._driver.refresh()
            self._listed = self._clock()
        step = self._driver.next()
        if not self._pilot or not isinstance(step, Work):
            return step
        if step.round.number == 0:
            return step
        self._driver.lost(step.interval)  # it is not the pilot's
        return Piloted() if self._driver.piloted else Wait(0)

    def lost(self, interval: int) -> None:
        self._driver.lost(interval)

    def committed(self, commit: Commit) -> None:
        self._driver.committed(commit)

    def abandon(self, interval: int, reason: str) -> Commit:
        return self._driver.abandon(interval, reason)
