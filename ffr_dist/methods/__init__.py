"""The methods: a closed union of their configs, and the way from one of those to the method itself."""

from __future__ import annotations

from ffr_dist.groups import Groups
from ffr_dist.methods.ffr.config import FFRConfig
from ffr_dist.methods.method import Inputs, MapStep, Method, Step, TrainStep, step_folder
from ffr_dist.train.stage import TrainConfig

MethodConfig = FFRConfig
"""Grows to ``Annotated[FFRConfig | …, Field(discriminator="name")]`` with the second method."""


def build(config: MethodConfig, *, groups: Groups, seed: int, size: int, training: TrainConfig) -> Method:
    """The method of a recipe. Its module is imported here only: a recipe can be read without it."""
    from ffr_dist.methods.ffr.method import FFR  # noqa: PLC0415 - lazy on purpose

    return FFR(config=config, groups=groups, seed=seed, size=size, training=training)


__all__ = ["Inputs", "MapStep", "Method", "MethodConfig", "Step", "TrainStep", "build", "step_folder"]
