"""Peak memory of worker and driver, of ``finish``, and of reading, at a size and at a multiple of it.

``memory_engine``: one process runs driver and worker to the last commit, over images of 64 × 64 that a sampler without a
model makes. The goal is the larger of 5 % and 20 MB between the two sizes. What is sampled, encoded and packed at a time
is bounded by batches and intervals, so that the rest is the driver's byte for each interval and the allocator's habits.

``memory_finish``: bytes for each further candidate that ``finish`` needs at its peak, settling included; ours is what it may
need. The smaller size is one at which its buffers, which do not depend on the size, are full. Commits and sidecars are
real; the tars, which it only asks for their size, are holes of that size. The floor is 16 bytes of pixel hash for each
candidate, since an exact duplicate may lie anywhere.

``memory_reader``: a process opens a set and reads 200 balanced batches, ``memory_reader_first``: as the first of its machine, which
makes the columns of the index. What ten times the images may need more is 40 bytes for each further one, which are mapped from a
file and so counted once a process though all share them, and 20 MB. ``memory_reader_columns``: bytes of those files
for each image. The tars are all links to one.

Each figure is the peak resident size of a fresh process, as the system counts it.
"""

from __future__ import annotations

import hashlib
import io
import os
import resource
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa

from bench import Line
from bench.pack import scratch
from ffr_dist.groups import Group, Groups
from ffr_dist.plan.document import Pinned
from ffr_dist.quota import Exact, Request
from ffr_dist.records import imported_key
from ffr_dist.seeds import draw_seed
from ffr_dist.shards import layout
from ffr_dist.shards.codec import CodecConfig, encode
from ffr_dist.shards.commit import Commit, GroupTally, ObjectRef, publish
from ffr_dist.shards.finish import finish
from ffr_dist.shards.imported import write_imported
from ffr_dist.shards.index import IndexWriter, read_index
from ffr_dist.shards.manifest import publish_manifest
from ffr_dist.shards.selection import write_first_revision
from ffr_dist.shards.sidecar import Decision, write_sidecar
from ffr_dist.store import Store, open_store

ROOT = Path(__file__).parents[1]
GROUPS = Groups.of([Group(f"label_{label}_place_{place}", label, place) for label in (0, 1) for place in (0, 1)])
CODEC = CodecConfig()
SIDE = 64
PER_SHARD = 256
TIMES = 10
MOST_FINISH = 64
"""Bytes a candidate."""
MOST_COLUMNS = 40
"""Bytes an image."""
MORE_MB = 20
READ_SIDE = 16
READ_STEPS = 200


def run(*, quick: bool) -> Iterator[Line]:
    yield memory_engine(512 if quick else 10_240)
    yield memory_finish(*((81_920, 163_840) if quick else (102_400, 1_024_000)))
    yield from memory_reader(81_920 if quick else 409_600)


def memory_engine(images: int) -> Line:
    small, large = (peak_mb("generate", count) for count in (images, TIMES * images))
    return Line(
        name="memory_engine",
        ours=small,
        peer=large,
        goal=round(small / max(1.05 * small, small + 20), 4),
        unit=f"MB at the peak of {images:,} and (peer) {TIMES * images:,} images",
    )


def memory_finish(few: int, many: int) -> Line:
    small, large = (peak_mb("finish_set", count) for count in (few, many))
    return Line(
        name="memory_finish",
        ours=MOST_FINISH,
        peer=max((large - small) * 1e6 / (many - few), 1.0),
        goal=1.0,
        unit=f"bytes a candidate, allowed and (peer) needed from {few:,} ({small:.0f} MB) to {many:,} ({large:.0f} MB)",
    )


def memory_reader(images: int) -> Iterator[Line]:
    first, later, columns = zip(*(read_mb(count) for count in (images, TIMES * images)), strict=True)
    allowed = MOST_COLUMNS * (TIMES - 1) * images / 1e6 + MORE_MB
    for name, (small, large) in (("memory_reader_first", first), ("memory_reader", later)):
        yield Line(
            name=name,
            ours=allowed,
            peer=max(large - small, 1.0),
            goal=1.0,
            unit=f"MB more, allowed and (peer) needed from {images:,} ({small:.0f} MB) to {TIMES * images:,} images ({large:.0f})",
        )
    yield Line(
        name="memory_reader_columns",
        ours=MOST_COLUMNS,
        peer=columns[1] / (TIMES * images),
        goal=1.0,
        unit=f"bytes an image, allowed and (peer) there of {TIMES * images:,} images",
    )


def read_mb(images: int) -> tuple[float, float, int]:
    """The peaks of the first and of a later process that reads, and the bytes of the columns that the first has left."""
    with scratch() as folder:
        write_linked(open_store(f"{folder}/set"), images)
        own = {"FFR_CACHE": f"{folder}/cache"}
        first, later = (peak_of("read_set", f"{folder}/set", images, own) for _ in range(2))
        return first, later, sum(path.stat().st_size for path in Path(folder, "cache").rglob("*") if path.is_file())


def peak_mb(what: str, count: int) -> float:
    """The peak of a process of its own that does ``what``."""
    with scratch() as folder:
        if what == "finish_set":
            write_decided(open_store(folder), count)
        return peak_of(what, folder, count)


def peak_of(what: str, folder: str, count: int, own: Mapping[str, str] | None = None) -> float:
    code = f"import sys; from bench.memory import {what}; {what}(sys.argv[1], {count})"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", **(own or {})}
    told = subprocess.run(
        [sys.executable, "-c", code, folder], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if told.returncode:
        raise RuntimeError(told.stderr)
    return float(told.stdout)


def generate(folder: str, images: int) -> None:
    """For a process of its own: a whole generation, then the peak."""
    import torch  # noqa: PLC0415 - nothing of this in the process that finishes

    from ffr_dist.generate.driver import Driver, Finished  # noqa: PLC0415
    from ffr_dist.generate.inline import run_inline  # noqa: PLC0415
    from ffr_dist.generate.keep import KeepConfig, pinned_keep  # noqa: PLC0415
    from ffr_dist.generate.worker import Worker, WorkSpec  # noqa: PLC0415
    from ffr_dist.models.sampler import Outcomes  # noqa: PLC0415

    class Noise:
        """A new draw for each candidate."""

        seed = 0

        def fetch(self, requests: Sequence[Request]) -> torch.Tensor:
            draws = [np.random.default_rng(draw_seed(self.seed, one.group, one.k, "latents")) for one in requests]
            return torch.from_numpy(np.stack([draw.integers(0, 256, (3, SIDE, SIDE), np.uint8) for draw in draws]))

        def sample(self, requests: Sequence[Request], fetched: torch.Tensor) -> Outcomes:
            return Outcomes(images=fetched, valid=torch.ones(len(requests), dtype=torch.bool))

    keep = pinned_keep(KeepConfig())
    pinned = Pinned(batch=64, images_per_shard=PER_SHARD, threads=1, weights_sha256="", prepared={}, keep=keep)
    spec = WorkSpec(groups=GROUPS, codec=CODEC, size=SIDE, pinned=pinned)
    store = open_store(folder)
    driver = Driver(store, GROUPS, quota(images), pinned)
    with Worker(spec, store, Noise(), requests) as worker:
        end = run_inline(driver, worker)
    assert isinstance(end, Finished), end
    print_peak()


def finish_set(folder: str, candidates: int) -> None:
    """For a process of its own: ``finish`` over what is decided, then the peak."""
    manifest = finish(open_store(folder), GROUPS, CODEC, SIDE, planned=candidates // PER_SHARD)
    assert manifest.images == candidates, manifest.images
    print_peak()


def read_set(folder: str, images: int) -> None:
    """For a process of its own: balanced batches from all over a set, then the peak."""
    from ffr_dist.read.batches import ImageBatches  # noqa: PLC0415
    from ffr_dist.read.config import ReadConfig  # noqa: PLC0415
    from ffr_dist.read.dataset import open_dataset  # noqa: PLC0415

    data = open_dataset(folder)
    assert len(data) == images, len(data)
    batches = ImageBatches([data], GROUPS, sampling="balanced", batch=64, seed=0, read=ReadConfig(workers=2))
    with closing(batches.iterate(0, 0, 1)) as stream:
        for _ in islice(stream, READ_STEPS):
            pass
    print_peak()


def print_peak() -> None:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6)


def quota(images: int) -> Exact:
    return Exact(dict.fromkeys(GROUPS.names, images // len(GROUPS)))


def requests(group: str, ks: Sequence[int]) -> list[Request]:
    return [Request(group=group, k=k, prompt=f"a photo of {group.replace('_', ' ')}") for k in ks]


def write_decided(store: Store, candidates: int) -> None:
    """An output whose intervals are all decided, and whose every candidate is accepted."""
    write_first_revision(store, quota(candidates))
    names = GROUPS.names
    for interval in range(candidates // PER_SHARD):
        rows = []
        for slot in range(PER_SHARD):
            number = interval * PER_SHARD + slot
            stamp = hashlib.sha256(number.to_bytes(8)).digest()
            row = Decision(
                slot=slot,
                group=names[number % len(names)],
                k=number // len(names),
                seed=int.from_bytes(stamp[:8]) >> 1,
                prompt="a photo of a landbird in front of water",
                accepted=True,
                scores={"std": 60.0, "grey": 12.0},
                pixels_blake2b=stamp[16:],
                sha256=stamp,
                offset=slot * 30_000 + 512,
                size=29_000,
            )
            rows.append(row)
        body = write_sidecar(rows)
        sha256 = hashlib.sha256(body).hexdigest()
        sidecar = ObjectRef(layout.sidecar_key(interval, sha256), sha256, len(body))
        store.put(sidecar.key, body)
        tar = ObjectRef(layout.tar_key(interval, sha256), sha256, PER_SHARD * 30_000)
        store.put(tar.key, b"")
        os.truncate(Path(store.url) / tar.key, tar.bytes)
        tally = GroupTally(PER_SHARD // len(names), PER_SHARD // len(names), {})
        commit = Commit(
            interval=interval,
            attempt=f"{interval:032x}",
            tar=tar,
            sidecar=sidecar,
            groups=dict.fromkeys(names, tally),
            environment={"device": "none"},
            seconds=1.0,
        )
        publish(store, commit)


def write_linked(store: Store, images: int) -> None:
    """A finished set of as many images, all of whose tars are one file."""
    pixels = np.random.default_rng(0).integers(0, 256, (PER_SHARD, READ_SIDE, READ_SIDE, 3), np.uint8)
    groups = [GROUPS.items[row % len(GROUPS)] for row in range(PER_SHARD)]
    samples = ((group, encode(image, CODEC), "") for group, image in zip(groups, pixels, strict=True))
    one = write_imported(
        store.below("one"), "x", GROUPS, samples, codec=CODEC, size=READ_SIDE, images_per_shard=PER_SHARD
    )
    (shard,) = one.shards
    rows = read_index(store.below("one"), one)
    Path(store.url, layout.SHARDS).mkdir()
    out, shards = io.BytesIO(), []
    with IndexWriter(out) as index:
        for number in range(images // PER_SHARD):
            key = layout.tar_key(number, shard.sha256)
            Path(store.url, key).hardlink_to(Path(store.url, "one", shard.key))
            shards.append(replace(shard, key=key))
            keys = [imported_key("x", number * PER_SHARD + row) for row in range(PER_SHARD)]
            here = {"shard": [number] * PER_SHARD, "key": keys}
            index.add(
                pa.Table.from_pydict({name: here.get(name, rows[name]) for name in rows.column_names}, rows.schema)
            )
    body = out.getvalue()
    sha256 = hashlib.sha256(body).hexdigest()
    ref = ObjectRef(layout.index_key(0, sha256), sha256, len(body))
    store.put(ref.key, body)
    counts = {name: count * len(shards) for name, count in one.groups.items()}
    total = PER_SHARD * len(shards)
    publish_manifest(store, replace(one, images=total, groups=counts, shards=tuple(shards), index=ref))
