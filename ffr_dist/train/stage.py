"""Stages of training as values: which samples, drawn how, with which loss. Methods write stages; ``launch`` runs them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from ffr_dist.errors import ConfigError
from ffr_dist.models.architectures import ClassifierConfig, SmallCNNConfig
from ffr_dist.train.augment import AugmentConfig
from ffr_dist.train.config import FitConfig, FitSettings
from ffr_dist.train.losses import GroupDROConfig
from ffr_dist.train.trackers import TrackerName

SetName = Literal["real", "synthetic", "generator"]
Mitigation = Literal["erm", "reweight_label", "reweight", "resample", "subsample", "groupdro", "dfr"]
"""What is done about groups of unequal size.

``erm``: nothing. ``reweight_label``, ``reweight``: each sample's loss weighs n / (k · n_c), c its label or its group.
``resample``: every group is drawn equally often. ``subsample``: of each group as many samples as the smallest has.
``groupdro``: weights of groups that follow their losses. ``dfr``: ``erm``, then a new head (see ``HeadStage``).
"""
Trainable = Literal["all", "head"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A part of the training data."""

    set: SetName
    """``real``: the biased training split. ``synthetic``: the generated pool. ``generator``: what trained the generator."""
    counts: Mapping[str, int] | None = None
    """How many of each group: the lowest k. None for all."""

    def identity(self) -> dict[str, Any]:
        return {"set": self.set, "counts": None if self.counts is None else dict(self.counts)}


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
    trainable: Trainable = "all"
    """``head``: the last layer alone; the rest stays as it is, statistics of batches included."""
    freeze_bn: bool = False
    """Batch normalisation uses the statistics that the stage starts with, and keeps them; its scale and shift still learn."""
    groupdro: GroupDROConfig | None = None
    """For that mitigation."""

    def identity(self) -> dict[str, Any]:
        """A JSON value of all that this stage asks for."""
        return {
            "name": self.name,
            "sources": [source.identity() for source in self.sources],
            "mitigation": self.mitigation,
            "by_source": self.by_source,
            "batch": self.batch,
            "fits": [fit.model_dump(mode="json") for fit in self.fits],
            "trainable": self.trainable,
            "freeze_bn": self.freeze_bn,
            "groupdro": None if self.groupdro is None else self.groupdro.model_dump(mode="json"),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadStage:
    """DFR: a new head on the frozen features of the stage before it, fitted to the validation set. Takes no steps."""

    name: str = "dfr"
    sources: tuple[Source, ...]
    """What the stage before it was trained on: its features are standardised as these are."""
    strengths: tuple[float, ...] = (3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003)
    """C of the penalty: one is chosen."""
    fits: int = 20
    """The head is the mean of so many."""

    def identity(self) -> dict[str, Any]:
        """A JSON value of all that this stage asks for."""
        return {
            "name": self.name,
            "sources": [source.identity() for source in self.sources],
            "mitigation": "dfr",
            "strengths": list(self.strengths),
            "fits": self.fits,
        }


AnyStage = Stage | HeadStage


class TrainConfig(FitSettings):
    """The training settings of a recipe: one budget for every arm.

    An arm of one stage gets ``pretrain_steps + finetune_steps`` steps, so that no arm sees more batches than another,
    and as many learning rates to choose from.
    """

    model: ClassifierConfig = SmallCNNConfig()
    batch: PositiveInt = 64
    pretrain_steps: PositiveInt
    finetune_steps: PositiveInt
    lrs: tuple[PositiveFloat, ...] = Field(min_length=1)
    """Rates to try from fresh weights."""
    finetune_lrs: tuple[PositiveFloat, ...] = Field(min_length=1)
    """Rates to try from pretrained weights."""
    schedule: Literal["constant", "cosine", "step"] = "cosine"
    warmup_steps: int = Field(default=20, ge=0)
    checkpoint_every: PositiveInt | None = 100
    augment: AugmentConfig = AugmentConfig()
    finetune_trainable: Trainable = "all"
    finetune_freeze_bn: bool = False
    groupdro: GroupDROConfig = GroupDROConfig()
    trackers: tuple[TrackerName, ...] = ()
    """Services that are told the figures of each fit, beside its own log; they have no part in what is learned."""

    @model_validator(mode="after")
    def _something_to_freeze(self) -> Self:
        if self.finetune_freeze_bn and self.model.kind != "resnet":
            raise ValueError(f"finetune_freeze_bn: a {self.model.kind} has no batch normalisation; leave it out")
        return self

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
        fits = self._fits(self.pretrain_steps + self.finetune_steps, self.lrs)
        return self._stage("train", sources, mitigation, fits, by_source=by_source)

    def pretrain(self, *, source: Source, mitigation: Mitigation) -> Stage:
        """The first of two stages. Its rate is the first of ``lrs``: the tries belong to the second, as many as any arm's."""
        fits = self._fits(self.pretrain_steps, self.lrs[:1])
        return self._stage("pretrain", (source,), mitigation, fits)

    def finetune(self, *, source: Source, mitigation: Mitigation) -> Stage:
        """The second of two stages."""
        fits = self._fits(self.finetune_steps, self.finetune_lrs)
        stage = self._stage("finetune", (source,), mitigation, fits)
        return replace(stage, trainable=self.finetune_trainable, freeze_bn=self.finetune_freeze_bn)

    def _stage(
        self,
        name: str,
        sources: tuple[Source, ...],
        mitigation: Mitigation,
        fits: tuple[FitConfig, ...],
        *,
        by_source: bool = False,
    ) -> Stage:
        if mitigation == "groupdro" and self.accumulation > 1:
            raise ConfigError(
                "train.accumulation: the weights of groupdro follow the loss of the whole batch, which must be seen at once; "
                "set it to 1 and lower train.batch"
            )
        return Stage(
            name=name,
            sources=sources,
            mitigation=mitigation,
            by_source=by_source,
            batch=self.batch,
            fits=fits,
            groupdro=self.groupdro if mitigation == "groupdro" else None,
        )

    def _fits(self, steps: int, rates: tuple[float, ...]) -> tuple[FitConfig, ...]:
        settings = {name: getattr(self, name) for name in FitSettings.model_fields}
        return tuple(FitConfig(steps=steps, lr=rate, **settings) for rate in rates)
