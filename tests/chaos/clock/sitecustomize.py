"""For a Python that finds this on its path: a wall clock that jumps by days, forth and back, many times a second, once the
file ``CLOCK_JUMPS`` is there. The monotonic clock stays as it is.

``time`` is replaced for all; ``datetime`` where the project uses it, for C extensions do not bear another type there.
"""

import datetime  # noqa: ICN001
import importlib.machinery
import os
import sys
import time

_DAY = 86_400
_time, _time_ns, _datetime = time.time, time.time_ns, datetime.datetime


def _offset():
    if not os.path.exists(os.environ.get("CLOCK_JUMPS", "")):  # noqa: PTH110 - at every look at the clock
        return 0
    return (int(time.monotonic() / 0.1) * 2_654_435_761 % 11 - 5) * _DAY


class _Jumping(_datetime):
    @classmethod
    def now(cls, tz=None):
        return _datetime.fromtimestamp(time.time(), tz)


class _Finder:
    def find_spec(self, name, path=None, target=None):
        spec = importlib.machinery.PathFinder.find_spec(name, path, target) if name.startswith("ffr_dist") else None
        if spec is not None:
            run = spec.loader.exec_module

            def exec_module(module):
                run(module)
                if vars(module).get("datetime") is _datetime:
                    module.datetime = _Jumping

            spec.loader.exec_module = exec_module
        return spec


time.time = lambda: _time() + _offset()
time.time_ns = lambda: _time_ns() + _offset() * 1_000_000_000
sys.meta_path.insert(0, _Finder())
