"""A tar that somebody else wrote, read once from its beginning.

Links, devices, sparse files, absolute names and names with ``..`` are refused, and so is a tar that is compressed, cut short or
damaged: others take a tar that ends early for a shorter, whole one. PAX and GNU headers for long names and large sizes
are understood. What is in memory at a time is a few chunks and the members that a caller asks for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, NoReturn

from ffr_dist.errors import DataError
from ffr_dist.shards.pack import BLOCK
from ffr_dist.shards.refs import in_order
from ffr_dist.store import Store

_CHUNK = 4 << 20
_AHEAD = 2
_LONGEST_HEADER = 1 << 16
"""Bytes of an extended header: names are shorter."""
_LONGEST_NAME = 1_000
_LONGEST_END = 1 << 20
"""Zeros that a writer may pad a tar with; more are the hole of a download that did not end."""
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_KINDS = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a device",
    b"4": "a device",
    b"6": "a pipe",
    b"S": "sparse",
}
_FILES = (b"0", b"\0", b"7")


class ObjectStream:
    """An object's bytes from first to last, as a file that can only be read; a few chunks are fetched ahead.

    ``seen`` is given every byte, in order.
    """

    def __init__(self, store: Store, key: str, size: int, seen: Callable[[bytes], object] | None = None) -> None:
        def chunk(start: int) -> bytes:
            return store.get_ranges(key, [start], [min(_CHUNK, size - start)])[0]

        self.size = size
        self.position = 0
        self._chunks = in_order(chunk, range(0, size, _CHUNK), _AHEAD)
        self._left = memoryview(b"")
        self._seen = seen

    def read(self, size: int = -1) -> bytes:
        """That many bytes, or fewer at the end; all that are left if ``size`` is negative."""
        wanted = self.size - self.position if size < 0 else size
        parts = []
        while wanted and (self._left or self._fill()):
            parts.append(self._left[:wanted])
            self._left = self._left[wanted:]
            wanted -= len(parts[-1])
            self.position += len(parts[-1])
        return bytes(parts[0]) if len(parts) == 1 else b"".join(parts)

    def skip(self, size: int) -> None:
        while size > 0 and (self._left or self._fill()):
            step = min(size, len(self._left))
            self._left = self._left[step:]
            self.position += step
            size -= step

    def close(self) -> None:
        self._chunks.close()

    def _fill(self) -> bool:
        chunk = next(self._chunks, b"")
        if self._seen is not None:
            self._seen(chunk)
        self._left = memoryview(chunk)
        return bool(chunk)


class Entry(NamedTuple):
    """A plain file of a tar."""

    name: str
    offset: int
    size: int
    body: bytes | None
    """None where nobody asked for it."""


def entries(tar: ObjectStream, where: str, most: Callable[[str], int | None]) -> Iterator[Entry]:
    """The plain files, in order; folders are passed over. ``most`` says of a name how many bytes it may have to be read, or
    None if it is not to be. DataError, which names ``where`` and the member, at the first thing out of order.
    """
    extended: dict[str, str] = {}
    while True:
        start = tar.position
        header = tar.read(BLOCK)
        if start == 0:
            _refuse_compressed(header, where)
        if len(header) < BLOCK:
            raise DataError(f"{where} is cut short at byte {tar.position:,}, before the tar's end; fetch it again")
        if not any(header):
            break
        kind, name, size = _read_header(header, f"{where}: the member at byte {start:,}")
        if kind in {b"x", b"g", b"L", b"K"}:
            found = _read_extension(tar, kind, size, f"{where}: the header at byte {start:,}")
            if kind != b"g":
                extended |= found
            continue
        name, size = extended.get("path", name), _size_of(extended, size, f"{where}: {name}")
        extended = {}
        name = name.removeprefix("./")
        if kind == b"5" or (kind in _FILES and (not name or name.endswith("/"))):
            continue
        _check(kind, name, f"{where}: {name!r}")
        if size > tar.size - tar.position:
            raise DataError(
                f"{where}: {name} has {size:,} bytes by its header and the tar only {tar.size - tar.position:,} more: it "
                "is cut short or damaged; fetch it again"
            )
        yield _entry(tar, name, size, most(name), where)
    _refuse_rest(tar, where)


def _entry(tar: ObjectStream, name: str, size: int, most: int | None, where: str) -> Entry:
    if most is not None and size > most:
        raise DataError(
            f"{where}: {name} has {size:,} bytes where {most:,} are allowed; make it smaller or leave it out"
        )
    offset = tar.position
    body = None
    if most is None:
        tar.skip(size)
    else:
        body = tar.read(size)
    tar.skip(-size % BLOCK)
    return Entry(name, offset, size, body)


def _refuse_rest(tar: ObjectStream, where: str) -> None:
    rest = tar.size - tar.position
    while part := tar.read(_LONGEST_END):
        if any(part):
            raise DataError(
                f"{where}: something follows the tar's end before byte {tar.position:,}; make one tar of what it holds"
            )
    if rest > _LONGEST_END:
        raise DataError(f"{where} ends in {rest:,} zeros, as a download that did not end; fetch it again")


def _refuse_compressed(start: bytes, where: str) -> None:
    for magic, kind in _COMPRESSED.items():
        if start.startswith(magic):
            raise DataError(
                f"{where} is compressed ({kind}), so that no image can be read without all that stand before it; "
                "unpack it to a plain .tar"
            )


def _read_header(header: bytes, where: str) -> tuple[bytes, str, int]:
    total = sum(header) - sum(header[148:156]) + 8 * ord(" ")
    if _number(header[148:156]) != total:
        raise DataError(f"{where} has a header with a wrong checksum: this is no tar, or a damaged one; fetch it again")
    size = _number(header[124:136])
    if size is None:
        raise DataError(f"{where} has a size that is no number; fetch or make the tar again")
    name = _text(header[:100], where)
    if header[257:263] == b"ustar\0" and header[345] != 0:
        name = f"{_text(header[345:500], where)}/{name}"
    return header[156:157], name, size


def _read_extension(tar: ObjectStream, kind: bytes, size: int, where: str) -> dict[str, str]:
    """What an extended header says of the next member."""
    if size > _LONGEST_HEADER:
        raise DataError(f"{where} has {size:,} bytes where {_LONGEST_HEADER:,} are allowed; make the tar again")
    body = tar.read(size)
    tar.skip(-size % BLOCK)
    if len(body) < size:
        raise DataError(f"{where} is cut short; fetch the tar again")
    if kind == b"L":
        return {"path": _text(body, where)}
    if kind == b"K":
        return {}  # of a link, which is refused when it comes
    found = _pax(body, where)
    if any(key.startswith("GNU.sparse") for key in found) or (kind == b"g" and found.keys() & {"path", "size"}):
        raise DataError(f"{where} describes sparse files, or one name or size for all; make the tar again without")
    return found


def _pax(body: bytes, where: str) -> dict[str, str]:
    """Records ``length SP key=value LF``."""
    found = {}
    while body:
        digits, _, _ = body[:20].partition(b" ")
        length = int(digits) if digits.isdigit() else 0
        key, equals, value = body[len(digits) + 1 : length - 1].partition(b"=")
        if not len(digits) + 3 <= length <= len(body) or not equals or body[length - 1 : length] != b"\n":
            raise DataError(f"{where} is no PAX header; fetch or make the tar again")
        found[_text(key, where)] = value.decode("utf-8", "replace") if key != b"path" else _text(value, where)
        body = body[length:]
    return found


def _size_of(extended: dict[str, str], size: int, where: str) -> int:
    text = extended.get("size")
    if text is None:
        return size
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise DataError(f"{where}: its size {text!r} is no number; fetch or make the tar again")
    return int(text)


def _check(kind: bytes, name: str, where: str) -> None:
    if kind not in _FILES:
        found = _KINDS.get(kind, f"of the unknown kind {kind!r}")
        raise DataError(f"{where} is {found} and not a plain file; make the tar again without it")
    if name.startswith("/") or ".." in name.split("/"):
        raise DataError(f"{where} leaves the tar's folder; make the tar again with plain names")
    if not name.isprintable() or len(name) > _LONGEST_NAME:
        raise DataError(f"{where} is too long or holds characters that cannot be shown; rename the member")


def _text(field: bytes, where: str) -> str:
    try:
        return field.partition(b"\0")[0].decode()
    except UnicodeDecodeError:
        _refuse_name(where)


def _refuse_name(where: str) -> NoReturn:
    raise DataError(f"{where} has a name that is not UTF-8; rename it and make the tar again")


def _number(field: bytes) -> int | None:
    """Octal digits, or GNU's base 256 of large values; None for a negative one too."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:])
    digits = field.strip(b" \0")
    return int(digits, 8) if digits and not digits.strip(b"01234567") else None
