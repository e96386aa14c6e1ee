"""How far generated images are from real ones in a feature space: Fréchet distance and KID, group by group.

A Fréchet distance fits normal distributions. Of fewer images than features it mostly tells how few they are; so it is taken
along the first principal axes of a group's images, real and generated ones together. KID is unbiased, and of all features.

Everything is measured on halves: half of the real images against half of the generated ones, and against the other half of the
real ones, which is the floor. Over many random halves these are means, and intervals: half of what there is varies about as the
whole would from one draw to the next. (A bootstrap would put images into a set twice, which both distances take for a lack of
variety.)
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ffr_dist.evaluate.audit.findings import FeatureDistance
from ffr_dist.seeds import draw_seed

Floats = NDArray[np.float64]

_HALVES = 100
_MOST = 256
"""Images of a half."""
_AXES = 32
_FEWEST = 4


def feature_distances(
    real: Mapping[str, NDArray[np.float32]], generated: Mapping[str, NDArray[np.float32]], seed: int
) -> tuple[FeatureDistance, ...]:
    """Of each group with at least eight images of each kind; features by group."""
    return tuple(
        _distance(name, real[name], generated[name], seed)
        for name in generated
        if min(len(real.get(name, ())), len(generated[name])) >= 2 * _FEWEST
    )


def _distance(name: str, real: NDArray[np.float32], generated: NDArray[np.float32], seed: int) -> FeatureDistance:
    rng = np.random.default_rng(draw_seed(seed, name, 0, "audit distances"))
    half = min(len(real) // 2, len(generated) // 2, _MOST)
    real = real[rng.permutation(len(real))[: 2 * _MOST]]
    generated = generated[rng.permutation(len(generated))[: 2 * _MOST]]
    values = np.concatenate([real, generated]).astype(np.float64)
    kernel = (values @ values.T / values.shape[1] + 1) ** 3
    axes = principal_axes(values, min(_AXES, half // 2))
    found = np.empty((_HALVES, 4))
    for row in found:
        ours, others = np.split(rng.permutation(len(real))[: 2 * half], 2)
        made = len(real) + rng.permutation(len(generated))[:half]
        row[:] = (
            frechet(axes[ours], axes[made]),
            discrepancy(kernel, ours, made),
            frechet(axes[ours], axes[others]),
            discrepancy(kernel, ours, others),
        )
    (fd, kid, fd_real, kid_real) = found.mean(0).tolist()
    (fd_low, kid_low), (fd_high, kid_high) = np.quantile(found[:, :2], (0.025, 0.975), axis=0).tolist()
    return FeatureDistance(
        group=name,
        real=half,
        generated=half,
        fd=fd,
        fd_low=fd_low,
        fd_high=fd_high,
        kid=kid,
        kid_low=kid_low,
        kid_high=kid_high,
        fd_real=fd_real,
        kid_real=kid_real,
    )


def principal_axes(values: Floats, count: int) -> Floats:
    """Where rows lie along the axes of their largest spread, (rows, count)."""
    centred = values - values.mean(0)
    lengths, places = np.linalg.eigh(centred @ centred.T)
    found: Floats = places[:, ::-1][:, :count] * np.sqrt(lengths[::-1][:count].clip(0))
    return found


def frechet(ours: Floats, theirs: Floats) -> float:
    """|μ − μ'|² + tr(Σ + Σ' − 2(Σ^½ Σ' Σ^½)^½) of the rows of two sets."""
    means = ((ours.mean(0) - theirs.mean(0)) ** 2).sum()
    first, second = (np.atleast_2d(np.cov(rows, rowvar=False)) for rows in (ours, theirs))
    spreads, axes = np.linalg.eigh(first)
    root = axes * np.sqrt(spreads.clip(0)) @ axes.T
    shared = np.sqrt(np.linalg.eigvalsh(root @ second @ root).clip(0)).sum()
    return float(means + np.trace(first) + np.trace(second) - 2 * shared)


def discrepancy(kernel: Floats, ours: NDArray[np.int64], theirs: NDArray[np.int64]) -> float:
    """The unbiased squared maximum mean discrepancy of some rows and others. KID is that of the kernel (x·y/width + 1)³."""
    within = sum(
        (own.sum() - np.trace(own)) / (len(own) * (len(own) - 1))
        for own in (kernel[np.ix_(rows, rows)] for rows in (ours, theirs))
    )
    return float(within - 2 * kernel[np.ix_(ours, theirs)].mean())
