"""The worker's keep rules: what one image's own pixels say about whether it may enter the set.

The sums they rest on are exact integers, so that a decision does not depend on batch shape or on a device's rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ffr_dist.config import Config

if TYPE_CHECKING:  # recipes are read where torch need not be loaded
    import torch

    from ffr_dist.models.sampler import Outcomes


class KeepConfig(Config):
    """Which images are dropped by the look of them. Levels are 0 … 255."""

    blank_std: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 2.0
    """Least spread of the pixels within their channel (root mean square over the channels); 0 keeps flat images too."""
    grey_levels: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Drop as grey what has |mean of the image - mean of its red channel| below this; None keeps all. The published
    sums of pixels correspond to 5.7 levels for 512-pixel faces and to 0.76 for animals."""


@dataclass(frozen=True, slots=True)
class Looks:
    """What the rules must know of a batch, on the device that made it."""

    sums: torch.Tensor
    """int64, (batch, channels)."""
    squares: torch.Tensor
    """int64, (batch, channels)."""
    valid: torch.Tensor


def look(outcomes: Outcomes) -> Looks:
    """Reduce a batch to its looks; does not wait for the device."""
    pixels = outcomes.images.flatten(2)
    return Looks(pixels.sum(-1), pixels.int().square_().sum(-1), outcomes.valid)


def judge(outcomes: Outcomes, config: KeepConfig) -> list[str | None]:
    """Why each image is dropped, None where it is kept. The sampler's own reason counts before any other."""
    height, width = outcomes.images.shape[-2:]
    return reasons(look(outcomes), height * width, outcomes.reasons, config)


def reasons(looks: Looks, pixels: int, own: Sequence[str | None], config: KeepConfig) -> list[str | None]:
    """As :func:`judge`, from looks of images of so many ``pixels`` and the sampler's ``own`` reasons."""
    sums: NDArray[np.int64] = looks.sums.cpu().numpy()
    squares: NDArray[np.int64] = looks.squares.cpu().numpy()
    means = sums / pixels
    variances = (squares * pixels - sums * sums) / pixels**2
    found = np.full(len(sums), None, dtype=object)
    if config.grey_levels is not None:
        found[np.abs(means.mean(1) - means[:, 0]) < config.grey_levels] = "grey"
    found[np.sqrt(variances.mean(1)) < config.blank_std] = "blank"
    found[~looks.valid.cpu().numpy()] = "nan"
    return [mine or other for mine, other in zip(own or [None] * len(found), found.tolist(), strict=True)]
