"""What a start has taken, in device time and money, and when it must end for it.

Time is measured on a clock that never jumps, and charged from the first tick on: a worker is paid for while it loads,
waits and fails too. The cost of an output is that of all its starts; each leaves its own in ``drivers/``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

_HOUR = 3600.0


class Limits(Protocol):
    """What the ledger reads of ``recipe.generate``."""

    @property
    def gpus_per_worker(self) -> float: ...
    @property
    def price_per_gpu_hour(self) -> float | None: ...
    @property
    def max_cost(self) -> float | None: ...
    @property
    def max_hours(self) -> float | None: ...


class Ledger:
    """Charges device time as it passes. ``tick`` it whenever workers come or go, and every second or so between.

    ``gpus`` says whether workers hold GPUs; without any, each worker is charged as one.
    """

    def __init__(
        self,
        limits: Limits,
        spent_before: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        *,
        gpus: bool = True,
    ) -> None:
        self.elsewhere = spent_before
        """Cost of all other starts of this output; may be set anew where another driver is at work too."""
        self._limits = limits
        self._clock = clock
        self._share = limits.gpus_per_worker if gpus else 1.0
        self._began = self._last = clock()
        self._workers = 0
        self._device_seconds = 0.0

    def tick(self, workers: int) -> None:
        """Charge the time since the last tick, with the ``workers`` there are now."""
        now = self._clock()
        # Whoever came or went in between did so at an unknown moment: charge as for the longest possible stay.
        self._device_seconds += (now - self._last) * max(workers, self._workers) * self._share
        self._last, self._workers = now, workers

    @property
    def device_seconds(self) -> float:
        """Of this start, until the last tick."""
        return self._device_seconds

    @property
    def cost(self) -> float | None:
        """Of this start, until the last tick; None without a price."""
        price = self._limits.price_per_gpu_hour
        return None if price is None else self._device_seconds / _HOUR * price

    @property
    def total_cost(self) -> float | None:
        """Of all starts of the output; None without a price."""
        return None if self.cost is None else self.elsewhere + self.cost

    @property
    def max_cost(self) -> float | None:
        return self._limits.max_cost

    def over(self, ahead_s: float = 0.0) -> str | None:
        """The limit that is reached, or would be if the workers there are went on for ``ahead_s``; None: go on.

        Ask with the time that what is in flight still takes to know when to hand out no more, and without it to know
        when to drop even that.
        """
        limits = self._limits
        if limits.max_hours is not None and self._clock() - self._began + ahead_s >= limits.max_hours * _HOUR:
            return f"generate.max_hours is reached: this start may take {limits.max_hours:g} h"
        total, price = self.total_cost, limits.price_per_gpu_hour
        if limits.max_cost is None or total is None or price is None:
            return None
        if total + ahead_s * self._workers * self._share / _HOUR * price >= limits.max_cost:
            return (
                f"generate.max_cost is reached: all starts of this output together have cost {total:.2f} of "
                f"{limits.max_cost:g}, so raise it in the recipe before going on"
            )
        return None
