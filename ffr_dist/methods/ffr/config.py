"""The settings of FFR in a recipe."""

from __future__ import annotations

from typing import Literal

from ffr_dist.config import Config
from ffr_dist.models.generator import GeneratorConfig


class FFRConfig(Config):
    """From Fake to Real: pretrain on a balanced synthetic set, then fine-tune on the real one."""

    name: Literal["ffr"] = "ffr"
    generator: GeneratorConfig
    prompts: dict[str, tuple[str, ...]]
    """Prompts of each group; each candidate draws one of its group's."""
    quota: dict[str, int] | None = None
    """Images of each group in the pool, in place of the paper's budget rule."""
    allow_fraction: bool = False
    """Where ``quota`` is less than an arm asks for: let the arm take the same fraction of each group."""
