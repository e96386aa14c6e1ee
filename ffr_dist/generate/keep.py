"""The worker's keep rules: what one image's own pixels say about whether it may enter the set.

Every candidate gets its scores, rejected or not, so that a threshold can be tightened later. Scores are float32, and it
is that value which is compared. The sums that ``std`` and ``grey`` rest on are exact integers, so that a decision depends
neither on batch shape nor on a device's rounding.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ffr_dist.config import Config
from ffr_dist.errors import ConfigError
from ffr_dist.groups import Groups
from ffr_dist.quota import Request
from ffr_dist.shards.selection import THRESHOLDS

if TYPE_CHECKING:  # recipes are read where torch need not be loaded
    from ffr_dist.models.features import Judge
    from ffr_dist.models.sampler import Outcomes

SCORES = tuple(threshold.score for threshold in THRESHOLDS.values())
"""Scores of the rules, by name: a sampler's own have other names."""

Level = Annotated[float, Field(ge=0, le=255, allow_inf_nan=False)]

_LONGEST_ROW = 258
"""The squares of so many uint8 sum to less than 2²⁴: float32 adds them exactly, in any order."""


class AgreementConfig(Config):
    """A frozen model that says how far an image shows what it was made for."""

    weights: str = Field(min_length=1)
    """A folder, or the URL of one: an image classifier of transformers or a trained stage of ours (the score is the
    probability of the class of the group's label), or a CLIP (the cosine of the image and its prompt)."""
    least: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    """Of the folder's files; the plan pins it. Stated in a recipe, another folder is refused."""


class KeepConfig(Config):
    """Which images are dropped by the look of them. Levels are 0 … 255."""

    blank_std: Level = 2.0
    """Least spread of the pixels within their channel (root mean square over the channels); 0 keeps flat images too."""
    grey_levels: Annotated[Level, Field(gt=0)] | None = None
    """Drop as grey what has |mean of the image - mean of its red channel| below this; None keeps all. The published
    sums of pixels correspond to 5.7 levels for 512-pixel faces and to 0.76 for animals."""
    agreement: AgreementConfig | None = None
    near_duplicates: Annotated[int, Field(ge=1, le=64)] | None = None
    """Drop, within a group, what looks like an earlier image: perceptual hashes of 256 bits that differ in at most so many.
    Unrelated images differ in about 128, copies that were resized or compressed anew in up to about 30."""


class Verdicts(NamedTuple):
    """What the rules say of a batch."""

    reasons: list[str | None]
    """Why each image is dropped, None where it is kept."""
    scores: dict[str, NDArray[np.float32]]
    """By name: the sampler's own, and those of the rules."""


def pinned_keep(config: KeepConfig) -> dict[str, Any]:
    """The rules as a plan pins them: with the hash of the weights that they rest on, which are read for it."""
    if config.agreement is not None:
        from ffr_dist.models.features import judge_sha256  # noqa: PLC0415 - needed with weights only

        found = judge_sha256(config.agreement.weights)
        if config.agreement.sha256 not in {None, found}:
            raise ConfigError(
                f"generate.keep.agreement: {config.agreement.weights} has sha256 {found}, not the one stated; "
                "restore the folder, or state the new one and use another output"
            )
        config = config.model_copy(update={"agreement": config.agreement.model_copy(update={"sha256": found})})
    return config.model_dump(mode="json")


def load_agreement(config: KeepConfig, groups: Groups) -> Judge | None:
    """The model that agreement is asked of, on the CPU; None where no rule asks."""
    if config.agreement is None:
        return None
    from ffr_dist.models.features import load_judge  # noqa: PLC0415 - as above

    return load_judge(config.agreement.weights, config.agreement.sha256, groups.classes)


def with_agreement(outcomes: Outcomes, model: Judge | None, groups: Groups, requests: Sequence[Request]) -> Outcomes:
    """The outcomes with their agreement among the scores, where a model is there to tell; does not wait for the device."""
    if model is None:
        return outcomes
    labels = [groups.by_name(request.group).label for request in requests]
    agreement = model(outcomes.images, labels, [request.prompt for request in requests])
    return replace(outcomes, scores={**outcomes.scores, THRESHOLDS["agreement"].score: agreement})


def judge(outcomes: Outcomes, config: KeepConfig) -> Verdicts:
    """Apply the rules; waits for the device. Of several reasons the first counts: the sampler's own, ``nan``, what the
    sampler's device rejects, then the rules. Where agreement is asked for, its score must be among the sampler's.
    """
    images: NDArray[np.uint8] = outcomes.images.cpu().numpy()
    given = {name: score.float().cpu().numpy() for name, score in outcomes.scores.items()}
    std, grey = _spreads(images)
    scores = {**given, "std": std, "grey": grey}
    least = _least(config)
    found = np.full(len(images), None, dtype=object)
    for name in reversed(list(least)):  # the first to be named is the last to be written
        score, reason = THRESHOLDS[name]
        found[~(scores[score].astype(np.float64) >= least[name])] = reason  # NaN reaches nothing
    for reason, where in outcomes.rejects.items():
        found[where.cpu().numpy()] = reason
    found[~outcomes.valid.cpu().numpy()] = "nan"
    own = outcomes.reasons or [None] * len(found)
    return Verdicts([mine or other for mine, other in zip(own, found.tolist(), strict=True)], scores)


def _least(config: KeepConfig) -> dict[str, float]:
    """The thresholds that are set, by their names, most telling reason first."""
    agreement = None if config.agreement is None else config.agreement.least
    every = {"blank_std": config.blank_std, "grey_levels": config.grey_levels, "agreement": agreement}
    return {name: least for name, least in every.items() if least is not None}


def _spreads(images: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Of each image the spread of pixels within their channel, and how far red is from the mean of the channels."""
    count, channels = images.shape[:2]
    pixels = math.prod(images.shape[2:])
    std, grey = np.empty(count, np.float32), np.empty(count, np.float32)
    row = _row(pixels)
    values = np.empty((channels, pixels // row, row), np.float32)
    ones = np.ones(row, np.float32)
    for place, image in enumerate(images.reshape(count, *values.shape)):
        np.copyto(values, image)
        totals, squares = (
            [int(total) for total in np.vecdot(values, factor).sum(1, dtype=np.float64)] for factor in (ones, values)
        )
        # Python's integers do not overflow, and its division and root round correctly.
        variances = sum(square * pixels - total * total for total, square in zip(totals, squares, strict=True))
        std[place] = math.sqrt(variances / (channels * pixels * pixels))
        grey[place] = abs(sum(totals) - channels * totals[0]) / (channels * pixels)
    return std, grey


@functools.cache
def _row(pixels: int) -> int:
    """The longest row, of those that divide the pixels evenly, whose sums are exact."""
    return max(row for row in range(1, _LONGEST_ROW + 1) if pixels % row == 0)
