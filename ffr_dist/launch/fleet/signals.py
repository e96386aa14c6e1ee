"""Ctrl-C and SIGTERM (a preemption notice, ``ray job stop``): the same wish, to stop without losing anything."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any, Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """Both signals as KeyboardInterrupt; within :meth:`patient` the first one is only noted, for a loop that looks.

    Signals reach a process's main thread only: used in another, this changes nothing.
    """

    def __init__(self) -> None:
        self.asked: str | None = None
        """The signal that was noted, by name."""
        self._patient = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.getsignal(number) for number in _SIGNALS}
        self._install()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def patient(self) -> Iterator[None]:
        """Whoever enters looks at ``asked`` from time to time."""
        self._patient = True
        self._install()  # Ray sets a handler of its own when it starts
        try:
            yield
        finally:
            self._patient = False
            self._install()

    def _install(self) -> None:
        for number in self._before:
            signal.signal(number, self._handle)

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self._patient and self.asked is None:
            self.asked = signal.Signals(number).name
        else:
            raise KeyboardInterrupt
