"""The plan as it lies in an output: ``plan/round-NNN.json``, each put-if-absent, so that all who work share one plan.

Round 0 also pins the resolved settings that decide bytes. They stand for the whole output: whoever would work with
other ones is refused, by name of what differs, before it makes anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from pydantic import Field

from ffr_dist.config import flatten
from ffr_dist.errors import BrokenError, ConflictError, MissingError
from ffr_dist.plan.rounds import Round
from ffr_dist.shards import documents, layout
from ffr_dist.shards.documents import CLOSED
from ffr_dist.store import Store, Theirs

Positive = Annotated[int, Field(gt=0)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pinned:
    """What every worker of an output must do alike."""

    batch: Positive
    """Candidates sampled together: a batch's shape changes low bits of its pixels."""
    images_per_shard: Positive
    threads: Positive
    """Of torch's operators, whose order of summation follows their number."""
    weights_sha256: str
    """Of what the sampler loads; empty where it loads nothing."""
    prepared: Mapping[str, str]
    """sha256 of each prepared artefact by step name."""
    keep: Mapping[str, Any]
    """The keep rules with their thresholds, as a JSON value."""

    __pydantic_config__ = CLOSED

    @property
    def interval_size(self) -> int:
        """Candidates of an interval: whole batches, at most a shard's images unless one batch is more."""
        return max(1, self.images_per_shard // self.batch) * self.batch


@dataclass(frozen=True, slots=True)
class Planned:
    """A round as stored; round 0 with what it pins."""

    round: Round
    pinned: Pinned | None = None

    __pydantic_config__ = CLOSED


def publish_round(store: Store, planned: Planned) -> Planned:
    """Offer a round; the one that counts comes back: this, or the one that was there before."""
    key = layout.round_key(planned.round.number)
    result = store.put_if_absent(key, documents.to_bytes(planned))
    return _parse(key, planned.round.number, result.body) if isinstance(result, Theirs) else planned


def read_rounds(store: Store, known: int = 0) -> list[Planned]:
    """The rounds planned so far from number ``known`` on."""
    found: list[Planned] = []
    while True:
        number = known + len(found)
        key = layout.round_key(number)
        try:
            body = store.get(key)
        except MissingError:
            return found
        planned = _parse(key, number, body)
        if found and planned.round.first_interval != found[-1].round.end:
            raise BrokenError(f"{key} does not begin where the round before it ends; restore it or use another output")
        found.append(planned)


def read_pinned(store: Store) -> Pinned | None:
    """What round 0 pins; None where nothing is planned yet."""
    key = layout.round_key(0)
    try:
        return _parse(key, 0, store.get(key)).pinned
    except MissingError:
        return None


def refuse_other(there: Pinned | None, mine: Pinned) -> None:
    """ConflictError, naming what differs, where an output pins other values than these."""
    if there == mine:
        return
    theirs, ours = (flatten(asdict(pinned)) if pinned else {} for pinned in (there, mine))
    differing = [
        f"{name} ({theirs.get(name)!r} there, {ours.get(name)!r} here)"
        for name in sorted({*theirs, *ours})
        if theirs.get(name) != ours.get(name)
    ]
    raise ConflictError(
        f"{layout.round_key(0)} pins other values than this run has: {', '.join(differing)}; "
        "restore what it was begun with, or use another output"
    )


def _parse(key: str, number: int, body: bytes) -> Planned:
    planned = documents.from_bytes(Planned, body, key)
    if planned.round.number != number or (planned.pinned is None) != (number > 0):
        raise BrokenError(f"{key} is not the plan of round {number}; restore it or use another output")
    return planned
