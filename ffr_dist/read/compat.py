"""Our shards in other readers: they are plain WebDataset tars."""

from __future__ import annotations

from ffr_dist.errors import InputError
from ffr_dist.shards.manifest import read_manifest
from ffr_dist.store import Store, open_store


def webdataset_urls(where: str | Store) -> list[str]:
    """Paths of a finished local set's shards, in order: ``webdataset.WebDataset`` and Hugging Face ``load_dataset`` take them."""
    store = where if isinstance(where, Store) else open_store(where, create=False)
    if store.url.startswith("memory://"):
        raise InputError(
            f"{store.url} lives in the memory of this process, where other readers cannot look; use a folder"
        )
    return [f"{store.url}/{shard.key}" for shard in read_manifest(store).shards]
