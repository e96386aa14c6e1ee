"""Contact sheets: many small images in one file, so that a page shows a hundred of them in one data URI."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from ffr_dist.errors import DataError

_GAP = 2
_SMALL = 64
"""Images up to this side are kept lossless: every pixel is seen, and a PNG of them is small."""

_HEAVY = 48 * 1024
"""A sheet of more bytes is shown as a JPEG."""

_MIME = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp"}


def contact_sheet(images: Sequence[NDArray[np.uint8]], columns: int, scale: int = 1) -> bytes:
    """Images of one size (height, width, 3) in rows of ``columns``, each pixel drawn ``scale`` × ``scale``.

    PNG with see-through gaps for small images, JPEG for larger ones. The same images give the same bytes.
    """
    if not images:
        raise DataError("a contact sheet needs at least one image; leave the sheet out where a group has none")
    if columns < 1 or scale < 1:
        raise DataError(f"a contact sheet has {columns} columns at scale {scale}; both must be 1 or more")
    height, width = images[0].shape[:2]
    for number, image in enumerate(images):
        if image.shape != (height, width, 3) or image.dtype != np.uint8:
            raise DataError(
                f"image {number} of a contact sheet is {image.dtype} {image.shape}, not uint8 {(height, width, 3)} as "
                "the first one; resize them alike"
            )
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    high, wide = height * scale, width * scale
    sheet = np.zeros((rows * (high + _GAP) - _GAP, columns * (wide + _GAP) - _GAP, 4), np.uint8)
    for number, image in enumerate(images):
        top, left = (number // columns) * (high + _GAP), (number % columns) * (wide + _GAP)
        place = sheet[top : top + high, left : left + wide]
        place[..., :3] = image.repeat(scale, axis=0).repeat(scale, axis=1)
        place[..., 3] = 255
    buffer = io.BytesIO()
    if max(height, width) <= _SMALL:
        Image.fromarray(sheet).save(buffer, "PNG", optimize=True)
    else:
        sheet[sheet[..., 3] == 0] = 128  # JPEG has no transparency; a mid grey suits light and dark pages
        Image.fromarray(sheet[..., :3].copy()).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def compact(image: bytes) -> bytes:
    """The sheet itself, or a smaller JPEG of a heavy one; what is no image is left for :func:`describe` to refuse."""
    if len(image) <= _HEAVY:
        return image
    try:
        with Image.open(io.BytesIO(image), formats=tuple(_MIME)) as opened:
            pixels = opened.convert("RGBA")
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError):
        return image
    flat = Image.new("RGB", pixels.size, (128, 128, 128))
    flat.paste(pixels, mask=pixels)
    buffer = io.BytesIO()
    flat.save(buffer, "JPEG", quality=82)
    return min(image, buffer.getvalue(), key=len)


def describe(image: bytes) -> tuple[str, int, int]:
    """MIME type, width and height of an image file; DataError on anything a page may not embed (SVG runs scripts)."""
    try:
        with Image.open(io.BytesIO(image), formats=tuple(_MIME)) as opened:
            return _MIME[str(opened.format)], opened.width, opened.height
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise DataError(f"a sheet is not a PNG, JPEG or WebP file: {error}; make it with contact_sheet") from error
