"""The readers that ``read`` compares: ``python -m bench._readers JOB`` runs one of them and prints what it found as JSON.

Each gives uint8 batches of decoded images with the row of each image, as the loop of a training would take them: peers through
PyTorch's ``DataLoader`` with two worker processes, ours with two decoding threads. All decode with simplejpeg. Peers are imported from
``.venv/bench-peers`` (see requirements/bench-peers.txt).
"""

# No side pays for the imports of another.
# ruff: noqa: PLC0415

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import timedelta
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import psutil
import simplejpeg
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, default_collate

from ffr_dist.read.batches import ImageBatches
from ffr_dist.read.config import ReadConfig
from ffr_dist.read.dataset import open_dataset

PEERS_FOLDER = Path(__file__).parents[1] / ".venv" / "bench-peers"
CHUNK_BYTES = 1 << 26
BUFFER = 5_000
"""Samples that the readers with a shuffle buffer hold in each worker."""
WARM_BATCHES = 4
"""Batches before the clock of the rate starts: the queues of two workers."""

Batches = Iterator[tuple[torch.Tensor, NDArray[np.int64]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a reader is to read."""

    reader: str
    url: str
    """Of the folder or bucket that holds ``tars``, ``mds`` and ``litdata``."""
    folder: str
    """For caches, and for ``rows.npy``, the order that was seen."""
    images: int
    batch: int
    workers: int
    start: int = 0
    """Our reader's first step."""
    batches: int | None = None
    """Stop after so many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What it found."""

    rate: float
    """Images a second, from the fifth batch on."""
    first_s: float
    """Until the first batch, from when everything was imported."""
    cpu_us: float
    """CPU time of an image over all threads and processes, from the fifth batch on: nearly the same under any load."""


def our_batches(job: Job) -> ImageBatches:
    data = open_dataset(f"{job.url}/tars", cache_bytes=0)  # or small sets would be decoded once
    return ImageBatches([data], data.groups, batch=job.batch, seed=1, read=ReadConfig(workers=job.workers))


def ours(job: Job) -> Batches:
    """Positions in place of rows, which :func:`our_order` gives."""
    batches = our_batches(job)
    with closing(batches.iterate(job.start, 0, 1)) as stream:
        for batch in islice(stream, batches.steps_per_epoch - job.start):
            yield batch.images, batch.positions.numpy()


def our_order(job: Job) -> NDArray[np.int64]:
    """The rows of an epoch by position: within a batch, samples lie as they were read."""
    batches = our_batches(job)
    order = np.empty(len(batches), np.int64)
    for step in range(batches.steps_per_epoch):
        rows, positions = batches.rows(step)
        order[positions] = rows
    return order


def webdataset(job: Job) -> Batches:
    import webdataset as wds

    from ffr_dist.read.compat import webdataset_pipeline, webdataset_urls

    urls = webdataset_urls(f"{job.url}/tars")
    if "://" in job.url:  # its own way to S3 is a process of another program for each tar
        pipeline = webdataset_pipeline(f"{job.url}/tars", shardshuffle=len(urls), seed=1)
    else:
        pipeline = wds.WebDataset(urls, shardshuffle=len(urls), seed=1)
    decode = Decode("jpg", "__key__")
    pipeline = (
        pipeline.shuffle(BUFFER, initial=BUFFER // 5).map(decode).batched(job.batch, collation_fn=default_collate)
    )
    return from_loader(DataLoader(pipeline, batch_size=None, **workers(job)))


def mosaic(job: Job) -> Batches:
    _without_needless_parts()
    from streaming import StreamingDataset

    remote = f"{job.url}/mds" if "://" in job.url else None
    local = f"{job.folder}/mds" if remote else f"{job.url}/mds"
    data = StreamingDataset(remote=remote, local=local, shuffle=True, batch_size=job.batch, num_canonical_nodes=1)
    loader = DataLoader(data, job.batch, collate_fn=Decode("jpg", "row").batch, num_workers=job.workers)
    return from_loader(loader)


def litdata(job: Job) -> Batches:
    from litdata import StreamingDataLoader, StreamingDataset
    from litdata.streaming import downloader

    downloader._OBSTORE_CLIENT_OPTIONS["allow_http"] = "true"  # noqa: SLF001 - this server has no certificate
    cache: str | None = f"{job.folder}/litdata"
    whole: dict[str, Any] = {}
    if "://" not in job.url:
        # By default it shuffles 256 neighbours with each other, so that such a batch is of one group; that is 3 times as fast. From
        # a bucket anything else ends in an error of its own, or not at all.
        cache, whole = None, {"item_shuffle_window": "full", "batch_decode": 0}
    data = StreamingDataset(f"{job.url}/litdata", cache_dir=cache, shuffle=True, drop_last=False, seed=1, **whole)
    loader = StreamingDataLoader(
        data, batch_size=job.batch, collate_fn=Decode("jpg", "row").batch, num_workers=job.workers, drop_last=False
    )
    return from_loader(loader)


def hugging_face(job: Job) -> Batches:
    from datasets import Image, load_dataset

    from ffr_dist.read.compat import webdataset_urls

    files = {"train": [signed(url) for url in webdataset_urls(f"{job.url}/tars")]}
    data = load_dataset("webdataset", data_files=files, split="train", streaming=True, cache_dir=f"{job.folder}/hf")
    data = data.select_columns(["jpg", "__key__"]).cast_column("jpg", Image(decode=False))
    data = data.shuffle(seed=1, buffer_size=BUFFER)
    return from_loader(DataLoader(data, job.batch, collate_fn=Decode("jpg", "__key__").batch, **workers(job)))


def signed(url: str) -> str:
    """An S3 URL as one of the web that needs no credentials: datasets hands s3fs an option that its sessions refuse."""
    if "://" not in url:
        return url
    from obstore import sign
    from obstore.store import S3Store

    bucket, _, key = url.partition("://")[2].partition("/")
    return sign(S3Store(bucket), "GET", key, timedelta(hours=1))


READERS: dict[str, Callable[[Job], Batches]] = {
    "ours": ours,
    "webdataset": webdataset,
    "mosaicml-streaming": mosaic,
    "litdata": litdata,
    "datasets": hugging_face,
}


class Decode:
    """A sample's pixels and row; a batch of samples' as well."""

    def __init__(self, image: str, row: str) -> None:
        self._image, self._row = image, row

    def __call__(self, sample: dict[str, Any]) -> tuple[torch.Tensor, int]:
        body = sample[self._image]
        pixels = simplejpeg.decode_jpeg(body["bytes"] if isinstance(body, dict) else body)
        row = sample[self._row]
        return torch.from_numpy(pixels), int(row.rpartition("-")[2]) if isinstance(row, str) else int(row)

    def batch(self, samples: list[dict[str, Any]]) -> Any:
        return default_collate([self(sample) for sample in samples])


def workers(job: Job) -> dict[str, Any]:
    """Of a ``DataLoader``. Bucket clients do not survive a fork, which is the quicker start."""
    return {"num_workers": job.workers, "multiprocessing_context": "forkserver" if "://" in job.url else "fork"}


def from_loader(loader: Any) -> Batches:
    for images, rows in loader:
        yield images, np.asarray(rows)


def write_mds(job: Job) -> None:
    _without_needless_parts()
    from streaming import MDSWriter

    columns = {"jpg": "bytes", "row": "int"}
    with MDSWriter(out=f"{job.url}/mds", columns=columns, size_limit=CHUNK_BYTES) as writer:
        for sample in samples(job):
            writer.write(sample)


def write_litdata(job: Job) -> None:
    from litdata.streaming.writer import BinaryWriter

    writer = BinaryWriter(f"{job.url}/litdata", chunk_bytes=CHUNK_BYTES)
    for sample in samples(job):
        writer[sample["row"]] = sample
    writer.done()
    writer.merge()


WRITERS: dict[str, Callable[[Job], None]] = {"mds": write_mds, "litdata chunks": write_litdata}


def samples(job: Job) -> Iterator[dict[str, Any]]:
    data = open_dataset(f"{job.url}/tars")
    for start in range(0, len(data), job.batch):
        for row, body in enumerate(data.images(range(start, min(start + job.batch, len(data)))), start):
            yield {"jpg": body, "row": row}


def _without_needless_parts() -> None:
    """Of MosaicML Streaming, which want torchvision and an older transformers."""
    for name in ("streaming.vision", "streaming.text", "streaming.multimodal"):
        sys.modules[name] = ModuleType(name)


def floor(job: Job) -> Report:
    """Decoding alone: a process for each worker, whose files wait in its memory."""
    data = open_dataset(f"{job.url}/tars")
    bodies = data.images(range(len(data)))
    context = get_context("fork")
    clocks = context.SimpleQueue()
    ready = context.Barrier(job.workers)

    def work(mine: list[bytes]) -> None:
        side = simplejpeg.decode_jpeg_header(mine[0])[0]
        batch = np.empty((job.batch, side, side, 3), np.uint8)
        ready.wait()
        begun, cpu = time.perf_counter(), time.process_time()
        for place, body in enumerate(mine):
            simplejpeg.decode_jpeg(body, buffer=batch[place % job.batch])
        clocks.put((begun, time.perf_counter(), time.process_time() - cpu))

    processes = [context.Process(target=work, args=(bodies[n :: job.workers],)) for n in range(job.workers)]
    for process in processes:
        process.start()
    begun, ended, cpu = zip(*(clocks.get() for _ in processes), strict=True)
    for process in processes:
        process.join()
    rate = len(bodies) / (max(ended) - min(begun))
    return Report(rate=rate, first_s=0.0, cpu_us=1e6 * sum(cpu) / len(bodies))


def measure(job: Job) -> Report:
    seen: list[NDArray[np.int64]] = []
    last = 4 * job.images // job.batch // 5  # until all workers are there for certain
    start = first = warm = time.perf_counter()
    cpu = [0.0, 0.0]
    for number, (images, rows) in enumerate(READERS[job.reader](job)):
        assert len(images) == len(rows)
        seen.append(rows)
        if number == 0:
            first = time.perf_counter()
        if number == WARM_BATCHES:
            warm, cpu[0] = time.perf_counter(), cpu_s()
        if number == last:
            cpu[1] = cpu_s()
        if number + 1 == job.batches:
            break
    ended = time.perf_counter()
    np.save(f"{job.folder}/rows.npy", our_order(job) if job.reader == "ours" else np.concatenate(seen))
    later = sum(map(len, seen[WARM_BATCHES + 1 :]))
    counted = sum(map(len, seen[WARM_BATCHES + 1 : last + 1]))
    return Report(rate=later / (ended - warm), first_s=first - start, cpu_us=1e6 * (cpu[1] - cpu[0]) / max(1, counted))


def cpu_s() -> float:
    """Of this process and of all that it has started."""
    here = psutil.Process()
    times = [one.cpu_times() for one in [here, *here.children(recursive=True)]]
    return float(sum(one.user + one.system for one in times))


def main() -> None:
    job = Job(**json.loads(sys.argv[1]))
    torch.set_num_threads(1)
    sys.path.insert(0, str(PEERS_FOLDER))
    # Its workers are new processes, which find the peers by the variable.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(PEERS_FOLDER), os.environ.get("PYTHONPATH", "")])
    found = Report(rate=0.0, first_s=0.0, cpu_us=0.0)
    if job.reader in WRITERS:
        WRITERS[job.reader](job)
    else:
        found = floor(job) if job.reader == "floor" else measure(job)
    sys.stdout.write(json.dumps(asdict(found)) + "\n")


if __name__ == "__main__":
    main()
