"""Pixels to image files and back.

Real and generated images of a recipe go through the same codec, or the codec alone would tell a classifier which is
which. Equal pixels give equal bytes within one environment (``codec_environment``).

Pillow says what an image's pixels are. Ordinary JPEGs are decoded by simplejpeg, which needs two thirds of its time: both
carry libjpeg-turbo, whose accurate transform and smooth upsampling are exact integers, so that no pixel differs.
"""

from __future__ import annotations

import hashlib
import io
import struct
from typing import Any, Literal

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError, __version__, features
from pydantic import Field

from ffr_dist.config import Config
from ffr_dist.errors import DataError

ImageFormat = Literal["jpg", "png", "webp"]

_PILLOW_NAMES: dict[ImageFormat, str] = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}
_READABLE = ("JPEG", "PNG", "WEBP", "BMP")
_JFIF = b"JFIF"
_JPEG = b"\xff\xd8\xff"
_SPACES = {"YCbCr", "Gray"}
"""Of CMYK the two libraries make different colours."""
_UNREADABLE = (
    OSError,
    SyntaxError,  # Pillow's word for a broken PNG
    ValueError,
    TypeError,
    IndexError,
    KeyError,
    EOFError,
    OverflowError,
    struct.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


class CodecConfig(Config):
    """How images are stored."""

    format: ImageFormat = "jpg"
    quality: int = Field(default=95, ge=1, le=100)
    """Of jpg and webp; png is lossless."""


def encode(pixels: NDArray[np.uint8], codec: CodecConfig) -> bytes:
    """The image file of (height, width, 3) uint8 pixels."""
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise DataError(f"pixels are {pixels.dtype} {pixels.shape}; an image file takes uint8 (height, width, 3)")
    return _save(Image.fromarray(np.ascontiguousarray(pixels)), codec)


def encode_planes(planes: NDArray[np.uint8], codec: CodecConfig) -> bytes:
    """As :func:`encode`, for (3, height, width), the layout of samplers: the same bytes, and no copy by numpy, whose
    change of layout takes longer than the JPEG itself.
    """
    if planes.ndim != 3 or len(planes) != 3 or planes.dtype != np.uint8 or not planes.size:
        raise DataError(f"pixels are {planes.dtype} {planes.shape}; planes of an image are uint8 (3, height, width)")
    return _save(Image.merge("RGB", [Image.fromarray(plane) for plane in planes]), codec)


def _save(image: Image.Image, codec: CodecConfig) -> bytes:
    options: dict[str, Any] = {} if codec.format == "png" else {"quality": codec.quality}
    out = io.BytesIO()
    image.save(out, _PILLOW_NAMES[codec.format], **options)
    return out.getvalue()


def decode(body: bytes, *, max_pixels: int = 64_000_000) -> NDArray[np.uint8]:
    """The (height, width, 3) RGB pixels of a JPEG, PNG, WebP or BMP file.

    Anything unreadable, cut short or larger than ``max_pixels`` is a DataError; the size is read before any pixel.
    Orientation tags are not applied and transparency is dropped.
    """
    pixels = _decode_jpeg(body, max_pixels)
    return _decode(body, max_pixels) if pixels is None else pixels


def _decode_jpeg(body: bytes, max_pixels: int) -> NDArray[np.uint8] | None:
    """The pixels of an ordinary, flawless JPEG; None where Pillow is to decide."""
    if not body.startswith(_JPEG):
        return None
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(body)
        if space not in _SPACES or height * width > max_pixels:
            return None
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(body)  # a warning of its library is a ValueError
    except (ValueError, MemoryError):
        return None
    return pixels


def _decode(body: bytes, max_pixels: int) -> NDArray[np.uint8]:
    try:
        image = Image.open(io.BytesIO(body), formats=_READABLE)
        width, height = image.size
        if width * height > max_pixels:
            raise DataError(f"the image has {width}×{height} pixels where {max_pixels:,} are allowed; resize it")
        return np.array(image if image.mode == "RGB" else image.convert("RGB"))
    except _UNREADABLE as error:
        raise _unreadable(error) from error


def decode_into(body: bytes | memoryview, pixels: NDArray[np.uint8]) -> None:
    """As :func:`decode`, into contiguous (height, width, 3) pixels. An image of another size is a DataError, and one of more
    pixels is refused by its header.
    """
    height, width, _ = pixels.shape
    try:
        # A JFIF file is no CMYK. For others the header is read apart, which takes a twentieth of a small image's time.
        plain = body[6:10] == _JFIF or simplejpeg.decode_jpeg_header(body)[2] in _SPACES
        # Into a buffer that is too small nothing is decoded.
        if plain and simplejpeg.decode_jpeg(body, buffer=pixels).shape == pixels.shape:
            return
    except (ValueError, MemoryError):
        pass  # no JPEG, or a flawed one: Pillow is to decide
    found = _decode(bytes(body), height * width)
    if found.shape != pixels.shape:
        raise DataError(f"the image has {found.shape[1]}×{found.shape[0]} pixels where {width}×{height} are meant")
    pixels[:] = found


def size_of(body: bytes) -> tuple[int, int]:
    """Width and height of a JPEG, PNG, WebP or BMP file by its header; DataError where it has none that can be read."""
    try:
        return Image.open(io.BytesIO(body), formats=_READABLE).size
    except _UNREADABLE as error:
        raise _unreadable(error) from error


def _unreadable(error: BaseException) -> DataError:
    # Pillow's own words for this one are the address of an object.
    what = "of no known format" if isinstance(error, UnidentifiedImageError) else error or type(error).__name__
    return DataError(f"not a readable image ({what}); replace or remove it")


def format_of(body: bytes) -> ImageFormat:
    """Which of the stored formats a file is, by its first bytes."""
    if body.startswith(_JPEG):
        return "jpg"
    if body.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if body[:4] == b"RIFF" and body[8:12] == b"WEBP":
        return "webp"
    raise DataError("the file is neither JPEG, PNG nor WebP; convert it, or let the import encode it anew")


def blake2b16(pixels: NDArray[np.uint8]) -> bytes:
    """16 bytes that are equal for images of equal size and pixels."""
    digest = hashlib.blake2b(",".join(map(str, pixels.shape)).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.digest()


def codec_environment() -> str:
    """The libraries that turn pixels into bytes here: other ones may give other bytes."""
    jpeg = features.version("libjpeg_turbo") or features.version("jpg")
    return f"Pillow {__version__}, jpeg {jpeg}, simplejpeg {simplejpeg.__version__}, zlib {features.version('zlib')}, webp {features.version('webp')}"
