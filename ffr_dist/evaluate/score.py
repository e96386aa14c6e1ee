"""Correct answers of a classifier, counted by group."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from ffr_dist.metrics import Count
from ffr_dist.read.dataset import Dataset
from ffr_dist.train.classify import as_input

_BATCH = 500


def count_correct(model: nn.Module, dataset: Dataset, batch: int = _BATCH) -> dict[str, Count]:
    """Of each declared group, also of those without samples (0 of 0): ``group_metrics`` refuses them by name."""
    right = predictions(model, dataset, batch) == dataset.labels
    ids = dataset.group_ids
    total = np.bincount(ids, minlength=len(dataset.groups))
    correct = np.bincount(ids[right], minlength=len(dataset.groups))
    return {
        name: Count(int(good), int(count))
        for name, good, count in zip(dataset.groups.names, correct, total, strict=True)
    }


def predictions(model: nn.Module, dataset: Dataset, batch: int = _BATCH) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """The class that ``model`` gives each image, in evaluation mode; its mode is left as it was."""
    was_training = model.training
    device = next(model.parameters()).device
    found = [np.zeros(0, np.int64)]
    model.eval()
    try:
        with torch.inference_mode():
            for start in range(0, len(dataset), batch):
                rows = np.arange(start, min(start + batch, len(dataset)))
                images = torch.from_numpy(dataset.pixels(rows)).to(device).permute(0, 3, 1, 2)
                found.append(model(as_input(images, model)).argmax(1).cpu().numpy())
    finally:
        model.train(was_training)
    return np.concatenate(found)
