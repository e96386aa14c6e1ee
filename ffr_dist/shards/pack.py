"""Image files and their JSON to a tar and back.

Writing is reproducible: equal members in equal order give equal bytes (fixed mode, owner and time). Reading is strict: it takes
plain files with flat names only, and a tar that lacks its two closing blocks is refused, since a tar cut at a member's
end would else read as a shorter, valid one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ffr_dist.errors import BrokenError

BLOCK = 512
_END = bytes(2 * BLOCK)
_LARGEST = 8**11 - 1
# One dot at least, since readers of the format cut a name at its first dot into sample key and kind.
_NAME = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)+\Z")
_LONGEST_NAME = 100

# mode, uid, gid | size | mtime | checksum as spaces, type, link name, magic, owner, device, prefix
_BEFORE_SIZE = b"0000644\0" + b"0000000\0" * 2
_AFTER_SIZE = b"\0" + b"00000000000\0"
_TAIL = b"0" + bytes(100) + b"ustar\x0000" + bytes(64) + b"0000000\0" * 2 + bytes(167)
_FIXED_SUM = sum(_BEFORE_SIZE) + sum(_AFTER_SIZE) + 8 * ord(" ") + sum(_TAIL)
_PADS = tuple(bytes(-size % BLOCK) for size in range(BLOCK))


class Member(NamedTuple):
    """A file of a tar."""

    name: str
    body: bytes


class Packed(NamedTuple):
    """A tar and where each member's bytes begin in it."""

    tar: bytes
    offsets: list[int]


class Placed(NamedTuple):
    """A file of a tar with the place of its bytes."""

    name: str
    body: bytes
    offset: int


def pack(members: Iterable[Member]) -> Packed:
    """Members to a tar, in the order given."""
    parts: list[bytes] = []
    offsets: list[int] = []
    seen: set[str] = set()
    end = 0
    for name, body in members:
        if not _NAME.match(name) or len(name) > _LONGEST_NAME or name in seen:
            raise ValueError(f"{name!r} cannot name a member: write <key>.<kind> once, in letters, digits, - and _")
        seen.add(name)
        size = len(body)
        parts += (_header(name.encode(), size), body, _PADS[size % BLOCK])
        offsets.append(end + BLOCK)
        end += BLOCK + size + -size % BLOCK
    parts.append(_END)
    return Packed(b"".join(parts), offsets)


def unpack(tar: bytes, source: str = "tar") -> Iterator[Placed]:
    """The members of a tar, in order; BrokenError, which names ``source``, at the first thing out of order."""
    view = memoryview(tar)
    seen: set[str] = set()
    start = 0
    while True:
        header = bytes(view[start : start + BLOCK])
        if len(header) < BLOCK:
            raise BrokenError(f"{source}: cut short at byte {start}, before the tar's end; fetch or make it again")
        if not any(header):
            break
        name, size = _read_header(header, f"{source}: member at byte {start}")
        if name in seen:
            raise BrokenError(f"{source}: {name} is in it twice; make the shard again")
        seen.add(name)
        first = start + BLOCK
        start = first + size + -size % BLOCK
        if start > len(tar):
            raise BrokenError(f"{source}: cut short within {name}; fetch or make it again")
        yield Placed(name, bytes(view[first : first + size]), first)
    rest = tar[start:]
    if len(rest) < len(_END):
        raise BrokenError(f"{source}: cut short at its closing blocks; fetch or make it again")
    if rest.strip(b"\0"):
        raise BrokenError(f"{source}: something follows the tar's end at byte {start}; make the shard again")


def _header(name: bytes, size: int) -> bytes:
    if size > _LARGEST:
        raise ValueError(f"{name.decode()} has {size} bytes; a member may have {_LARGEST}")
    digits = b"%011o" % size
    total = _FIXED_SUM + sum(name) + sum(digits)
    return b"".join(
        (name, bytes(_LONGEST_NAME - len(name)), _BEFORE_SIZE, digits, _AFTER_SIZE, b"%06o\0 " % total, _TAIL)
    )


def _read_header(header: bytes, where: str) -> tuple[str, int]:
    total = sum(header) - sum(header[148:156]) + 8 * ord(" ")
    if _octal(header[148:156]) != total:
        raise BrokenError(f"{where}: its header's checksum is wrong; fetch or make the tar again")
    if header[257:262] != b"ustar":
        raise BrokenError(f"{where}: not a ustar header; make the tar again")
    if header[156:157] not in {b"0", b"\0"}:
        raise BrokenError(f"{where}: not a plain file; links, folders and extended headers are refused")
    name = header[:100].rstrip(b"\0").decode("ascii", "replace")
    if header[345:346] != b"\0" or not _NAME.match(name):
        raise BrokenError(f"{where}: its name {name!r} is not <key>.<kind> in letters, digits, - and _; refused")
    size = _octal(header[124:136])
    if size is None:
        raise BrokenError(f"{where}: its size is not a number; fetch or make the tar again")
    return name, size


def _octal(field: bytes) -> int | None:
    digits = field.strip(b" \0")
    return int(digits, 8) if digits and not digits.strip(b"01234567") else None
