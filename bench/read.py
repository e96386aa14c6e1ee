"""Images a second decoded into batches: ours against other readers and against decoding alone.

The same photo-like JPEGs (quality 95, 64 and 256 pixels wide) in the same order, eight groups one behind the other, as tars of ours
(which webdataset and Hugging Face datasets read too), as MDS and as LitData's chunks; from a local folder, and, at full size, from
a real S3 server on this machine, which takes its share of the cores. Each reader runs in a process of its own, with two
workers, as its documentation advises: webdataset and datasets with all shards shuffled and a buffer of 5,000 samples in each
worker, MosaicML Streaming and LitData with their own shuffles and chunks of 64 MB. webdataset reads S3 through
``read.compat``, for want of an opener that is no other program. The rate is that of the first epoch, from the fifth batch on.

``read_…_floor``: against two processes that decode files which wait in memory, into memory that is there. ``read_…_peer``: against the
fastest peer. ``…_cpu``: the same for each CPU second over all threads and processes (but the server's), which other work on this
machine hardly changes. ``read_resume``: what a start at 90 % of an epoch may take longer than one at its beginning, and takes.
``readers``: also, seconds until the first batch from when everything is imported; how a sample's place in the epoch
goes with its place in storage (rank correlation; 0 is a perfect shuffle); how many samples of one group follow each other
(8/7 is one); samples that were seen twice, or not at all. A peer that is not there, or fails, is named with the reason.

Trials of all sides alternate; each figure is the median. ``load`` is this machine's, which has to be idle otherwise.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bench import Line, Row
from bench._readers import READERS, WRITERS, Job, Report
from bench.pack import pictures
from ffr_dist.groups import Group, Groups
from ffr_dist.shards.codec import CodecConfig, encode_planes
from ffr_dist.shards.imported import write_imported
from ffr_dist.store import open_store

if TYPE_CHECKING:
    from object_server.server import ObjectServer

ROOT = Path(__file__).parents[1]
GROUPS = Groups.of([Group(f"label_{label}_place_{place}", label, place) for label in range(4) for place in (0, 1)])
CODEC = CodecConfig()
DISTINCT = 512
"""Pictures; they take longer to make than to read."""
PER_SHARD = 256
BATCH = 256
WORKERS = 2
PEER_GOALS = {64: 1.3, 256: 1.0}
LONGEST_S = 200


def run(*, quick: bool) -> Iterator[Line | Row]:
    """The ratios, then the table."""
    sizes = {64: 32_768, 256: 8_192} if quick else {64: 131_072, 256: 16_384}
    trials = 1 if quick else 3
    with tempfile.TemporaryDirectory() as folder:
        for side, images in sizes.items():
            write_sets(Path(folder) / str(side), side, images)
            yield from compare(f"disk_{side}px", side, f"{folder}/{side}", images, trials)
        yield from resume(f"{folder}/64", sizes[64], 3 * trials)
        if not quick:
            with s3() as server:
                yield from from_s3(server, Path(folder), sizes, trials)


def from_s3(server: ObjectServer | str, folder: Path, sizes: Mapping[int, int], trials: int) -> Iterator[Line | Row]:
    for side, images in sizes.items():
        if isinstance(server, str):
            yield Row(name="readers", side=f"s3_{side}px: {server}", figures={})
            continue
        bucket = f"s3://{server.new_bucket()}"
        upload(folder / str(side), bucket)
        yield from compare(f"s3_{side}px", side, bucket, images, trials)


def compare(name: str, side: int, url: str, images: int, trials: int) -> Iterator[Line | Row]:
    """Every reader over the sets at ``url``."""
    reports: dict[str, list[Report]] = {reader: [] for reader in ("floor", *READERS)}
    orders: dict[str, NDArray[np.int64]] = {}
    failed: dict[str, str] = {}
    load = os.getloadavg()[0]
    for _ in range(trials):
        for reader in [reader for reader in reports if reader not in failed]:
            job = Job(reader=reader, url=url, folder="", images=images, batch=BATCH, workers=WORKERS)
            try:
                report, orders[reader] = patiently(job)
            except RuntimeError as error:
                if reader in {"ours", "floor"}:
                    raise
                failed[reader] = str(error)
            else:
                reports[reader].append(report)
    sound = {reader: seen for reader, seen in reports.items() if seen}
    rates = {reader: statistics.median(one.rate for one in seen) for reader, seen in sound.items()}
    prices = {reader: 1e6 / statistics.median(one.cpu_us for one in seen) for reader, seen in sound.items()}
    yield from ratios(name, rates, PEER_GOALS[side], "", "images/s")
    yield from ratios(name, prices, PEER_GOALS[side], "_cpu", "images/CPU s")
    for reader, seen in sound.items():
        figures = {"images/s": round(rates[reader]), "CPU us": round(1e6 / prices[reader], 1), "load": round(load, 1)}
        if reader != "floor":
            figures["first batch s"] = round(statistics.median(one.first_s for one in seen), 2)
            figures |= quality(orders[reader], images)
        yield Row(name="readers", side=f"{name} {reader}", figures=figures)
    for reader, reason in failed.items():
        yield Row(name="readers", side=f"{name} {reader}: {reason}", figures={})


def ratios(name: str, values: Mapping[str, float], goal: float, clock: str, unit: str) -> Iterator[Line]:
    ours = values["ours"]
    yield Line(name=f"read_{name}_floor{clock}", ours=ours, peer=values["floor"], goal=0.9, unit=unit)
    peers = {reader: value for reader, value in values.items() if reader not in {"ours", "floor"}}
    if peers:
        best = max(peers, key=lambda reader: peers[reader])
        unit = f"{unit}, peer {best}"
        yield Line(name=f"read_{name}_peer{clock}", ours=ours, peer=peers[best], goal=goal, unit=unit)


def quality(order: NDArray[np.int64], images: int) -> dict[str, float]:
    """How well an epoch was shuffled: ``order`` is the row of each sample as it came."""
    seen = np.bincount(order, minlength=images)
    groups = order * len(GROUPS) // images
    runs = 1 + np.count_nonzero(np.diff(groups))
    return {
        "rank correlation": round(abs(float(np.corrcoef(np.arange(len(order)), order)[0, 1])), 3),
        "group run": round(float(len(order) / runs), 2),
        "twice": int((seen > 1).sum()),
        "lost": int((seen == 0).sum()),
    }


def resume(url: str, images: int, trials: int) -> Iterator[Line]:
    """Our reader's first batch, at the beginning of an epoch and at 90 % of it."""
    job = Job(reader="ours", url=url, folder="", images=images, batch=BATCH, workers=WORKERS, batches=1)
    late = replace(job, start=9 * (images // BATCH) // 10)
    times = [[measured(one)[0].first_s for _ in range(trials)] for one in (job, late)]
    begun, resumed = map(statistics.median, times)
    yield Line(
        name="read_resume",
        ours=1000.0,
        peer=max(1000 * (resumed - begun), 1.0),
        goal=1.0,
        unit=f"ms, allowed and (peer) needed more than the {1000 * begun:,.0f} of a beginning",
    )


def patiently(job: Job) -> tuple[Report, NDArray[np.int64]]:
    """As :func:`measured`, twice if need be: a worker of MosaicML Streaming may read a file that another is still fetching."""
    with suppress(RuntimeError):
        return measured(job)
    return measured(job)


def measured(job: Job) -> tuple[Report, NDArray[np.int64]]:
    """What a reader finds in a process and a folder of its own; RuntimeError with its last words if it fails."""
    with tempfile.TemporaryDirectory() as folder:
        own = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "FFR_CACHE": folder, "HF_HUB_OFFLINE": "1"}
        try:
            told = subprocess.run(
                [sys.executable, "-m", "bench._readers", json.dumps(asdict(replace(job, folder=folder)))],
                cwd=ROOT,
                env={**os.environ, **own},
                capture_output=True,
                text=True,
                check=False,
                timeout=LONGEST_S,
            )
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"not done after {LONGEST_S} s") from None
        if told.returncode:
            lines = (told.stderr.strip() or f"exit {told.returncode}").splitlines()
            raise RuntimeError(next((line for line in reversed(lines) if "Error" in line), lines[-1])[:200])
        rows = Path(folder) / "rows.npy"
        order = np.load(rows) if rows.exists() else np.empty(0, np.int64)
        return Report(**json.loads(told.stdout.splitlines()[-1])), order


def write_sets(folder: Path, side: int, images: int) -> None:
    """The same images in the layout of each reader whose library is there."""
    bodies = [encode_planes(planes, CODEC) for planes in pictures(side, DISTINCT)]

    def samples() -> Iterator[tuple[Group, bytes, str]]:
        for row in range(images):
            yield GROUPS.items[row * len(GROUPS) // images], bodies[row % DISTINCT], f"{row}.jpg"

    tars = open_store(str(folder / "tars"))
    write_imported(tars, "train", GROUPS, samples(), codec=CODEC, size=side, images_per_shard=PER_SHARD)
    for layout in WRITERS:
        with suppress(RuntimeError):  # its reader will tell why
            measured(Job(reader=layout, url=str(folder), folder="", images=images, batch=BATCH, workers=WORKERS))


@contextmanager
def s3() -> Iterator[ObjectServer | str]:
    """A server in whose environment we are, or why there is none."""
    sys.path.insert(0, str(ROOT / "tests"))
    from object_server.server import ObjectServer, missing_programs  # noqa: PLC0415 - of the tests

    missing = missing_programs()
    if missing:
        yield f"{', '.join(missing)} not installed"
        return
    before = dict(os.environ)
    with tempfile.TemporaryDirectory() as folder:
        server = ObjectServer(Path(folder) / "ceph")
        try:
            os.environ.update(server.environment)
            yield server
        finally:
            os.environ.clear()
            os.environ.update(before)
            server.stop()


def upload(folder: Path, bucket: str) -> None:
    store = open_store(bucket)
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            store.put_file(path.relative_to(folder).as_posix(), path)
