"""What is asked of the generator: one request per candidate, and how many of each group must come out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ffr_dist.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One candidate: the k-th attempt at an image of ``group``."""

    group: str
    k: int
    prompt: str = ""
    source_key: str | None = None
    """Key of the real image that this candidate edits; None where an image is made from nothing."""


@dataclass(frozen=True, slots=True)
class Exact:
    """Each group must end with exactly this many images; what filters reject is made up in later rounds."""

    counts: Mapping[str, int]

    def __post_init__(self) -> None:
        _check(self.counts)


@dataclass(frozen=True, slots=True)
class Survivors:
    """Each group gets this many tries and keeps what survives the filters; nothing is made up."""

    requests: Mapping[str, int]

    def __post_init__(self) -> None:
        _check(self.requests)

    @property
    def counts(self) -> Mapping[str, int]:
        return self.requests


Quota = Exact | Survivors


def _check(counts: Mapping[str, int]) -> None:
    for name, count in counts.items():
        if count < 0:
            raise ConfigError(f"quota of group {name} is {count}; write 0 or more")
    if not any(counts.values()):
        raise ConfigError("every quota is 0: there is nothing to generate; raise the quota of at least one group")
