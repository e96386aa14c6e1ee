"""Correct answers of a classifier, counted by group."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ffr_dist.metrics import Count
from ffr_dist.read.config import ReadConfig
from ffr_dist.read.dataset import Dataset
from ffr_dist.train.classify import in_turn

_READ = ReadConfig()


def count_correct(
    model: nn.Module, dataset: Dataset, batch: int | None = None, read: ReadConfig = _READ
) -> dict[str, Count]:
    """Of each declared group, also of those without samples (0 of 0): ``group_metrics`` refuses them by name."""
    right = predictions(model, dataset, batch, read) == dataset.labels
    ids = dataset.group_ids
    total = np.bincount(ids, minlength=len(dataset.groups))
    correct = np.bincount(ids[right], minlength=len(dataset.groups))
    return {
        name: Count(int(good), int(count))
        for name, good, count in zip(dataset.groups.names, correct, total, strict=True)
    }


def predictions(
    model: nn.Module, dataset: Dataset, batch: int | None = None, read: ReadConfig = _READ
) -> NDArray[np.int64]:
    """The class that ``model`` gives each image, in evaluation mode; its mode is left as it was.

    No image may be broken, even if some may be in training: a count of others in their place would be another count.
    """
    return each_image(model, dataset, lambda images: model(images).argmax(1), batch, read).astype(np.int64)


def each_image(
    model: nn.Module,
    dataset: Dataset,
    answer: Callable[[torch.Tensor], torch.Tensor],
    batch: int | None = None,
    read: ReadConfig = _READ,
) -> NDArray[Any]:
    """What ``answer`` says of batches of images, as ``model`` takes them, joined: a row for each; as in :func:`predictions`."""
    was_training = model.training
    read = read.model_copy(update={"skip_broken": 0})
    found: list[NDArray[Any]] = []
    model.eval()
    try:
        with torch.inference_mode():
            for _, images in in_turn(model, dataset, range(len(dataset)), batch=batch, read=read):
                found.append(answer(images).cpu().numpy())
    finally:
        model.train(was_training)
    return np.concatenate(found) if found else np.zeros(0)
