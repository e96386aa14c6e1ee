"""The settings of FFR in a recipe."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from ffr_dist.config import Config
from ffr_dist.models.generator import GeneratorConfig

WORD = re.compile(r"\{([^{}]*)\}")
"""The place of a word in a prompt: ``{name}``."""


class FFRConfig(Config):
    """From Fake to Real: pretrain on a balanced synthetic set, then fine-tune on the real one."""

    name: Literal["ffr"] = "ffr"
    generator: GeneratorConfig
    prompts: dict[str, tuple[str, ...]]
    """Prompts of each group; each candidate draws one of its group's."""
    words: dict[str, Annotated[tuple[str, ...], Field(min_length=1)]] = Field(default_factory=dict)
    """What ``{name}`` stands for in a prompt: each candidate draws one of the words of that name."""
    budget: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """How many times the number of images that the paper's rule gives an arm it takes."""
    quota: dict[str, int] | None = None
    """Images of each group in the pool, in place of the paper's budget rule."""
    allow_fraction: bool = False
    """Where ``quota`` is less than an arm asks for: let the arm take the same fraction of each group."""

    @model_validator(mode="after")
    def _words_are_known_and_used(self) -> Self:
        used: set[str] = set()
        for group, prompts in self.prompts.items():
            for prompt in prompts:
                if not prompt.strip():
                    raise ValueError(f"prompts.{group}: a prompt is empty; say what the images show")
                names = WORD.findall(prompt)
                unknown = [name for name in names if name not in self.words]
                if unknown or "{" in WORD.sub("", prompt):
                    what = f"{{{unknown[0]}}} has no list in words" if unknown else "a brace is not closed"
                    known = ", ".join(f"{{{name}}}" for name in self.words) or "none"
                    raise ValueError(f"prompt {prompt!r} of group {group}: {what}; there are {known}")
                used.update(names)
        unused = [name for name in self.words if name not in used]
        if unused:
            raise ValueError(f"words.{unused[0]}: no prompt has {{{unused[0]}}}; use it, or leave it out")
        return self
