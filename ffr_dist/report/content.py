"""What a report says, as plain values: whoever has run a job fills this tree, and ``page.render`` lays it out.

Accuracies and bias ratios are fractions. Intervals arrive computed (``evaluate.intervals``); nothing here estimates. A
part that a run does not have (no pool, nothing trained yet) is None or empty, and its section is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

BASELINE = ("none", "erm")
"""The (arm, mitigation) that every other cell is compared with."""


def cell_name(arm: str, mitigation: str) -> str:
    return f"{arm} × {mitigation}"


Setting = tuple[str, float | None, str]
"""(method, bias ratio, variant): what must agree for cells to be compared."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number and its 95 % interval; no bounds where there is no honest one."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Gain(Estimate):
    """A paired difference."""

    pairs: int = 1
    p: float | None = None
    """Two-sided, that there is none; by the test that ``test`` names. None of a single pair."""
    test: str = ""


@dataclass(frozen=True, slots=True)
class Fact:
    """A name and what it is: a version, a hash, a date."""

    name: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupPlan:
    """One declared group: what the real data holds of it, and what each arm adds."""

    group: str
    label: int
    bias: int
    meaning: str = ""
    """In words: 'waterbird on land'."""
    real: int
    quota: int
    arms: Mapping[str, int] = field(default_factory=dict)
    """Synthetic images that each arm takes of this group."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    groups: tuple[GroupPlan, ...]
    facts: tuple[Fact, ...] = ()
    """Budget rule, intervals, batch, expected time and size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupGeneration:
    group: str
    tried: int
    accepted: int
    rejected: Mapping[str, int] = field(default_factory=dict)
    """By reason, local and global ones alike."""
    seconds: float | None = None
    """Device time; None where groups share batches and no share can be told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    groups: tuple[GroupGeneration, ...]
    images_per_second: float | None = None
    """Candidates a second of all workers together; None where it was not measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """A contact sheet. ``image`` is a PNG, JPEG or WebP file (see ``sheets.contact_sheet``)."""

    group: str
    """Empty where it shows several."""
    image: bytes
    caption: str
    kind: Literal["first", "best", "worst", "nearest", "rejected"] = "first"


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupAudit:
    """Accuracy of the probes on one group; None for b where the bias is unknown."""

    group: str
    images: int
    label_generated: float
    label_real: float | None = None
    """On held-out real images: what the probe can do at best."""
    bias_generated: float | None = None
    bias_real: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Distances:
    """RMS pixel distance (0…255) to the nearest image of the generator's training set, at the same quantiles."""

    quantiles: tuple[float, ...]
    generated: tuple[float, ...]
    real: tuple[float, ...]
    """Held-out real images: about as near as images get without having been copied."""
    copies: int = 0
    """Generated images that equal a training image."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A threshold of the recipe and what was measured; exactly one bound is set."""

    name: str
    measured: float
    at_least: float | None = None
    at_most: float | None = None
    group: str = ""
    """The group that was worst; empty where it is about all images."""
    unit: Literal["share", "ratio", "count"] = "share"

    @property
    def passed(self) -> bool:
        low = self.at_least is None or self.measured >= self.at_least
        return low and (self.at_most is None or self.measured <= self.at_most)


@dataclass(frozen=True, slots=True, kw_only=True)
class RealOrFake:
    """How often a probe tells generated from real images, beside what it reaches where there is nothing to tell."""

    accuracy: float
    count: int
    null_low: float
    null_high: float
    p: float
    permutations: int
    advice: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureDistance:
    """Distances of one group's generated images to its real ones, in the space of a frozen network."""

    group: str
    real: int
    generated: int
    fd: Estimate
    kid: Estimate
    fd_real: float
    """Of as many real images to other real ones: the floor."""
    kid_real: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureDistances:
    features: int
    """Numbers of an image that are compared."""
    weights_sha256: str
    """Of the network that makes them."""
    groups: tuple[FeatureDistance, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """How one probe does on one group: generated images against real ones, both held out."""

    group: str
    generated: Estimate | None
    real: Estimate | None

    @property
    def gap(self) -> float | None:
        return None if self.generated is None or self.real is None else self.generated.value - self.real.value


@dataclass(frozen=True, slots=True, kw_only=True)
class Gaps:
    """The matrix of G-gaps: two probes, one for each kind of image that they learned from."""

    trained_on_generated: tuple[Gap, ...]
    trained_on_real: tuple[Gap, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Duplicates:
    exact: int
    near: int
    """Exact ones too."""
    bits: int
    """Hashes that differ in at most so many of 256 bits count as near."""
    images: int
    groups: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    groups: tuple[GroupAudit, ...]
    overall: GroupAudit
    distances: Distances | None = None
    checks: tuple[Check, ...] = ()
    failures: tuple[str, ...] = ()
    real_or_fake: RealOrFake | None = None
    feature_distances: FeatureDistances | None = None
    gaps: Gaps | None = None
    duplicates: Duplicates | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupScore:
    group: str
    accuracy: Estimate
    correct: int
    count: int
    """Summed over the seeds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """All seeds of one (method, bias ratio, variant, arm, mitigation)."""

    method: str
    bias_ratio: float | None
    """None where the dataset is taken as biased as it is."""
    variant: str = ""
    """A named set of changes to the recipe; empty: the recipe as it is."""
    arm: str
    mitigation: str
    seeds: tuple[int, ...]
    worst_group: Estimate
    """Mean of the seeds' worst-group accuracies; with one seed, bounds of the true worst group, whichever it is."""
    worst_by_seed: tuple[float, ...]
    group_mean: Estimate
    micro: Estimate
    n_worst: int
    """Test samples of the worst group; over several seeds, the fewest."""
    gain: Gain | None = None
    """Worst group minus that of none × erm, paired over the seeds that both have."""
    lead_gain: Gain | None = None
    """The same against the lead."""
    measures: Mapping[str, Estimate] = field(default_factory=dict)
    """Further measures, by their keys in ``measures.MEASURES``; those that are undefined are absent."""
    groups: tuple[GroupScore, ...]

    @property
    def name(self) -> str:
        return cell_name(self.arm, self.mitigation)

    @property
    def setting(self) -> Setting:
        return (self.method, self.bias_ratio, self.variant)


@dataclass(frozen=True, slots=True, kw_only=True)
class Results:
    cells: tuple[Cell, ...]
    lead: tuple[str, str] | None = None
    """The (arm, mitigation) that the run set out to test, named before its test accuracy was known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageCurve:
    """One call of ``fit``: (step, value) pairs."""

    name: str
    loss: tuple[tuple[int, float], ...] = ()
    worst_group: tuple[tuple[int, float], ...] = ()
    """On the validation set; step 0 is what the stage started from."""
    best_step: int | None = None
    """The step whose weights were kept."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """The stages of one trained model, in their order."""

    method: str
    bias_ratio: float | None
    variant: str = ""
    arm: str
    mitigation: str
    seed: int
    stages: tuple[StageCurve, ...]

    @property
    def setting(self) -> Setting:
        return (self.method, self.bias_ratio, self.variant)


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """A cell of a study that has no results, and why."""

    cell: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """What a study chose for a way of training, by validation alone."""

    variant: str = ""
    arm: str
    mitigation: str
    chosen: str
    score: float | None = None
    """Mean of the validation worst group."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a stage of the run took."""

    stage: str
    seconds: float | None = None
    images: int | None = None
    size: int | None = None
    """Bytes written."""
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    title: str
    summary: str = ""
    """One or two plain sentences below the title."""
    recipe: str = ""
    study: str = ""
    """The file that lists the cells, where there is one."""
    provenance: tuple[Fact, ...] = ()
    """Hashes, versions, environment, manifest_sha256, dates: strings as the caller wants them read."""
    plan: Plan | None = None
    generation: Generation | None = None
    sheets: tuple[Sheet, ...] = ()
    audit: Audit | None = None
    results: Results | None = None
    skipped: tuple[Missing, ...] = ()
    """Cells that cannot exist."""
    failed: tuple[Missing, ...] = ()
    tuned: tuple[Tuned, ...] = ()
    curves: tuple[Curve, ...] = ()
    more_curves: int = 0
    """Cells whose curves were left out for the size of the page."""
    costs: tuple[Cost, ...] = ()
    warnings: tuple[str, ...] = ()
    """What only the caller knows; ``findings`` adds what the values above show."""
