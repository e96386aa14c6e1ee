"""A stage of training as a value: which samples, drawn how, with which loss. Methods write stages; ``launch`` runs them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ffr_dist.train.fit import FitConfig

SetName = Literal["real", "synthetic", "generator"]
Mitigation = Literal["erm", "resample", "groupdro"]
MITIGATIONS: tuple[Mitigation, ...] = ("erm", "resample", "groupdro")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A part of the training data."""

    set: SetName
    """``real``: the biased training split. ``synthetic``: the generated pool. ``generator``: what trained the generator."""
    counts: Mapping[str, int] | None = None
    """How many of each group: the lowest k. None for all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One call of ``fit``. Starts from the whole of the previous stage's weights, head included; the first from fresh."""

    name: str
    sources: tuple[Source, ...]
    mitigation: Mitigation
    by_source: bool = False
    """Groups of the mitigation are (label, bias, source), so that where an image comes from cannot stand in for its label."""
    batch: int
    fits: tuple[FitConfig, ...]
    """Alternatives (learning rates); the one that validates best is kept. The same number for every arm."""

    def identity(self) -> dict[str, Any]:
        """A JSON value of all that this stage asks for."""
        return {
            "name": self.name,
            "sources": [{"set": s.set, "counts": None if s.counts is None else dict(s.counts)} for s in self.sources],
            "mitigation": self.mitigation,
            "by_source": self.by_source,
            "batch": self.batch,
            "fits": [fit.model_dump(mode="json") for fit in self.fits],
        }
