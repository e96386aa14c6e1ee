"""How long, how fast and how precisely to learn."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from ffr_dist.config import Config


class FitSettings(Config):
    """What a recipe sets once for all that it trains."""

    optimizer: Literal["adam", "adamw", "sgd"] = "adamw"
    betas: tuple[float, float] = (0.9, 0.999)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=0.01, ge=0)
    schedule: Literal["constant", "cosine", "step"] = "constant"
    warmup_steps: int = Field(default=0, ge=0)
    final_lr: float = Field(default=0.0, ge=0, le=1)
    """What the cosine ends at, as a share of ``lr``."""
    milestones: tuple[float, ...] = (0.5, 0.75)
    """Where the step schedule falls, as shares of ``steps``."""
    gamma: float = Field(default=0.1, gt=0, le=1)
    """What the rate is multiplied by there."""
    clip_norm: PositiveFloat | None = None
    accumulation: PositiveInt = 1
    precision: Literal["no", "bf16", "fp16"] = "no"
    """bf16 and fp16: weights stay float32, and the forward pass is mixed; validations are not."""
    ema: float | None = Field(default=None, gt=0, lt=1)
    """Decay of a moving average of the weights, which validates and is what training ends with."""
    channels_last: bool = False
    compile: bool = False
    deterministic: bool = False
    """Only operations that give the same bits each time; an error where a model has none."""
    validate_every: PositiveInt | None = None
    """Steps between validations; None validates before the first and after the last step only."""
    patience: PositiveInt | None = None
    """Ends after this many validations in a row that did not better the best."""
    checkpoint_every: PositiveInt | None = None
    """Steps between checkpoints; None keeps none."""
    log_every: PositiveInt = 25

    @model_validator(mode="after")
    def _patience_counts_validations(self) -> Self:
        if self.patience is not None and self.validate_every is None:
            raise ValueError("patience counts validations: set validate_every too")
        return self


class FitConfig(FitSettings):
    """The settings of one call of ``fit``. All of them belong to a checkpoint's identity."""

    steps: PositiveInt
    lr: PositiveFloat
    seed: int = 0
