"""Stages of classification as tasks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from ffr_dist.config import digest
from ffr_dist.errors import DataError, InputError
from ffr_dist.groups import Groups
from ffr_dist.models.classifier import batch_norms
from ffr_dist.read.batches import Batch, ImageBatches
from ffr_dist.read.config import ReadConfig
from ffr_dist.read.dataset import Dataset
from ffr_dist.read.loader import Loader
from ffr_dist.read.mixture import Rows
from ffr_dist.read.sampling import Repeated, Sampling, as_json
from ffr_dist.train.augment import AugmentConfig
from ffr_dist.train.augment import augment as augmented
from ffr_dist.train.losses import (
    GroupDRO,
    balancing_weights,
    log_class_shares,
    log_class_shares_beside,
    sample_losses,
    sums_by_group,
)
from ffr_dist.train.needs import Held, refuse_absent
from ffr_dist.train.stage import AnyStage, Mitigation, Stage
from ffr_dist.train.task import Score, Task

_AS_THEY_ARE = AugmentConfig()
_READ = ReadConfig()
_MOST_IMAGES, _VALUES = 500, 2**24
"""Of what is looked at together: small images by their number, large ones by their size."""
_SAMPLING: Mapping[Mitigation, Sampling] = {
    "erm": "natural",
    "reweight_label": "natural",
    "reweight": "natural",
    "resample": "balanced",
    "subsample": "subsample",
    "groupdro": "natural",
    "balanced_softmax": "natural",
    "logit_adjustment": "natural",
    "jtt": "natural",  # but for the mistakes
}


def classification_task(
    stage: Stage,
    model: nn.Module,
    sets: Mapping[str, Dataset],
    groups: Groups,
    seed: int,
    *,
    mistakes: Rows | None = None,
    validate: Callable[[nn.Module], Score] | None = None,
    augment: AugmentConfig = _AS_THEY_ARE,
    read: ReadConfig = _READ,
) -> Task:
    """Learn labels from the sources of ``stage``, which ``sets`` holds by name, in place on ``model``.

    ``groups`` are the ones that the mitigation balances: each must hold a sample, if there is such a mitigation. With
    ``stage.by_source`` they are split into real and synthetic, and of the parts those count that hold samples.
    ``mistakes`` is for ``jtt``: see ``find_mistakes``.
    """
    if stage.mitigation not in _SAMPLING:
        raise InputError(
            f"stage {stage.name}: {stage.mitigation!r} is no mitigation of a stage that takes steps; "
            f"those are {', '.join(_SAMPLING)} (and dfr is a stage of its own, a HeadStage)"
        )
    chosen = chosen_sets(stage, sets)
    _refuse_labels(stage, model, groups)
    refuse_absent(stage, [Held(dataset.groups, dataset.counts()) for dataset in chosen], groups)
    sampling = _SAMPLING[stage.mitigation]
    if stage.jtt is not None:
        if mistakes is None:
            raise InputError(f"stage {stage.name}: jtt draws more often what the stage before it gets wrong; say what")
        sampling = Repeated(mistakes, stage.jtt.weight)
    batches = ImageBatches(
        chosen,
        groups,
        sampling=sampling,
        by_source=stage.by_source,
        batch=stage.batch,
        seed=seed,
        read=read,
    )
    if stage.mitigation == "groupdro":
        task = _robust_task(stage, model, batches, seed=seed, validate=validate, augment=augment)
    else:
        task = mean_task(
            stage.name,
            model,
            batches,
            seed=seed,
            group_weights=_weights(stage, batches, groups),
            group_offsets=_offsets(stage, batches, groups),
            validate=validate,
            augment=augment,
        )
    data = [dataset.fingerprint for dataset in chosen]
    asked = [stage.identity(), as_json(sampling), augment.model_dump(mode="json")]
    fingerprint = digest([*asked, data, list(groups.names), seed])
    trained, still = _parts(stage, model)
    return replace(task, parameters=trained, frozen=still, fingerprint=fingerprint)


def chosen_sets(stage: AnyStage, sets: Mapping[str, Dataset]) -> list[Dataset]:
    """What a stage reads, without sources of no image."""
    missing = [source.set for source in stage.sources if source.set not in sets]
    if missing:
        raise InputError(f"stage {stage.name} reads the set {', '.join(missing)}, which there is not")
    chosen = [
        sets[source.set] if source.counts is None else sets[source.set].lowest(source.counts)
        for source in stage.sources
    ]
    return [dataset for dataset in chosen if len(dataset)]


def _refuse_labels(stage: Stage, model: nn.Module, groups: Groups) -> None:
    logits = getattr(getattr(model, "head", None), "bias", None)
    if logits is not None and len(logits) < groups.classes:
        outside = [f"{group.name} ({group.label})" for group in groups if group.label >= len(logits)]
        raise DataError(
            f"stage {stage.name}: the model knows {len(logits)} classes, counted from 0; the labels of group "
            f"{', '.join(outside)} lie outside. Give a model with {groups.classes} classes"
        )


def _weights(stage: Stage, batches: ImageBatches, groups: Groups) -> Sequence[float] | None:
    """The weight of a sample of each of the batches' groups; None where all weigh alike."""
    if stage.mitigation == "reweight":
        return balancing_weights(batches.group_counts).tolist()
    if stage.mitigation == "reweight_label":
        labels = _labels(batches, groups)
        counts = Counter[int]()
        for label, count in zip(labels, batches.group_counts, strict=True):
            counts[label] += count
        by_label = dict(zip(counts, balancing_weights(list(counts.values())).tolist(), strict=True))
        return [by_label[label] for label in labels]
    return None


def _offsets(stage: Stage, batches: ImageBatches, groups: Groups) -> torch.Tensor | None:
    """What is added to the logits of a sample of each of the batches' groups; None where nothing is."""
    labels = _labels(batches, groups)
    if stage.mitigation == "balanced_softmax":
        return log_class_shares(labels, batches.group_counts)
    if stage.logit_adjustment is not None:
        cells = [name.partition("/") for name in batches.group_names]
        beside = [(groups.by_name(name).bias, source) for name, _, source in cells]
        return stage.logit_adjustment.tau * log_class_shares_beside(labels, batches.group_counts, beside)
    return None


def _labels(batches: ImageBatches, groups: Groups) -> list[int]:
    """Of each of the batches' groups."""
    return [groups.by_name(name.partition("/")[0]).label for name in batches.group_names]


def _parts(stage: Stage, model: nn.Module) -> tuple[list[nn.Parameter] | None, list[nn.Module]]:
    """The parameters that a stage trains, None for all, and the modules that stay as they are in evaluation."""
    if stage.trainable == "head":
        head = model.get_submodule("head")
        model.requires_grad_(False)
        head.requires_grad_(True)
        inside = set(head.modules())
        still = [part for part in model.modules() if part not in inside and head not in set(part.modules())]
        return list(head.parameters()), still
    return None, batch_norms(model) if stage.freeze_bn else []


def mean_task(
    name: str,
    model: nn.Module,
    batches: ImageBatches,
    *,
    seed: int,
    targets: Sequence[int] | None = None,
    group_weights: Sequence[float] | None = None,
    group_offsets: torch.Tensor | None = None,
    validate: Callable[[nn.Module], Score] | None = None,
    augment: AugmentConfig = _AS_THEY_ARE,
) -> Task:
    """Minimise the mean cross-entropy; of labels, or of what ``targets`` gives each of the batches' groups.

    ``group_weights`` are what a sample's loss is multiplied with; it is divided by the number of samples all the same.
    ``group_offsets`` (groups, classes) are added to its logits.
    """
    table = None if targets is None else _Table(torch.tensor(list(targets)))
    weights = None if group_weights is None else _Table(torch.tensor(list(group_weights), dtype=torch.float64))
    offsets = None if group_offsets is None else _Table(group_offsets)

    def counts(batch: Batch) -> torch.Tensor:
        return torch.tensor([len(batch)])

    def loss(module: nn.Module, batch: Batch) -> torch.Tensor:
        wanted = batch.labels if table is None else table.of(batch.groups)
        added = None if offsets is None else offsets.of(batch.groups)
        losses = sample_losses(module, _images(module, batch, augment, seed), wanted, added)
        if weights is not None:
            losses = losses * weights.of(batch.groups).to(losses.dtype)
        return losses.sum().reshape(1)

    return Task(name=name, model=model, batches=batches, counts=counts, loss=loss, validate=validate)


def _robust_task(
    stage: Stage,
    model: nn.Module,
    batches: ImageBatches,
    *,
    seed: int,
    validate: Callable[[nn.Module], Score] | None,
    augment: AugmentConfig,
) -> Task:
    robust = GroupDRO(batches.group_counts, stage.groupdro)
    groups = len(batches.group_counts)

    def counts(batch: Batch) -> torch.Tensor:
        return torch.bincount(batch.groups, minlength=groups)

    def loss(module: nn.Module, batch: Batch) -> torch.Tensor:
        losses = sample_losses(module, _images(module, batch, augment, seed), batch.labels)
        return sums_by_group(losses, batch.groups, groups)

    return Task(
        name=stage.name,
        model=model,
        batches=batches,
        counts=counts,
        loss=loss,
        weights=robust.weights,
        state=robust.state,
        validate=validate,
    )


class _Table:
    """A value for each group, looked up where the batch lies; brought there once."""

    def __init__(self, values: torch.Tensor) -> None:
        self._values = values

    def of(self, groups: torch.Tensor) -> torch.Tensor:
        self._values = self._values.to(groups.device)
        return self._values[groups]


def _images(module: nn.Module, batch: Batch, augment: AugmentConfig, seed: int) -> torch.Tensor:
    return as_input(augmented(batch.images, batch.positions, seed, augment), module)


def in_turn(
    model: nn.Module, dataset: Dataset, rows: range, *, batch: int | None = None, read: ReadConfig = _READ
) -> Iterator[tuple[range, torch.Tensor]]:
    """Some rows of a set a part at a time, each part with its images as ``model`` takes them, where it lies; read ahead."""
    device = next(model.parameters()).device
    batch = batch or looked_at_together(dataset)
    parts = [range(start, min(start + batch, rows.stop)) for start in range(rows.start, rows.stop, batch)]
    wanted = (np.arange(part.start, part.stop) for part in parts)
    with closing(Loader([dataset], read).stream(wanted)) as stream:
        for part, pixels in zip(parts, stream, strict=True):
            yield part, as_input(torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2), model)


def looked_at_together(dataset: Dataset) -> int:
    """So many images of a set."""
    return min(_MOST_IMAGES, max(1, _VALUES // (3 * (dataset.side or 1) ** 2)))


def as_input(images: torch.Tensor, module: nn.Module) -> torch.Tensor:
    """uint8 images as a classifier takes them: in 0 … 1, in its own precision."""
    return images.to(next(module.parameters()).dtype).div_(255)
