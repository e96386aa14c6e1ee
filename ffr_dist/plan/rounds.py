"""Which candidates to try next: rounds, each a pure function of the quota and of earlier rounds' counts.

Round 0 is a pilot. Round 1 waits for it. From then on round n + 1 is planned from rounds up to n - 1 while round n is
being worked on, so that workers seldom wait; partial results of round n are never looked at, so that every driver
plans the same, whatever it has seen of it. Only where round n is expected to cover everything is its end awaited, and
the same before a group is given up.

Every run ends. Mostly a round is at most twice the largest before it, and the one that should be enough is. But what was
accepted says little about a generator that runs out of different images or of sources: each round that should have been
enough for a group and was not doubles what the next one gives it, so that HOPELESS_FACTOR is reached in few rounds.

Candidates of abandoned intervals count as asked for and not as tried: the rounds after make up an exact quota's. Survivors
have one try each and nothing is made up, neither for them.

All arithmetic is on integers: a plan does not depend on a machine's floating point.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ffr_dist.plan.interleave import Candidate, candidates
from ffr_dist.quota import Quota, Survivors
from ffr_dist.shards.documents import CLOSED, Count

PILOT_PER_GROUP = 200
"""Candidates of round 0 for each group that has a quota."""
HOPELESS_TRIES = 2_000
"""A group without one accepted image after so many tries is given up."""
HOPELESS_FACTOR = 50
"""So is one that took more than this many candidates for each image of its quota."""
MOST_ROUNDS = 1_000
"""Their numbers have three digits. Only a group that every worker abandons comes so far."""


@dataclass(frozen=True, slots=True)
class Round:
    """Candidates handed out together, cut into intervals that are numbered on through all rounds."""

    number: Count
    first_interval: Count
    intervals: Count
    totals: Mapping[str, Count]
    """Candidates of each group."""
    first_k: Mapping[str, Count]
    """k of each group's first candidate here: how many earlier rounds hold."""

    __pydantic_config__ = CLOSED

    @property
    def size(self) -> int:
        return sum(self.totals.values())

    @property
    def end(self) -> int:
        """The first interval behind this round."""
        return self.first_interval + self.intervals

    def candidates(self, interval: int, interval_size: int) -> list[Candidate]:
        """The candidates of one interval, in the order of their slots."""
        start = (interval - self.first_interval) * interval_size
        return candidates(start, min(start + interval_size, self.size), self.totals, self.first_k)


@dataclass(frozen=True, slots=True)
class Tally:
    """What became of a group's candidates. Those of abandoned intervals count as never tried."""

    tried: int = 0
    accepted: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.tried + other.tried, self.accepted + other.accepted)


Tallies = Mapping[str, Tally]


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing can be planned before every interval of this round is decided."""

    for_round: int


@dataclass(frozen=True, slots=True)
class Settle:
    """All is decided and enough is accepted: settle, then ask again with the shortfall."""


@dataclass(frozen=True, slots=True)
class Complete:
    """Nothing is missing."""


@dataclass(frozen=True, slots=True)
class Unfillable:
    """Groups that the filters leave nothing of, each with the reason in words."""

    groups: Mapping[str, str]


Next = Round | Wait | Settle | Complete | Unfillable


def next_round(
    quota: Quota,
    rounds: Sequence[Round],
    tallies: Sequence[Tallies | None],
    interval_size: int,
    shortfall: Mapping[str, int] | None = None,
) -> Next:
    """What comes after ``rounds``. ``tallies`` goes with them; None where a round has undecided intervals.

    ``shortfall`` is what settling found missing of each group after all of ``rounds``, and None before that.
    """
    if not rounds:
        return _round(rounds, _pilot(quota.counts), interval_size)
    if isinstance(quota, Survivors):
        rest = _unasked(quota.counts, rounds)
        if any(rest.values()):
            return _round(rounds, rest, interval_size)
    else:
        ahead = _planned_ahead(quota.counts, rounds, tallies)
        if ahead is not None and len(rounds) < MOST_ROUNDS:
            return _round(rounds, ahead, interval_size)
    for number, tally in enumerate(tallies):
        if tally is None:
            return Wait(number)
    if isinstance(quota, Survivors):
        return Settle() if shortfall is None else Complete()
    return _after_all(quota.counts, rounds, tallies, interval_size, shortfall)


def apportion(size: int, weights: Mapping[str, int]) -> dict[str, int]:
    """``size`` dealt out by weight: each share rounded down or up, those with the largest remainder up."""
    whole = sum(weights.values())
    shares = {group: size * weight // whole for group, weight in weights.items()}
    by_remainder = sorted(weights, key=lambda group: (-(size * weights[group] % whole), group))
    for group in by_remainder[: size - sum(shares.values())]:
        shares[group] += 1
    return shares


def _unasked(requests: Mapping[str, int], rounds: Sequence[Round]) -> dict[str, int]:
    """Requests of survivors that no round holds yet. They wait for nothing: no count changes them."""
    return {group: max(0, count - sum(r.totals.get(group, 0) for r in rounds)) for group, count in requests.items()}


def _planned_ahead(
    wanted: Mapping[str, int], rounds: Sequence[Round], tallies: Sequence[Tallies | None]
) -> dict[str, int] | None:
    """The next round from all rounds but the last, whose outcome is only expected; None where it must be awaited."""
    finished = [tally for tally in tallies[:-1] if tally is not None]
    if not finished or len(finished) < len(rounds) - 1:
        return None
    known = _sum(wanted, finished)
    missing = {}
    for group, count in wanted.items():
        tally = known[group]
        expected = rounds[-1].totals.get(group, 0) * (tally.accepted + 1) // (tally.tried + 2)
        missing[group] = max(0, count - tally.accepted - expected)
    if not any(missing.values()) or _hopeless(wanted, missing, known, rounds[:-1]):
        return None
    return _top_up(wanted, missing, known, rounds, finished)


def _after_all(
    wanted: Mapping[str, int],
    rounds: Sequence[Round],
    tallies: Sequence[Tallies | None],
    interval_size: int,
    shortfall: Mapping[str, int] | None,
) -> Next:
    """What follows where every interval is decided."""
    finished = [tally for tally in tallies if tally is not None]
    known = _sum(wanted, finished)
    missing = {group: max(0, count - known[group].accepted) for group, count in wanted.items()}
    if not any(missing.values()):
        if shortfall is None:
            return Settle()
        missing = {group: shortfall.get(group, 0) for group in wanted}
        # What settling dropped was not accepted in the end: duplicates lower the rate as rejections do.
        known |= {group: Tally(known[group].tried, wanted[group] - lost) for group, lost in missing.items() if lost}
    if not any(missing.values()):
        return Complete()
    hopeless = _hopeless(wanted, missing, known, rounds)
    if hopeless:
        return Unfillable(hopeless)
    return _round(rounds, _top_up(wanted, missing, known, rounds, finished), interval_size)


def _pilot(wanted: Mapping[str, int]) -> dict[str, int]:
    asked = sum(1 for count in wanted.values() if count)
    return apportion(min(sum(wanted.values()), PILOT_PER_GROUP * asked), wanted)


def _top_up(
    wanted: Mapping[str, int],
    missing: Mapping[str, int],
    known: Tallies,
    rounds: Sequence[Round],
    finished: Sequence[Tallies],
) -> dict[str, int]:
    """Candidates by missing images over acceptance, at most twice the largest round so far."""
    needed = {
        group: -(-count * (known[group].tried + 2) // (known[group].accepted + 1))
        << _disappointments(group, wanted[group], finished)
        for group, count in missing.items()
    }
    most = 2 * max(earlier.size for earlier in rounds)
    return needed if sum(needed.values()) <= most else apportion(most, needed)


def _disappointments(group: str, wanted: int, finished: Sequence[Tallies]) -> int:
    """How many rounds should have been enough for a group that still lacks images."""
    count, before = 0, Tally()
    for tallies in finished:
        here = tallies.get(group, Tally())
        after = before + here
        expected = before.accepted + here.tried * (before.accepted + 1) // (before.tried + 2)
        # One that began with enough accepted was to make up for what settling had dropped.
        count += bool(here.tried) and expected >= wanted and (before.accepted >= wanted or after.accepted < wanted)
        before = after
    return count


def _round(rounds: Sequence[Round], totals: dict[str, int], interval_size: int) -> Round:
    return Round(
        number=len(rounds),
        first_interval=rounds[-1].end if rounds else 0,
        intervals=-(-sum(totals.values()) // interval_size),
        totals=totals,
        first_k={group: sum(earlier.totals.get(group, 0) for earlier in rounds) for group in totals},
    )


def _hopeless(
    wanted: Mapping[str, int], missing: Mapping[str, int], known: Tallies, rounds: Sequence[Round]
) -> dict[str, str]:
    """Why to give up, of each group that should be. ``rounds`` are those that ``known`` counts."""
    reasons = {}
    for group, count in missing.items():
        tally = known[group]
        asked = sum(planned.totals.get(group, 0) for planned in rounds)
        told = f"{asked:,} candidates"
        if asked > tally.tried:
            told += f" ({asked - tally.tried:,} of them in abandoned intervals)"
        if count and tally.tried >= HOPELESS_TRIES and not tally.accepted:
            reasons[group] = f"none of {told} was accepted"
        elif count and (asked > max(HOPELESS_TRIES, HOPELESS_FACTOR * wanted[group]) or len(rounds) >= MOST_ROUNDS):
            reasons[group] = f"only {tally.accepted:,} of {told} count, {wanted[group]:,} are asked for"
    return reasons


def _sum(groups: Mapping[str, int], tallies: Sequence[Tallies]) -> dict[str, Tally]:
    return {group: sum((tally[group] for tally in tallies if group in tally), Tally()) for group in groups}
