"""A stage of training as a value: which samples, drawn how, with which loss. Methods write stages; ``launch`` runs them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from ffr_dist.config import Config
from ffr_dist.models.classifier import ClassifierConfig
from ffr_dist.train.fit import FitConfig

SetName = Literal["real", "synthetic", "generator"]
Mitigation = Literal["erm", "resample", "groupdro"]
MITIGATIONS: tuple[Mitigation, ...] = ("erm", "resample", "groupdro")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A part of the training data."""

    set: SetName
    """``real``: the biased training split. ``synthetic``: the generated pool. ``generator``: what trained the generator."""
    counts: Mapping[str, int] | None = None
    """How many of each group: the lowest k. None for all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One call of ``fit``. Starts from the whole of the previous stage's weights, head included; the first from fresh."""

    name: str
    sources: tuple[Source, ...]
    mitigation: Mitigation
    by_source: bool = False
    """Groups of the mitigation are (label, bias, source), so that where an image comes from cannot stand in for its label."""
    batch: int
    fits: tuple[FitConfig, ...]
    """Alternatives (learning rates); the one that validates best is kept. The same number for every arm."""

    def identity(self) -> dict[str, Any]:
        """A JSON value of all that this stage asks for."""
        return {
            "name": self.name,
            "sources": [{"set": s.set, "counts": None if s.counts is None else dict(s.counts)} for s in self.sources],
            "mitigation": self.mitigation,
            "by_source": self.by_source,
            "batch": self.batch,
            "fits": [fit.model_dump(mode="json") for fit in self.fits],
        }


class TrainConfig(Config):
    """The training settings of a recipe: one budget for every arm.

    An arm of one stage gets ``pretrain_steps + finetune_steps`` steps, so that no arm sees more batches than another,
    and as many learning rates to choose from.
    """

    model: ClassifierConfig = ClassifierConfig()
    batch: PositiveInt = 64
    pretrain_steps: PositiveInt
    finetune_steps: PositiveInt
    lrs: tuple[PositiveFloat, ...] = Field(min_length=1)
    """Rates to try from fresh weights."""
    finetune_lrs: tuple[PositiveFloat, ...] = Field(min_length=1)
    """Rates to try from pretrained weights."""
    optimizer: Literal["adam", "adamw", "sgd"] = "adamw"
    weight_decay: float = Field(default=0.01, ge=0)
    schedule: Literal["constant", "cosine"] = "cosine"
    warmup_steps: int = Field(default=20, ge=0)
    validate_every: PositiveInt | None = None
    checkpoint_every: PositiveInt = 100
    augment: Literal["none", "shift"] = "none"

    @model_validator(mode="after")
    def _same_tuning_for_all(self) -> Self:
        if len(self.lrs) != len(self.finetune_lrs):
            raise ValueError(
                f"lrs has {len(self.lrs)} values and finetune_lrs {len(self.finetune_lrs)}: "
                "give each arm the same number of tries"
            )
        return self

    def from_scratch(self, *, sources: tuple[Source, ...], by_source: bool, mitigation: Mitigation) -> Stage:
        """The only stage of an arm that trains once."""
        return Stage(
            name="train",
            sources=sources,
            mitigation=mitigation,
            by_source=by_source,
            batch=self.batch,
            fits=self._fits(self.pretrain_steps + self.finetune_steps, self.lrs),
        )

    def pretrain(self, *, source: Source, mitigation: Mitigation) -> Stage:
        """The first of two stages. Its rate is the first of ``lrs``: the tries belong to the second, as many as any arm's."""
        fits = self._fits(self.pretrain_steps, self.lrs[:1])
        return Stage(name="pretrain", sources=(source,), mitigation=mitigation, batch=self.batch, fits=fits)

    def finetune(self, *, source: Source, mitigation: Mitigation) -> Stage:
        """The second of two stages."""
        fits = self._fits(self.finetune_steps, self.finetune_lrs)
        return Stage(name="finetune", sources=(source,), mitigation=mitigation, batch=self.batch, fits=fits)

    def _fits(self, steps: int, rates: tuple[float, ...]) -> tuple[FitConfig, ...]:
        return tuple(
            FitConfig(
                steps=steps,
                lr=rate,
                optimizer=self.optimizer,
                weight_decay=self.weight_decay,
                schedule=self.schedule,
                warmup_steps=self.warmup_steps,
                validate_every=self.validate_every,
                checkpoint_every=self.checkpoint_every,
            )
            for rate in rates
        )
