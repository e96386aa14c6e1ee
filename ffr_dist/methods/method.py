"""What a method is to the rest of the system.

A method says what to ask the generator for and how to train with what comes out. It is a cheap, picklable value: it
holds its config and the recipe's settings, and loads weights only in :meth:`Method.sampler`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ffr_dist.config import digest
from ffr_dist.models.sampler import Sampler
from ffr_dist.quota import Quota, Request
from ffr_dist.store import Store
from ffr_dist.train.config import FitConfig
from ffr_dist.train.stage import AnyStage, Mitigation
from ffr_dist.train.task import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What a method may read while it prepares and samples: finished sets and finished artefacts, each a store."""

    real: Mapping[str, Store]
    """Imported splits by name."""
    prepared: Mapping[str, Store]
    """Artefacts of earlier steps by step name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainStep:
    """An artefact that is trained: the model of ``task`` after ``fit``, stored as ``weights.safetensors``."""

    name: str
    identity: Mapping[str, Any]
    """A JSON value of all that determines the artefact, sets that it reads included."""
    task: Callable[[Inputs], Task]
    fit: FitConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class MapStep:
    """An artefact that is sampled: ``requests`` run through ``sampler`` by the worker's own engine, stored as a set."""

    name: str
    identity: Mapping[str, Any]
    requests: Callable[[Inputs], Sequence[Request]]
    sampler: Callable[[Inputs, str], Sampler]


Step = TrainStep | MapStep


def step_folder(step: Step) -> str:
    """Where the artefact of a step lies: equal inputs, equal place."""
    return f"prepared/{step.name}-{digest(dict(step.identity), 12)}"


class Method(Protocol):
    """One of the five, or another."""

    @property
    def name(self) -> str: ...

    @property
    def arms(self) -> tuple[str, ...]:
        """The ways of using the generated images that this method knows."""

    def pixel_fields(self) -> Mapping[str, Any]:
        """The declared settings that determine pixels, as a JSON value: they guard the output folder."""

    def check(self) -> None:
        """Refuse a wrong setting (no weights, a group without a prompt) before anything is written."""

    def weights_sha256(self) -> str:
        """Of what the sampler loads, beside prepared artefacts; empty where it loads nothing."""

    def quota(self, real: Mapping[str, int]) -> Quota:
        """What the pool must hold, given the real training counts: the most that any arm needs."""

    def arm_counts(self, arm: str, real: Mapping[str, int]) -> Mapping[str, int]:
        """Generated images of each group that ``arm`` trains on."""

    def prepare(self, real: Mapping[str, Store]) -> Sequence[Step]:
        """Artefacts to make before sampling, in order. Each may read the ones before it."""

    def requests(self, inputs: Inputs, group: str, ks: Sequence[int]) -> list[Request]:
        """The candidates ``ks`` of ``group``; a pure function."""

    def sampler(self, inputs: Inputs, device: str) -> Sampler:
        """Load what makes images."""

    def train(self, arm: str, mitigation: Mitigation, real: Mapping[str, int]) -> tuple[AnyStage, ...]:
        """The stages of one cell of the comparison."""
