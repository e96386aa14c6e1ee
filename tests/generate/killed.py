"""A generation that kills its own process with SIGKILL at a chosen write. Runs in processes of the tests only."""

import os
import re
import signal

from noise import BAD, CODEC, GROUPS, QUOTA, SIZE, NoiseSampler, pinned, requests

from ffr_dist.generate.driver import Driver
from ffr_dist.generate.inline import run_inline
from ffr_dist.generate.worker import Worker, WorkSpec
from ffr_dist.shards.finish import finish
from ffr_dist.store import Store, open_store


class KillingStore(Store):
    """The same folder, until the ``nth`` write to a key like ``pattern``: then the end, ``before`` or after it."""

    def __init__(self, folder, pattern, nth, before):
        there = open_store(folder)
        super().__init__(there.url, there._backend, there._writer)
        self._pattern, self._left, self._before = re.compile(pattern), nth, before

    def put(self, key, body):
        self._around(key, super().put, body)

    def put_file(self, key, path):
        self._around(key, super().put_file, path)

    def put_if_absent(self, key, body):
        return self._around(key, super().put_if_absent, body)

    def _around(self, key, write, body):
        if self._pattern.match(key):
            self._left -= 1
        due = self._left == 0
        if due and self._before:
            os.kill(os.getpid(), signal.SIGKILL)
        result = write(key, body)
        if due:
            os.kill(os.getpid(), signal.SIGKILL)
        return result


def generate(store, on_receipt=None, delay_s=0.0):
    """Everything but the finish; how many intervals there are."""
    driver = Driver(store, GROUPS, QUOTA, pinned())
    spec = WorkSpec(groups=GROUPS, codec=CODEC, size=SIZE, pinned=pinned(), encoders=2)
    with Worker(spec, store, NoiseSampler(bad=BAD, delay_s=delay_s), requests) as worker:
        return run_inline(driver, worker, on_receipt).intervals


def finished(store, on_receipt=None):
    return finish(store, GROUPS, CODEC, SIZE, planned=generate(store, on_receipt))


def killed_generate(folder, pattern, nth, before):
    generate(KillingStore(folder, pattern, nth, before))


def killed_finish(folder, pattern, nth, before):
    planned = generate(open_store(folder))
    finish(KillingStore(folder, pattern, nth, before), GROUPS, CODEC, SIZE, planned=planned)


def interrupted(folder, started):
    """Runs until somebody sends SIGINT, as Ctrl-C does; exits with 3 for it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        generate(open_store(folder), lambda _: started.set(), delay_s=0.1)
    except KeyboardInterrupt:
        os._exit(3)
