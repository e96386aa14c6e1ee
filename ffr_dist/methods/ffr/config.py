"""The settings of FFR in a recipe."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ffr_dist.config import Config
from ffr_dist.models.generator import GeneratorConfig


class FFRConfig(Config):
    """From Fake to Real: pretrain on a balanced synthetic set, then fine-tune on the real one."""

    name: Literal["ffr"] = "ffr"
    generator: GeneratorConfig
    prompts: dict[str, tuple[str, ...]]
    """Prompts of each group; each candidate draws one of its group's."""
    quota: dict[str, int] | None = Field(default=None)
    """Images of each group in the pool, in place of the paper's budget rule."""
