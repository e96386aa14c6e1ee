"""What a pool will take: the planner itself, played through on expected counts, from the start or from where it is.

A number that rests on a measurement comes with a 95 % interval. The ends of a time put all that is uncertain at its
worse (or better) end at once, so they are rather too wide than too narrow. What nobody measured has no interval.
"""

from __future__ import annotations

import heapq
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from scipy.special import betaincinv, stdtrit

from ffr_dist.errors import ConfigError
from ffr_dist.plan.rounds import Round, Tallies, Tally, Unfillable, next_round
from ffr_dist.quota import Quota
from ffr_dist.shards.codec import CodecConfig

_TAIL = 0.025
_BITS_PER_PIXEL = {"jpg": 7.5, "webp": 5.0, "png": 13.5}
"""Of photographs at the highest quality, as measured; jpg and webp take half of it at 95."""
_FILE_BYTES = 600
"""Headers and tables of an image file."""
_MEMBERS_BYTES = 2_300
"""Two tar headers, the padding behind both members, and the sample's JSON."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number and its 95 % interval; an end is None where nothing bounds it."""

    expected: float
    low: float | None = None
    high: float | None = None


def acceptance_of(tally: Tally) -> Estimate:
    """Of a group, with the interval of its beta distribution over an even prior: the planner's own estimate."""
    kept, dropped = tally.accepted + 1, tally.tried - tally.accepted + 1
    low, high = (float(betaincinv(kept, dropped, share)) for share in (_TAIL, 1 - _TAIL))
    return Estimate(kept / (kept + dropped), low, high)


class Pace:
    """Seconds that a candidate takes one worker, from commits as they come.

    The interval is Student's over means of consecutive commits (at most 64 of them, of ever more commits each): slow
    hours and slow workers come in runs, and single commits would pretend to more independent evidence than there is.
    """

    _MOST = 64

    def __init__(self) -> None:
        self._means: list[tuple[int, float]] = []
        self._width = 1
        self._open = (0, 0.0)
        self._in_open = 0

    def add(self, candidates: int, seconds: float) -> None:
        """Take in a commit that took its worker so long."""
        if not candidates or seconds <= 0:
            return
        self._open = (self._open[0] + candidates, self._open[1] + seconds)
        self._in_open += 1
        if self._in_open < self._width:
            return
        self._means.append(self._open)
        self._open, self._in_open = (0, 0.0), 0
        if len(self._means) == self._MOST:
            pairs = zip(self._means[::2], self._means[1::2], strict=True)
            self._means = [(a[0] + b[0], a[1] + b[1]) for a, b in pairs]
            self._width *= 2

    def estimate(self) -> Estimate | None:
        """None before the first commit; no interval before the second."""
        parts = [*self._means, *([self._open] if self._in_open else [])]
        if not parts:
            return None
        expected = sum(seconds for _, seconds in parts) / sum(candidates for candidates, _ in parts)
        found = [seconds / candidates for candidates, seconds in self._means]
        if len(found) < 2:
            return Estimate(expected)
        # On a log scale: a pace is never negative, and slow stretches lie further out than fast ones.
        spread = statistics.stdev(math.log(value) for value in found) / math.sqrt(len(found))
        factor = math.exp(float(stdtrit(len(found) - 1, 1 - _TAIL)) * spread)
        return Estimate(expected, expected / factor, expected * factor)


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """How far an output is: what the planner needs to go on from there."""

    rounds: Sequence[Round] = ()
    tallies: Sequence[Tallies] = ()
    """So far, of each round."""
    decided: Sequence[int] = ()
    """Intervals of each round."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Intervals that may be worked on together."""

    intervals: int
    candidates: int
    awaits: bool
    """Nothing of it begins before everything earlier is decided; else before the stage before last is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """How a generation goes on at some acceptance."""

    stages: Sequence[Stage]
    """What is still to be made."""
    candidates: int
    """Of all rounds, those decided already too."""
    accepted: int
    intervals: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """What so many workers take for what is to be made."""

    workers: int
    gpus: float
    seconds: Estimate
    cost: Estimate | None
    """None without a price."""


def play(
    quota: Quota, *, interval_size: int, acceptance: Mapping[str, float] | None = None, done: Done | None = None
) -> Course:
    """Play the rounds through as if each group were accepted at just its rate (1 where ``acceptance`` has none)."""
    done = done or Done()
    rates = {group: (acceptance or {}).get(group, 1.0) for group in quota.counts}
    rounds: list[Round] = []
    tallies: list[dict[str, Tally]] = []
    stages: list[Stage] = []
    owed = dict.fromkeys(rates, 0.0)
    """Fractions of an image that rounding down has left of each group."""
    while True:
        number = len(rounds)
        awaited = number > 0 and not isinstance(next_round(quota, rounds, [*tallies[:-1], None], interval_size), Round)
        if number < len(done.rounds):
            step: object = done.rounds[number]
        else:
            step = next_round(quota, rounds, tallies, interval_size)
        if isinstance(step, Unfillable):
            names = ", ".join(sorted(step.groups))
            raise ConfigError(
                f"at this acceptance the quota of group {names} cannot be filled; lower it or the filters"
            )
        if not isinstance(step, Round):  # Settle: every round here is decided, so nothing is waited for
            break
        known = done.tallies[number] if number < len(done.rounds) else {}
        left = step.intervals - (done.decided[number] if number < len(done.rounds) else 0)
        rest = {g: step.totals.get(g, 0) - known.get(g, Tally()).tried if left else 0 for g in rates}
        tallied: dict[str, Tally] = {}
        for group, rate in rates.items():
            exact = rest[group] * rate + owed[group]
            owed[group] = exact - int(exact)
            tallied[group] = known.get(group, Tally()) + Tally(rest[group], int(exact))
        rounds.append(step)
        tallies.append(tallied)
        if left:
            stages.append(Stage(left, sum(rest.values()), awaited))
    return Course(
        stages=stages,
        candidates=sum(tally.tried for tallied in tallies for tally in tallied.values()),
        accepted=sum(tally.accepted for tallied in tallies for tally in tallied.values()),
        intervals=rounds[-1].end,
    )


def makespan(stages: Sequence[Stage], workers: int, seconds_per_candidate: float) -> float:
    """Seconds that ``workers`` equal workers take, each interval in one hand: who finds none waits."""
    free = [0.0] * workers
    ends = [0.0]
    for number, stage in enumerate(stages):
        ready = ends[-1] if stage.awaits else ends[max(0, number - 1)]
        free = [max(ready, time) for time in free]
        heapq.heapify(free)
        took = stage.candidates / stage.intervals * seconds_per_candidate
        left, end = stage.intervals, ends[-1]
        while left:
            if left > 2 * workers and max(free) - min(free) <= took:  # they are level: as many for each at once
                each = left // workers - 1
                free = [time + each * took for time in free]
                left -= each * workers
            else:
                end = max(end, heapq.heapreplace(free, free[0] + took) + took)
                left -= 1
        ends.append(end)
    return ends[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What is still to be made, whoever makes it."""

    interval_size: int
    expected: Course
    best: Course | None
    """At the upper end of every group's acceptance; None where it was not measured."""
    worst: Course | None
    """At the lower end; None where it was not measured, or where the quota could not be filled."""
    candidates: Estimate = field(init=False)
    """Of all rounds together."""

    def __post_init__(self) -> None:
        expected = float(self.expected.candidates)
        # Better than expected need not be less: rounds planned ahead on the pilot's word then overshoot.
        low = None if self.best is None else min(expected, float(self.best.candidates))
        high = None if self.worst is None else max(expected, float(self.worst.candidates))
        object.__setattr__(self, "candidates", Estimate(expected, low, high))

    def fleet(self, workers: int, pace: Estimate, *, gpus_per_worker: float, price: float | None) -> Fleet:
        """What so many workers of this pace (seconds a candidate) take, and cost at a price per GPU and hour."""
        low = high = None
        if self.best is not None and pace.low is not None:
            low = min(makespan(course.stages, workers, pace.low) for course in (self.best, self.expected))
        if self.worst is not None and pace.high is not None:
            high = max(makespan(course.stages, workers, pace.high) for course in (self.worst, self.expected))
            if self.worst.stages:  # what chance leaves missing, or settling drops: a last round of one interval
                high += self.interval_size * pace.high
        seconds = Estimate(makespan(self.expected.stages, workers, pace.expected), low, high)
        gpus = workers * gpus_per_worker
        return Fleet(workers=workers, gpus=gpus, seconds=seconds, cost=_priced(seconds, gpus, price))


def look_ahead(
    quota: Quota, *, interval_size: int, acceptance: Mapping[str, Estimate] | None = None, done: Done | None = None
) -> Outlook:
    """Play on at the expected acceptance, and at both ends of it where every group's was measured."""
    found = acceptance or {}
    measured = all(group in found for group, count in quota.counts.items() if count)

    def at(rates: Mapping[str, float]) -> Course:
        return play(quota, interval_size=interval_size, acceptance=rates, done=done)

    best = worst = None
    if measured:
        best = at({group: rate.high or 1.0 for group, rate in found.items()})
        try:
            worst = at({group: rate.low or 0.0 for group, rate in found.items()})
        except ConfigError:  # it may be that no number of candidates fills it
            worst = None
    expected = at({group: rate.expected for group, rate in found.items()})
    return Outlook(interval_size=interval_size, expected=expected, best=best, worst=worst)


def typical_image_bytes(codec: CodecConfig, size: int) -> float:
    """A first estimate of what an image takes of its shard: within a factor of about two for photographs."""
    loss = 0.0 if codec.format == "png" else 0.18 * (100 - codec.quality)
    return size * size * _BITS_PER_PIXEL[codec.format] / (1 + loss) / 8 + _FILE_BYTES + _MEMBERS_BYTES


def _priced(seconds: Estimate, gpus: float, price: float | None) -> Estimate | None:
    if price is None:
        return None
    rate = gpus * price / 3600
    ends = [None if end is None else end * rate for end in (seconds.low, seconds.high)]
    return Estimate(seconds.expected * rate, *ends)
