"""What an image looks like, in 256 bits: images that differ in few of them are near-duplicates.

The grey image is averaged over a grid of 32 × 32 cells, and the bits are the signs of its 256 lowest cosine frequencies
(Zauner 2010) but the constant one. Unrelated images differ in about 128 of them. All sums are of integers below 2⁵³, which
float64 holds exactly in any order: the same bits on every machine.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

LOOK_BITS = 256

_GRID = 32
_COSINE_SCALE = 1 << 10
_LUMA = (299.0, 587.0, 114.0)
"""Thousandths of grey from red, green and blue (ITU-R BT.601)."""


def look(pixels: NDArray[np.uint8]) -> bytes:
    """The 32 bytes of an image, (height, width, 3) of up to 8192 pixels a side."""
    height, width, _ = pixels.shape
    grey = sum(pixels[..., channel] * share for channel, share in enumerate(_LUMA))
    cells = _overlaps(height) @ grey @ _overlaps(width).T
    grid = cells // (height * width)
    frequencies = _cosines() @ grid @ _cosines().T
    bits: NDArray[np.bool_] = frequencies[_lowest()] > 0
    return np.packbits(bits).tobytes()


def distance(one: bytes, other: bytes) -> int:
    """In how many bits two looks differ."""
    return (int.from_bytes(one) ^ int.from_bytes(other)).bit_count()


@lru_cache(maxsize=8)
def _overlaps(side: int) -> NDArray[np.float64]:
    """How much of each pixel lies in each cell, (32, side), in units of 1/32 of a pixel: whole numbers."""
    cell = np.arange(_GRID)[:, None] * side
    pixel = np.arange(side)[None] * _GRID
    shared: NDArray[np.float64] = np.minimum(cell + side, pixel + _GRID) - np.maximum(cell, pixel) + 0.0
    return shared.clip(0)


@lru_cache(maxsize=1)
def _cosines() -> NDArray[np.float64]:
    angles = np.pi / _GRID * np.outer(np.arange(_GRID), np.arange(_GRID) + 0.5)
    scaled: NDArray[np.float64] = np.round(_COSINE_SCALE * np.cos(angles))
    return scaled


@lru_cache(maxsize=1)
def _lowest() -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows and columns of the 256 lowest frequencies, the constant one left out."""
    places = sorted(
        ((row, column) for row in range(_GRID) for column in range(_GRID)), key=lambda place: (sum(place), place)
    )
    rows, columns = zip(*places[1 : LOOK_BITS + 1], strict=True)
    return np.array(rows), np.array(columns)
