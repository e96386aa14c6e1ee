"""Where each image of a finished set lies: one parquet table, in the order of shards and of members within them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ffr_dist.errors import BrokenError
from ffr_dist.groups import Groups
from ffr_dist.records import INDEX, Provenance
from ffr_dist.shards.manifest import Manifest
from ffr_dist.shards.refs import fetch
from ffr_dist.store import Store

_ROW_GROUP = 65_536


def index_rows(
    *,
    shard: int,
    offsets: Sequence[int],
    sizes: Sequence[int],
    keys: Sequence[str],
    group_names: Sequence[str],
    groups: Groups,
    source: Provenance,
    source_keys: pa.Array | None = None,
    seeds: pa.Array | None = None,
    prompts: pa.Array | None = None,
    names: Sequence[str] | None = None,
) -> pa.Table:
    """The rows of one shard's images."""
    cells = {group.name: group for group in groups}
    rows = len(keys)
    columns = {
        "shard": pa.repeat(pa.scalar(shard, pa.int32()), rows),
        "offset": offsets,
        "size": sizes,
        "key": keys,
        "group": group_names,
        "label": [cells[name].label for name in group_names],
        "bias": [cells[name].bias for name in group_names],
        "source": pa.repeat(source, rows),
        "source_key": source_keys if source_keys is not None else pa.nulls(rows, pa.string()),
        "seed": seeds if seeds is not None else pa.nulls(rows, pa.int64()),
        "prompt": prompts if prompts is not None else pa.nulls(rows, pa.string()),
        "name": names if names is not None else pa.nulls(rows, pa.string()),
    }
    return pa.Table.from_pydict(columns, schema=INDEX)


class IndexWriter:
    """Writes rows, shard by shard, into an open file; holds at most one row group. The file is whole when the ``with`` ends
    without an exception.
    """

    def __init__(self, out: BinaryIO) -> None:
        self._file = pq.ParquetWriter(
            out, INDEX, compression="zstd", use_dictionary=["group", "source", "prompt"], write_statistics=False
        )
        self._waiting: list[pa.Table] = []
        self._rows = 0

    def add(self, rows: pa.Table) -> None:
        self._waiting.append(rows)
        self._rows += rows.num_rows
        if self._rows >= _ROW_GROUP:
            self._flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._waiting and error is None:
            self._flush()
        self._file.close()  # also after an error: later it would meet a closed file

    def _flush(self) -> None:
        self._file.write_table(pa.concat_tables(self._waiting))
        self._waiting = []
        self._rows = 0


def read_index(store: Store, manifest: Manifest, columns: Sequence[str] | None = None) -> pa.Table:
    """The index that a manifest names, or some columns of it, checked against its hash and against the manifest."""
    return parse_index(fetch(store, manifest.index), manifest, columns)


def parse_index(body: bytes, manifest: Manifest, columns: Sequence[str] | None = None) -> pa.Table:
    """As :func:`read_index`, from the file's bytes; BrokenError where it does not fit its manifest."""
    names = INDEX.names if columns is None else list(columns)
    batches = list(index_batches(pa.BufferReader(body), manifest, names))
    return pa.Table.from_batches(batches, pa.schema([INDEX.field(name) for name in names]))


def index_batches(file: pa.NativeFile, manifest: Manifest, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Some columns of an index, some rows at a time and never more than that in memory. Each row is checked before it is handed
    out; that the groups are whole is known at the end. The file's hash is its caller's to check.
    """
    key = manifest.index.key
    check = _Check(manifest)
    needed = {*columns, "shard", "offset", "size", "group", "label", "bias"}
    try:
        index = pq.ParquetFile(file)
        if not index.schema_arrow.equals(INDEX):
            raise BrokenError(f"{key} does not have the columns of an index; restore it")
        if index.metadata.num_rows != manifest.images:
            raise BrokenError(f"{key} has {index.metadata.num_rows} rows for {manifest.images} images; restore it")
        for batch in index.iter_batches(_ROW_GROUP, columns=[name for name in INDEX.names if name in needed]):
            check.rows(batch)
            yield batch.select(list(columns))
        check.end()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise BrokenError(f"{key} is not a readable index ({error}); restore it") from error


class _Check:
    """Holds the rows of an index, in order, against its manifest."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest
        self._row = 0
        self._last = np.cumsum([ref.images for ref in manifest.shards], dtype=np.int64)
        self._bytes = np.array([ref.bytes for ref in manifest.shards], np.int64)
        self._wanted = np.array([manifest.groups[group.name] for group in manifest.group_list], np.int64)
        self._found = np.zeros((2, len(manifest.group_list)), np.int64)

    def rows(self, batch: pa.RecordBatch) -> None:
        key = self._manifest.index.key
        shard, offset, size = (batch[name].to_numpy() for name in ("shard", "offset", "size"))
        places = np.arange(self._row, self._row + batch.num_rows)
        self._row += batch.num_rows
        if self._row > self._manifest.images or not np.array_equal(
            shard, np.searchsorted(self._last, places, side="right")
        ):
            raise BrokenError(f"{key}: its rows do not follow the manifest's shards; restore it")
        ends = self._bytes[shard]
        if ((offset < 0) | (size < 0) | (size > ends) | (offset > ends - size)).any():
            raise BrokenError(f"{key}: a row points outside its shard; restore it")
        for number, group in enumerate(self._manifest.group_list):
            here = pc.equal(batch["group"], group.name)
            fits = pc.and_(here, pc.and_(pc.equal(batch["label"], group.label), pc.equal(batch["bias"], group.bias)))
            self._found[:, number] += [pc.sum(here).as_py() or 0, pc.sum(fits).as_py() or 0]
        if self._found[0].sum() != self._row or (self._found[0] > self._wanted).any():
            self.end()
            raise BrokenError(f"{key}: a row is of a group that its manifest does not name; restore it")

    def end(self) -> None:
        for group, count, fitting in zip(self._manifest.group_list, *self._found.tolist(), strict=True):
            if count != self._manifest.groups[group.name] or fitting != count:
                raise BrokenError(
                    f"{self._manifest.index.key}: group {group.name} has {count} rows, some perhaps of another label or "
                    f"bias, where the manifest has {self._manifest.groups[group.name]}; restore it"
                )
