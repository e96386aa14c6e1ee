"""Augmentation on the device, a whole batch at once.

The draw of a sample depends on (seed, position) alone, never on who makes the batch or on what else is in it.
"""

from __future__ import annotations

import torch

from ffr_dist.seeds import draw_seed

_SHIFT = 2
_GOLDEN, _FIRST, _SECOND = (value - 2**64 for value in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def random_shift(images: torch.Tensor, positions: torch.Tensor, seed: int) -> torch.Tensor:
    """Each (channels, height, width) image moved by up to two pixels each way, its border repeated."""
    bits = _bits(positions, draw_seed(seed, "augment", 0, "shift"))
    height, width = images.shape[2:]
    down = _clamped(height, (bits & 0x7FFFFFFF) % (2 * _SHIFT + 1) - _SHIFT)
    right = _clamped(width, (bits >> 31 & 0x7FFFFFFF) % (2 * _SHIFT + 1) - _SHIFT)
    # Channels last here, so that a pixel is moved whole.
    pixels = images.permute(0, 2, 3, 1)
    here = torch.arange(len(images), device=images.device)[:, None, None]
    return pixels[here, down[:, :, None], right[:, None, :]].permute(0, 3, 1, 2)


def _clamped(size: int, offsets: torch.Tensor) -> torch.Tensor:
    return (torch.arange(size, device=offsets.device)[None] + offsets[:, None]).clamp(0, size - 1)


def _bits(positions: torch.Tensor, seed: int) -> torch.Tensor:
    """splitmix64 of each position: 64 well mixed bits, on any device; int64 arithmetic wraps around."""
    state = (positions + 1) * _GOLDEN + seed
    state = (state ^ _shifted(state, 30)) * _FIRST
    state = (state ^ _shifted(state, 27)) * _SECOND
    return state ^ _shifted(state, 31)


def _shifted(values: torch.Tensor, by: int) -> torch.Tensor:
    """Shift to the right without copies of the sign."""
    return (values >> by) & ((1 << (64 - by)) - 1)
