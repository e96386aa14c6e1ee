"""Work beside the training: one piece at a time, in a thread."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self


class Background:
    """Used in a ``with`` block, whose end waits for the last piece.

    An error of a piece comes out at the next call, or at the end of the block; where the block ends by an error of its
    own, that one is told.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._piece: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(wait=True)
        if error is None:
            self.check()

    @property
    def busy(self) -> bool:
        return self._piece is not None and not self._piece.done()

    def check(self) -> None:
        """Raise what a piece that has ended raised."""
        if not self.busy:
            self.wait()

    def wait(self) -> None:
        """Until nothing is under way."""
        if self._piece is not None:
            piece, self._piece = self._piece, None
            piece.result()

    def start(self, work: Callable[[], None]) -> None:
        """Begin a piece; waits for the one before it."""
        self.wait()
        self._piece = self._thread.submit(work)
