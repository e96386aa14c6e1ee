"""The worker's keep rules: what one image's own pixels say about whether it may enter the set.

The sums they rest on are exact integers, so that a decision does not depend on batch shape or on a device's rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ffr_dist.config import Config

if TYPE_CHECKING:  # recipes are read where torch need not be loaded
    from ffr_dist.models.sampler import Outcomes


class KeepConfig(Config):
    """Which images are dropped by the look of them. Levels are 0 … 255."""

    blank_std: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 2.0
    """Least spread of the pixels within their channel (root mean square over the channels); 0 keeps flat images too."""
    grey_levels: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Drop as grey what has |mean of the image - mean of its red channel| below this; None keeps all. The published
    sums of pixels correspond to 5.7 levels for 512-pixel faces and to 0.76 for animals."""


def judge(outcomes: Outcomes, config: KeepConfig) -> list[str | None]:
    """Why each image is dropped, None where it is kept. Waits for the device."""
    return reasons(outcomes.images.cpu().numpy(), outcomes.valid.cpu().numpy(), outcomes.reasons, config)


def reasons(
    images: NDArray[np.uint8], valid: NDArray[np.bool_], own: Sequence[str | None], config: KeepConfig
) -> list[str | None]:
    """As :func:`judge`, on the host: (batch, 3, height, width). The sampler's ``own`` reason counts before any other."""
    channels = images.reshape(*images.shape[:2], -1)
    pixels = channels.shape[-1]
    sums = channels.sum(-1, dtype=np.int64)
    squares = np.einsum("bcp,bcp->bc", channels, channels, dtype=np.int64)
    means = sums / pixels
    variances = (squares * pixels - sums * sums) / pixels**2
    found = np.full(len(images), None, dtype=object)
    if config.grey_levels is not None:
        found[np.abs(means.mean(1) - means[:, 0]) < config.grey_levels] = "grey"
    found[np.sqrt(variances.mean(1)) < config.blank_std] = "blank"
    found[~valid] = "nan"
    return [mine or other for mine, other in zip(own or [None] * len(found), found.tolist(), strict=True)]
