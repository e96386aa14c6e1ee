"""How fast a generation goes and how far it is, told as events."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from ffr_dist.generate.driver import Driver
from ffr_dist.generate.work import BatchDone, Receipt
from ffr_dist.launch.events import Generating, Tell


@dataclass(slots=True)
class Meter:
    """Rate and progress of one start, told as events."""

    driver: Driver
    tell: Tell
    workers: int
    _began: float | None = None
    _candidates: int = 0
    _open: dict[int, tuple[int, int]] = field(default_factory=dict)

    def batch(self, done: BatchDone) -> None:
        """A batch was made."""
        now = time.monotonic()
        if self._began is None:
            self._began = now  # what loaded and warmed up before is not the rate
        else:
            self._candidates += done.candidates
        tried, kept = self._open.get(done.interval, (0, 0))
        self._open[done.interval] = (tried + done.candidates, kept + done.accepted)
        self.show()

    def receipt(self, receipt: Receipt) -> None:
        """An interval is decided: its images are counted by the driver now."""
        self._open.pop(receipt.commit.interval, None)
        self.show()

    def show(self) -> None:
        """Tell how far it is."""
        progress = self.driver.progress()
        elapsed = 0.0 if self._began is None else time.monotonic() - self._began
        rate = self._candidates / elapsed if self._candidates and elapsed > 0 else None
        missing = sum(max(0, group.quota - group.accepted) for group in progress.groups.values())
        missing -= sum(kept for _, kept in self._open.values())
        self.tell(
            Generating(
                round=progress.round,
                quota={name: group.quota for name, group in progress.groups.items()},
                accepted={name: group.accepted for name, group in progress.groups.items()},
                tried={name: group.tried for name, group in progress.groups.items()},
                in_flight=sum(kept for _, kept in self._open.values()),
                planned=progress.planned,
                committed=progress.decided,
                workers=self.workers,
                images_per_second=rate,
                eta_s=None if rate is None else max(0, missing) / rate,
            )
        )
