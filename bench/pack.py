"""Image files to a shard: tar, hashes and sidecar, against webdataset's ShardWriter and against encoding alone.

``pack``: image files that are encoded already go into shards of 256, as a worker does it: each image's sha256, the tar, its
sha256 and the sidecar, both objects stored durably; two intervals are under way at a time, in two threads, and hashes and
writes run beside each other since they do not hold Python's lock. The peer's ``ShardWriter`` writes tars, with neither
hash nor index nor fsync. Both write to a folder in memory where there is one, so that no disk is measured. Floor: two
sha256 of every byte and one copy into the file system, over two cores.

``pack_encode``: pixels of 256 × 256 are encoded in one thread, and each shard is hashed, packed and stored in a second one
while the next is encoded; the peer is the same encoder alone. Two cores that do nothing else are needed to see more than
``pack_encode_cpu``, which counts the CPU seconds of both instead. Its floor, in µs an image (29 kB; measured one by one on
the CPU of docs/performance.md): encoder 311; both sha256 35, tar and file-system copies 23, JSON, rows and sidecar 17; so
that 0.81 is what is left of 311 where nothing else is done.

``pack_made``: the same with all that a worker does to a file, whose stored pixels are decoded again and hashed for the row;
the peer does that too, and packs nothing.

Trials of both sides alternate; each side's figure is the median, in images a second.
"""

from __future__ import annotations

import hashlib
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import webdataset
from numpy.typing import NDArray

from bench import Line
from ffr_dist.generate.shard import ImageFile, Made, image_file, pack_interval
from ffr_dist.groups import Group, Groups
from ffr_dist.quota import Request
from ffr_dist.records import sample_json, synthetic_key
from ffr_dist.shards import layout
from ffr_dist.shards.codec import CodecConfig, encode_planes
from ffr_dist.store import Store, open_store

GROUP = Group("land_bird", 0, 0)
GROUPS = Groups.of([GROUP])
PROMPT = "a photo of a landbird in front of water"
SCORES = {"std": 60.0, "grey": 12.0}
CODEC = CodecConfig()
PER_SHARD = 256
DISTINCT = 64
"""Pictures; they take longer to make than to pack."""
AT_ONCE = 2
"""Intervals of a worker under way."""
FAST = Path("/dev/shm")


def run(*, quick: bool) -> Iterator[Line]:
    """The ratios, for small and for large images."""
    trials = 5 if quick else 15
    for side, shards in ((32, 8), (256, 4), (512, 4)) if quick else ((32, 32), (256, 12), (512, 8)):
        yield against_webdataset(side, shards, trials)
    yield from against_the_encoder(4 if quick else 16, 3 if quick else 9)


def against_webdataset(side: int, shards: int, trials: int) -> Line:
    bodies = [encode_planes(planes, CODEC) for planes in pictures(side, DISTINCT)] * (PER_SHARD // DISTINCT)
    with scratch() as folder:
        store = open_store(f"{folder}/ours")

        def ours() -> None:
            with ThreadPoolExecutor(AT_ONCE) as makers:
                for done in [makers.submit(write_ours, store, n, map(hashed, bodies)) for n in range(shards)]:
                    done.result()

        mine, peer = medians(ours, lambda: write_peer(Path(folder), bodies * shards), trials)
    images = shards * PER_SHARD
    return Line(name=f"pack_{side}px", ours=images / mine[0], peer=images / peer[0], goal=1.5, unit="images/s")


def against_the_encoder(shards: int, trials: int) -> Iterator[Line]:
    images = pictures(256, DISTINCT) * (PER_SHARD // DISTINCT)
    count = shards * PER_SHARD

    def encoded(planes: NDArray[np.uint8]) -> bytes:
        return encode_planes(planes, CODEC)

    def made(planes: NDArray[np.uint8]) -> ImageFile:
        return image_file(planes, CODEC, looks=False)

    mine, theirs = packing_beside(encoded, lambda bodies: map(hashed, bodies), images, shards, trials)
    for name, clock, goal in (("pack_encode_256px", 0, 0.95), ("pack_encode_cpu_256px", 1, 0.8)):
        yield Line(name=name, ours=count / mine[clock], peer=count / theirs[clock], goal=goal, unit="images/s")
    mine, theirs = packing_beside(made, lambda files: files, images, shards, trials)
    yield Line(name="pack_made_256px", ours=count / mine[0], peer=count / theirs[0], goal=0.95, unit="images/s")


def packing_beside(
    encode: Callable[[NDArray[np.uint8]], Any],
    files: Callable[[list[Any]], Iterable[ImageFile]],
    images: Sequence[NDArray[np.uint8]],
    shards: int,
    trials: int,
) -> list[tuple[float, float]]:
    """Of encoding with and without a second thread that packs."""
    with scratch() as folder:
        store = open_store(folder)

        def ours() -> None:
            with ThreadPoolExecutor(1) as packer:
                done = []
                for number in range(shards):
                    bodies = [encode(planes) for planes in images]
                    done.append(packer.submit(lambda n, b: write_ours(store, n, files(b)), number, bodies))
                for packed in done:
                    packed.result()

        def peer() -> None:
            for _ in range(shards):
                for planes in images:
                    encode(planes)

        return medians(ours, peer, trials)


def hashed(body: bytes) -> ImageFile:
    return ImageFile(body, hashlib.sha256(body).digest(), bytes(16), None)


def write_ours(store: Store, interval: int, files: Iterable[ImageFile]) -> None:
    """What a worker does with an interval's image files, up to the commit."""
    made = []
    for slot, file in enumerate(files):
        k = interval * PER_SHARD + slot
        request = Request(group=GROUP.name, k=k, prompt=PROMPT)
        made.append(Made(request, seed=k, reason=None, scores=SCORES, file=file, thumbnail=None))
    shard = pack_interval(made, GROUPS, CODEC)
    assert shard.tar is not None
    store.put(layout.tar_key(interval, hashlib.sha256(shard.tar).hexdigest()), shard.tar)
    store.put(layout.sidecar_key(interval, hashlib.sha256(shard.sidecar).hexdigest()), shard.sidecar)


def write_peer(folder: Path, bodies: Sequence[bytes]) -> None:
    """The same samples through webdataset."""
    with webdataset.ShardWriter(f"{folder}/peer-%06d.tar", maxcount=PER_SHARD, verbose=0) as writer:
        for k, body in enumerate(bodies):
            key = synthetic_key(GROUP.name, k)
            note = json.loads(sample_json(key, GROUP, "synthetic", seed=k, prompt=PROMPT))
            writer.write({"__key__": key, "jpg": body, "json": note})


def pictures(side: int, count: int) -> list[NDArray[np.uint8]]:
    """Smooth colour with a little noise, (3, height, width): about the bytes per pixel of a photograph."""
    random = np.random.default_rng(0)
    ramp = np.linspace(0, 2 * np.pi, side)
    waves = [np.sin(ramp * random.uniform(1, 5) + random.uniform(0, 6)) for _ in range(6 * count)]
    images = []
    for number in range(count):
        rows, columns = waves[6 * number : 6 * number + 3], waves[6 * number + 3 : 6 * number + 6]
        planes = np.stack([np.add.outer(row, column) for row, column in zip(rows, columns, strict=True)])
        noise = random.normal(0, 6, planes.shape)
        images.append(np.clip(128 + 55 * planes + noise, 0, 255).astype(np.uint8))
    return images


def medians(ours: Callable[[], object], peer: Callable[[], object], trials: int) -> list[tuple[float, float]]:
    """Median wall and CPU seconds of each, measured in turn after one warm-up."""
    measured: list[list[tuple[float, float]]] = [[], []]
    for trial in range(trials + 1):
        for side, seconds in zip((ours, peer), measured, strict=True):
            wall, cpu = time.perf_counter(), time.process_time()
            side()
            if trial:
                seconds.append((time.perf_counter() - wall, time.process_time() - cpu))
    walls_and_cpus = [tuple(zip(*seconds, strict=True)) for seconds in measured]
    return [(statistics.median(walls), statistics.median(cpus)) for walls, cpus in walls_and_cpus]


def scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(dir=FAST if FAST.is_dir() else None)
