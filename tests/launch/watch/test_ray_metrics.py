"""What Prometheus gets to read: scraped over HTTP from the agent of a real Ray node."""

import re
import socket
import sys
import time
import urllib.request

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.slow]

_SERIES = re.compile(r"ray_(?P<name>ffr_\w+)\{(?P<labels>.*)\} (?P<value>\S+)")
_LABEL = re.compile(r'(\w+)="([^"]*)"')
OUTPUT = "s3://bucket/out"


@pytest.fixture(scope="module")
def page():
    """Reads the node's page of metrics."""
    ray = pytest.importorskip("ray")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ray.init(
        address="local",  # not another cluster of this machine
        num_cpus=1,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        _metrics_export_port=port,
        _system_config={"metrics_report_interval_ms": 300},
    )

    def read():
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            return answer.read().decode()

    yield read
    ray.shutdown()


def scraped(read, complete):
    """{(name, labels of ours): value}, once ``complete`` says so of them."""
    deadline = time.monotonic() + 200
    while True:
        found = {}
        for line in read().splitlines():
            series = _SERIES.match(line)
            if series:
                labels = dict(_LABEL.findall(series["labels"]))
                ours = tuple(
                    sorted(
                        (k, v) for k, v in labels.items() if k in {"output", "reason", "stage", "won", "group", "kind"}
                    )
                )
                found[series["name"], ours] = float(series["value"])
        if complete(found):
            return found
        assert time.monotonic() < deadline, found
        time.sleep(0.3)


def value(found, name, **labels):
    return found[name, tuple(sorted({"output": OUTPUT, **labels}.items()))]


def work_in_actor():
    """Runs in a Ray actor, as a worker does."""
    from ffr_dist.generate.work import BatchDone, Receipt
    from ffr_dist.launch.watch.metrics import WorkerMetrics
    from ffr_dist.shards import layout
    from ffr_dist.shards.commit import Commit, GroupTally, ObjectRef

    metrics = WorkerMetrics(OUTPUT)
    for _ in range(3):
        metrics.batch(BatchDone(0, 8, 6, {"blank": 1, "nan": 1}, sample_s=0.75, idle_s=0.25))
    sha = "ab" * 32
    commit = Commit(
        interval=0,
        attempt="a",
        tar=ObjectRef(layout.tar_key(0, sha), sha, 7_000_000),
        sidecar=ObjectRef(layout.sidecar_key(0, sha), sha, 1_000_000),
        groups={"g": GroupTally(24, 18, {"blank": 3, "nan": 3})},
        environment={},
        seconds=3.0,
    )
    metrics.receipt(Receipt(commit, mine=True, seconds={"sample": 2.25, "upload": 4.0, "pack": 0.0}))
    metrics.receipt(Receipt(commit, mine=False, seconds={"sample": 2.25, "upload": 8.0}))


def tell_driver():
    from ffr_dist.launch.events import Abandoned, AttemptFailed, Generating
    from ffr_dist.launch.watch.metrics import DriverMetrics

    told = []
    metrics = DriverMetrics(OUTPUT, told.append)
    state = Generating(
        round=1, quota={"g": 30, "h": 5}, accepted={"g": 18, "h": 9}, tried={"g": 24, "h": 9}, rejected={"blank": 6},
        in_flight=4, planned=9, committed=3, workers=2, images_per_second=12.5, idle_share=0.25, eta_s=9.0,
        device_seconds=120.0, cost=1.5, max_cost=None,
    )  # fmt: skip
    events = [state, AttemptFailed(interval=1, worker="w", kind="hang", why=""), Abandoned(interval=1, why="")]
    for event in events:
        metrics(event)
    assert told == events


def test_prometheus_reads_what_the_table_says(page):
    import ray
    from ray import cloudpickle

    from ffr_dist.launch.watch.metrics import METRICS

    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # no worker can import a test

    @ray.remote
    class Actor:
        def work(self):
            work_in_actor()

    actor = Actor.remote()
    ray.get(actor.work.remote())
    tell_driver()
    names = {f"{name}_total" if metric.kind == "counter" else name for name, metric in METRICS.items()}
    found = scraped(page, lambda found: {name for name, _ in found} >= names)
    assert {name for name, _ in found} == names
    for name, labels in found:
        metric = METRICS[name.removesuffix("_total")]
        assert {label for label, _ in labels} == {"output", *metric.labels}, name
    assert value(found, "ffr_candidates_total") == 24
    assert value(found, "ffr_images_accepted_total") == 18
    assert value(found, "ffr_images_rejected_total", reason="nan") == 3
    assert value(found, "ffr_stage_seconds_total", stage="sample") == 4.5
    assert value(found, "ffr_device_idle_share") == 0.25
    assert value(found, "ffr_upload_bytes_total") == 8_000_000  # what another attempt uploaded is not counted
    assert value(found, "ffr_upload_megabytes_per_second") == 2.0
    assert value(found, "ffr_commits_total", won="yes") == value(found, "ffr_commits_total", won="no") == 1
    assert value(found, "ffr_images_missing", group="g") == 12
    assert value(found, "ffr_images_missing", group="h") == 0
    assert value(found, "ffr_attempts_failed_total", kind="hang") == 1
    assert value(found, "ffr_cost") == 1.5
