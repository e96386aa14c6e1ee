"""Augmentation on the device, a whole batch at once: ``augment(images, positions, seed, config)``.

Images (N, 3, height, width), uint8 or floating in 0 … 1, keep type and size; N may be 0. ``positions`` (N,) are the
samples' places in the order of training. The draw of a sample depends on (seed, position) alone, never on who makes the
batch or on what else is in it, and so does every bit of the result: what is not exact is done in steps that round alike
wherever an image lies in its batch. (So this is not kornia, which draws for a whole batch from torch's generator.)
Normalisation is the classifier's own.
"""

from __future__ import annotations

import math
from typing import Self

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, model_validator
from torch.nn import functional

from ffr_dist.config import Config
from ffr_dist.seeds import draw_seed

_GOLDEN, _FIRST, _SECOND = (value - 2**64 for value in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
_TRIES = 10
_RED, _GREEN, _BLUE = 0.299, 0.587, 0.114
_GREY_UNIT = 2**24
"""A grey value as an integer: sums of integers do not depend on their order, which depends on the batch."""


class CropConfig(Config):
    """A random part of the image, brought back to its size (bilinear)."""

    scale: tuple[PositiveFloat, PositiveFloat] = (0.08, 1.0)
    """Least and greatest share of the area."""
    ratio: tuple[PositiveFloat, PositiveFloat] = (3 / 4, 4 / 3)
    """Least and greatest width over height."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for name, (least, greatest) in (("scale", self.scale), ("ratio", self.ratio)):
            if least > greatest:
                raise ValueError(f"{name} has its least value {least} behind its greatest {greatest}")
        if self.scale[1] > 1:
            raise ValueError(f"scale reaches {self.scale[1]}: a part is at most the whole, 1")
        return self


class AugmentConfig(Config):
    """What is done to each training image, in this order. Nothing unless it is asked for."""

    shift: NonNegativeInt = 0
    """Pixels that an image moves by at most, each way, its border repeated."""
    crop: CropConfig | None = None
    flip: float = Field(default=0.0, ge=0, le=1)
    """Probability of mirroring left and right."""
    brightness: float = Field(default=0.0, ge=0, le=1)
    contrast: float = Field(default=0.0, ge=0, le=1)
    saturation: float = Field(default=0.0, ge=0, le=1)
    """Each scales by a factor within 1 ± this: the image, its distance from its mean grey, its distance from grey."""

    @model_validator(mode="after")
    def _one_move(self) -> Self:
        if self.shift and self.crop is not None:
            raise ValueError("shift and crop both move the image; keep one")
        return self


def augment(images: torch.Tensor, positions: torch.Tensor, seed: int, config: AugmentConfig) -> torch.Tensor:
    """The images as ``config`` changes them; those given are left as they are."""
    if config.shift or config.crop is not None or config.flip:
        images = _moved(images, positions, seed, config)
    if config.brightness or config.contrast or config.saturation:
        images = _coloured(images, positions, seed, config)
    return images


def _moved(images: torch.Tensor, positions: torch.Tensor, seed: int, config: AugmentConfig) -> torch.Tensor:
    """All moves are along the axes, so each is one row and one column to read for each row and column of the result."""
    height, width = images.shape[2:]
    if config.crop is not None:
        top, left, tall, wide = _crop(config.crop, height, width, positions, seed)
        rows, columns = _places(height, top, tall), _places(width, left, wide)
    else:
        bits = _bits(positions, draw_seed(seed, "augment", 0, "shift"))
        rows = _clamped(height, _offset(bits, config.shift))
        columns = _clamped(width, _offset(bits >> 31, config.shift))
    if config.flip:
        mirrored = _uniform(positions, draw_seed(seed, "augment", 0, "flip")) < config.flip
        columns = torch.where(mirrored, columns.flip(1), columns)
    return _taken(images, rows, columns) if config.crop is None else _like(images, _between(images, rows, columns))


def _crop(
    config: CropConfig, height: int, width: int, positions: torch.Tensor, seed: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Top, left, height and width of each part, in whole pixels. The first of ten draws that fits, else the whole image
    as far as the ratio allows, from its middle.
    """
    area = _uniform(positions, draw_seed(seed, "augment", 0, "crop area"), _TRIES)
    shape = _uniform(positions, draw_seed(seed, "augment", 0, "crop shape"), _TRIES)
    down = _uniform(positions, draw_seed(seed, "augment", 0, "crop top"))
    right = _uniform(positions, draw_seed(seed, "augment", 0, "crop left"))
    pixels = height * width * (config.scale[0] + area * (config.scale[1] - config.scale[0]))
    low, high = (math.log(value) for value in config.ratio)
    ratio = torch.exp(low + shape * (high - low))
    wide, tall = (pixels * ratio).sqrt().round(), (pixels / ratio).sqrt().round()
    fits = (wide >= 1) & (wide <= width) & (tall >= 1) & (tall <= height)
    found, first = fits.any(1, keepdim=True), fits.int().argmax(1, keepdim=True)
    bound = min(max(width / height, config.ratio[0]), config.ratio[1])
    wide = torch.where(found, wide.gather(1, first), min(width, max(1, round(height * bound))))
    tall = torch.where(found, tall.gather(1, first), min(height, max(1, round(width / bound))))
    # Any whole pixel that leaves it inside.
    top = torch.where(found, down * (height - tall + 1), (height - tall) / 2).floor()
    left = torch.where(found, right * (width - wide + 1), (width - wide) / 2).floor()
    return top, left, tall, wide


def _places(size: int, start: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
    """(N, size) where each of ``size`` pixels is to be read, for a part that is stretched over all of them."""
    centres = torch.arange(size, device=start.device, dtype=start.dtype)[None] + 0.5
    inside = (centres * (length / size) - 0.5).clamp_min(0).minimum(length - 1)
    return start + inside


def _between(images: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Bilinear, at places between pixels."""
    height, width = images.shape[2:]
    pixels = images if images.dtype.is_floating_point else images.float()
    down = (rows / max(1, height - 1) * 2 - 1).to(pixels.dtype)[:, :, None]
    right = (columns / max(1, width - 1) * 2 - 1).to(pixels.dtype)[:, None, :]
    grid = torch.stack([right.expand(-1, height, -1), down.expand(-1, -1, width)], dim=-1)
    return functional.grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=True)


def _taken(images: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Whole pixels, as they are."""
    # Channels last here, so that a pixel is moved whole.
    pixels = images.permute(0, 2, 3, 1)
    here = torch.arange(len(images), device=images.device)[:, None, None]
    return pixels[here, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _coloured(images: torch.Tensor, positions: torch.Tensor, seed: int, config: AugmentConfig) -> torch.Tensor:
    """Brightness, then contrast, then saturation, in one step: clamped once, at the end."""
    whole = 1.0 if images.dtype.is_floating_point else 255.0
    pixels = images if images.dtype.is_floating_point else images.float()
    bright, contrast, saturated = (
        _factor(positions, draw_seed(seed, "augment", 0, name), strength).to(pixels.dtype)
        for name, strength in (
            ("brightness", config.brightness),
            ("contrast", config.contrast),
            ("saturation", config.saturation),
        )
    )
    red, green, blue = pixels[:, 0:1], pixels[:, 1:2], pixels[:, 2:3]
    grey = _RED * red + _GREEN * green + _BLUE * blue
    total = (grey * (_GREY_UNIT / whole)).round().int().sum((1, 2, 3), keepdim=True, dtype=torch.int64)
    mean = total.to(pixels.dtype) * (whole / _GREY_UNIT / max(1, grey.shape[2] * grey.shape[3]))
    # x → b·x, then c·x + (1 − c)·mean, then s·x + (1 − s)·grey: a sum of the pixel, its grey and the image's mean.
    scale = bright * contrast
    changed = saturated * scale * pixels + (1 - saturated) * scale * grey + (1 - contrast) * bright * mean
    return _like(images, changed.clamp(0, whole))


def _like(images: torch.Tensor, changed: torch.Tensor) -> torch.Tensor:
    return changed if images.dtype.is_floating_point else changed.round().to(images.dtype)


def _factor(positions: torch.Tensor, seed: int, strength: float) -> torch.Tensor:
    return (1 + strength * (2 * _uniform(positions, seed) - 1))[:, :, None, None]


def _clamped(size: int, offsets: torch.Tensor) -> torch.Tensor:
    return (torch.arange(size, device=offsets.device)[None] + offsets[:, None]).clamp(0, size - 1)


def _offset(bits: torch.Tensor, most: int) -> torch.Tensor:
    return (bits & 0x7FFFFFFF) % (2 * most + 1) - most


def _uniform(positions: torch.Tensor, seed: int, draws: int = 1) -> torch.Tensor:
    """(N, draws) in [0, 1). In doubles: what is computed of them may differ between devices in a last bit that no pixel
    hangs on.
    """
    numbers = positions[:, None] * draws + torch.arange(draws, device=positions.device)
    return _shifted(_bits(numbers, seed), 11).double() * 2.0**-53


def _bits(positions: torch.Tensor, seed: int) -> torch.Tensor:
    """splitmix64 of each position: 64 well mixed bits, on any device; int64 arithmetic wraps around."""
    state = (positions + 1) * _GOLDEN + seed
    state = (state ^ _shifted(state, 30)) * _FIRST
    state = (state ^ _shifted(state, 27)) * _SECOND
    return state ^ _shifted(state, 31)


def _shifted(values: torch.Tensor, by: int) -> torch.Tensor:
    """Shift to the right without copies of the sign."""
    return (values >> by) & ((1 << (64 - by)) - 1)
