"""A run of commits as one small table: what the log keeps of a whole segment, and in memory of an open one.

A row holds what a commit says and no more: the keys of its objects follow from interval and sha256. A segment gives back
equal commits, and what they count together without building any.

A stored segment is a parquet file that any reader opens. Its footer carries the sha256 of the file with that sha256 taken
as zeros, so a cut or changed one is never mistaken for a good one. The same commits give the same bytes, whoever packs
them (with the same version of pyarrow).
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ffr_dist.shards import layout
from ffr_dist.shards.commit import Commit, GroupTally
from ffr_dist.shards.refs import ObjectRef

_REASON = pa.struct([pa.field("reason", pa.string(), nullable=False), pa.field("count", pa.int64(), nullable=False)])
_GROUP = pa.struct(
    [
        pa.field("group", pa.string(), nullable=False),
        pa.field("tried", pa.int64(), nullable=False),
        pa.field("accepted", pa.int64(), nullable=False),
        pa.field("rejected", pa.list_(pa.field("element", _REASON)), nullable=False),
    ]
)
_ROW = pa.schema(
    [
        pa.field("interval", pa.int32(), nullable=False),
        pa.field("attempt", pa.string(), nullable=False),
        pa.field("tar_sha256", pa.binary(32)),
        pa.field("tar_bytes", pa.int64()),
        pa.field("sidecar_sha256", pa.binary(32)),
        pa.field("sidecar_bytes", pa.int64()),
        pa.field("groups", pa.list_(pa.field("element", _GROUP)), nullable=False),
        pa.field("environment", pa.string(), nullable=False),  # as JSON: one text for nearly all rows
        pa.field("seconds", pa.float64(), nullable=False),
        pa.field("abandoned", pa.string()),
    ]
)
_SEAL = b"sha256:"
_NO_DIGEST = b"0" * 64
_MOST_BYTES = 1 << 28


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """What a run of intervals counts together."""

    abandoned: int
    tried: Mapping[str, int]
    accepted: Mapping[str, int]
    rejected: Mapping[str, Mapping[str, int]]
    """By group and reason."""


def sums_of(commit: Commit) -> Sums:
    """What one commit counts."""
    groups = commit.groups.items()
    return Sums(
        abandoned=commit.abandoned is not None,
        tried={name: tally.tried for name, tally in groups},
        accepted={name: tally.accepted for name, tally in groups},
        rejected={name: tally.rejected for name, tally in groups},
    )


@dataclass(frozen=True, slots=True)
class Segment:
    """Commits by interval, as a table."""

    table: pa.Table

    def __len__(self) -> int:
        return len(self.table)

    @property
    def intervals(self) -> NDArray[np.int64]:
        """Of its commits, ascending."""
        return _ints(self.table["interval"])

    def between(self, start: int, stop: int) -> Segment:
        """The commits of intervals ``start`` … ``stop - 1``."""
        first, end = np.searchsorted(self.intervals, (start, stop)).tolist()
        return Segment(self.table.slice(first, end - first))

    def commits(self) -> Iterator[Commit]:
        """The commits this was made of."""
        environments: dict[str, Any] = {}
        groups = _tallies(self.table["groups"].combine_chunks())
        flat = (self.table[name].to_pylist() for name in _ROW.names if name != "groups")
        for row, tallies in zip(zip(*flat, strict=True), groups, strict=True):
            interval, attempt, tar, tar_bytes, sidecar, sidecar_bytes, environment, seconds, abandoned = row
            if environment not in environments:
                environments[environment] = json.loads(environment)
            tar_key = layout.tar_key(interval, tar.hex()) if tar else ""
            sidecar_key = layout.sidecar_key(interval, sidecar.hex()) if sidecar else ""
            yield Commit(
                interval=interval,
                attempt=attempt,
                tar=ObjectRef(tar_key, tar.hex(), tar_bytes) if tar else None,
                sidecar=ObjectRef(sidecar_key, sidecar.hex(), sidecar_bytes) if sidecar else None,
                groups=tallies,
                environment=environments[environment],
                seconds=seconds,
                abandoned=abandoned,
            )

    def sums(self) -> Sums:
        """What all of them count together."""
        groups = pc.list_flatten(self.table["groups"].combine_chunks())
        names, which = _encoded(groups.field("group"))
        per_group = groups.field("rejected")
        owners = np.repeat(which, _ints(pc.list_value_length(per_group)))
        rejects = pc.list_flatten(per_group)
        reasons, why = _encoded(rejects.field("reason"))
        counts = _ints(rejects.field("count"))
        return Sums(
            abandoned=len(self.table) - self.table["abandoned"].null_count,
            tried=_by_name(names, which, _ints(groups.field("tried"))),
            accepted=_by_name(names, which, _ints(groups.field("accepted"))),
            rejected={
                name: _by_name(reasons, why[owners == place], counts[owners == place])
                for place, name in enumerate(names)
            },
        )

    def fold(self) -> bytes:
        """As few bytes: about 150 a commit where there are dozens of them."""
        return _parquet(self.table)

    def pack(self) -> bytes:
        """As a sealed parquet file."""
        return _sealed(_parquet(self.table, {"seal": (_SEAL + _NO_DIGEST).decode()}))


def unpack(body: bytes, first: int, size: int) -> Segment | None:
    """The stored segment of exactly the intervals ``first`` … ``first + size - 1``; None where this is not one."""
    try:
        if body != _sealed(body):
            return None
        file = pq.ParquetFile(pa.BufferReader(body))
        meta = file.metadata
        stored = sum(meta.row_group(group).total_byte_size for group in range(meta.num_row_groups))
        if not file.schema_arrow.equals(_ROW) or meta.num_rows != size or stored > _MOST_BYTES:
            return None
        table = file.read()
        table.validate(full=True)
        whole = np.array_equal(_ints(table["interval"]), np.arange(first, first + size))
        return Segment(table) if whole and _consistent(table) else None
    except (pa.ArrowException, OSError, ValueError):
        return None


def segment_of(commits: Sequence[Commit]) -> Segment:
    """Of commits that come by interval, or else to be unfolded with others."""
    return Segment(_table(commits))


def unfold(parts: Sequence[bytes]) -> Segment:
    """The folded commits together, by interval."""
    table = pa.concat_tables([pq.ParquetFile(pa.BufferReader(part)).read(use_threads=False) for part in parts])
    return Segment(table.take(pa.array(np.argsort(_ints(table["interval"])))))


def _parquet(table: pa.Table, notes: Mapping[str, str] = MappingProxyType({})) -> bytes:
    out = io.BytesIO()
    with pq.ParquetWriter(out, _ROW, compression="zstd", write_statistics=False, store_schema=False) as writer:
        writer.write_table(table.combine_chunks())
        writer.add_key_value_metadata(dict(notes))
    return out.getvalue()


def _table(commits: Sequence[Commit]) -> pa.Table:
    tallies = [entry for commit in commits for entry in sorted(commit.groups.items())]
    reasons = [entry for _, tally in tallies for entry in sorted(tally.rejected.items())]
    rejected = pa.StructArray.from_arrays(
        [
            pa.array([reason for reason, _ in reasons], pa.string()),
            pa.array([count for _, count in reasons], pa.int64()),
        ],
        fields=list(_REASON),
    )
    groups = pa.StructArray.from_arrays(
        [
            pa.array([name for name, _ in tallies], pa.string()),
            pa.array([tally.tried for _, tally in tallies], pa.int64()),
            pa.array([tally.accepted for _, tally in tallies], pa.int64()),
            pa.ListArray.from_arrays(_offsets([len(tally.rejected) for _, tally in tallies]), rejected),
        ],
        fields=list(_GROUP),
    )
    columns = [
        [commit.interval for commit in commits],
        [commit.attempt for commit in commits],
        [_digest(commit.tar) for commit in commits],
        [commit.tar.bytes if commit.tar else None for commit in commits],
        [_digest(commit.sidecar) for commit in commits],
        [commit.sidecar.bytes if commit.sidecar else None for commit in commits],
        pa.ListArray.from_arrays(_offsets([len(commit.groups) for commit in commits]), groups),
        [json.dumps(dict(commit.environment), sort_keys=True) for commit in commits],
        [commit.seconds for commit in commits],
        [commit.abandoned for commit in commits],
    ]
    return pa.table([pa.array(column, kind.type) for column, kind in zip(columns, _ROW, strict=True)], schema=_ROW)


def _tallies(groups: pa.ListArray) -> Iterator[dict[str, GroupTally]]:
    """``Commit.groups`` of each row. By leaf columns: a dict for every nested value would take most of the time."""
    tallies = pc.list_flatten(groups)
    rejects = pc.list_flatten(tallies.field("rejected"))
    reasons = zip(rejects.field("reason").to_pylist(), rejects.field("count").to_pylist(), strict=True)
    columns = (tallies.field(name).to_pylist() for name in ("group", "tried", "accepted"))
    rows = zip(*columns, pc.list_value_length(tallies.field("rejected")).to_pylist(), strict=True)
    for length in pc.list_value_length(groups).to_pylist():
        yield {
            name: GroupTally(tried, accepted, dict(itertools.islice(reasons, kinds)))
            for name, tried, accepted, kinds in itertools.islice(rows, length)
        }


def _sealed(body: bytes) -> bytes:
    """The file with the digest where it belongs; ValueError where there is no place for one."""
    place = body.rindex(_SEAL) + len(_SEAL)
    rest = body[place + len(_NO_DIGEST) :]
    digest = hashlib.sha256(b"".join((body[:place], _NO_DIGEST, rest))).hexdigest()
    return b"".join((body[:place], digest.encode(), rest))


def _consistent(table: pa.Table) -> bool:
    """Whether each row could be a commit: no number below 0, and objects exactly where its counts ask for them."""
    groups = table["groups"].combine_chunks()
    tallies = pc.list_flatten(groups)
    rejected = tallies.field("rejected")
    counts = _ints(pc.list_flatten(rejected).field("count"))
    tried, accepted = _ints(tallies.field("tried")), _ints(tallies.field("accepted"))
    per_row = _ints(pc.list_value_length(groups))
    abandoned = _present(table["abandoned"])
    sizes = [_ints(table[name].drop_null()) for name in ("tar_bytes", "sidecar_bytes")]
    for text in table["environment"].unique().to_pylist():
        if not isinstance(json.loads(text), dict):
            return False
    return bool(
        all((numbers >= 0).all() for numbers in (counts, tried, accepted, *sizes))
        and np.array_equal(tried, accepted + _summed(counts, _ints(pc.list_value_length(rejected))))
        and np.array_equal(_present(table["tar_sha256"]), _summed(accepted, per_row) > 0)
        and np.array_equal(_present(table["sidecar_sha256"]), ~abandoned)
        and all(
            np.array_equal(_present(table[f"{name}_sha256"]), _present(table[f"{name}_bytes"]))
            for name in ("tar", "sidecar")
        )
        and not per_row[abandoned].any()
    )


def _present(column: pa.ChunkedArray) -> NDArray[np.bool_]:
    return np.asarray(column.is_valid())


def _summed(values: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sums of consecutive runs of these lengths."""
    running: NDArray[np.int64] = np.concatenate([[0], np.cumsum(values)])
    ends = np.cumsum(lengths)
    totals: NDArray[np.int64] = running[ends] - running[ends - lengths]
    return totals


def _by_name(names: list[str], which: NDArray[np.int64], counts: NDArray[np.int64]) -> dict[str, int]:
    totals = np.zeros(len(names), np.int64)
    np.add.at(totals, which, counts)
    return {name: int(count) for name, count in zip(names, totals, strict=True)}


def _encoded(column: pa.Array) -> tuple[list[str], NDArray[np.int64]]:
    encoded = column.dictionary_encode()
    return encoded.dictionary.to_pylist(), _ints(encoded.indices)


def _ints(column: pa.Array | pa.ChunkedArray) -> NDArray[np.int64]:
    return np.asarray(column, np.int64)


def _offsets(lengths: list[int]) -> pa.Array:
    return pa.array(np.cumsum([0, *lengths]), pa.int32())


def _digest(ref: ObjectRef | None) -> bytes | None:
    return None if ref is None else bytes.fromhex(ref.sha256)
