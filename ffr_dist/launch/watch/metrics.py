"""What Prometheus can scrape from every node's Ray agent: counts and times of workers, the state of a driver.

Ray writes each name as ``ray_<name>``, a counter's with ``_total`` behind it. Every series carries ``output``; names,
kinds and further labels stand in ``METRICS``, which the docs' table repeats.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Literal, NamedTuple

from ray.util.metrics import Counter, Gauge

from ffr_dist.generate.work import BatchDone, Receipt
from ffr_dist.launch.events import Abandoned, AttemptFailed, Event, Generating, Tell

_RECENT = 20
"""Batches that a worker's idle share is of."""


class Metric(NamedTuple):
    kind: Literal["counter", "gauge"]
    who: Literal["worker", "driver"]
    labels: tuple[str, ...]
    what: str


METRICS: Mapping[str, Metric] = {
    "ffr_candidates": Metric("counter", "worker", (), "Images sampled, kept or not."),
    "ffr_images_accepted": Metric("counter", "worker", (), "Images that the keep rules left."),
    "ffr_images_rejected": Metric("counter", "worker", ("reason",), "Images that they did not, by reason."),
    "ffr_stage_seconds": Metric("counter", "worker", ("stage",), "Time in each stage of committed intervals."),
    "ffr_device_idle_share": Metric("gauge", "worker", (), "Share of the last batches' time that the device waited."),
    "ffr_upload_bytes": Metric("counter", "worker", (), "Bytes of tars and sidecars uploaded."),
    "ffr_upload_megabytes_per_second": Metric("gauge", "worker", (), "Of the last interval's upload."),
    "ffr_commits": Metric("counter", "worker", ("won",), "Intervals made; won is no where another attempt was first."),
    "ffr_workers": Metric("gauge", "driver", (), "Workers that are up."),
    "ffr_intervals_planned": Metric("gauge", "driver", (), "Intervals of all rounds so far."),
    "ffr_intervals_decided": Metric("gauge", "driver", (), "Of these, committed or abandoned."),
    "ffr_images_in_flight": Metric("gauge", "driver", (), "Images kept of intervals that are not committed yet."),
    "ffr_images_missing": Metric("gauge", "driver", ("group",), "Images that a group's quota still lacks."),
    "ffr_images_per_second": Metric("gauge", "driver", (), "Candidates of all workers together."),
    "ffr_attempts_failed": Metric("counter", "driver", ("kind",), "Attempts that came to nothing, by kind."),
    "ffr_intervals_abandoned": Metric("counter", "driver", (), "Intervals given up."),
    "ffr_device_seconds": Metric("gauge", "driver", (), "Device time of this start."),
    "ffr_cost": Metric("gauge", "driver", (), "Cost of all starts of the output, where a price is known."),
}


class _Series:
    """The metrics of one kind of process, by name."""

    def __init__(self, who: str, output: str) -> None:
        self._metrics: dict[str, Counter | Gauge] = {}
        for name, metric in METRICS.items():
            if metric.who == who:
                make = Counter if metric.kind == "counter" else Gauge
                found = make(name, description=metric.what, tag_keys=("output", *metric.labels))
                found.set_default_tags({"output": output})
                self._metrics[name] = found

    def add(self, name: str, value: float, **labels: str) -> None:
        if value > 0:  # Ray refuses to add nothing
            self._metrics[name].inc(value, tags=labels)

    def set(self, name: str, value: float, **labels: str) -> None:
        self._metrics[name].set(value, tags=labels)


class WorkerMetrics:
    """In a worker's process: told of every batch and every receipt."""

    def __init__(self, output: str) -> None:
        self._series = _Series("worker", output)
        self._recent: deque[tuple[float, float]] = deque(maxlen=_RECENT)

    def batch(self, done: BatchDone) -> None:
        series = self._series
        series.add("ffr_candidates", done.candidates)
        series.add("ffr_images_accepted", done.accepted)
        for reason, count in done.rejected.items():
            series.add("ffr_images_rejected", count, reason=reason)
        self._recent.append((done.idle_s, done.sample_s))
        idle, busy = (sum(times) for times in zip(*self._recent, strict=True))
        if idle + busy > 0:
            series.set("ffr_device_idle_share", idle / (idle + busy))

    def receipt(self, receipt: Receipt) -> None:
        series = self._series
        series.add("ffr_commits", 1, won="yes" if receipt.mine else "no")
        for stage, seconds in receipt.seconds.items():
            series.add("ffr_stage_seconds", seconds, stage=stage)
        if receipt.mine:  # another attempt's objects are not what this one uploaded
            refs = (receipt.commit.tar, receipt.commit.sidecar)
            size = sum(ref.bytes for ref in refs if ref is not None)
            series.add("ffr_upload_bytes", size)
            if receipt.seconds.get("upload"):
                series.set("ffr_upload_megabytes_per_second", size / 1e6 / receipt.seconds["upload"])


class DriverMetrics:
    """In a driver's process: passes events on to ``tell`` and keeps the gauges."""

    def __init__(self, output: str, tell: Tell) -> None:
        self._series = _Series("driver", output)
        self._tell = tell

    def __call__(self, event: Event) -> None:
        self._tell(event)
        match event:
            case Generating():
                self._generating(event)
            case AttemptFailed():
                self._series.add("ffr_attempts_failed", 1, kind=event.kind)
            case Abandoned():
                self._series.add("ffr_intervals_abandoned", 1)

    def _generating(self, event: Generating) -> None:
        series = self._series
        series.set("ffr_workers", event.workers)
        series.set("ffr_intervals_planned", event.planned)
        series.set("ffr_intervals_decided", event.committed)
        series.set("ffr_images_in_flight", event.in_flight)
        series.set("ffr_device_seconds", event.device_seconds)
        for group, quota in event.quota.items():
            series.set("ffr_images_missing", max(0, quota - event.accepted.get(group, 0)), group=group)
        if event.images_per_second is not None:
            series.set("ffr_images_per_second", event.images_per_second)
        if event.cost is not None:
            series.set("ffr_cost", event.cost)
