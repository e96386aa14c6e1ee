"""Image files to a shard: tar, hashes and sidecar, against webdataset's ShardWriter and against encoding alone.

``pack``: image files that are encoded already go into shards of 256. Ours makes the tar, its sha256, each image's sha256
and the sidecar, and stores both objects durably; the peer's ``ShardWriter`` writes tars, with neither hash nor index
nor fsync. Both write to a folder in memory where there is one, so that no disk is measured. The larger the files, the
more the two sha256 of every byte weigh, which the peer does not make: at 512 × 512 they are over half of our time.

``pack_encode``: pixels of 256 × 256 are encoded, and each shard is packed, hashed and stored by a second thread while
the next one is encoded, as a worker does; the peer is the same encoder alone. ``pack_encode_cpu`` counts the CPU seconds
of both instead; the two sha256 alone are a tenth of the encoder's.

Trials of both sides alternate; each side's figure is the median, in images a second.
"""

from __future__ import annotations

import hashlib
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import webdataset
from numpy.typing import NDArray

from bench import Line
from ffr_dist.groups import Group
from ffr_dist.records import sample_json, synthetic_key
from ffr_dist.shards import layout
from ffr_dist.shards.codec import CodecConfig, encode
from ffr_dist.shards.pack import Member, pack
from ffr_dist.shards.sidecar import Decision, write_sidecar
from ffr_dist.store import Store, open_store

GROUP = Group("land_bird", 0, 0)
PROMPT = "a photo of a landbird in front of water"
CODEC = CodecConfig()
PER_SHARD = 256
FAST = Path("/dev/shm")


def run(*, quick: bool) -> Iterator[Line]:
    """The ratios, for small and for large images."""
    trials = 5 if quick else 15
    for side, shards in ((32, 8), (256, 4)) if quick else ((32, 32), (256, 12), (512, 6)):
        yield against_webdataset(side, shards, trials)
    yield from against_the_encoder(8 if quick else 16, 3 if quick else 9)


def against_webdataset(side: int, shards: int, trials: int) -> Line:
    bodies = [encode(pixels, CODEC) for pixels in pictures(side, PER_SHARD)] * shards
    with scratch() as folder:
        store = open_store(f"{folder}/ours")
        ours, peer = medians(lambda: write_ours(store, bodies), lambda: write_peer(Path(folder), bodies), trials)
    images = len(bodies)
    return Line(name=f"pack_{side}px", ours=images / ours[0], peer=images / peer[0], goal=1.5, unit="images/s")


def against_the_encoder(shards: int, trials: int) -> Iterator[Line]:
    images = pictures(256, PER_SHARD)
    with scratch() as folder:
        store = open_store(folder)

        def ours() -> None:
            with ThreadPoolExecutor(1) as packer:
                for _ in range(shards):
                    packer.submit(write_ours, store, [encode(pixels, CODEC) for pixels in images])

        def peer() -> None:
            for _ in range(shards):
                for pixels in images:
                    encode(pixels, CODEC)

        mine, theirs = medians(ours, peer, trials)
    count = shards * PER_SHARD
    for name, clock, goal in (("pack_encode_256px", 0, 0.95), ("pack_encode_cpu_256px", 1, 0.8)):
        yield Line(name=name, ours=count / mine[clock], peer=count / theirs[clock], goal=goal, unit="images/s")


def write_ours(store: Store, bodies: Sequence[bytes]) -> None:
    """What a worker does with an interval's image files, up to the commit."""
    for interval, start in enumerate(range(0, len(bodies), PER_SHARD)):
        members: list[Member] = []
        rows: list[Decision] = []
        for slot, body in enumerate(bodies[start : start + PER_SHARD]):
            k = start + slot
            key = synthetic_key(GROUP.name, k)
            members.append(Member(f"{key}.jpg", body))
            members.append(Member(f"{key}.json", sample_json(key, GROUP, "synthetic", seed=k, prompt=PROMPT)))
        packed = pack(members)
        for slot, member in enumerate(members[::2]):
            row = Decision(
                slot=slot,
                group=GROUP.name,
                k=start + slot,
                seed=start + slot,
                prompt=PROMPT,
                accepted=True,
                pixels_blake2b=bytes(16),
                sha256=hashlib.sha256(member.body).digest(),
                offset=packed.offsets[2 * slot],
                size=len(member.body),
            )
            rows.append(row)
        sidecar = write_sidecar(rows)
        store.put(layout.tar_key(interval, hashlib.sha256(packed.tar).hexdigest()), packed.tar)
        store.put(layout.sidecar_key(interval, hashlib.sha256(sidecar).hexdigest()), sidecar)


def write_peer(folder: Path, bodies: Sequence[bytes]) -> None:
    """The same samples through webdataset."""
    with webdataset.ShardWriter(f"{folder}/peer-%06d.tar", maxcount=PER_SHARD, verbose=0) as writer:
        for k, body in enumerate(bodies):
            key = synthetic_key(GROUP.name, k)
            note = json.loads(sample_json(key, GROUP, "synthetic", seed=k, prompt=PROMPT))
            writer.write({"__key__": key, "jpg": body, "json": note})


def pictures(side: int, count: int) -> list[NDArray[np.uint8]]:
    """Smooth colour with a little noise: about the bytes per pixel of a photograph."""
    random = np.random.default_rng(0)
    ramp = np.linspace(0, 2 * np.pi, side)
    waves = [np.sin(ramp * random.uniform(1, 5) + random.uniform(0, 6)) for _ in range(6 * count)]
    images = []
    for number in range(count):
        rows, columns = waves[6 * number : 6 * number + 3], waves[6 * number + 3 : 6 * number + 6]
        planes = np.stack([np.add.outer(row, column) for row, column in zip(rows, columns, strict=True)], axis=-1)
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
