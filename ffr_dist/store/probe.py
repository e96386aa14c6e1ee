"""Whether a store honours put-if-absent: asked by racing for it, because a service that ignores it says nothing."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, BrokenBarrierError

from ffr_dist.errors import InputError
from ffr_dist.store.objects import PROBE, Store
from ffr_dist.store.parts import Mine

_RACERS = 16
_KEYS = 20


def probe(store: Store) -> None:
    """Race for keys that are deleted afterwards; InputError if one had two owners, or two readers saw two bodies.

    That no violation was seen is no proof. But where a service ignores the condition each key gets as many owners as
    racers, so that it does not pass by luck.
    """
    folder = f"{PROBE}/{uuid.uuid4().hex}"
    keys = [f"{folder}/{number:02d}" for number in range(_KEYS)]
    start = Barrier(_RACERS)

    def race(racer: int) -> list[tuple[bool, bytes]]:
        body, seen = f"{folder} {racer}".encode(), []
        try:
            for key in keys:
                start.wait()
                outcome = store.put_if_absent(key, body)
                seen.append((True, body) if isinstance(outcome, Mine) else (False, outcome.body))
        except BaseException:
            start.abort()  # the others would wait for this one
            raise
        return seen

    with ThreadPoolExecutor(_RACERS) as pool:
        racing = [pool.submit(race, racer) for racer in range(_RACERS)]
        errors = [error for future in racing if (error := future.exception())]
        try:
            if errors:
                raise next((error for error in errors if not isinstance(error, BrokenBarrierError)), errors[0])
            by_racer = [future.result() for future in racing]
            bodies = list(pool.map(store.get, keys))
        finally:
            list(pool.map(store.delete, keys))
    for place, body in enumerate(bodies):
        owners = sum(seen[place][0] for seen in by_racer)
        if owners != 1 or any(seen[place][1] != body for seen in by_racer):
            raise InputError(
                f"{store.url} does not honour put-if-absent: {owners} of {_RACERS} writers were told that they had "
                "created the same object, so that no run there could be exact. Where the bucket keeps versions, turn "
                "versioning off or take another bucket; else choose a service with conditional writes (If-None-Match)"
            )
