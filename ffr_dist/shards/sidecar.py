"""One row per candidate of an interval, accepted or not, as a small parquet file beside the tar.

Equal decisions give equal bytes: nothing in it tells which attempt, when or where.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ffr_dist.errors import BrokenError
from ffr_dist.records import SIDECAR
from ffr_dist.shards.commit import Commit
from ffr_dist.shards.refs import fetch
from ffr_dist.store import Store

MOST_K = 10**8
"""Keys hold k in eight digits; a bigger one would no longer sort."""

PURGED = "purged"
"""It was good and not needed when its interval was purged."""
EXCLUDED = "excluded"
NEAR_DUPLICATE = "near_duplicate"
DUPLICATE = "duplicate"
SETTLED_REASONS = frozenset({PURGED, EXCLUDED, NEAR_DUPLICATE, DUPLICATE})
"""Why a candidate that its worker accepted is gone from a purged interval; its hashes stay."""

_MOST_ROWS = 1_000_000
_MOST_BYTES = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What became of one candidate, before anything global is decided."""

    slot: int
    """Place in the interval: 0, 1, … without gaps."""
    group: str
    k: int
    seed: int
    """Of the latents."""
    prompt: str
    source_key: str | None = None
    accepted: bool
    reason: str | None = None
    """Why not; of rejects only."""
    scores: Mapping[str, float] = field(default_factory=dict)
    pixels_blake2b: bytes | None = None
    """Of the decoded stored image; of accepted candidates, and of those that a purge took away after settling."""
    look: bytes | None = None
    """Perceptual hash of 256 bits, where the plan asks for one; of the same candidates."""
    sha256: bytes | None = None
    """Of the stored image file, 32 bytes; this and the next two of accepted candidates only."""
    offset: int | None = None
    """Of the stored image file's first byte in the tar."""
    size: int | None = None
    thumbnail: bytes | None = None


def write_sidecar(rows: Sequence[Decision]) -> bytes:
    """The sidecar of an interval, in the order of slots."""
    columns: dict[str, list[Any]] = {name: list(map(attrgetter(name), rows)) for name in SIDECAR.names}
    columns["scores"] = [sorted(row.scores.items()) for row in rows]
    out = io.BytesIO()
    pq.write_table(
        pa.Table.from_pydict(columns, schema=SIDECAR),
        out,
        compression="zstd",
        use_dictionary=["group", "prompt", "reason"],
        write_statistics=False,
    )
    return out.getvalue()


def read_sidecar(body: bytes, source: str = "sidecar", columns: Sequence[str] | None = None) -> pa.Table:
    """The rows of a sidecar, or some columns of them; BrokenError, which names ``source``, where they cannot be.

    A column that says whether a row was accepted implies the others: see ``Decision``.
    """
    try:
        file = pq.ParquetFile(pa.BufferReader(body))
        if not file.schema_arrow.equals(SIDECAR):
            raise BrokenError(f"{source} does not have the columns of a sidecar; restore it")
        meta = file.metadata
        stored = sum(meta.row_group(group).total_byte_size for group in range(meta.num_row_groups))
        if meta.num_rows > _MOST_ROWS or stored > _MOST_BYTES:
            raise BrokenError(f"{source} claims {meta.num_rows} rows of {stored} bytes, more than any interval has")
        table = file.read()
        _check(table, source)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise BrokenError(f"{source} is not a readable sidecar ({error}); restore it") from error
    return table.select(list(columns)) if columns is not None else table


def load_sidecar(store: Store, commit: Commit, columns: Sequence[str] | None = None) -> pa.Table:
    """The sidecar that a commit names, checked against its hash; no rows for an abandoned interval."""
    if commit.sidecar is None:
        return (SIDECAR if columns is None else pa.schema([SIDECAR.field(name) for name in columns])).empty_table()
    return read_sidecar(fetch(store, commit.sidecar), commit.sidecar.key, columns)


def purged_sidecar(table: pa.Table, reasons: Mapping[int, str], offsets: Mapping[int, int]) -> bytes:
    """A sidecar without some of its accepted candidates: those in ``reasons``, by slot, which says why. The others get
    their places in the new tar. What the first leave are the hashes that keep copies of them out.
    """
    rows = []
    for values in table.to_pylist():
        slot = values["slot"]
        if slot in reasons:
            gone = dict.fromkeys(("sha256", "offset", "size"))
            values |= {"accepted": False, "reason": reasons[slot], **gone}
            if reasons[slot] not in SETTLED_REASONS:  # as if its worker had rejected it: it hides no copy
                values |= {"pixels_blake2b": None, "look": None}
        elif values["accepted"]:
            values["offset"] = offsets[slot]
        rows.append(Decision(**values | {"scores": dict(values["scores"] or ())}))
    return write_sidecar(rows)


def _check(table: pa.Table, source: str) -> None:
    rows = table.num_rows
    slots = table["slot"].to_numpy()
    k = table["k"].to_numpy()
    if not np.array_equal(slots, np.arange(rows)):
        raise BrokenError(f"{source}: its slots are not 0 … {rows - 1} in order; restore it")
    if rows and not (k.min() >= 0 and k.max() < MOST_K):
        raise BrokenError(f"{source}: a k is outside 0 … {MOST_K - 1}; restore it")
    accepted = table["accepted"]
    settled = pc.or_(accepted, pc.is_in(table["reason"], pa.array(sorted(SETTLED_REASONS))))
    for name, of in {"sha256": accepted, "offset": accepted, "size": accepted, "pixels_blake2b": settled}.items():
        if not table[name].is_valid().equals(of):
            raise BrokenError(f"{source}: {name} must stand for the accepted rows and for no other; restore it")
    if not table["reason"].is_valid().equals(pc.invert(accepted)):
        raise BrokenError(f"{source}: each rejected row, and no other, must state its reason; restore it")
