"""How far a run is, and how fast it goes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ffr_dist.train.task import Score


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Told every ``log_every`` steps, and after each validation."""

    task: str
    step: int
    steps: int
    loss: float
    lr: float
    images_per_second: float | None = None
    """Of all processes together, since the last log line; validations do not count."""
    eta_s: float | None = None
    """At the pace of this start so far, validations and all."""
    score: Score | None = None


class Pace:
    """Measures a start from ``step`` on."""

    def __init__(self, step: int, steps: int) -> None:
        self._first, self._steps = step, steps
        self._began = self._since = time.monotonic()
        self._paused = 0.0

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Within, time does not count against the rate."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._paused += time.monotonic() - began

    def rate(self, images: float) -> float | None:
        """Images a second, ``images`` of them since this was asked last."""
        now = time.monotonic()
        seconds = now - self._since - self._paused
        self._since, self._paused = now, 0.0
        return images / seconds if seconds > 0 else None

    def eta_s(self, step: int) -> float | None:
        done = step - self._first
        return (time.monotonic() - self._began) / done * (self._steps - step) if done else None
