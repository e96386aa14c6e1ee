"""Stages of training as values: which samples, drawn how, with which loss. Methods write stages; ``launch`` runs them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from ffr_dist.config import Config
from ffr_dist.errors import ConfigError, InputError
from ffr_dist.models.architectures import ClassifierConfig, SmallCNNConfig
from ffr_dist.train.augment import AugmentConfig
from ffr_dist.train.config import FitConfig, FitSettings
from ffr_dist.train.losses import GroupDROConfig, LogitAdjustmentConfig
from ffr_dist.train.trackers import TrackerName

SetName = Literal["real", "synthetic", "generator"]
Mitigation = Literal[
    "erm",
    "reweight_label",
    "reweight",
    "resample",
    "subsample",
    "groupdro",
    "dfr",
    "jtt",
    "balanced_softmax",
    "logit_adjustment",
]
"""What is done about groups of unequal size.

``erm``: nothing. ``reweight_label``, ``reweight``: each sample's loss weighs n / (k · n_c), c its label or its group.
``resample``: every group is drawn equally often. ``subsample``: of each group as many samples as the smallest has.
``groupdro``: weights of groups that follow their losses. ``dfr``: ``erm``, then a new head (see ``HeadStage``).
``jtt``: ``erm`` for a while, then from the same start again, with the samples that were wrong drawn more often.
``balanced_softmax``, ``logit_adjustment``: while training, logits are offset by how often their class occurs, over all or
beside the sample's bias.
"""
Trainable = Literal["all", "head"]


class JTTConfig(Config):
    """How samples are found that need more attention, and how much of it they get."""

    steps: PositiveInt = 100
    """Of the stage that finds them: those it gets wrong at its end. Too many, and it gets none wrong."""
    weight: PositiveInt = 20
    """λ: how often each of them is drawn while any other is drawn once."""


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
    """One call of ``fit``. Starts from the whole of the previous stage's weights, head included; the first from fresh.

    Of the mitigation ``jtt`` the previous stage has found the mistakes, in the same sources, and this one starts where that
    one started.
    """

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
    validated: bool = True
    """Ends with the weights that validate best; else with those of its last step, and nothing is validated."""
    groupdro: GroupDROConfig | None = None
    jtt: JTTConfig | None = None
    logit_adjustment: LogitAdjustmentConfig | None = None
    """Each for the mitigation of its name, else None."""

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
            "validated": self.validated,
            **{
                name: None if settings is None else settings.model_dump(mode="json")
                for name, settings in (
                    ("groupdro", self.groupdro),
                    ("jtt", self.jtt),
                    ("logit_adjustment", self.logit_adjustment),
                )
            },
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
    and as many learning rates to choose from. With ``epochs``, as papers have it, each stage runs through its own samples
    so many times instead, and validates after each.
    """

    model: ClassifierConfig = SmallCNNConfig()
    batch: PositiveInt = 64
    pretrain_steps: PositiveInt | None = None
    finetune_steps: PositiveInt | None = None
    epochs: PositiveInt | None = None
    """In place of both."""
    lrs: tuple[PositiveFloat, ...] = Field(min_length=1)
    """Rates to try from fresh weights."""
    finetune_lrs: tuple[PositiveFloat, ...] = Field(min_length=1)
    """Rates to try from pretrained weights."""
    pretrain_lr: PositiveFloat | None = None
    """The rate of a first stage of two; the first of ``lrs`` where nothing is said."""
    arm_lrs: dict[str, tuple[PositiveFloat, ...]] = Field(default_factory=dict)
    """Rates of single arms in place of ``lrs``."""
    schedule: Literal["constant", "cosine", "step"] = "cosine"
    warmup_steps: int = Field(default=20, ge=0)
    checkpoint_every: PositiveInt | None = 100
    augment: AugmentConfig = AugmentConfig()
    finetune_trainable: Trainable = "all"
    finetune_freeze_bn: bool = False
    groupdro: GroupDROConfig = GroupDROConfig()
    jtt: JTTConfig = JTTConfig()
    logit_adjustment: LogitAdjustmentConfig = LogitAdjustmentConfig()
    trackers: tuple[TrackerName, ...] = ()
    """Services that are told the figures of each fit, beside its own log; they have no part in what is learned."""

    @model_validator(mode="after")
    def _patience_counts_validations(self) -> Self:
        if self.patience is not None and self.validate_every is None and self.epochs is None:
            raise ValueError("patience counts validations: set validate_every too")
        return self

    @model_validator(mode="after")
    def _steps_or_epochs(self) -> Self:
        steps = {"pretrain_steps": self.pretrain_steps, "finetune_steps": self.finetune_steps}
        if self.epochs is None:
            missing = [name for name, count in steps.items() if count is None]
            if missing:
                raise ValueError(f"{' and '.join(missing)} missing; give pretrain_steps and finetune_steps, or epochs")
            return self
        given = [name for name, count in steps.items() if count is not None]
        if given:
            raise ValueError(f"epochs stands in place of {' and '.join(given)}: give one or the other")
        if self.validate_every is not None:
            raise ValueError("a stage of so many epochs validates after each: leave out validate_every")
        return self

    @model_validator(mode="after")
    def _something_to_freeze(self) -> Self:
        if self.finetune_freeze_bn and self.model.kind != "resnet":
            raise ValueError(f"finetune_freeze_bn: a {self.model.kind} has no batch normalisation; leave it out")
        return self

    @model_validator(mode="after")
    def _same_tuning_for_all(self) -> Self:
        others = {"finetune_lrs": self.finetune_lrs, **{f"arm_lrs.{arm}": rates for arm, rates in self.arm_lrs.items()}}
        for name, rates in others.items():
            if len(rates) != len(self.lrs):
                raise ValueError(
                    f"lrs has {len(self.lrs)} values and {name} {len(rates)}: give each arm the same number of tries"
                )
        return self

    @property
    def choices(self) -> int:
        """How many alternatives each arm may choose from."""
        return len(self.lrs)

    def with_choice(self, place: int) -> TrainConfig:
        """The same settings with one of the alternatives alone, counted from 0; first stages of two stay what they are."""
        if not 0 <= place < self.choices:
            raise InputError(f"alternative {place} is asked for; there are {self.choices}, counted from 0")

        def one(rates: tuple[float, ...]) -> tuple[float, ...]:
            return (rates[place],)

        return self.model_copy(
            update={
                "lrs": one(self.lrs),
                "finetune_lrs": one(self.finetune_lrs),
                "arm_lrs": {arm: one(rates) for arm, rates in self.arm_lrs.items()},
                "pretrain_lr": self._first_lr,
            }
        )

    def from_scratch(
        self,
        *,
        sources: tuple[Source, ...],
        by_source: bool,
        mitigation: Mitigation,
        arm: str = "",
        samples: int | None = None,
    ) -> tuple[AnyStage, ...]:
        """The stages of an arm that trains once. ``samples``: how many its sources hold, where that is known."""
        steps = None if self.pretrain_steps is None else self.pretrain_steps + (self.finetune_steps or 0)
        fits = self._fits(steps, samples, self.arm_lrs.get(arm, self.lrs))
        return self._stages("train", sources, mitigation, fits, by_source=by_source and mitigation != "jtt")

    def pretrain(self, *, source: Source, mitigation: Mitigation, samples: int | None = None) -> Stage:
        """The first of two stages. It has one rate: the tries belong to the second, as many as any arm's."""
        fits = self._fits(self.pretrain_steps, samples, (self._first_lr,))
        return self._stage("pretrain", (source,), mitigation, fits)

    def finetune(self, *, source: Source, mitigation: Mitigation, samples: int | None = None) -> tuple[AnyStage, ...]:
        """What comes after it."""
        fits = self._fits(self.finetune_steps, samples, self.finetune_lrs)
        return self._stages(
            "finetune",
            (source,),
            mitigation,
            fits,
            trainable=self.finetune_trainable,
            freeze_bn=self.finetune_freeze_bn,
        )

    @property
    def _first_lr(self) -> float:
        return self.pretrain_lr or self.lrs[0]

    def _stages(
        self,
        name: str,
        sources: tuple[Source, ...],
        mitigation: Mitigation,
        fits: tuple[FitConfig, ...],
        **options: Any,
    ) -> tuple[AnyStage, ...]:
        """A stage, with what its mitigation does before and after it."""
        if mitigation == "dfr":
            # The head is for real images, whose features may lie elsewhere than those of synthetic ones.
            real = tuple(source for source in sources if source.set == "real")
            return (self._stage(name, sources, "erm", fits, **options), HeadStage(sources=real or sources))
        stage = self._stage(name, sources, mitigation, fits, **options)
        if mitigation != "jtt":
            return (stage,)
        # Its end is what counts: a step that validates better has learned less of the bias, and tells less of it.
        found = (fits[0].model_copy(update={"steps": self.jtt.steps}),)
        return (replace(stage, name="identify", mitigation="erm", jtt=None, fits=found, validated=False), stage)

    def _stage(
        self,
        name: str,
        sources: tuple[Source, ...],
        mitigation: Mitigation,
        fits: tuple[FitConfig, ...],
        **options: Any,
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
            batch=self.batch,
            fits=fits,
            groupdro=self.groupdro if mitigation == "groupdro" else None,
            jtt=self.jtt if mitigation == "jtt" else None,
            logit_adjustment=self.logit_adjustment if mitigation == "logit_adjustment" else None,
            **options,
        )

    def _fits(self, steps: int | None, samples: int | None, rates: tuple[float, ...]) -> tuple[FitConfig, ...]:
        settings = {name: getattr(self, name) for name in FitSettings.model_fields}
        if self.epochs is not None:
            if samples is None:
                raise ConfigError(
                    "train.epochs: nobody says beforehand how many images the generator has seen, so that no epoch of them "
                    "can be counted; give pretrain_steps and finetune_steps instead"
                )
            epoch = max(1, -(-samples // (self.batch * self.accumulation)))
            steps, settings["validate_every"] = epoch * self.epochs, epoch
        return tuple(FitConfig.model_validate({**settings, "steps": steps, "lr": rate}) for rate in rates)
