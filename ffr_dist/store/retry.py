"""Waiting before the next try: exponential, with jitter over the whole span, bounded by a monotonic clock."""

from __future__ import annotations

import random
import time

_FIRST_S = 0.1
_MOST_S = 5.0


class Patience:
    """How long one call may still be repeated.

    Every wait is drawn evenly from nothing to its bound, so that a thousand workers who met the same fault do not come
    back as one.
    """

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds
        self._bound = _FIRST_S

    def wait(self) -> bool:
        """Sleep before the next try; False, at once, where there is no time for one."""
        wait_s = random.uniform(0.0, self._bound)
        if time.monotonic() + wait_s >= self._end:
            return False
        self._bound = min(2 * self._bound, _MOST_S)
        time.sleep(wait_s)
        return True
