"""Our sets in other people's loops: as a WebDataset pipeline, and as a dataset for PyTorch's ``DataLoader``.

Processes that a ``DataLoader`` starts open their stores themselves. The client of a bucket does not survive a fork, which
is why a fork is refused there: give the ``DataLoader`` ``multiprocessing_context="forkserver"``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import fields
from functools import cached_property
from itertools import islice
from typing import Any

import torch
from torch.utils.data import IterableDataset, get_worker_info

from ffr_dist.errors import InputError
from ffr_dist.groups import Groups
from ffr_dist.read.batches import Batch, ImageBatches
from ffr_dist.read.config import ReadConfig
from ffr_dist.read.dataset import open_dataset
from ffr_dist.read.sampling import Sampling
from ffr_dist.shards.manifest import ShardRef, read_manifest, shards_of
from ffr_dist.shards.refs import confirm
from ffr_dist.shards.tarstream import ObjectStream
from ffr_dist.store import Store, StoreConfig, open_store


def webdataset_urls(where: str | Store) -> list[str]:
    """Paths or URLs of a finished set's shards, in order, for readers that open such URLs themselves."""
    store = where if isinstance(where, Store) else open_store(where, create=False)
    manifest = read_manifest(store)
    shards = shards_of(store, manifest)
    if shards.url.startswith("memory://"):
        raise InputError(
            f"{shards.url} lives in the memory of this process, where other readers cannot look; use a folder"
        )
    return [f"{shards.url}/{shard.key}" for shard in manifest.shards]


def webdataset_pipeline(where: str, *, storage: StoreConfig | None = None, **options: Any) -> Any:
    """A ``webdataset.WebDataset`` over a finished set, wherever it lies; ``options`` are WebDataset's own.

    Its shards are split by process and worker, not its samples: with fewer shards than workers some have nothing to do. A shard that
    is not as long as its manifest says is a BrokenError; WebDataset itself would take it for a shorter one.
    """
    import webdataset  # noqa: PLC0415 - for those who ask for it
    from webdataset.cache import StreamingOpen  # noqa: PLC0415

    store = open_store(where, create=False, config=storage)
    manifest = read_manifest(store)
    shards = shards_of(store, manifest)
    urls = [f"{shards.url}/{shard.key}" for shard in manifest.shards]
    own = {"shardshuffle": False, "nodesplitter": webdataset.split_by_node, "cache_dir": None, **options}
    pipeline = webdataset.WebDataset(urls, **own)
    places = [place for place, stage in enumerate(pipeline.pipeline) if isinstance(stage, StreamingOpen)]
    if not places:
        raise InputError("WebDataset's own cache cannot be used here: leave cache_dir and WDS_CACHE unset")
    refs = dict(zip(urls, manifest.shards, strict=True))
    pipeline.pipeline[places[0]] = _Opener(_LateStore(shards.url, shards.config), refs)
    return pipeline


def torch_dataset(
    where: str | Sequence[str],
    *,
    batch: int,
    sampling: Sampling = "natural",
    seed: int = 0,
    rank: int = 0,
    world: int = 1,
    read: ReadConfig | None = None,
) -> TorchBatches:
    """Finished sets as batches for ``DataLoader(dataset, batch_size=None, num_workers=…)``."""
    urls = [where] if isinstance(where, str) else list(where)
    return TorchBatches(urls, batch, sampling, seed, rank, world, read or ReadConfig(workers=1))


class TorchBatches(IterableDataset[dict[str, torch.Tensor]]):
    """One iteration is one epoch: of each of its global batches the part of process ``rank`` of ``world``, as a dict of the fields of
    :class:`~ffr_dist.read.batches.Batch`.

    The batches and their order are the same for any number of workers, which take turns, as the ``DataLoader`` does. A part
    is empty where a batch has fewer samples than there are processes.
    """

    def __init__(
        self,
        urls: Sequence[str],
        batch: int,
        sampling: Sampling,
        seed: int,
        rank: int,
        world: int,
        read: ReadConfig,
    ) -> None:
        if not 0 <= rank < world:
            raise InputError(f"rank is {rank} of {world} processes; ranks count from 0")
        self._given = (urls, batch, sampling, seed, rank, world, read)
        self._process = os.getpid()
        # Shared with the workers that are there already, so that they hear of a change.
        self._start = torch.zeros((), dtype=torch.int64)
        self._start.share_memory_()  # type: ignore[no-untyped-call]

    def __len__(self) -> int:
        """Batches of an epoch."""
        return self._batches.steps_per_epoch

    def seek(self, step: int) -> None:
        """Let the next iteration begin with global batch ``step`` and end with its epoch; epochs follow each other without a gap."""
        self._start.fill_(step)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        urls, _, _, _, rank, world, _ = self._given
        for url in urls:
            _refuse_fork(url, self._process)
        info = get_worker_info()
        first, stride = (0, 1) if info is None else (info.id, info.num_workers)
        start, epoch = int(self._start), len(self)
        steps = range(start + first, start - start % epoch + epoch, stride)
        with closing(self._batches.iterate(steps.start, rank, world, stride)) as batches:
            for batch in islice(batches, len(steps)):
                yield {field.name: getattr(batch, field.name) for field in fields(Batch)}

    def __getstate__(self) -> dict[str, Any]:
        return {"_given": self._given, "_start": self._start}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _process=os.getpid())

    @cached_property
    def _batches(self) -> ImageBatches:
        urls, batch, sampling, seed, _, _, read = self._given
        sets = [open_dataset(url) for url in urls]
        groups = {(group.label, group.bias): group for each in reversed(sets) for group in each.groups}
        return ImageBatches(sets, Groups.of(groups.values()), sampling=sampling, batch=batch, seed=seed, read=read)


class _LateStore:
    """A store that each process opens for itself."""

    def __init__(self, url: str, config: StoreConfig) -> None:
        self._given = (url, config)
        self._process = os.getpid()

    def __reduce__(self) -> tuple[type[_LateStore], tuple[str, StoreConfig]]:
        return _LateStore, self._given

    @cached_property
    def store(self) -> Store:
        return open_store(self._given[0], create=False, config=self._given[1])

    def open(self, ref: ShardRef) -> ObjectStream:
        _refuse_fork(self._given[0], self._process)
        confirm(self.store, ref.object)
        return ObjectStream(self.store, ref.key, ref.bytes)


class _Opener:
    """The stage of a WebDataset pipeline that turns URLs into streams."""

    def __init__(self, late: _LateStore, refs: dict[str, ShardRef]) -> None:
        self._late = late
        self._refs = refs

    def __call__(self, urls: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        for source in urls:
            stream = self._late.open(self._refs[source["url"]])
            try:
                yield {**source, "stream": stream}
            finally:
                stream.close()


def _refuse_fork(url: str, opened_in: int) -> None:
    if "://" in url and os.getpid() != opened_in:
        raise InputError(
            f"{url} was opened before this process was forked, and clients of buckets do not survive that; give the DataLoader "
            "multiprocessing_context='forkserver'"
        )
