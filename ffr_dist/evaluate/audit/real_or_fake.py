"""Can a probe tell generated from real images? If it can, a classifier that sees both can too.

The probe is ridge regression on frozen features. Its answers are a fixed matrix times the labels that it learned from, so one
product refits it to a thousand shufflings of them: the null is that of the whole procedure, fitting included. Real and generated
images are as many in each group, and labels are shuffled within groups and halves: neither the balance of groups nor that of
the halves can give the answer away. Features are taken around their group's mean: what a group shows would drown the rest.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ffr_dist.evaluate.audit.findings import RealOrFake
from ffr_dist.seeds import draw_seed

_PERMUTATIONS = 999
_MOST = 2_000
"""Images of each kind that take part, over all groups: the fit takes the cube of their number."""
_FEWEST = 8
"""Of each kind that are asked about; with fewer no accuracy is rare."""
_CONSTANT = 1e-9
"""A feature that varies by less, of what another one does, is taken for rounding."""
_PENALTY = 0.1
"""In units of the mean squared length of an image's features."""


def tell_apart(
    real: Mapping[str, NDArray[np.float32]], generated: Mapping[str, NDArray[np.float32]], seed: int
) -> RealOrFake | None:
    """Learn from half of the images and ask about the other half; features by group. None where there are too few."""
    rng = np.random.default_rng(draw_seed(seed, "real or fake", 0, "audit"))
    common = [name for name in generated if min(len(real.get(name, ())), len(generated[name])) >= 2]
    halves: tuple[list[NDArray[np.float64]], ...] = ([], [])
    sizes = []
    for name in common:
        half = min(len(real[name]), len(generated[name]), max(2, _MOST // len(common))) // 2
        drawn = [
            kind[name][rng.permutation(len(kind[name]))[: 2 * half]].astype(np.float64) for kind in (real, generated)
        ]
        mean = np.mean([images[:half].mean(0) for images in drawn], axis=0)
        for number, rows in enumerate((slice(half), slice(half, None))):
            halves[number].extend(images[rows] - mean for images in drawn)
        sizes.append(half)
    if sum(sizes) < _FEWEST:
        return None
    learned, asked = (np.concatenate(half) for half in halves)
    answers = _answers(learned, asked)
    truth = np.concatenate([np.repeat([-1.0, 1.0], half) for half in sizes])
    accuracy = float(((answers @ truth > 0) == (truth > 0)).mean())
    shuffled, wanted = (_shuffled(sizes, rng) for _ in range(2))
    null = ((answers @ shuffled > 0) == (wanted > 0)).mean(0)
    low, high = np.quantile(null, (0.025, 0.975))
    p = float(1 + (null >= accuracy).sum()) / (1 + _PERMUTATIONS)
    return RealOrFake(
        accuracy=accuracy,
        count=len(truth),
        null_low=float(low),
        null_high=float(high),
        p=p,
        permutations=_PERMUTATIONS,
        advice=_advice(p),
    )


def _answers(learned: NDArray[np.float64], asked: NDArray[np.float64]) -> NDArray[np.float64]:
    """The matrix that makes a probe's answers about ``asked`` of the labels of ``learned``."""
    spread = learned.std(0)
    spread[spread <= _CONSTANT * spread.max()] = 1
    known, new = learned / spread, asked / spread
    products = known @ known.T
    products[np.diag_indices_from(products)] += _PENALTY * np.trace(products) / len(products) or 1.0
    found: NDArray[np.float64] = np.linalg.solve(products, known @ new.T).T
    return found


def _shuffled(sizes: list[int], rng: np.random.Generator) -> NDArray[np.float64]:
    """(images, permutations): the labels of a half, shuffled within each group."""
    parts = [rng.permuted(np.tile(np.repeat([-1.0, 1.0], half), (_PERMUTATIONS, 1)), axis=1) for half in sizes]
    return np.concatenate(parts, axis=1).T


def _advice(p: float) -> str:
    if p > 0.05:
        return "the probe does no better than chance; that it finds no difference does not say that there is none"
    return (
        "generated images can be told from real ones: arms that mix them (usb, asb) can learn that in place of the label; "
        "ffr never shows both at once"
    )
