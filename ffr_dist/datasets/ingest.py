"""From a split to shards: decode, bring to the recipe's size, encode with the recipe's codec.

Real and generated images pass the same codec at the same size, because whatever else tells them apart is what a
classifier learns instead of the label. Memory is bounded by a few images in flight. The manifest comes last, so an
import that stops early is no dataset to any reader.
"""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ffr_dist.datasets.source import EVALUATED, Sample, Split
from ffr_dist.errors import ConflictError, DataError
from ffr_dist.groups import Group
from ffr_dist.shards.codec import CodecConfig, decode, encode, format_of
from ffr_dist.shards.imported import write_imported
from ffr_dist.shards.manifest import Manifest
from ffr_dist.store import Store

_SHOWN = 5
"""So many bad images are named; the rest is counted."""


def ingest(
    split: Split,
    store: Store,
    *,
    codec: CodecConfig,
    size: int,
    keep_bytes: bool = False,
    images_per_shard: int = 256,
) -> Manifest:
    """Write ``split`` as shards into ``store``, unless it is there already.

    With ``keep_bytes``, files are stored as they are, whatever their size and format; they are decoded all the same, to
    see that they can be. An image that cannot be used refuses the split, or is left out and counted in the manifest
    where the split says so.
    """
    detail: dict[str, Any] = {"identity": dict(split.identity)}
    if split.left_out:
        detail["left_out"] = dict(split.left_out)

    def convert(sample: Sample) -> bytes:
        if keep_bytes:
            return _kept(sample.image)
        pixels = decode(sample.image) if isinstance(sample.image, bytes) else sample.image
        return encode(_resized(pixels, size), codec)

    asked = (None, None) if keep_bytes else (codec, size)
    manifest = write_imported(
        store,
        split.name,
        split.groups,
        _usable(split, convert, detail),
        codec=asked[0],
        size=asked[1],
        images_per_shard=images_per_shard,
        detail=detail,  # read when the last image is written
    )
    if (manifest.codec, manifest.size) != asked:
        raise ConflictError(
            f"{store.url} holds this split already, imported {_manner(manifest.codec, manifest.size)} and not "
            f"{_manner(*asked)}; choose another output, or go back to the settings that it was imported with"
        )
    return manifest


def _usable(
    split: Split, convert: Callable[[Sample], bytes], detail: dict[str, Any]
) -> Iterator[tuple[Group, bytes, str]]:
    """The images to store; at its end, what was left out is in ``detail``, or the split is refused.

    After the first image that refuses the split the rest is still read, so that all bad ones are told at once.
    """
    counts: Counter[str] = Counter()
    bad = 0
    named: list[str] = []
    for sample, body in _in_order(convert, split.samples()):
        if isinstance(body, DataError):
            bad += 1
            if bad <= _SHOWN:
                named.append(f"{sample.name}: {body}")
        elif split.skip_bad_images or not bad:
            counts[sample.group.name] += 1
            yield sample.group, body, sample.name
    if bad and not split.skip_bad_images:
        lines = [*named, f"and {bad - _SHOWN} more"] if bad > _SHOWN else named
        raise DataError(
            "\n  ".join([f"split {split.name}: {bad} of its images cannot be used:", *lines])
            + "\nrepair them, or leave them out: data of kind folder, huggingface or webdataset has 'on_bad_image: skip' for it"
        )
    empty = [name for name in split.groups.names if not counts[name]]
    if not counts or (empty and split.name in EVALUATED):
        raise DataError(
            f"split {split.name}: no image of declared group {', '.join(empty)}; "
            "declare only the groups that the split holds, or add images"
        )
    if split.skip_bad_images:
        detail["skipped"] = {"count": bad, "first": named}


def _in_order(
    convert: Callable[[Sample], bytes], samples: Iterator[Sample]
) -> Iterator[tuple[Sample, bytes | DataError]]:
    """Convert on all cores, a few images ahead of the caller; results come in the order of ``samples``."""

    def outcome(sample: Sample) -> bytes | DataError:
        try:
            return convert(sample)
        except DataError as error:
            return error

    threads = os.cpu_count() or 1
    waiting: deque[tuple[Sample, Future[bytes | DataError]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for sample in samples:
            waiting.append((sample, pool.submit(outcome, sample)))
            if len(waiting) > 4 * threads:
                done, future = waiting.popleft()
                yield done, future.result()
        for done, future in waiting:
            yield done, future.result()


def _resized(pixels: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Squashed to a square; Pillow's filter widens when it shrinks, so fine detail does not alias."""
    if pixels.shape == (size, size, 3):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC))


def _kept(image: NDArray[np.uint8] | bytes) -> bytes:
    if not isinstance(image, bytes):
        raise DataError("it is made of pixels and has no file to keep; import it without keep_bytes")
    format_of(image)
    decode(image)
    return image


def _manner(codec: CodecConfig | None, size: int | None) -> str:
    if codec is None:
        return "as its publisher's files"
    return f"as {codec.format} of quality {codec.quality}, {size} pixels wide"
