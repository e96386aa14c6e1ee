"""TensorBoard's event files, written by hand.

Scalars are a few fields of three small messages; TensorBoard's own writer would bring a server, gRPC and a second
protobuf. A file is records one after the other: length, its checksum, the message, its checksum. TensorBoard takes all files of
a folder for one run, in the order of their names, so each upload is a file of its own and none is ever rewritten.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_WALL_TIME, _STEP, _FILE_VERSION, _SUMMARY, _SESSION_LOG = 1, 2, 3, 5, 7
"""Fields of an Event."""
_START = 1


def event_file(events: Iterable[bytes]) -> bytes:
    """A whole file of messages from :func:`scalars` and :func:`restart`."""
    return b"".join(_record(event) for event in (_field(_FILE_VERSION, b"brain.Event:2"), *events))


def scalars(at: float, step: int, values: Mapping[str, float]) -> bytes:
    """An event of named numbers at ``step``; ``at`` in seconds since 1970."""
    summary = b"".join(
        _field(1, _field(1, name.encode()) + _key(2, _FIXED32) + struct.pack("<f", value))
        for name, value in values.items()
    )
    return _event(at, step) + _field(_SUMMARY, summary)


def restart(at: float, step: int) -> bytes:
    """An event after which what was told of ``step`` and later steps no longer counts."""
    return _event(at, step) + _field(_SESSION_LOG, _key(1, _VARINT) + _varint(_START))


def _event(at: float, step: int) -> bytes:
    return _key(_WALL_TIME, _FIXED64) + struct.pack("<d", at) + _key(_STEP, _VARINT) + _varint(step)


def _record(message: bytes) -> bytes:
    length = struct.pack("<Q", len(message))
    return length + _checksum(length) + message + _checksum(message)


def _field(number: int, body: bytes) -> bytes:
    return _key(number, _BYTES) + _varint(len(body)) + body


def _key(number: int, kind: int) -> bytes:
    return _varint(number << 3 | kind)


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def _checksum(body: bytes) -> bytes:
    """CRC-32C, turned and shifted as the format wants it."""
    crc = 0xFFFFFFFF
    for byte in body:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def _entry(value: int) -> int:
    for _ in range(8):
        value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value


_TABLE = [_entry(value) for value in range(256)]
