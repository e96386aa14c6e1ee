"""Probes: small classifiers that learn from one set, with every group equally likely, and judge others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ffr_dist.evaluate.audit.config import AuditConfig
from ffr_dist.evaluate.score import each_image
from ffr_dist.groups import Groups
from ffr_dist.metrics import Count
from ffr_dist.models.classifier import Classifier, build_classifier
from ffr_dist.read.batches import ImageBatches
from ffr_dist.read.dataset import Dataset
from ffr_dist.read.order import permutation
from ffr_dist.seeds import draw_seed
from ffr_dist.train.classify import mean_task
from ffr_dist.train.config import FitConfig
from ffr_dist.train.fit import fit


def split_rows(
    dataset: Dataset, held_out: float, seed: int, most: int | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows to learn from and rows to hold out, group by group; one of each at least where a group has two.

    Of the rows that are held out, ``most`` of each group are given.
    """
    learned, kept = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    ids = dataset.group_ids
    for number, name in enumerate(dataset.groups.names):
        rows = np.flatnonzero(ids == number)
        rows = rows[permutation(len(rows), draw_seed(seed, name, 0, "audit"))]
        out = min(max(1, round(held_out * len(rows))), len(rows) - 1) if len(rows) > 1 else 0
        kept.append(rows[: out if most is None else min(out, most)])
        learned.append(rows[out:])
    return np.sort(np.concatenate(learned)), np.sort(np.concatenate(kept))


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """What a probe says of a set, image by image."""

    groups: Groups
    group_ids: NDArray[np.int16]
    right: NDArray[np.bool_]
    sure: NDArray[np.float32]
    """The probability that the probe gives to what is right."""

    def of(self, name: str) -> Count:
        """What it got right of a group; none of none where the set has no such group."""
        if name not in self.groups.names:
            return Count(0, 0)
        here = self.group_ids == self.groups.names.index(name)
        return Count(int(self.right[here].sum()), int(here.sum()))

    def rows_of(self, name: str) -> NDArray[np.int64]:
        """Rows of a group, those that the probe is least sure of first."""
        here = np.flatnonzero(self.group_ids == self.groups.names.index(name))
        return here[np.argsort(self.sure[here], kind="stable")]


def learn(training: Dataset, values: Mapping[str, int], config: AuditConfig, name: str) -> Classifier:
    """A probe for the value that ``values`` gives each group's images; ``name`` seeds its randomness."""
    seed = draw_seed(config.seed, name, 0, "audit")
    model = build_classifier(config.model, max(values.values()) + 1, seed)
    counts = training.counts()
    groups = Groups.of(group for group in training.groups if counts[group.name])
    batches = ImageBatches([training], groups, sampling="balanced", batch=config.batch, seed=seed)
    targets = [values[name] for name in batches.group_names]
    task = mean_task(f"audit_{name}", model, batches, seed=config.seed, targets=targets, augment=config.augment)
    fit(task, FitConfig(steps=config.steps, lr=config.lr, schedule="cosine", warmup_steps=20, seed=config.seed))
    return model


def judge(model: Classifier, dataset: Dataset, wanted: NDArray[np.int64]) -> Judged:
    """What a probe says of images of which ``wanted`` would be right."""
    shares = each_image(model, dataset, lambda images: model(images).float().softmax(1))
    known = wanted < shares.shape[1]  # a generated group may have a label that the probe never saw
    own = shares[np.arange(len(wanted)), np.where(known, wanted, 0)]
    sure = np.where(known, own, 0).astype(np.float32)
    return Judged(dataset.groups, dataset.group_ids, shares.argmax(1) == wanted, sure)


def probe_features(model: Classifier, dataset: Dataset) -> NDArray[np.float32]:
    """What the probe's head sees of each image."""

    def features(images: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = model.features(images)
        return found.float()

    return each_image(model, dataset, features)
