"""Driver and worker in one process, without Ray."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Protocol, TypeVar

from ffr_dist.generate.work import Receipt, Work
from ffr_dist.generate.worker import Worker
from ffr_dist.plan.rounds import Wait
from ffr_dist.shards.commit import Commit

_AT_ONCE = 2
"""One interval on the device, one on its way to the store."""


End_co = TypeVar("End_co", covariant=True)


class Source(Protocol[End_co]):
    """A driver, or what stands before one."""

    def next(self) -> Work | Wait | End_co: ...
    def committed(self, commit: Commit) -> None: ...


def run_inline(driver: Source[End_co], worker: Worker, on_receipt: Callable[[Receipt], None] | None = None) -> End_co:
    """Make everything that the driver asks for.

    On an error or Ctrl-C the worker is stopped, and what is committed by then stands; the same call with a new driver
    and worker goes on from there.
    """
    running: set[Future[Receipt]] = set()
    with ThreadPoolExecutor(_AT_ONCE, "make") as pool:
        try:
            while True:
                step = driver.next()
                if isinstance(step, Work):
                    running.add(pool.submit(worker.make, step))
                    if len(running) < _AT_ONCE:
                        continue
                elif not running:
                    assert not isinstance(step, Wait)  # noqa: S101  what a driver waits for, it has handed out
                    return step
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    receipt = future.result()
                    driver.committed(receipt.commit)
                    if on_receipt is not None:
                        on_receipt(receipt)
        except BaseException:
            worker.stop()
            raise
