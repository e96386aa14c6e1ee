"""What an interval leaves behind: image files, and then its tar and sidecar, as bytes.

Pure functions of pixels and decisions: nothing here knows a store, a thread or the time.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ffr_dist.groups import Groups
from ffr_dist.quota import Request
from ffr_dist.records import sample_json, synthetic_key
from ffr_dist.shards.codec import CodecConfig, blake2b16, decode, encode, encode_planes
from ffr_dist.shards.commit import GroupTally
from ffr_dist.shards.look import look
from ffr_dist.shards.pack import Member, pack
from ffr_dist.shards.sidecar import Decision, write_sidecar

_THUMBNAIL = 64
_THUMBNAIL_CODEC = CodecConfig(format="jpg", quality=80)


class ImageFile(NamedTuple):
    """An accepted image as it will lie in the tar."""

    body: bytes
    sha256: bytes
    pixels_blake2b: bytes
    look: bytes | None


@dataclass(frozen=True, slots=True)
class Made:
    """A candidate after the keep rules."""

    request: Request
    seed: int
    """Of its latents."""
    reason: str | None
    scores: Mapping[str, float]
    file: ImageFile | None
    """Of accepted ones."""
    thumbnail: bytes | None


class Shard(NamedTuple):
    """An interval's two objects."""

    tar: bytes | None
    """None where nothing was accepted."""
    sidecar: bytes


def image_file(planes: NDArray[np.uint8], codec: CodecConfig, *, looks: bool) -> ImageFile:
    """The file of (3, height, width) pixels, and what its row says of it; with ``looks`` its perceptual hash too."""
    body = encode_planes(planes, codec)
    # The stored pixels, not the sampled ones: whoever reads the set can check this hash.
    pixels = planes.transpose(1, 2, 0) if codec.format == "png" else decode(body)
    return ImageFile(body, hashlib.sha256(body).digest(), blake2b16(pixels), look(pixels) if looks else None)


def thumbnail(planes: NDArray[np.uint8]) -> bytes:
    """A small JPEG of a rejected image."""
    image = Image.fromarray(np.ascontiguousarray(planes.transpose(1, 2, 0)))
    image.thumbnail((_THUMBNAIL, _THUMBNAIL))
    return encode(np.asarray(image), _THUMBNAIL_CODEC)


def pack_interval(made: Sequence[Made], groups: Groups, codec: CodecConfig) -> Shard:
    """The tar of what was accepted, and the sidecar of everything."""
    members: list[Member] = []
    for one in made:
        if one.file is not None:
            members += _members(one, one.file, groups, codec)
    packed = pack(members) if members else None
    offsets = iter(packed.offsets[::2] if packed is not None else ())
    rows = [_decision(slot, one, None if one.file is None else next(offsets)) for slot, one in enumerate(made)]
    return Shard(None if packed is None else packed.tar, write_sidecar(rows))


def tallies(made: Sequence[Made]) -> dict[str, GroupTally]:
    """Counts by group, as the commit states them."""
    groups: dict[str, list[str | None]] = {}
    for one in made:
        groups.setdefault(one.request.group, []).append(one.reason)
    return {
        group: GroupTally(
            tried=len(found),
            accepted=found.count(None),
            rejected=dict(sorted(Counter(reason for reason in found if reason is not None).items())),
        )
        for group, found in sorted(groups.items())
    }


def _members(one: Made, file: ImageFile, groups: Groups, codec: CodecConfig) -> tuple[Member, Member]:
    request = one.request
    key = synthetic_key(request.group, request.k)
    note = sample_json(
        key,
        groups.by_name(request.group),
        "synthetic",
        seed=one.seed,
        prompt=request.prompt,
        source_key=request.source_key,
    )
    return Member(f"{key}.{codec.format}", file.body), Member(f"{key}.json", note)


def _decision(slot: int, one: Made, offset: int | None) -> Decision:
    file = one.file
    return Decision(
        slot=slot,
        group=one.request.group,
        k=one.request.k,
        seed=one.seed,
        prompt=one.request.prompt,
        source_key=one.request.source_key,
        accepted=file is not None,
        reason=one.reason,
        scores=one.scores,
        pixels_blake2b=None if file is None else file.pixels_blake2b,
        look=None if file is None else file.look,
        sha256=None if file is None else file.sha256,
        offset=offset,
        size=None if file is None else len(file.body),
        thumbnail=one.thumbnail,
    )
