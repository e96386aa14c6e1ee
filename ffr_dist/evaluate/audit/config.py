"""How a generated set is judged, and what it must reach."""

from __future__ import annotations

from pydantic import Field, PositiveFloat, PositiveInt, field_validator

from ffr_dist.config import Config
from ffr_dist.errors import ConfigError
from ffr_dist.groups import UNKNOWN_BIAS, Groups
from ffr_dist.models.architectures import ClassifierConfig, SmallCNNConfig
from ffr_dist.train.augment import AugmentConfig

_CHANCE = 0.5


class AuditConfig(Config):
    """How the probes learn, and what the generated set must reach. Without a threshold nothing is held to anything."""

    steps: PositiveInt = 300
    batch: PositiveInt = 64
    lr: PositiveFloat = 0.002
    augment: AugmentConfig = AugmentConfig(shift=2)
    model: ClassifierConfig = SmallCNNConfig()
    held_out: float = Field(default=0.25, gt=0, lt=1)
    """Share of each group that the probes do not learn from."""
    images_per_group: PositiveInt = 1000
    """Images of each group that are judged, generated and held-out real ones: the first ones."""
    features: str | None = Field(default=None, min_length=1)
    """Weights whose features distances are taken in: a folder or a URL, as ``generate.keep.agreement`` takes them. Without
    them they are those of the label probe."""
    near_bits: int = Field(default=10, ge=0, le=64)
    """Images are near-duplicates where their perceptual hashes differ in at most so many of 256 bits."""
    seed: int = Field(default=0, ge=0)
    min_label_accuracy: float | None = Field(default=None, ge=0, le=1)
    """What the label probe must find in each group."""
    min_bias_accuracy: float | None = Field(default=None, ge=0, le=1)
    """What the bias probe must find in each group."""
    max_gap: float | None = Field(default=None, ge=0, le=1)
    """By how much a probe that learned from generated images may do worse on real ones, in each group."""
    max_real_or_fake_accuracy: float | None = None
    """How often a probe may tell generated from real images; 0.5 is chance."""
    max_fd_ratio: float | None = None
    """How far generated images may be from real ones in each group, in units of how far real ones are from each other."""
    max_near_duplicates: float | None = Field(default=None, ge=0, le=1)
    """Share of the judged images that may look like an earlier one."""
    max_copies: int | None = Field(default=None, ge=0)
    """Generated images that may equal a training image of the generator."""

    @field_validator("max_real_or_fake_accuracy")
    @classmethod
    def _not_below_chance(cls, value: float | None) -> float | None:
        if value is not None and not _CHANCE <= value <= 1:
            raise ValueError(
                f"{value:g} is outside 0.5 … 1; by chance a probe is right half of the time, so no set can pass"
            )
        return value

    @field_validator("max_fd_ratio")
    @classmethod
    def _not_nearer_than_real(cls, value: float | None) -> float | None:
        if value is not None and not 1 <= value < float("inf"):
            raise ValueError(
                f"{value:g} is not a number from 1; real images themselves have the ratio 1, so no set can pass"
            )
        return value

    def refuse_unknowable(self, groups: Groups, *, generator: bool) -> None:
        """ConfigError for a threshold on what nobody can measure of these groups; ``generator``: whether it is known what the
        generator learned from.
        """
        if self.min_bias_accuracy is not None and any(group.bias == UNKNOWN_BIAS for group in groups):
            raise ConfigError("audit.min_bias_accuracy is set, but nobody knows the bias of some groups; remove it")
        if self.max_copies is not None and not generator:
            raise ConfigError(
                "audit.max_copies is set, but this dataset does not say which images the generator learned from; remove it"
            )
