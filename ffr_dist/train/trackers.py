"""Where a run's figures go: a line of JSON each and TensorBoard's event files beside its checkpoints, and other services
where they are asked for.

Rows are kept until the next write, which the training thread does not wait for. ``log.jsonl`` is rewritten whole, event files
are added. A run that goes on from step n drops what was told of later steps, since it is about to tell it again.
"""

from __future__ import annotations

import importlib.util
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from accelerate import tracking

from ffr_dist.errors import ConfigError, MissingError
from ffr_dist.store import Store
from ffr_dist.train import tfevents

TrackerName = Literal["wandb", "mlflow"]

_PROJECT = "ffr_dist"
_WRITE_EVERY_S = 30.0
_EVENTS = re.compile(r"events\.out\.tfevents\.(\d{6})\.ffr\Z", re.ASCII)


class Trackers:
    """Of one run in its main process: the log and event files below ``prefix`` of ``store``, and services by name."""

    def __init__(self, store: Store, prefix: str, services: Sequence[TrackerName] = ()) -> None:
        self._store = store
        self._prefix = prefix
        self._services = [_service(name, prefix) for name in services]
        self._lines: list[str] = []
        self._events: list[bytes] = []
        self._files = 0
        self._written = time.monotonic()

    def begin(self, step: int, settings: Mapping[str, Any]) -> None:
        """The run begins, or goes on, after ``step`` steps."""
        self._lines = [line for line in self._lines_before() if _step(line) <= step]
        names = (info.key.rpartition("/")[2] for info in self._store.list(self._prefix))
        self._files = max((int(match[1]) + 1 for match in map(_EVENTS.match, names) if match), default=0)
        if self._files:
            self._events.append(tfevents.restart(time.time(), step + 1))
        for service in self._services:
            service.start()
            service.store_init_configuration(dict(settings))

    def tell(self, row: Mapping[str, Any]) -> None:
        """A row has ``step``, and names with numbers, lists of numbers or words."""
        at = time.time()
        stamp = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
        self._lines.append(json.dumps({"at": stamp, **row}))
        numbers = _numbers(row)
        self._events.append(tfevents.scalars(at, row["step"], numbers))
        for service in self._services:
            service.log(numbers, step=row["step"])

    @property
    def due(self) -> bool:
        """Whether it is time to write."""
        return bool(self._events) and time.monotonic() - self._written > _WRITE_EVERY_S

    def writing(self) -> Callable[[], None]:
        """The work that stores all that was told so far; for another thread."""
        lines, events, number = tuple(self._lines), tuple(self._events), self._files
        self._events.clear()
        self._written = time.monotonic()
        if not events:
            return lambda: None
        self._files += 1

        def write() -> None:
            self._store.put(self._key("log.jsonl"), "".join(f"{line}\n" for line in lines).encode())
            self._store.put(self._key(f"events.out.tfevents.{number:06d}.ffr"), tfevents.event_file(events))

        return write

    def end(self) -> None:
        """The run has ended, and all is written."""
        for service in self._services:
            service.finish()

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}"

    def _lines_before(self) -> list[str]:
        try:
            return self._store.get(self._key("log.jsonl")).decode(errors="replace").splitlines()
        except MissingError:
            return []


def _service(name: TrackerName, run: str) -> Any:
    if importlib.util.find_spec(name) is None:
        raise ConfigError(f"tracker {name} is not installed; pip install {name}, or leave it out of the trackers")
    if name == "wandb":
        return tracking.WandBTracker(_PROJECT, name=run, id=re.sub(r"\W", "-", run), resume="allow")
    return tracking.MLflowTracker(_PROJECT, run_name=run)


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, value in row.items():
        values = (
            {f"{name}/{place}": item for place, item in enumerate(value)} if isinstance(value, list) else {name: value}
        )
        found |= {key: float(item) for key, item in values.items() if isinstance(item, int | float) and key != "step"}
    return found


def _step(line: str) -> float:
    """The step of a line of the log; of what is none, later than any."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return float("inf")
