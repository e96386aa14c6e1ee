"""The audit: who is asked what of which images, and what of the answers a recipe holds the set to."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ffr_dist.errors import DataError
from ffr_dist.evaluate.audit.config import AuditConfig
from ffr_dist.evaluate.audit.distances import feature_distances
from ffr_dist.evaluate.audit.findings import (
    Audit,
    Check,
    Distances,
    Duplicates,
    FeatureDistances,
    Gaps,
    GroupAudit,
    OnBoth,
    RealOrFake,
    Shown,
    Unit,
)
from ffr_dist.evaluate.audit.pixels import Nearest, compare, duplicates, parts
from ffr_dist.evaluate.audit.probes import Judged, judge, learn, probe_features, split_rows
from ffr_dist.evaluate.audit.real_or_fake import tell_apart
from ffr_dist.groups import UNKNOWN_BIAS
from ffr_dist.metrics import Count
from ffr_dist.models.classifier import Classifier, save_weights
from ffr_dist.models.features import load_features
from ffr_dist.read.dataset import Dataset

_OVERALL = "mean of groups"
_SHOWN = 16
_PAIRS = 8


def audit(pool: Dataset, probe: Dataset, config: AuditConfig, generator: Dataset | None = None) -> Audit:
    """Judge the generated ``pool`` by the real set ``probe``, of which the probes learn a part.

    ``generator``: the images that the generator learned from, if they are known. The same sets give the same audit on one
    machine.
    """
    judged = pool.lowest({name: min(count, config.images_per_group) for name, count in pool.counts().items()})
    if not len(judged):
        raise DataError("the generated set holds no image, so that there is nothing to audit")
    learned, held_out = split_rows(probe, config.held_out, config.seed, config.images_per_group)
    if not len(learned) or not len(held_out):
        raise DataError("the real set that the audit's probes learn from needs at least two images of a group")
    sets = _Sets(judged, probe.take(learned), probe.take(held_out))
    names = [name for name, count in judged.counts().items() if count]

    label_probe = learn(sets.training, _values(probe, "label"), config, "label")
    label = _OfBoth(*(judge(label_probe, dataset, dataset.labels) for dataset in (sets.judged, sets.unseen)))
    bias = _bias(sets, probe, config)
    groups = tuple(_group_audit(name, label, bias) for name in names)
    gaps = _gaps(sets, label, config, names)
    features = _Features.of(sets, label_probe, config)
    apart = tell_apart(features.real, features.generated, config.seed)
    space = features.distances(config.seed)
    twice = duplicates(judged, config.near_bits)
    to_training, nearest = None, None
    if generator is not None:
        itself = held_out if probe.fingerprint == generator.fingerprint else None
        to_training, nearest = compare(judged, sets.unseen, itself, generator)
    checks = tuple(_checks(config, _Found(groups, gaps, apart, space, twice, to_training)))
    return Audit(
        groups=groups,
        overall=_mean_of(groups),
        gaps=gaps,
        real_or_fake=apart,
        feature_distances=space,
        duplicates=twice,
        distances=to_training,
        checks=checks,
        failures=tuple(failure for check in checks if (failure := check.failure) is not None),
        shown=_shown(label.generated, names, nearest),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Sets:
    judged: Dataset
    """Generated images."""
    training: Dataset
    """Real ones that probes learn from."""
    unseen: Dataset
    """Real ones that they do not."""


@dataclass(frozen=True, slots=True, eq=False)
class _OfBoth:
    """What a probe says of generated and of real images."""

    generated: Judged
    real: Judged

    def of(self, name: str) -> OnBoth:
        return OnBoth(generated=self.generated.of(name), real=self.real.of(name))


def _values(dataset: Dataset, what: str) -> dict[str, int]:
    return {group.name: group.label if what == "label" else group.bias for group in dataset.groups}


def _bias(sets: _Sets, probe: Dataset, config: AuditConfig) -> _OfBoth | None:
    if any(group.bias == UNKNOWN_BIAS for group in (*probe.groups, *sets.judged.groups)):
        return None
    model = learn(sets.training, _values(probe, "bias"), config, "bias")
    return _OfBoth(*(judge(model, dataset, dataset.biases) for dataset in (sets.judged, sets.unseen)))


def _gaps(sets: _Sets, label: _OfBoth, config: AuditConfig, names: list[str]) -> Gaps | None:
    """The label probe that learned from real images, and another one that learned from generated ones."""
    learned, held_out = split_rows(sets.judged, config.held_out, config.seed)
    if not len(learned) or not len(held_out):
        return None
    model = learn(sets.judged.take(learned), _values(sets.judged, "label"), config, "label from generated")
    asked = (sets.judged.take(held_out), sets.unseen)
    swapped = _OfBoth(*(judge(model, dataset, dataset.labels) for dataset in asked))
    return Gaps(
        trained_on_generated={name: swapped.of(name) for name in names},
        trained_on_real={name: label.of(name) for name in names},
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Features:
    """A feature space, and where the images of each group lie in it."""

    sha256: str
    width: int
    generated: Mapping[str, NDArray[np.float32]]
    real: Mapping[str, NDArray[np.float32]]

    @classmethod
    def of(cls, sets: _Sets, label_probe: Classifier, config: AuditConfig) -> _Features:
        if config.features is None:
            sha256 = hashlib.sha256(save_weights(label_probe)).hexdigest()
            found = [probe_features(label_probe, dataset) for dataset in (sets.judged, sets.unseen)]
        else:
            extract = load_features(config.features, next(label_probe.parameters()).device)
            sha256 = extract.sha256
            found = [
                np.concatenate([extract(images) for images in parts(dataset)]) for dataset in (sets.judged, sets.unseen)
            ]
        generated, real = (
            {name: values[dataset.group_ids == place] for place, name in enumerate(dataset.groups.names)}
            for values, dataset in zip(found, (sets.judged, sets.unseen), strict=True)
        )
        return cls(sha256, found[0].shape[1], generated, real)

    def distances(self, seed: int) -> FeatureDistances | None:
        """None where no group has enough images of both kinds."""
        groups = feature_distances(self.real, self.generated, seed)
        return FeatureDistances(weights_sha256=self.sha256, features=self.width, groups=groups) if groups else None


def _group_audit(name: str, label: _OfBoth, bias: _OfBoth | None) -> GroupAudit:
    of_label = label.of(name)
    of_bias = None if bias is None else bias.of(name)
    return GroupAudit(
        group=name,
        images=of_label.generated.count,
        label_generated=_share(of_label.generated),
        label_real=_share(of_label.real),
        bias_generated=None if of_bias is None else _share(of_bias.generated),
        bias_real=None if of_bias is None else _share(of_bias.real),
    )


def _mean_of(groups: Sequence[GroupAudit]) -> GroupAudit:
    """Each group as much as another: real and generated images are not spread over the groups alike."""

    def mean(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return math.fsum(known) / len(known) if len(known) == len(values) else None

    return GroupAudit(
        group=_OVERALL,
        images=sum(group.images for group in groups),
        label_generated=mean([group.label_generated for group in groups]),
        label_real=mean([group.label_real for group in groups]),
        bias_generated=mean([group.bias_generated for group in groups]),
        bias_real=mean([group.bias_real for group in groups]),
    )


def _share(count: Count) -> float | None:
    return count.accuracy if count.count else None


def _shown(label: Judged, names: list[str], nearest: Nearest | None) -> Shown:
    ordered = {name: label.rows_of(name).tolist() for name in names}
    pairs: list[tuple[int, int]] = []
    if nearest is not None:
        first = np.argsort(nearest.distances, kind="stable")[:_PAIRS]
        pairs = list(zip(first.tolist(), nearest.rows[first].tolist(), strict=True))
    return Shown(
        best={name: tuple(rows[::-1][:_SHOWN]) for name, rows in ordered.items()},
        worst={name: tuple(rows[:_SHOWN]) for name, rows in ordered.items()},
        nearest=tuple(pairs),
    )


@dataclass(frozen=True, slots=True)
class _Found:
    """What thresholds are of."""

    groups: tuple[GroupAudit, ...]
    gaps: Gaps | None
    apart: RealOrFake | None
    space: FeatureDistances | None
    duplicates: Duplicates
    distances: Distances | None


def _checks(config: AuditConfig, found: _Found) -> list[Check]:
    """Of the thresholds that are set; DataError for one on what could not be measured."""
    labels = {group.group: group.label_generated for group in found.groups}
    biases = {group.group: group.bias_generated for group in found.groups}
    # A group that cannot be measured is no group that passes.
    nothing: dict[str, float | None] = dict.fromkeys(labels)
    gaps = nothing | (
        {} if found.gaps is None else {name: both.gap for name, both in found.gaps.trained_on_generated.items()}
    )
    ratios = nothing | (
        {}
        if found.space is None
        else {one.group: one.fd / one.fd_real for one in found.space.groups if one.fd_real > 0}
    )
    apart = {} if found.apart is None else {"": found.apart.accuracy}
    near = {"": found.duplicates.near / found.duplicates.images}
    copies = {} if found.distances is None else {"": found.distances.copies}
    return [
        *_check("min_label_accuracy", config.min_label_accuracy, "label accuracy of the worst group", labels),
        *_check("min_bias_accuracy", config.min_bias_accuracy, "bias accuracy of the worst group", biases),
        *_check("max_gap", config.max_gap, "gap between generated and real images in the worst group", gaps),
        *_check("max_real_or_fake_accuracy", config.max_real_or_fake_accuracy, "share told real from generated", apart),
        *_check(
            "max_fd_ratio", config.max_fd_ratio, "Fréchet distance over its floor in the worst group", ratios, "ratio"
        ),
        *_check("max_near_duplicates", config.max_near_duplicates, "share of near-duplicates", near),
        *_check(
            "max_copies", config.max_copies, "number of copies of training images of the generator", copies, "count"
        ),
    ]


def _check(
    key: str, threshold: float | None, name: str, values: Mapping[str, float | None], unit: Unit = "share"
) -> list[Check]:
    """The worst group against a threshold, if there is one."""
    if threshold is None:
        return []
    measured = {group: value for group, value in values.items() if value is not None}
    missing = [group for group in values if group not in measured]
    if missing or not measured:
        where = f" of group {', '.join(missing)}" if any(missing) else ""
        raise DataError(
            f"audit.{key} is set, but there is too little data{where} to measure it; remove it, or add images"
        )
    if key.startswith("min"):
        worst = min(measured, key=lambda group: measured[group])
        return [Check(name=name, measured=measured[worst], at_least=threshold, group=worst, unit=unit)]
    worst = max(measured, key=lambda group: measured[group])
    return [Check(name=name, measured=measured[worst], at_most=threshold, group=worst, unit=unit)]
