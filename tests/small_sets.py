"""Small real sets for tests: images whose label and bias can be seen."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from ffr_dist.groups import Group, Groups
from ffr_dist.read.dataset import Dataset, open_dataset
from ffr_dist.shards.codec import CodecConfig, encode
from ffr_dist.shards.imported import write_imported
from ffr_dist.store import Store, open_store

GROUPS = Groups.of([Group("land_land", 0, 0), Group("land_sea", 0, 1), Group("sea_land", 1, 0), Group("sea_sea", 1, 1)])
PNG = CodecConfig(format="png")


def fresh_store() -> Store:
    return open_store(f"memory://{uuid.uuid4().hex}")


def picture(group: Group, number: int, side: int = 8, seed: int = 0) -> np.ndarray:
    """Noise, a bar that stands (label 0) or lies (label 1), and a tint by bias."""
    pixels = np.random.default_rng([seed, group.label, group.bias + 1, number]).integers(90, 140, (side, side, 3))
    start = number % (side - side // 4)
    stripe = slice(start, start + side // 4)
    if group.label:
        pixels[stripe] += 90
    else:
        pixels[:, stripe] += 90
    pixels[:, :, 2 * group.bias] += 25
    return pixels.astype(np.uint8)


def write_set(
    store: Store,
    counts: Mapping[str, int],
    *,
    groups: Groups = GROUPS,
    side: int = 8,
    seed: int = 0,
    images_per_shard: int = 10,
    split: str = "train",
) -> None:
    """A finished set whose groups take turns until they are used up."""
    rows = sorted((number, place) for place, name in enumerate(groups.names) for number in range(counts.get(name, 0)))
    samples = (
        (groups.items[place], encode(picture(groups.items[place], number, side, seed), PNG), f"{place}/{number}.png")
        for number, place in rows
    )
    write_imported(store, split, groups, samples, codec=PNG, size=side, images_per_shard=images_per_shard)


def small_set(counts: Mapping[str, int], store: Store | None = None, **options: object) -> Dataset:
    store = store or fresh_store()
    write_set(store, counts, **options)
    return open_dataset(store)


def as_synthetic(dataset: Dataset) -> Dataset:
    """The set, as a generated one would say of itself."""
    columns = replace(dataset.whole.columns, source=np.ones_like(dataset.whole.columns.source))
    whole = replace(dataset.whole, columns=columns)
    return replace(dataset, whole=whole, fingerprint=f"{dataset.fingerprint}, synthetic")
