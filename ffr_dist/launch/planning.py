"""What a run will take, and how far it is: plain values for the command line and for machines."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from ffr_dist.config import parse
from ffr_dist.errors import ConfigError
from ffr_dist.generate.keep import pinned_keep
from ffr_dist.launch.context import CheckedRecipe
from ffr_dist.launch.fleet.heartbeat import DriverRecord, read_drivers
from ffr_dist.launch.watch.eventlog import last_lines
from ffr_dist.launch.watch.observe import Observer
from ffr_dist.plan.cost import Estimate, Outlook, look_ahead, typical_image_bytes
from ffr_dist.plan.document import Pinned
from ffr_dist.recipe import KEY, GenerateConfig, Recipe
from ffr_dist.shards import layout
from ffr_dist.shards.selection import latest_revision
from ffr_dist.store import Store

FLEETS = (1, 8, 64)
"""Workers that a plan tells the time and the cost for."""
_EVENTS = 5
_EVENTS_READ = 100
"""Among so many the last word of a study's cells is looked for."""
_WATCH_EVERY_S = 5.0
_SILENT_S = 20.0
"""After so long without a beat a driver is called silent: one is due every four."""

Json = dict[str, Any]


def summarise(checked: CheckedRecipe, store: Store | None = None) -> Json:
    """Real counts, quotas and arms per group, what is to be made, and what that takes. Reads no image, writes nothing.

    Where ``store`` holds a part of it, acceptance, pace and bytes are as measured there, and times and costs are of what
    is left. The pace is else that of the recipe's ``images_per_second``, which has no interval.
    """
    generate, method = checked.recipe.generate, checked.method
    real, quota = checked.real_counts(checked.recipe.compare.seeds[0]), checked.quota()
    arms = {arm: method.arm_counts(arm, real) for arm in method.arms}
    seen = None if store is None else observe(store)
    size = interval_size(checked)
    unfillable = None
    try:
        outlook = look_ahead(quota, interval_size=size) if seen is None else _look_ahead(seen, size)
    except ConfigError as error:  # a measured acceptance that leaves no hope: what was found is told all the same
        unfillable = str(error)
        outlook = look_ahead(quota, interval_size=size)
    pace = _stated_pace(checked) if seen is None else seen.pace.estimate() or _stated_pace(checked)
    image_bytes = None if seen is None else _image_bytes(seen)
    return {
        "groups": {
            name: {
                "real": real[name],
                "quota": quota.counts[name],
                "arms": {arm: counts.get(name, 0) for arm, counts in arms.items()},
                **({} if seen is None else _group(seen, name)),
            }
            for name in checked.groups.names
        },
        "batch": generate.batch,
        "intervals": outlook.expected.intervals,
        "candidates": asdict(outlook.candidates),
        "bytes": round(
            outlook.expected.accepted * (image_bytes or typical_image_bytes(checked.recipe.codec, checked.recipe.size))
        ),
        "images_per_second": None if pace is None else _rate(pace),
        "measured": {
            "acceptance": outlook.best is not None,
            "rate": seen is not None and seen.pace.estimate() is not None,
        },
        "unfillable": unfillable,
        "to_go": _to_go(outlook),
        "fleets": []
        if pace is None or unfillable
        else [_fleet(generate, outlook, pace, workers) for workers in _workers(generate)],
        "spent": None if store is None or seen is None else _spent(_Drivers(store).read()),
    }


def observe(store: Store) -> Observer | None:
    """What an output tells so far; None where nothing was ever asked of it."""
    if latest_revision(store) is None:
        return None
    seen = Observer(store)
    seen.look()
    return seen


def interval_size(checked: CheckedRecipe) -> int:
    """Candidates of an interval, as they will be pinned."""
    return _pinned(checked, {}, "", {}).interval_size


def pinned(checked: CheckedRecipe, prepared: dict[str, str], *, weights_sha256: str) -> Pinned:
    """The resolved settings that round 0 pins. Reads the weights that the keep rules rest on, to pin their hash."""
    return _pinned(checked, prepared, weights_sha256, pinned_keep(checked.recipe.generate.keep))


def _pinned(checked: CheckedRecipe, prepared: dict[str, str], weights_sha256: str, keep: Json) -> Pinned:
    generate = checked.recipe.generate
    return Pinned(
        batch=generate.batch,
        images_per_shard=generate.images_per_shard,
        threads=generate.threads,
        weights_sha256=weights_sha256,
        prepared=prepared,
        keep=keep,
    )


class Status:
    """How far an output is, from its store alone. Each ``read`` takes in what is new."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._seen = Observer(store)
        self._drivers = _Drivers(store)
        self._generate = _generate_config(store)

    def read(self) -> Json:
        store, seen = self._store, self._seen
        seen.look()
        drivers = self._drivers.read()
        finished = store.exists(layout.manifest_key(seen.revision.number))
        events = last_lines(store, _EVENTS_READ)
        return {
            "output": store.url,
            "study": _study(events) if store.exists(layout.STUDY) else None,
            "finished": finished,
            "revision": seen.revision.number,
            "round": len(seen.rounds) - 1,
            "intervals": {
                "planned": seen.planned,
                "committed": sum(seen.decided) - seen.abandoned.total(),
                "abandoned": seen.abandoned.total(),
            },
            "abandoned": dict(seen.abandoned.most_common()),
            "failures": sum(1 for _ in store.list(layout.FAILURES)),
            "groups": {name: {"quota": quota, **_group(seen, name)} for name, quota in seen.revision.quota.items()},
            "bytes": seen.bytes,
            "images_per_second": seen.images_per_second(),
            "drivers": drivers,
            "spent": _spent(drivers),
            "to_go": None if finished else self._to_go(drivers),
            "events": events[-_EVENTS:],
        }

    def watch(self) -> Iterator[Json]:
        """Look again every few seconds, until it is finished; of a study, until its last cell has come to its end."""
        while True:
            found = self.read()
            yield found
            if found["finished"] and (found["study"] is None or found["study"]["ended"]):
                return
            time.sleep(_WATCH_EVERY_S)

    def _to_go(self, drivers: list[Json]) -> Json:
        """What is left, and what the workers that are there now (else: one) take for it."""
        seen, generate = self._seen, self._generate
        size, pace = seen.interval_size, seen.pace.estimate()
        if size is None:
            return {"candidates": None, "intervals": None, "workers": 0, "seconds": None, "cost": None}
        try:
            outlook = _look_ahead(seen, size)
        except ConfigError:  # at this acceptance it never ends; the run itself says so when it is sure
            return {"candidates": None, "intervals": None, "workers": 0, "seconds": None, "cost": None}
        alive = sum(driver["workers"] for driver in drivers if driver["state"] == "alive")
        fleet = {"seconds": None, "cost": None} if pace is None else _fleet(generate, outlook, pace, alive or 1)
        return {**_to_go(outlook), "workers": alive, "seconds": fleet["seconds"], "cost": fleet["cost"]}


def read_status(store: Store) -> Json:
    """How far an output is, once."""
    return Status(store).read()


def _study(events: Sequence[Json]) -> Json:
    """How far the cells of a study are, or the choice of rates before them, as was last told; of none yet, done is 0."""
    told = next((event for event in reversed(events) if event["event"] == "cell_ended"), None)
    if told is None:
        return {"of": "cells", "done": 0, "total": None, "failures": 0, "eta_s": None, "ended": False}
    of = "rates" if str(told["what"]).startswith("rates of ") else "cells"
    counts = {name: told[name] for name in ("done", "total", "failures", "eta_s")}
    return {"of": of, **counts, "ended": of == "cells" and told["done"] == told["total"]}


def _look_ahead(seen: Observer, size: int) -> Outlook:
    return look_ahead(
        seen.quota, interval_size=seen.interval_size or size, acceptance=seen.acceptance(), done=seen.done
    )


def _group(seen: Observer, name: str) -> Json:
    tally = seen.tally(name)
    acceptance = seen.acceptance().get(name)
    return {
        "tried": tally.tried,
        "accepted": tally.accepted,
        "acceptance": None if acceptance is None else asdict(acceptance),
        "rejected": dict(seen.rejected.get(name, {})),
    }


def _image_bytes(seen: Observer) -> float | None:
    accepted = sum(seen.tally(name).accepted for name in seen.revision.quota)
    return seen.bytes / accepted if accepted else None


def _stated_pace(checked: CheckedRecipe) -> Estimate | None:
    stated = checked.recipe.generate.images_per_second
    return None if stated is None else Estimate(1 / stated)


def _rate(pace: Estimate) -> Json:
    """Candidates a second of one worker: the pace upside down."""
    return {
        "expected": 1 / pace.expected,
        "low": None if pace.high is None else 1 / pace.high,
        "high": None if pace.low is None else 1 / pace.low,
    }


def _to_go(outlook: Outlook) -> Json:
    stages = outlook.expected.stages
    return {
        "candidates": sum(stage.candidates for stage in stages),
        "intervals": sum(stage.intervals for stage in stages),
    }


def _fleet(generate: GenerateConfig, outlook: Outlook, pace: Estimate, workers: int) -> Json:
    fleet = outlook.fleet(workers, pace, gpus_per_worker=generate.gpus_per_worker, price=generate.price_per_gpu_hour)
    return asdict(fleet)


def _workers(generate: GenerateConfig) -> list[int]:
    return sorted({*FLEETS, *(() if generate.workers == "auto" else (generate.workers,))})


def _generate_config(store: Store) -> GenerateConfig:
    """The settings of the output's own copy of the recipe."""
    text = store.get(KEY).decode()
    return parse(Recipe, text, f"{store.url}/{KEY}").generate


class _Drivers:
    """The starts so far, and which of them live. A reader may have no right to write, so it cannot ask for the store's time:
    at first sight clocks are trusted, from then on only whether the beat changes.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._heard: dict[str, tuple[int, float]] = {}
        """The last beat of each, and when it was new, on this process's clock."""

    def read(self) -> list[Json]:
        """The latest start last."""
        beats = {info.key: info.modified for info in self._store.list(layout.DRIVERS)}
        records = sorted(read_drivers(self._store), key=lambda record: (record.started, record.driver))
        return [self._told(record, beats.get(layout.driver_key(record.driver))) for record in records]

    def _told(self, record: DriverRecord, modified: datetime | None) -> Json:
        now = time.monotonic()
        known = self._heard.get(record.driver)
        if known is None:
            age = 0.0 if modified is None else (datetime.now(UTC) - modified).total_seconds()
            known = (record.beat, now - max(0.0, age))
        elif known[0] != record.beat:
            known = (record.beat, now)
        self._heard[record.driver] = known
        silent = now - known[1] > _SILENT_S
        return {
            "driver": record.driver,
            "host": record.host,
            "state": "ended" if record.ended else "silent" if silent else "alive",
            "started": record.started,
            "ended": record.ended,
            "workers": record.workers,
            "device_seconds": record.device_seconds,
            "cost": record.cost,
        }


def _spent(drivers: list[Json]) -> Json:
    """Of all starts so far."""
    costs = [driver["cost"] for driver in drivers if driver["device_seconds"]]
    return {
        "device_seconds": sum(driver["device_seconds"] for driver in drivers),
        "cost": None if not costs or None in costs else sum(costs),
    }
