"""DFR, deep feature reweighting: a new head on frozen features, fitted to group-balanced validation samples.

Features have unit length and are standardised with the mean and deviation of the training features. The head is an
L1-penalised logistic regression. Its strength C is chosen on one random halving of the validation set, each group
halved: fitted to a group-balanced part of one half, scored by the worst group of the other. The head itself is the mean
of many fits, each to another group-balanced subset of the whole validation set.

So the head has seen every validation sample, and its accuracy on them would say nothing. What is reported as its
validation score is that of the halving: the fit with the chosen C, on the half that it was not fitted to. C was chosen by
that score, as the step of any other stage is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from ffr_dist.metrics import Count, group_metrics
from ffr_dist.read.config import ReadConfig
from ffr_dist.read.dataset import Dataset
from ffr_dist.seeds import draw_seed
from ffr_dist.train.classify import in_turn
from ffr_dist.train.needs import refuse_validation
from ffr_dist.train.stage import HeadStage
from ffr_dist.train.task import Score
from ffr_dist.train.world import World

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_READ = ReadConfig()
_ITERATIONS = 10_000
_CONSTANT = 1e-12
"""A variance is rounding alone below this share of the feature's mean square."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedHead:
    """What DFR found."""

    tensors: Mapping[str, torch.Tensor]
    """The state of a ``StandardisedHead``."""
    strength: float
    """The chosen C."""
    score: Score
    """Of the fit with that C, on the half of the validation set that it was not fitted to."""
    history: list[dict[str, Any]]
    """One JSON row for each C."""


def fit_head(
    model: nn.Module,
    stage: HeadStage,
    train: Sequence[Dataset],
    val: Dataset,
    seed: int,
    world: World,
    read: ReadConfig = _READ,
) -> FittedHead:
    """A head for the frozen ``model``, which was trained on ``train``; the same in every process."""
    classes = max(dataset.groups.classes for dataset in train)
    refuse_validation(stage, val.groups, val.counts(), classes)
    width = int(model.get_parameter("head.weight").shape[1])
    mean, scale = _moments(model, train, width, read, world)
    features = (_features(model, val, width, read, world) - mean) / scale
    samples = Samples(features, val.labels, val.group_ids.astype(np.int64), val.groups.names)

    def fit() -> FittedHead:
        strength, score, history = choose_strength(samples, stage.strengths, seed)
        weight, bias = mean_fit(samples, strength, stage.fits, seed)
        weight, bias = _as_logits(weight, bias, classes)
        values = {"weight": weight, "bias": bias, "mean": mean, "scale": scale}
        tensors = {name: torch.from_numpy(value).float() for name, value in values.items()}
        return FittedHead(tensors=tensors, strength=strength, score=score, history=history)

    return world.by_main(fit)


@dataclass(frozen=True, slots=True)
class Samples:
    """Standardised features of a validation set."""

    features: Floats
    labels: Ints
    groups: Ints
    names: tuple[str, ...]
    """Of the groups."""

    def take(self, rows: Ints) -> Samples:
        return Samples(self.features[rows], self.labels[rows], self.groups[rows], self.names)

    def balanced(self, random: np.random.Generator) -> Samples:
        """As many of each group as the smallest has, drawn without replacement."""
        members = _by_group(self, random)
        fewest = min(len(rows) for rows in members)
        return self.take(np.concatenate([rows[:fewest] for rows in members]))

    def halves(self, random: np.random.Generator) -> tuple[Samples, Samples]:
        """Each group halved; of an odd number the first half gets one more."""
        members = _by_group(self, random)
        first = [rows[: -(-len(rows) // 2)] for rows in members]
        second = [rows[-(-len(rows) // 2) :] for rows in members]
        return self.take(np.concatenate(first)), self.take(np.concatenate(second))


def choose_strength(
    samples: Samples, strengths: Sequence[float], seed: int
) -> tuple[float, Score, list[dict[str, Any]]]:
    """The C whose fit scores best on the half it has not seen, the first of equals; that score, and a row for each C."""
    random = np.random.default_rng(draw_seed(seed, "dfr", 0, "halves"))
    seen, unseen = samples.halves(random)
    balanced = seen.balanced(random)
    scores = []
    for strength in strengths:
        weight, bias = _fit(balanced, strength)
        scores.append(_score(unseen, weight, bias))
    history = [
        {"strength": strength, "held_out": list(score.value), **score.detail}
        for strength, score in zip(strengths, scores, strict=True)
    ]
    best = max(range(len(scores)), key=lambda place: scores[place].value)
    return strengths[best], scores[best], history


def mean_fit(samples: Samples, strength: float, fits: int, seed: int) -> tuple[Floats, Floats]:
    """Coefficients and intercepts, each the mean over fits to other group-balanced subsets."""
    randoms = [np.random.default_rng(draw_seed(seed, "dfr", number, "subset")) for number in range(fits)]
    found = [_fit(samples.balanced(random), strength) for random in randoms]
    return np.mean([weight for weight, _ in found], axis=0), np.mean([bias for _, bias in found], axis=0)


def _fit(samples: Samples, strength: float) -> tuple[Floats, Floats]:
    """Coefficients (rows, features) and intercepts (rows,): one row for two classes, else a row for each, against the rest."""
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 (a second to import)
    from sklearn.multiclass import OneVsRestClassifier  # noqa: PLC0415

    one = LogisticRegression(
        l1_ratio=1.0, C=strength, solver="liblinear", class_weight=None, max_iter=_ITERATIONS, random_state=0
    )
    if len(np.unique(samples.labels)) == 2:
        one.fit(samples.features, samples.labels)
        return one.coef_, one.intercept_
    many = OneVsRestClassifier(one).fit(samples.features, samples.labels)
    return (
        np.concatenate([single.coef_ for single in many.estimators_]),
        np.concatenate([single.intercept_ for single in many.estimators_]),
    )


def _as_logits(weight: Floats, bias: Floats, classes: int) -> tuple[Floats, Floats]:
    """A row for each class. One row is the log-odds of class 1, which the difference of two logits is as well."""
    if len(weight) == classes:
        return weight, bias
    return np.concatenate([-weight / 2, weight / 2]), np.concatenate([-bias / 2, bias / 2])


def _score(samples: Samples, weight: Floats, bias: Floats) -> Score:
    weight, bias = _as_logits(weight, bias, max(2, len(weight)))
    right = (samples.features @ weight.T + bias).argmax(1) == samples.labels
    counts = {
        name: Count(int(right[samples.groups == place].sum()), int((samples.groups == place).sum()))
        for place, name in enumerate(samples.names)
    }
    found = group_metrics(counts)
    detail = {"val_group_mean": found.group_mean, "val_worst": found.worst_name, "val_n_worst": found.n_worst}
    return Score((found.worst_group, found.group_mean), detail)


def _by_group(samples: Samples, random: np.random.Generator) -> list[Ints]:
    """The rows of each group, shuffled."""
    return [random.permutation(np.flatnonzero(samples.groups == place)) for place in range(len(samples.names))]


def _moments(
    model: nn.Module, datasets: Sequence[Dataset], width: int, read: ReadConfig, world: World
) -> tuple[Floats, Floats]:
    """Mean and deviation of each training feature, 1 in place of no deviation; without holding the features."""
    sums = np.zeros((2, width))
    for dataset in datasets:
        for _, unit in _unit_features(model, dataset, read, world):
            sums += unit.sum(0), np.square(unit).sum(0)
    count = sum(len(dataset) for dataset in datasets)
    world.meet()  # shares are long: one process may be minutes behind another
    mean, square = world.sum(torch.from_numpy(sums)).numpy() / count
    variance = square - np.square(mean)
    return mean, np.sqrt(np.where(variance > _CONSTANT * square, variance, 1.0))


def _features(model: nn.Module, dataset: Dataset, width: int, read: ReadConfig, world: World) -> Floats:
    """Of all samples, in every process: each fills in its own rows, and zeros add nothing."""
    features = np.zeros((len(dataset), width))
    for rows, unit in _unit_features(model, dataset, read, world):
        features[rows] = unit
    world.meet()
    return world.sum(torch.from_numpy(features)).numpy()


def _unit_features(
    model: nn.Module, dataset: Dataset, read: ReadConfig, world: World
) -> Iterator[tuple[range, Floats]]:
    """This process's rows, some at a time, with their features brought to unit length."""
    model.eval()
    for rows, images in in_turn(model, dataset, world.share(len(dataset)), read=read):
        with torch.inference_mode():
            features: torch.Tensor = model.features(images)  # type: ignore[operator]
            unit = functional.normalize(features.double(), dim=1).cpu().numpy()
        yield rows, unit
