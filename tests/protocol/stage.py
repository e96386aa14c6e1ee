"""A stage on which real code runs one store call at a time, in an order and with faults that somebody else chooses.

Every actor is a thread with a store of its own over the same objects. Before each write (and each listing) it stops and
waits for its cue, so exactly one thread runs at any time, and a schedule of cues replays exactly.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

from ffr_dist.store import Store

DO, CRASH_BEFORE, CRASH_AFTER, LOST_REPLY, REFUSED = "do", "crash before", "crash after", "lost reply", "refused"
FATES = (DO, CRASH_BEFORE, CRASH_AFTER, LOST_REPLY, REFUSED)
"""What may become of a store call: the last two are errors that the caller sees, with and without effect."""

_PATIENCE_S = 60


class Crash(BaseException):
    """The actor's process dies here."""


class Actor:
    """A thread that runs ``play(store, actor)`` from cue to cue."""

    def __init__(self, name: str, store: Store, play: Callable[[Store, Actor], Any]) -> None:
        self.name = name
        self.result: Any = None
        self.error: BaseException | None = None
        self.at: str | None = None
        """The call it stands before; None once it has ended."""
        self._play = play
        self._store = store
        self._stopped: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._cues: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True, name=name)
        self._thread.start()
        self.at = self._stopped.get(timeout=_PATIENCE_S)

    @property
    def ended(self) -> bool:
        return self.at is None

    def go(self, fate: str = DO) -> None:
        """Let it make the call it stands before, and run to the next."""
        assert self.at is not None
        self._cues.put(fate)
        self.at = self._stopped.get(timeout=_PATIENCE_S)

    def kill(self) -> None:
        while self.at is not None:
            self.go(CRASH_BEFORE)
        self._thread.join(_PATIENCE_S)

    def wait_for_cue(self, call: str) -> str:
        """Of the actor's own thread: stop until the next cue; what it says."""
        self._stopped.put(call)
        return self._cues.get(timeout=_PATIENCE_S)

    def _run(self) -> None:
        try:
            self.result = self._play(StagedStore(self._store, self), self)
        except Crash:
            pass
        except BaseException as error:  # noqa: BLE001 - whoever watches judges it
            self.error = error
        finally:
            self._stopped.put(None)


class StagedStore(Store):
    """One actor's view of the common objects."""

    def __init__(self, there: Store, actor: Actor) -> None:
        self.__dict__.update(there.__dict__)
        self._actor = actor
        self._writer = _StagedWriter(there._writer)

    def put(self, key, body):
        return self._staged(f"put {key}", lambda: super(StagedStore, self).put(key, body))

    def put_if_absent(self, key, body):
        return self._staged(f"put_if_absent {key}", lambda: super(StagedStore, self).put_if_absent(key, body))

    def put_file(self, key, path):
        return self._staged(f"put_file {key}", lambda: super(StagedStore, self).put_file(key, path))

    def delete(self, key):
        return self._staged(f"delete {key}", lambda: super(StagedStore, self).delete(key))

    def list(self, prefix="", after=None):
        return self._staged(f"list {prefix}", lambda: iter(list(super(StagedStore, self).list(prefix, after))))

    def _staged(self, call, effect):
        fate = self._actor.wait_for_cue(call)
        if fate == CRASH_BEFORE:
            raise Crash
        if fate in {LOST_REPLY, REFUSED}:
            self._writer.fate = fate
        result = effect()
        self._writer.fate = DO
        if fate == CRASH_AFTER:
            raise Crash
        return result


class _StagedWriter:
    """The primitive writes, the next of which may fail once: the store's own retries meet it as they meet a real one."""

    def __init__(self, there: Any) -> None:
        self._there = there
        self.fate = DO

    def put(self, key, body):
        self._write(self._there.put, key, body)

    def create(self, key, body):
        self._write(self._there.create, key, body)

    def __getattr__(self, name):
        return getattr(self._there, name)

    def _write(self, write, key, body):
        fate, self.fate = self.fate, DO
        if fate == REFUSED:
            raise OSError("503 Slow Down")
        write(key, body)
        if fate == LOST_REPLY:
            raise OSError("connection reset by peer")
