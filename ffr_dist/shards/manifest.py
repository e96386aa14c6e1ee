"""What a finished set is: its shards, counts and provenance. What no manifest names does not exist for a reader.

``manifest_sha256`` is the set's name by content: sha256 over lines ``key SP group SP sha256-of-image-bytes LF``, sorted
by key. Anyone can recompute it with tarfile and hashlib.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from ffr_dist.errors import BrokenError, InputError
from ffr_dist.groups import Group, Groups
from ffr_dist.records import synthetic_key
from ffr_dist.shards import documents, layout
from ffr_dist.shards.codec import CodecConfig
from ffr_dist.shards.documents import CLOSED, Count, Sha256
from ffr_dist.shards.refs import ObjectRef
from ffr_dist.store import Store, Theirs, open_store

DIGEST_ROWS = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("group", pa.string(), nullable=False),
        pa.field("sha256", pa.binary(32), nullable=False),
    ]
)
"""What ``manifest_digest`` is made of: one row per image, in any order."""

_SLICE = 65_536


@dataclass(frozen=True, slots=True)
class ShardRef:
    """A tar of the set."""

    key: str
    sha256: Sha256
    bytes: Count
    images: Annotated[int, Field(ge=1)]

    @property
    def object(self) -> ObjectRef:
        return ObjectRef(self.key, self.sha256, self.bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One finished set, of one revision of the selection."""

    revision: Annotated[int, Field(ge=0, le=9999)]
    kind: Literal["generated", "imported", "foreign"]
    images: Count
    groups: Mapping[str, Count]
    """Images of each declared group."""
    group_list: tuple[Group, ...]
    shards: tuple[ShardRef, ...]
    index: ObjectRef
    codec: CodecConfig | None
    """None where an import kept its publisher's files."""
    size: int | None
    """Height and width of each image; None where they differ."""
    manifest_sha256: Sha256
    environments: tuple[Mapping[str, str], ...]
    """The distinct environments that the images come from."""
    abandoned: tuple[Count, ...]
    """Intervals that were given up."""
    detail: Mapping[str, Any]
    """What the caller wants on record."""
    intervals: Count = 0
    """The set was made of those below this; 0 for imports."""
    base: str | None = None
    """Where the shards of a foreign set lie, which others wrote: a folder's path or URL; None: beside the manifest."""

    __pydantic_config__ = CLOSED

    def __post_init__(self) -> None:
        Groups(self.group_list)  # refuses what may not stand in one list
        if tuple(self.groups) != tuple(group.name for group in self.group_list):
            # JSON objects are written with sorted keys; the declared order is the list's.
            ordered = {group.name: self.groups[group.name] for group in self.group_list if group.name in self.groups}
            if len(ordered) != len(self.groups) or len(ordered) != len(self.group_list):
                raise ValueError("groups and group_list do not name the same groups")
            object.__setattr__(self, "groups", ordered)
        if self.images != sum(self.groups.values()) or self.images != sum(shard.images for shard in self.shards):
            raise ValueError("images is not the sum over groups and over shards")
        if len({shard.key for shard in self.shards}) != len(self.shards):
            raise ValueError("a shard is named twice")
        if (self.kind == "foreign") != (self.base is not None):
            raise ValueError("base says where foreign shards lie, and no others")
        for shard in self.shards:
            if self.kind != "foreign" and layout.interval_of_shard(shard.key, shard.sha256, "tar") is None:
                raise ValueError(f"{shard.key} is not the name of a shard of that hash")
        if layout.revision_of_index(self.index.key, self.index.sha256) != self.revision:
            raise ValueError(f"{self.index.key} is not the name of this revision's index of that hash")

    @property
    def declared(self) -> Groups:
        """The groups as declared, in order."""
        return Groups(self.group_list)


def manifest_digest(rows: pa.Table) -> str:
    """``manifest_sha256`` of a table of ``DIGEST_ROWS``."""
    order = pc.sort_indices(rows["key"])
    digest = hashlib.sha256()
    for start in range(0, rows.num_rows, _SLICE):
        part = rows.take(order.slice(start, _SLICE))
        for key, group, sha256 in zip(*(part[name].to_pylist() for name in DIGEST_ROWS.names), strict=True):
            digest.update(f"{key} {group} {sha256.hex()}\n".encode())
    return digest.hexdigest()


class DigestSpool:
    """``manifest_sha256`` of images that come in rising order of k within each group: they wait in files below
    ``folder``, so that none is held.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._groups: set[str] = set()

    def add(self, groups: list[str], ks: list[int], sha256s: list[bytes]) -> None:
        lines: dict[str, list[bytes]] = {}
        for group, k, sha256 in zip(groups, ks, sha256s, strict=True):
            lines.setdefault(group, []).append(f"{synthetic_key(group, k)} {group} {sha256.hex()}\n".encode())
        for group, found in lines.items():
            with (self._folder / f"{group}.lines").open("ab") as file:
                file.writelines(found)
        self._groups |= lines.keys()

    def hexdigest(self) -> str:
        digest = hashlib.sha256()
        for group in sorted(self._groups, key=lambda name: f"{name}-"):  # as the keys sort
            with (self._folder / f"{group}.lines").open("rb") as file:
                while part := file.read(1 << 20):
                    digest.update(part)
        return digest.hexdigest()


def manifest_numbers(store: Store) -> list[int]:
    """The revisions that are finished, rising."""
    numbers = [layout.revision_of_manifest(info.key) for info in store.list(layout.MANIFESTS)]
    return sorted(number for number in numbers if number is not None)


def manifest_of(store: Store, revision: int) -> Manifest:
    """The manifest of a revision that is known to be finished."""
    key = layout.manifest_key(revision)
    return _parse(key, store.get(key))


def latest_manifest(store: Store) -> Manifest | None:
    """The manifest of the highest revision; None where nothing is finished."""
    known = manifest_numbers(store)
    return manifest_of(store, known[-1]) if known else None


def read_manifest(store: Store) -> Manifest:
    """As :func:`latest_manifest`, where there must be one."""
    manifest = latest_manifest(store)
    if manifest is None:
        raise InputError(
            f"{store.url} is not finished, so it cannot be read yet: run 'ffr generate', 'ffr import' or 'ffr index'"
        )
    return manifest


def shards_of(store: Store, manifest: Manifest) -> Store:
    """Where the shards of a set lie: ``store`` itself, or the folder of others that a foreign set names."""
    if manifest.base is None:
        return store
    if "://" in store.url and "://" not in manifest.base:
        # Else whoever can write to a bucket could have its readers open their own files.
        raise BrokenError(f"{store.url} lies in a bucket but names shards of a local folder; index the tars anew")
    return open_store(manifest.base, create=False, config=store.config)


def publish_manifest(store: Store, manifest: Manifest) -> Manifest:
    """Make a set visible, last of all; the manifest that stands afterwards (an earlier one, if there was one)."""
    key = layout.manifest_key(manifest.revision)
    result = store.put_if_absent(key, documents.to_bytes(manifest))
    standing = _parse(key, result.body) if isinstance(result, Theirs) else manifest
    copy_manifest(store, standing)
    return standing


def copy_manifest(store: Store, manifest: Manifest) -> None:
    """Bring the copy for people up to date, which a crash after the manifest may have left undone."""
    latest = latest_manifest(store) or manifest
    store.put(layout.MANIFEST_COPY, documents.to_bytes(latest))


def _parse(key: str, body: bytes) -> Manifest:
    manifest = documents.from_bytes(Manifest, body, key)
    if layout.manifest_key(manifest.revision) != key:
        raise BrokenError(f"{key} calls itself revision {manifest.revision}; restore it")
    return manifest
