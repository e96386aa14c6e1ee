"""Stages of classification as tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch import nn

from ffr_dist.errors import InputError
from ffr_dist.groups import Groups
from ffr_dist.read.batches import Batch, ImageBatches
from ffr_dist.read.dataset import Dataset
from ffr_dist.train.augment import random_shift
from ffr_dist.train.losses import GroupDRO, sample_losses, sums_by_group
from ffr_dist.train.stage import Stage
from ffr_dist.train.task import Score, Task

Augment = Literal["none", "shift"]


def classification_task(
    stage: Stage,
    model: nn.Module,
    sets: Mapping[str, Dataset],
    groups: Groups,
    seed: int,
    *,
    validate: Callable[[nn.Module], Score] | None = None,
    augment: Augment = "none",
) -> Task:
    """Learn labels from the sources of ``stage``, which ``sets`` holds by name, in place on ``model``.

    ``groups`` are the ones that the mitigation balances; of them those count that hold samples.
    """
    missing = [source.set for source in stage.sources if source.set not in sets]
    if missing:
        raise InputError(f"stage {stage.name} reads the set {', '.join(missing)}, which there is not")
    chosen = [
        sets[source.set] if source.counts is None else sets[source.set].lowest(source.counts)
        for source in stage.sources
    ]
    batches = ImageBatches(
        [dataset for dataset in chosen if len(dataset)],
        groups,
        sampling="balanced" if stage.mitigation == "resample" else "natural",
        by_source=stage.by_source,
        batch=stage.batch,
        seed=seed,
    )
    if stage.mitigation == "groupdro":
        return _robust_task(stage.name, model, batches, seed=seed, validate=validate, augment=augment)
    return mean_task(stage.name, model, batches, seed=seed, validate=validate, augment=augment)


def mean_task(
    name: str,
    model: nn.Module,
    batches: ImageBatches,
    *,
    seed: int,
    targets: Sequence[int] | None = None,
    validate: Callable[[nn.Module], Score] | None = None,
    augment: Augment = "none",
) -> Task:
    """Minimise the mean cross-entropy; of labels, or of what ``targets`` gives each of the batches' groups."""
    table = None if targets is None else torch.tensor(list(targets))

    def counts(batch: Batch) -> torch.Tensor:
        return torch.tensor([len(batch)])

    def loss(module: nn.Module, batch: Batch) -> torch.Tensor:
        wanted = batch.labels if table is None else table.to(batch.groups.device)[batch.groups]
        return sample_losses(module, _images(module, batch, augment, seed), wanted).sum().reshape(1)

    return Task(name=name, model=model, batches=batches, counts=counts, loss=loss, validate=validate)


def _robust_task(
    name: str,
    model: nn.Module,
    batches: ImageBatches,
    *,
    seed: int,
    validate: Callable[[nn.Module], Score] | None,
    augment: Augment,
) -> Task:
    robust = GroupDRO(batches.group_counts)
    groups = len(batches.group_counts)

    def counts(batch: Batch) -> torch.Tensor:
        return torch.bincount(batch.groups, minlength=groups)

    def loss(module: nn.Module, batch: Batch) -> torch.Tensor:
        losses = sample_losses(module, _images(module, batch, augment, seed), batch.labels)
        return sums_by_group(losses, batch.groups, groups)

    return Task(
        name=name,
        model=model,
        batches=batches,
        counts=counts,
        loss=loss,
        weights=robust.weights,
        state=robust.state,
        validate=validate,
    )


def _images(module: nn.Module, batch: Batch, augment: Augment, seed: int) -> torch.Tensor:
    images = random_shift(batch.images, batch.positions, seed) if augment == "shift" else batch.images
    return as_input(images, module)


def as_input(images: torch.Tensor, module: nn.Module) -> torch.Tensor:
    """uint8 images as a classifier takes them: in 0 … 1, in its own precision."""
    return images.to(next(module.parameters()).dtype).div_(255)
