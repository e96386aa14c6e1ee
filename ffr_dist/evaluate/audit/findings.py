"""What an audit finds, as values; ``Audit.to_json`` is most of ``audit.json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from ffr_dist.metrics import Count


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
class RealOrFake:
    """How often a probe tells generated from real images that it has not learned from, beside its null."""

    accuracy: float
    count: int
    """Images that it was asked about, as many real as generated ones."""
    null_low: float
    """With these two 95 % of the accuracies lie of probes that learned from shuffled labels."""
    null_high: float
    p: float
    """One-sided: how often such a probe does as well."""
    permutations: int
    advice: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureDistance:
    """One group's distances in feature space, each between ``real`` and ``generated`` images, means over random halves.

    Both measures depend on how many images they are taken of; so the floor, half of the real images against the other half,
    is of as many.
    """

    group: str
    real: int
    generated: int
    fd: float
    """Fréchet distance of normal distributions along the first 32 principal axes, or half as many as there are images."""
    fd_low: float
    fd_high: float
    kid: float
    """Squared maximum mean discrepancy of the cubic kernel, unbiased: it may be below 0."""
    kid_low: float
    kid_high: float
    fd_real: float
    kid_real: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureDistances:
    weights_sha256: str
    """Of what the features are of."""
    features: int
    """Their number."""
    groups: tuple[FeatureDistance, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class OnBoth:
    """What a probe gets right of generated and of real images that it has not learned from."""

    generated: Count
    real: Count

    @property
    def gap(self) -> float | None:
        """Accuracy on generated images less that on real ones."""
        both = self.generated.count and self.real.count
        return self.generated.accuracy - self.real.accuracy if both else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Gaps:
    """The matrix of generalisation gaps of a label probe: by what it learned from, and by group."""

    trained_on_generated: Mapping[str, OnBoth]
    trained_on_real: Mapping[str, OnBoth]


@dataclass(frozen=True, slots=True, kw_only=True)
class Duplicates:
    """Judged images that equal, or look like, an earlier one of them."""

    exact: int
    near: int
    """Exact ones too."""
    bits: int
    images: int
    groups: Mapping[str, int]
    """Near ones of each group."""


Unit = Literal["share", "ratio", "count"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A threshold of the recipe, and what was measured: of the worst group, or of all images where ``group`` is empty.
    One of the two bounds is set.
    """

    name: str
    measured: float
    at_least: float | None = None
    at_most: float | None = None
    group: str = ""
    unit: Unit = "share"

    @property
    def failure(self) -> str | None:
        """What is wrong, where something is."""
        named = self.name if not self.group else f"{self.name}, {self.group},"
        measured = told(self.measured, self.unit)
        if self.at_least is not None and self.measured < self.at_least:
            return f"{named} is {measured}, and the recipe asks for {told(self.at_least, self.unit)}"
        if self.at_most is not None and self.measured > self.at_most:
            return f"{named} is {measured}, and the recipe allows {told(self.at_most, self.unit)}"
        return None


def told(value: float, unit: Unit) -> str:
    """A measured value for people."""
    return {"share": f"{value:.1%}", "ratio": f"{value:.2f}", "count": f"{value:,.0f}"}[unit]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """Rows of the judged set that are worth a look, and how sure the label probe is of what they show."""

    best: Mapping[str, tuple[int, ...]]
    worst: Mapping[str, tuple[int, ...]]
    """Of each group, the least sure first."""
    nearest: tuple[tuple[int, int], ...]
    """Pairs of a generated image and the training image of the generator that it is nearest to; the nearest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    groups: tuple[GroupAudit, ...]
    """Those that the generated set holds images of."""
    overall: GroupAudit
    gaps: Gaps | None
    """None where there are too few generated images to learn from."""
    real_or_fake: RealOrFake | None
    """This and the next: None where there are too few images of any group to compare."""
    feature_distances: FeatureDistances | None
    duplicates: Duplicates
    distances: Distances | None
    """None where nobody knows what the generator learned from."""
    checks: tuple[Check, ...]
    failures: tuple[str, ...]
    shown: Shown

    @property
    def summary(self) -> str:
        """One line."""
        overall = self.overall
        found = [
            f"{what} {share:.1%}"
            for what, share in (
                ("label", overall.label_generated),
                ("bias", overall.bias_generated),
                ("told from real", None if self.real_or_fake is None else self.real_or_fake.accuracy),
            )
            if share is not None
        ]
        found.append(f"{self.duplicates.near} near-duplicates")
        if self.distances is not None:
            found.append(f"{self.distances.copies} copies")
        return f"{overall.images:,} images judged: {', '.join(found)}"

    def to_json(self) -> dict[str, Any]:
        """All but ``shown``, whose rows mean nothing to others."""
        return {**{name: value for name, value in asdict(self).items() if name != "shown"}, "summary": self.summary}
