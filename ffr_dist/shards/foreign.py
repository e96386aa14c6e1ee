"""Tars that others wrote, as a set of ours: an index and a manifest, while the shards stay where they are.

Members are samples as WebDataset has them: what stands before the first dot of a file's name is the sample's key, what stands
behind it says what the file is. A key in the index has its tar's name in front, since other writers start anew in each tar.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from ffr_dist.errors import ConflictError, DataError, MissingError
from ffr_dist.groups import UNKNOWN_BIAS, Group, Groups
from ffr_dist.shards import layout
from ffr_dist.shards.codec import size_of
from ffr_dist.shards.index import IndexWriter, index_rows
from ffr_dist.shards.manifest import (
    DIGEST_ROWS,
    Manifest,
    ShardRef,
    copy_manifest,
    latest_manifest,
    manifest_digest,
    publish_manifest,
)
from ffr_dist.shards.refs import ObjectRef, confirm, in_order
from ffr_dist.shards.tarstream import Entry, ObjectStream, entries
from ffr_dist.store import Store, open_store

IMAGE_KINDS = ("jpg", "jpeg", "png", "webp")

_MOST = {"cls": 64, "json": 16 << 20} | dict.fromkeys(IMAGE_KINDS, 256 << 20)
"""Bytes of what is read."""
_AT_ONCE = 2
_MOST_GROUPS = 2**15 - 1
_LARGEST = 2**31 - 1
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)\Z", re.ASCII)
_MOST_TARS = 10_000_000
_WILD = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fields:
    """Where a sample says what it is."""

    label: str | None = None
    """A field of its ``.json``; None: its ``.cls``."""
    bias: str | None = None
    """A field of its ``.json``; None: nobody knows it."""


class Found(NamedTuple):
    """A sample with an image."""

    key: str
    offset: int
    size: int
    sha256: bytes
    label: int
    bias: int
    width: int
    height: int


@dataclass(slots=True)
class Scan:
    """A tar that is read: ``samples`` fills the rest."""

    store: Store
    key: str
    fields: Fields
    images: list[Found] = field(default_factory=list)
    """Those found until an error, if there is one."""
    without_image: Counter[str] = field(default_factory=Counter)
    """Samples that were passed over, by what they hold instead."""

    @property
    def where(self) -> str:
        return f"{self.store.url}/{self.key}"

    def read(self) -> tuple[str, int]:
        """Find the images; sha256 and length of the tar. DataError at the first thing out of order."""
        try:
            before = self.store.head(self.key)
        except MissingError as error:
            raise DataError(f"{self.where} is not there; check the URL") from error
        digest = hashlib.sha256()
        tar = ObjectStream(self.store, self.key, before.size, digest.update)
        try:
            for members in _samples(entries(tar, self.where, self._most), self.where):
                self._add(members)
        finally:
            tar.close()
        if self.store.head(self.key) != before:
            raise DataError(f"{self.where} changed while it was read; index it when nobody writes to it")
        return digest.hexdigest(), before.size

    def _most(self, name: str) -> int | None:
        kind = _key_and_kind(name)[1]
        needless = (kind == "cls" and self.fields.label is not None) or (
            kind == "json" and self.fields.label is None and self.fields.bias is None
        )
        return None if needless else _MOST.get(kind)

    def _add(self, members: Mapping[str, Entry]) -> None:
        key = _key_and_kind(next(iter(members.values())).name)[0]
        where = f"{self.where}: sample {key}"
        kinds = [kind for kind in IMAGE_KINDS if kind in members]
        if not kinds:
            self.without_image[" and ".join(sorted(members))] += 1
            return
        if len(kinds) > 1:
            raise DataError(
                f"{where} has {len(kinds)} images ({', '.join(kinds)}); make a tar with the one that is meant"
            )
        image = members[kinds[0]]
        body = image.body or b""
        try:
            width, height = size_of(body)
        except DataError as error:
            raise DataError(f"{self.where}: {image.name}: {error}") from error
        note = _note(members["json"], self.where) if "json" in members else None
        self.images.append(
            Found(
                key=f"{self.key}/{key}",
                offset=image.offset,
                size=image.size,
                sha256=hashlib.sha256(body).digest(),
                label=_class(members, where)
                if self.fields.label is None
                else _value(note, self.fields.label, where, 0),
                bias=UNKNOWN_BIAS if self.fields.bias is None else _value(note, self.fields.bias, where, UNKNOWN_BIAS),
                width=width,
                height=height,
            )
        )


def index_tars(store: Store, patterns: Sequence[str], fields: Fields, groups: Groups | None = None) -> Manifest:
    """Make ``store`` a set of the tars that ``patterns`` name (see :func:`find_tars`), each read once. Without ``groups``, each
    (label, bias) that occurs is one.

    A store that holds this very set is returned untouched, and no tar is read.
    """
    base, keys = find_tars(patterns)
    if "://" in store.url and "://" not in base:
        raise DataError(
            f"{store.url} is a bucket and the tars lie in {base}, where nobody else can read them; name a local folder"
        )
    detail: dict[str, Any] = {"label": fields.label, "bias": fields.bias}
    standing = latest_manifest(store)
    if standing is not None:
        _refuse_other(store, standing, base, keys, detail, groups)
        copy_manifest(store, standing)
        return standing
    source = open_store(base, create=False, config=store.config)

    def read(key: str) -> tuple[Scan, ShardRef]:
        scan = Scan(source, key, fields)
        sha256, size = scan.read()
        if not scan.images:
            raise DataError(f"{scan.where} holds no image{_instead(scan.without_image)}; leave it out")
        return scan, ShardRef(key, sha256, size, len(scan.images))

    out = io.BytesIO()
    tars = _Set(base, groups)
    with IndexWriter(out) as index:
        for scan, shard in in_order(read, keys, _AT_ONCE):
            index.add(tars.add(scan, shard))
    body = out.getvalue()
    sha256 = hashlib.sha256(body).hexdigest()
    ref = ObjectRef(layout.index_key(0, sha256), sha256, len(body))
    store.put(ref.key, body)
    confirm(store, ref)
    return publish_manifest(store, tars.manifest(ref, detail))


@dataclass(slots=True)
class _Set:
    """What is known of the tars that were read."""

    base: str
    declared: Groups | None
    shards: list[ShardRef] = field(default_factory=list)
    counts: Counter[Group] = field(default_factory=Counter)
    without_image: Counter[str] = field(default_factory=Counter)
    sizes: set[tuple[int, int]] = field(default_factory=set)
    digest_rows: list[pa.Table] = field(default_factory=list)

    def add(self, scan: Scan, shard: ShardRef) -> pa.Table:
        """One more tar; its rows of the index."""
        images = scan.images
        cells = [_group(self.declared, image, self.base) for image in images]
        keys, names = [image.key for image in images], [cell.name for cell in cells]
        rows = index_rows(
            shard=len(self.shards),
            offsets=[image.offset for image in images],
            sizes=[image.size for image in images],
            keys=keys,
            group_names=names,
            groups=Groups.of(dict.fromkeys(cells)),
            source="real",
        )
        columns = {"key": keys, "group": names, "sha256": [image.sha256 for image in images]}
        self.digest_rows.append(pa.Table.from_pydict(columns, schema=DIGEST_ROWS))
        self.shards.append(shard)
        self.counts.update(cells)
        if len(self.counts) > _MOST_GROUPS:
            raise DataError(
                f"{scan.where}: with it there are more than {_MOST_GROUPS:,} groups; check --label and --bias"
            )
        self.without_image += scan.without_image
        if len(self.sizes) < 2:
            self.sizes |= {(image.width, image.height) for image in images}
        return rows

    def manifest(self, index: ObjectRef, detail: Mapping[str, Any]) -> Manifest:
        groups = self.declared or Groups.of(sorted(self.counts, key=lambda group: (group.label, group.bias)))
        (width, height), *others = self.sizes
        return Manifest(
            revision=0,
            kind="foreign",
            images=sum(self.counts.values()),
            groups={group.name: self.counts[group] for group in groups},
            group_list=groups.items,
            shards=tuple(self.shards),
            index=index,
            codec=None,
            size=width if width == height and not others else None,
            manifest_sha256=manifest_digest(pa.concat_tables(self.digest_rows)),
            environments=(),
            abandoned=(),
            detail={**detail, "without_image": dict(self.without_image)},
            base=self.base,
        )


def find_tars(patterns: Sequence[str]) -> tuple[str, list[str]]:
    """The folder below which all tars lie, as a path or URL, and their keys from there.

    Patterns are paths or URLs with ``{0000..0099}`` or ``{a,b}`` for several, and ``*``, ``?`` and ``[…]`` for what is there;
    their order is kept, and what is there is sorted.
    """
    found = [tar for pattern in patterns for plain in _expand(pattern) for tar in _listed(plain)]
    if not found:
        raise DataError("no tar is named; give their paths or URLs")
    roots = {root for root, _ in found}
    if len(roots) > 1:
        raise DataError(
            f"tars of one index lie in one bucket, or all on this machine, not in {' and '.join(sorted(roots))}"
        )
    for tar, times in Counter(found).items():
        if times > 1:
            raise DataError(f"{tar[0]}/{'/'.join(tar[1])} is named twice; name each tar once")
    common = found[0][1][:-1]
    while any(parts[: len(common)] != common for _, parts in found):
        common = common[:-1]
    return "/".join([*roots, *common]) or "/", ["/".join(parts[len(common) :]) for _, parts in found]


def group_of(label: int, bias: int) -> Group:
    """What a cell is called where nobody named it."""
    return Group(f"label_{label}" if bias == UNKNOWN_BIAS else f"label_{label}_bias_{bias}", label, bias)


_Place = tuple[str, tuple[str, ...]]
"""A bucket, or "" for this machine, and the parts of the way from there."""


def _expand(pattern: str) -> Iterator[str]:
    match = _BRACES.search(pattern)
    if match is None:
        yield pattern
        return
    numbers = _RANGE.match(match[1])
    if numbers is None and "," not in match[1]:
        raise DataError(f"{pattern}: write {{0000..0099}} or {{a,b}} for several tars")
    if numbers is not None:
        first, last = int(numbers[1]), int(numbers[2])
        if not first <= last < first + _MOST_TARS:
            raise DataError(f"{pattern}: {match[0]} names no tars, or too many; write the lower number first")
        width = len(numbers[1])
        choices: Iterator[str] = (f"{number:0{width}d}" for number in range(first, last + 1))
    else:
        choices = iter(match[1].split(","))
    for choice in choices:
        yield from _expand(pattern[: match.start()] + choice + pattern[match.end() :])


def _listed(url: str) -> Iterator[_Place]:
    root, parts = _split(url)
    wild = next((place for place, part in enumerate(parts) if _WILD.search(part)), None)
    if wild is None:
        yield root, parts
        return
    folder, rest = parts[:wild], parts[wild:]
    none = True
    for info in open_store("/".join([root, *folder]) or "/", create=False).list():
        found = tuple(info.key.split("/"))
        if len(found) == len(rest) and all(map(fnmatchcase, found, rest)):
            none = False
            yield root, folder + found
    if none:
        raise DataError(f"{url}: no tar of such a name is there; check the path")


def _split(url: str) -> _Place:
    scheme, separator, rest = url.partition("://")
    if not separator or scheme == "file":
        local = Path(rest if separator else url).expanduser()
        # Without "..", which no key may have; a tar that is a link itself keeps its name.
        return "", (local.parent.resolve() / local.name).parts[1:]
    bucket, _, path = rest.partition("/")
    if not path or path.endswith("/"):
        raise DataError(f"{url} names no tar; write it out, or …/*.tar for all of a folder")
    return f"{scheme}://{bucket}", tuple(path.split("/"))


def _refuse_other(
    store: Store, standing: Manifest, base: str, keys: Sequence[str], detail: Mapping[str, Any], groups: Groups | None
) -> None:
    same = (
        standing.kind == "foreign"
        and standing.base == base
        and [shard.key for shard in standing.shards] == keys
        and all(standing.detail.get(name) == value for name, value in detail.items())
        and (groups is None or groups == standing.declared)
    )
    if not same:
        raise ConflictError(f"{store.url} holds another set already; name another folder with --out")


def _samples(members: Iterator[Entry], where: str) -> Iterator[dict[str, Entry]]:
    """Neighbours of one key, by kind. Names without a key or a kind belong to no sample, as with other readers."""
    seen: set[str] = set()
    current = ""
    sample: dict[str, Entry] = {}
    for member in members:
        key, kind = _key_and_kind(member.name)
        if not key or not kind:
            continue
        if key != current:
            if sample:
                yield sample
            if key in seen:
                raise DataError(
                    f"{where}: {member.name} stands apart from the other files of sample {key}, or is there twice"
                )
            seen.add(key)
            current, sample = key, {}
        if kind in sample:
            raise DataError(f"{where}: {member.name} is there twice; make the tar again")
        sample[kind] = member
    if sample:
        yield sample


def _key_and_kind(name: str) -> tuple[str, str]:
    folder, slash, file = name.rpartition("/")
    stem, _, kind = file.partition(".")
    return (f"{folder}{slash}{stem}" if stem else ""), kind.lower()


def _note(member: Entry, where: str) -> Mapping[str, Any] | None:
    if member.body is None:
        return None
    try:
        note = json.loads(member.body)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: {member.name} is not JSON ({error}); repair it") from error
    if not isinstance(note, dict):
        raise DataError(f"{where}: {member.name} is JSON but no object with fields; repair it")
    return note


def _class(members: Mapping[str, Entry], where: str) -> int:
    if "cls" not in members:
        raise DataError(f"{where} has no .cls with its label; say with --label which field of its .json is the label")
    text = (members["cls"].body or b"").decode("ascii", "replace").strip()
    if not (text.isascii() and text.isdigit() and int(text) <= _LARGEST):
        raise DataError(f"{where}: its .cls is {text!r} and not a class number; classes count from 0")
    return int(text)


def _value(note: Mapping[str, Any] | None, name: str, where: str, least: int) -> int:
    if note is None:
        raise DataError(f"{where} has no .json, where its {name!r} should stand")
    if name not in note:
        raise DataError(
            f"{where} has no {name!r} in its .json, which has {', '.join(map(repr, sorted(note)[:8])) or 'none'}"
        )
    value = note[name]
    if not isinstance(value, int) or not least <= value <= _LARGEST:
        raise DataError(f"{where}: {name!r} is {value!r:.60}; it must be a whole number from {least}")
    return int(value)  # true and false are 1 and 0


def _group(groups: Groups | None, image: Found, base: str) -> Group:
    if groups is None:
        return group_of(image.label, image.bias)
    found = groups.of_cell(image.label, image.bias)
    if found is None:
        raise DataError(
            f"{base}/{image.key} has label {image.label} and bias {image.bias}, which no --group declares; "
            f"declared are {', '.join(groups.names)}"
        )
    return found


def _instead(without_image: Mapping[str, int]) -> str:
    kinds = list(without_image)[:3]
    return f" ({', '.join(IMAGE_KINDS)}) but {'; '.join(kinds)}" if kinds else ""
