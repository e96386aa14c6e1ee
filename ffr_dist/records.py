"""The tables and JSON objects that lie in storage, by column and key."""

from __future__ import annotations

import json
import re
from typing import Any, Literal

import pyarrow as pa

from ffr_dist.groups import Group

PROTOCOL = 1
"""Version of everything below an output; another one is refused, not guessed at."""

Provenance = Literal["real", "synthetic"]

SIDECAR = pa.schema(
    [
        pa.field("slot", pa.int32(), nullable=False),  # place in the interval
        pa.field("group", pa.string(), nullable=False),
        pa.field("k", pa.int64(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),  # of the latents
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("source_key", pa.string()),
        pa.field("accepted", pa.bool_(), nullable=False),
        pa.field("reason", pa.string()),  # why not
        pa.field("scores", pa.map_(pa.string(), pa.float32())),
        pa.field("pixels_blake2b", pa.binary(16)),  # of the decoded stored image; null if rejected
        pa.field("look", pa.binary(32)),  # perceptual hash; null if rejected, or where nobody asked for it
        pa.field("sha256", pa.binary(32)),  # of the stored image file
        pa.field("offset", pa.int64()),  # of the stored image file in its tar
        pa.field("size", pa.int64()),
        pa.field("thumbnail", pa.binary()),  # first rejects of each reason only
    ]
)
"""One row per candidate of an interval, accepted or not. Holds no attempt, time or host: equal work, equal bytes."""

INDEX = pa.schema(
    [
        pa.field("shard", pa.int32(), nullable=False),  # place in the manifest's list of shards
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("group", pa.string(), nullable=False),
        pa.field("label", pa.int32(), nullable=False),
        pa.field("bias", pa.int32(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("source_key", pa.string()),
        pa.field("seed", pa.int64()),
        pa.field("prompt", pa.string()),
        pa.field("name", pa.string()),
    ]
)
"""One row per image of a finished set, in the order of the manifest's shards and of the members within them."""


def synthetic_key(group: str, k: int) -> str:
    return f"{group}-{k:08d}"


_SYNTHETIC_KEY = re.compile(r"([a-z0-9_]+)-(\d{8})\Z", re.ASCII)


def parse_synthetic_key(key: str) -> tuple[str, int] | None:
    """The (group, k) that ``key`` names; None where it is no such key."""
    match = _SYNTHETIC_KEY.match(key)
    return (match[1], int(match[2])) if match is not None else None


def imported_key(split: str, row: int) -> str:
    return f"{split}-{row:08d}"


_dump = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode
"""``json.dumps`` would build an encoder for each image, which takes twice as long as to use it."""


def sample_json(
    key: str,
    group: Group,
    source: Provenance,
    *,
    seed: int | None = None,
    prompt: str | None = None,
    source_key: str | None = None,
    name: str | None = None,
) -> bytes:
    """The JSON that lies beside an image in its shard: sorted keys, no nulls."""
    values: dict[str, Any] = {
        "key": key,
        "group": group.name,
        "label": group.label,
        "bias": group.bias,
        "source": source,
        "seed": seed,
        "prompt": prompt,
        "source_key": source_key,
        "name": name,
    }
    present = {name: value for name, value in values.items() if value is not None}
    return _dump(present).encode()
