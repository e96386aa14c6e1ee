"""Is a generated set what was asked for? Asked before anything trains on it.

Fidelity: probes for label and bias, trained on real images with every group equally likely, judge generated ones; what
they score on real images that they never saw says how good they are at best. Copying: the distance of generated images
to the nearest image that the generator learned from, beside the same distance of real images that it did not learn from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat, PositiveInt

from ffr_dist.config import Config
from ffr_dist.errors import DataError
from ffr_dist.evaluate.score import predictions
from ffr_dist.groups import UNKNOWN_BIAS, Groups
from ffr_dist.metrics import Count
from ffr_dist.models.architectures import ClassifierConfig, SmallCNNConfig
from ffr_dist.models.classifier import build_classifier
from ffr_dist.read.batches import ImageBatches
from ffr_dist.read.dataset import Dataset
from ffr_dist.read.order import permutation
from ffr_dist.seeds import draw_seed
from ffr_dist.shards.codec import blake2b16
from ffr_dist.train.augment import AugmentConfig
from ffr_dist.train.classify import mean_task
from ffr_dist.train.config import FitConfig
from ffr_dist.train.fit import fit

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)

_OVERALL = "all groups"
_COMPARED_SIDE = 32
_CHUNK = 256


class AuditConfig(Config):
    """How the probes learn, and what the generated set must reach. Without a threshold nothing is held to anything."""

    steps: PositiveInt = 300
    batch: PositiveInt = 64
    lr: PositiveFloat = 0.002
    augment: AugmentConfig = AugmentConfig(shift=2)
    model: ClassifierConfig = SmallCNNConfig()
    held_out: float = Field(default=0.25, gt=0, lt=1)
    """Share of each group of the real images that the probes do not learn from."""
    images_per_group: PositiveInt = 1000
    """Generated images of each group that are judged: the first ones."""
    seed: int = Field(default=0, ge=0)
    min_label_accuracy: float | None = Field(default=None, ge=0, le=1)
    """What the label probe must find in each group."""
    min_bias_accuracy: float | None = Field(default=None, ge=0, le=1)
    """What the bias probe must find in each group."""
    max_copies: int | None = Field(default=None, ge=0)
    """Generated images that may equal a training image of the generator."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupAudit:
    """How often the probes find in images of a group what was asked for; None where it could not be measured."""

    group: str
    images: int
    """Generated ones that were judged."""
    label_generated: float | None
    label_real: float | None
    """On held-out real images."""
    bias_generated: float | None
    bias_real: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Distances:
    """RMS pixel distance (0 … 255) to the nearest training image of the generator, at ``quantiles``.

    Images larger than 32 pixels are compared after averaging over squares.
    """

    quantiles: tuple[float, ...]
    generated: tuple[float, ...]
    real: tuple[float, ...]
    """Held-out real images; where they are the generator's own, to the nearest other one."""
    copies: int
    """Generated images that equal a training image, of those that were judged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A threshold of the recipe and the worst group's accuracy."""

    name: str
    measured: float
    at_least: float
    group: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    groups: tuple[GroupAudit, ...]
    """Those that the generated set holds images of."""
    overall: GroupAudit
    distances: Distances | None
    """None where nobody knows what the generator learned from."""
    checks: tuple[Check, ...]
    failures: tuple[str, ...]

    @property
    def summary(self) -> str:
        """One line."""
        overall = self.overall
        found = [
            f"{what} {share:.1%}"
            for what, share in (("label", overall.label_generated), ("bias", overall.bias_generated))
            if share is not None
        ]
        copies = [] if self.distances is None else [f"{self.distances.copies} copies"]
        return f"{overall.images:,} images judged: {', '.join([*found, *copies])}"

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "summary": self.summary}


def audit(pool: Dataset, probe: Dataset, config: AuditConfig, generator: Dataset | None = None) -> Audit:
    """Judge the generated ``pool`` by probes that learn from the real set ``probe``.

    ``generator``: the images that the generator learned from, if they are known.
    """
    judged = pool.lowest({name: min(count, config.images_per_group) for name, count in pool.counts().items()})
    if not len(judged):
        raise DataError("the generated set holds no image, so that there is nothing to audit")
    learned, held_out = split_rows(probe, config.held_out, config.seed)
    if not len(learned) or not len(held_out):
        raise DataError("the real set that the audit's probes learn from needs at least two images of a group")
    training, unseen = probe.take(learned), probe.take(held_out)
    label = _probe(training, config, "label", {group.name: group.label for group in probe.groups}, (judged, unseen))
    bias = None
    if all(group.bias != UNKNOWN_BIAS for group in (*probe.groups, *pool.groups)):
        bias = _probe(training, config, "bias", {group.name: group.bias for group in probe.groups}, (judged, unseen))
    groups = tuple(_group_audit(name, label, bias) for name, count in judged.counts().items() if count)
    distances = None if generator is None else _distances(judged, unseen, held_out, probe, generator)
    checks = (
        *_check("label", config.min_label_accuracy, {group.group: group.label_generated for group in groups}),
        *_check("bias", config.min_bias_accuracy, {group.group: group.bias_generated for group in groups}),
    )
    return Audit(
        groups=groups,
        overall=_group_audit(_OVERALL, label, bias),
        distances=distances,
        checks=checks,
        failures=(*_failed(checks), *_copied(distances, config.max_copies)),
    )


def split_rows(dataset: Dataset, held_out: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows to learn from and rows to hold out, group by group; one of each at least where a group has two."""
    learned, kept = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    ids = dataset.group_ids
    for number, name in enumerate(dataset.groups.names):
        rows = np.flatnonzero(ids == number)
        rows = rows[permutation(len(rows), _seed_of(seed, name))]
        out = min(max(1, round(held_out * len(rows))), len(rows) - 1) if len(rows) > 1 else 0
        kept.append(rows[:out])
        learned.append(rows[out:])
    return np.sort(np.concatenate(learned)), np.sort(np.concatenate(kept))


def nearest_distances(
    ours: NDArray[np.float32], theirs: NDArray[np.float32], same: NDArray[np.int64] | None = None
) -> NDArray[np.float64]:
    """RMS distance of each row to the nearest of ``theirs``; ``same`` names for each the other that is itself."""
    squares = (theirs**2).sum(1)
    found = np.empty(len(ours))
    for start in range(0, len(ours), _CHUNK):
        part = ours[start : start + _CHUNK]
        rough = squares - 2 * part @ theirs.T
        if same is not None:
            rough[np.arange(len(part)), same[start : start + _CHUNK]] = np.inf
        # Exactly, for the one that was found: the fast form cancels where it matters most, near 0.
        nearest = theirs[rough.argmin(1)]
        found[start : start + _CHUNK] = np.sqrt(((part - nearest).astype(np.float64) ** 2).mean(1))
    return found


@dataclass(frozen=True, slots=True)
class _Judged:
    """What a probe got right, by group."""

    generated: Mapping[str, Count]
    real: Mapping[str, Count]


def _probe(
    training: Dataset, config: AuditConfig, what: str, values: Mapping[str, int], judged: tuple[Dataset, Dataset]
) -> _Judged:
    model = build_classifier(config.model, max(values.values()) + 1, _seed_of(config.seed, what))
    counts = training.counts()
    groups = Groups.of(group for group in training.groups if counts[group.name])
    batches = ImageBatches(
        [training], groups, sampling="balanced", batch=config.batch, seed=_seed_of(config.seed, what)
    )
    targets = [values[name] for name in batches.group_names]
    task = mean_task(f"audit_{what}", model, batches, seed=config.seed, targets=targets, augment=config.augment)
    fit(task, FitConfig(steps=config.steps, lr=config.lr, schedule="cosine", warmup_steps=20, seed=config.seed))
    wanted: Callable[[Dataset], NDArray[np.int64]] = (
        (lambda dataset: dataset.labels) if what == "label" else (lambda dataset: dataset.biases)
    )
    generated, real = (
        _counts(dataset.groups, dataset.group_ids, predictions(model, dataset) == wanted(dataset)) for dataset in judged
    )
    return _Judged(generated, real)


def _counts(groups: Groups, ids: NDArray[np.int16], right: NDArray[np.bool_]) -> dict[str, Count]:
    return {
        name: Count(int(right[ids == number].sum()), int((ids == number).sum()))
        for number, name in enumerate(groups.names)
    }


def _group_audit(name: str, label: _Judged, bias: _Judged | None) -> GroupAudit:
    return GroupAudit(
        group=name,
        images=_of(label.generated, name).count,
        label_generated=_share(_of(label.generated, name)),
        label_real=_share(_of(label.real, name)),
        bias_generated=None if bias is None else _share(_of(bias.generated, name)),
        bias_real=None if bias is None else _share(_of(bias.real, name)),
    )


def _of(counts: Mapping[str, Count], name: str) -> Count:
    return sum(counts.values(), Count(0, 0)) if name == _OVERALL else counts.get(name, Count(0, 0))


def _share(count: Count) -> float | None:
    return count.accuracy if count.count else None


def _check(what: str, at_least: float | None, shares: Mapping[str, float | None]) -> tuple[Check, ...]:
    measured = {name: share for name, share in shares.items() if share is not None}
    if at_least is None:
        return ()
    if not measured:
        raise DataError(f"audit.min_{what}_accuracy is set, but the {what} of no group is known; remove it")
    worst = min(measured, key=lambda name: measured[name])
    return (
        Check(name=f"{what} accuracy of the worst group", measured=measured[worst], at_least=at_least, group=worst),
    )


def _failed(checks: tuple[Check, ...]) -> tuple[str, ...]:
    return tuple(
        f"{check.name}, {check.group}, is {check.measured:.1%}, and the recipe asks for {check.at_least:.1%}"
        for check in checks
        if check.measured < check.at_least
    )


def _copied(distances: Distances | None, at_most: int | None) -> tuple[str, ...]:
    if at_most is None:
        return ()
    if distances is None:
        raise DataError(
            "audit.max_copies is set, but the images that the generator learned from are not known; remove it"
        )
    if distances.copies <= at_most:
        return ()
    return (f"{distances.copies} generated images equal a training image of the generator; {at_most} are allowed",)


def _distances(
    judged: Dataset, unseen: Dataset, held_out: NDArray[np.int64], probe: Dataset, generator: Dataset
) -> Distances:
    seen, made, real = _Flat(generator), _Flat(judged), _Flat(unseen)
    if not made.values.shape[1:] == seen.values.shape[1:] == real.values.shape[1:]:
        raise DataError(
            "generated and real images differ in size, so that no distance can be taken; import at one size"
        )
    itself = held_out if probe.fingerprint == generator.fingerprint else None
    training = set(seen.hashes)
    return Distances(
        quantiles=QUANTILES,
        generated=_quantiles(nearest_distances(made.values, seen.values)),
        real=_quantiles(nearest_distances(real.values, seen.values, itself)),
        copies=sum(one in training for one in made.hashes),
    )


class _Flat:
    """A set as one row of pixels per image, in few enough numbers to hold them all; and a hash of each image's pixels."""

    def __init__(self, dataset: Dataset) -> None:
        values: list[NDArray[np.float32]] = []
        self.hashes: list[bytes] = []
        for start in range(0, len(dataset), _CHUNK):
            images = dataset.pixels(range(start, min(start + _CHUNK, len(dataset))))
            self.hashes += [blake2b16(image) for image in images]
            values.append(flattened(images))
        self.values = np.concatenate(values)


def _quantiles(values: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(float(value) for value in np.quantile(values, QUANTILES))


def flattened(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """One row of pixels per image, centred; large images averaged down to at most 32 squares a side."""
    side = max(images.shape[1:3])
    by = -(-side // _COMPARED_SIDE)
    values = images.astype(np.float32) - 127.5
    if by > 1:
        starts = [np.arange(0, size, by) for size in images.shape[1:3]]
        sums = np.add.reduceat(np.add.reduceat(values, starts[0], axis=1), starts[1], axis=2)
        areas = np.multiply.outer(
            *(np.diff([*start, size]) for start, size in zip(starts, images.shape[1:3], strict=True))
        )
        values = sums / areas[None, :, :, None].astype(np.float32)
    return values.reshape(len(images), -1)


def _seed_of(seed: int, what: str) -> int:
    return draw_seed(seed, what, 0, "audit")
