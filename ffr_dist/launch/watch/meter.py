"""How fast a generation goes and how far it is, told as events."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from ffr_dist.generate.driver import Driver
from ffr_dist.generate.work import BatchDone, Receipt
from ffr_dist.launch.events import Generating, Tell
from ffr_dist.launch.watch.ledger import Ledger

_SHOW_EVERY_S = 0.2
"""Batches of a large fleet come by the thousand a second; nobody reads so fast."""
_WINDOW_S = 120.0
_SLOTS = 24
"""Parts of the window: what is kept does not grow with the number of batches."""
_RECEIVED = 10_000


@dataclass(slots=True)
class _Slot:
    began: float
    candidates: int = 0
    idle_s: float = 0.0
    busy_s: float = 0.0


@dataclass(slots=True)
class Meter:
    """Rate and progress of one start, told as events. ``workers`` is set as they come and go."""

    driver: Driver
    tell: Tell
    workers: int
    ledger: Ledger | None = None
    clock: Callable[[], float] = time.monotonic
    _slots: deque[_Slot] = field(default_factory=lambda: deque(maxlen=_SLOTS))
    _open: dict[int, tuple[int, int]] = field(default_factory=dict)
    _received: dict[int, None] = field(default_factory=dict)
    """The latest decided intervals, in their order."""
    _shown: float | None = None

    def batch(self, done: BatchDone) -> None:
        """A batch was made."""
        now = self.clock()
        if not self._slots:
            self._slots.append(_Slot(now))  # what loaded and warmed up before is not the rate
        else:
            if now - self._slots[-1].began >= _WINDOW_S / _SLOTS:
                self._slots.append(_Slot(now))
            slot = self._slots[-1]
            slot.candidates += done.candidates
            slot.idle_s += done.idle_s
            slot.busy_s += done.sample_s
        if done.interval not in self._received:  # news of batches may come behind the receipt
            tried, kept = self._open.get(done.interval, (0, 0))
            self._open[done.interval] = (tried + done.candidates, kept + done.accepted)
        self._show_at_times(now)

    def receipt(self, receipt: Receipt) -> None:
        """An interval is decided: its images are counted by the driver now."""
        self._open.pop(receipt.commit.interval, None)
        self._received[receipt.commit.interval] = None
        if len(self._received) > _RECEIVED:
            self._received.pop(next(iter(self._received)))
        self._show_at_times(self.clock())

    def dropped(self, interval: int) -> None:
        """An attempt came to nothing: what it had kept is gone."""
        self._open.pop(interval, None)

    def show(self) -> None:
        """Tell how far it is, now."""
        self._shown = self.clock()
        progress = self.driver.progress()
        rate = self._rate(self._shown)
        kept = sum(kept for _, kept in self._open.values())
        rejected: Counter[str] = Counter()
        for group in progress.groups.values():
            rejected.update(group.rejected)
        # At the acceptance of each group so far, by the planner's formula; at 1 before there is any.
        missing = sum(
            max(0, group.quota - group.accepted) * ((group.tried + 2) / (group.accepted + 1) if group.tried else 1)
            for group in progress.groups.values()
        )
        missing -= sum(tried for tried, _ in self._open.values())
        idle, busy = sum(slot.idle_s for slot in self._slots), sum(slot.busy_s for slot in self._slots)
        ledger = self.ledger
        self.tell(
            Generating(
                round=progress.round,
                quota={name: group.quota for name, group in progress.groups.items()},
                accepted={name: group.accepted for name, group in progress.groups.items()},
                tried={name: group.tried for name, group in progress.groups.items()},
                rejected=dict(rejected),
                in_flight=kept,
                planned=progress.planned,
                committed=progress.decided,
                workers=self.workers,
                images_per_second=rate,
                idle_share=idle / (idle + busy) if idle + busy else None,
                eta_s=None if not rate else max(0.0, missing) / rate,
                device_seconds=0.0 if ledger is None else ledger.device_seconds,
                cost=None if ledger is None else ledger.total_cost,
                max_cost=None if ledger is None else ledger.max_cost,
            )
        )

    def _show_at_times(self, now: float) -> None:
        if self._shown is None or now - self._shown >= _SHOW_EVERY_S:
            self.show()

    def _rate(self, now: float) -> float | None:
        """Candidates a second over the window, which ends now: a fleet that stands still slows down in it."""
        while len(self._slots) > 1 and now - self._slots[1].began >= _WINDOW_S:
            self._slots.popleft()
        candidates = sum(slot.candidates for slot in self._slots)
        elapsed = now - self._slots[0].began if self._slots else 0.0
        return candidates / elapsed if candidates and elapsed > 0 else None
