"""Group-balanced batches of a set whose bias is 0.99, against its natural order: images a second, and memory.

Of two labels and two places 99 of 100 images have the place that goes with their label, as in the hardest sets that the methods
are tried on. Balanced sampling takes half of its images from the one percent that lies scattered over all shards, and an
epoch of it meets each of them 25 times. Both sides read the same JPEGs of 64 and 256 pixels (quality 95) from a local
folder into batches of 256, with two decoding threads.

``balanced_…``: images a second from the fifth batch to the end of an epoch, in processes of their own that take turns; the
median. ``…_cpu``: for each CPU second, which other work on this machine hardly changes. ``balanced_memory``: ours is what the
process that reads balanced batches may have at its peak (5 % or 20 MB more than the other), the peer what it has, of 64 pixels.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Literal

from bench import Line
from bench.pack import pictures
from ffr_dist.groups import Group, Groups
from ffr_dist.read.batches import ImageBatches
from ffr_dist.read.config import ReadConfig
from ffr_dist.read.dataset import open_dataset
from ffr_dist.shards.codec import CodecConfig, encode_planes
from ffr_dist.shards.imported import write_imported
from ffr_dist.store import open_store

ROOT = Path(__file__).parents[1]
GROUPS = Groups.of([Group(f"label_{label}_place_{place}", label, place) for label in (0, 1) for place in (0, 1)])
CODEC = CodecConfig()
DISTINCT = 512
BATCH = 256
WORKERS = 2
WARM_BATCHES = 4


def run(*, quick: bool) -> Iterator[Line]:
    """The ratios for small and for large images, then the memory."""
    for side, images in ((64, 32_768), (256, 4_096)) if quick else ((64, 131_072), (256, 16_384)):
        yield from compare(side, images, 1 if quick else 5)


def compare(side: int, images: int, trials: int) -> Iterator[Line]:
    with tempfile.TemporaryDirectory() as folder:
        write_set(folder, side, images)
        found = [[measured(folder, sampling) for sampling in ("balanced", "natural")] for _ in range(trials)]
    (ours, our_price, our_mb), (peer, peer_price, peer_mb) = (
        [statistics.median(figures) for figures in zip(*trials_of_one, strict=True)]
        for trials_of_one in zip(*found, strict=True)
    )
    yield Line(name=f"balanced_{side}px", ours=ours, peer=peer, goal=0.9, unit="images/s, peer natural order")
    yield Line(
        name=f"balanced_{side}px_cpu",
        ours=our_price,
        peer=peer_price,
        goal=0.9,
        unit="images/CPU s, peer natural order",
    )
    if side == 64:
        most = max(1.05 * peer_mb, peer_mb + 20)
        yield Line(name="balanced_memory", ours=most, peer=our_mb, goal=1.0, unit="MB, allowed and (peer) needed")


def measured(folder: str, sampling: str) -> tuple[float, float, float]:
    """Images a second, images a CPU second and MB at the peak, of a process of its own."""
    code = f"from bench.balanced_read import read; read({folder!r}, {sampling!r})"
    own = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "FFR_CACHE": f"{folder}/cache"}
    told = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, **own}, capture_output=True, text=True, check=False
    )
    if told.returncode:
        raise RuntimeError(told.stderr)
    rate, price, peak = json.loads(told.stdout)
    return rate, price, peak


def read(folder: str, sampling: Literal["balanced", "natural"]) -> None:
    """For a process of its own: an epoch."""
    data = open_dataset(f"{folder}/set", cache_bytes=0)  # or small sets would be decoded once
    batches = ImageBatches([data], GROUPS, sampling=sampling, batch=BATCH, seed=1, read=ReadConfig(workers=WORKERS))
    images = 0
    begun, cpu = time.perf_counter(), time.process_time()
    with closing(batches.iterate(0, 0, 1)) as stream:
        for step, batch in zip(range(batches.steps_per_epoch), stream, strict=False):
            if step > WARM_BATCHES:
                images += len(batch)
            elif step == WARM_BATCHES:
                begun, cpu = time.perf_counter(), time.process_time()
    rate, price = images / (time.perf_counter() - begun), images / (time.process_time() - cpu)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    print(json.dumps([rate, price, peak]))


def write_set(folder: str, side: int, images: int) -> None:
    bodies = [encode_planes(planes, CODEC) for planes in pictures(side, DISTINCT)]

    def samples() -> Iterator[tuple[Group, bytes, str]]:
        for row in range(images):
            label, place = row % 2, (row + (row // 2 % 100 == 0)) % 2
            yield GROUPS.items[2 * label + place], bodies[row % DISTINCT], f"{row}.jpg"

    write_imported(
        open_store(f"{folder}/set"), "train", GROUPS, samples(), codec=CODEC, size=side, images_per_shard=256
    )
