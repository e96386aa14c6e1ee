"""What a report says, as plain values: whoever has run a job fills this tree, and ``page.render`` lays it out.

Accuracies and bias ratios are fractions. Intervals arrive computed (``evaluate.intervals``); nothing here estimates. A
part that a run does not have (no pool, nothing trained yet) is None or empty, and its section is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

BASELINE = ("none", "erm")
"""The (arm, mitigation) that every other cell is compared with."""


def cell_name(arm: str, mitigation: str) -> str:
    return f"{arm} × {mitigation}"


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number and its 95 % interval; no bounds where there is no honest one."""

    value: float
    low: float | None = None
    high: float | None = None


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
    image: bytes
    caption: str
    rejects: bool = False


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
    """A threshold of the recipe and what was measured."""

    name: str
    measured: float
    at_least: float

    @property
    def passed(self) -> bool:
        return self.measured >= self.at_least


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    groups: tuple[GroupAudit, ...]
    overall: GroupAudit
    distances: Distances | None = None
    checks: tuple[Check, ...] = ()
    failures: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupScore:
    group: str
    accuracy: Estimate
    correct: int
    count: int
    """Summed over the seeds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """All seeds of one (method, bias ratio, arm, mitigation)."""

    method: str
    bias_ratio: float | None
    """None where the dataset is taken as biased as it is."""
    arm: str
    mitigation: str
    seeds: tuple[int, ...]
    worst_group: Estimate
    """Mean of the seeds' worst-group accuracies; with one seed, that group's Wilson interval."""
    worst_by_seed: tuple[float, ...]
    group_mean: Estimate
    train_weighted_mean: Estimate | None
    micro: Estimate
    n_worst: int
    """Test samples of the worst group; over several seeds, the fewest."""
    gain: Estimate | None = None
    """Worst group minus that of none × erm, paired over the seeds that both have."""
    groups: tuple[GroupScore, ...]

    @property
    def name(self) -> str:
        return cell_name(self.arm, self.mitigation)


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
    arm: str
    mitigation: str
    seed: int
    stages: tuple[StageCurve, ...]


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
    provenance: tuple[Fact, ...] = ()
    """Hashes, versions, environment, manifest_sha256, dates: strings as the caller wants them read."""
    plan: Plan | None = None
    generation: Generation | None = None
    sheets: tuple[Sheet, ...] = ()
    audit: Audit | None = None
    results: Results | None = None
    curves: tuple[Curve, ...] = ()
    costs: tuple[Cost, ...] = ()
    warnings: tuple[str, ...] = ()
    """What only the caller knows; ``findings`` adds what the values above show."""
