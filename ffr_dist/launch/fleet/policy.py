"""What a fleet of workers is made to do: who gets which interval, and what follows when one fails, hangs or falls silent.

A state machine without Ray and without a clock. The caller passes in what happened, each time with the time of a clock
that never jumps, asks :meth:`Fleet.decide`, and carries the orders out. The supply (a driver) is asked for intervals
and told of commits; nothing here decides what is in the set.

* An interval is with an actor, or waits for one, or is withheld for its failures (``docket``), or belongs to the supply.
  Losing an actor moves its intervals at once; a commit is counted whoever sends it, also an actor long given up.
* At most two intervals are with an actor, and one alone where it failed before, if it can be on another node.
* The loss of a node, a silent host and the store's errors count against nobody.
* Time in which nobody listened to the actors does not count against them: a driver that was busy or suspended finds
  its actors as it left them.
"""

from __future__ import annotations

import random
import statistics
from collections import Counter, deque
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from ffr_dist.errors import MissingError, StoreError
from ffr_dist.generate.work import BatchDone, Receipt, Work
from ffr_dist.launch.events import Abandoned, AttemptFailed, Committed, Event, Warned, WorkerDown, WorkerUp
from ffr_dist.launch.fleet.docket import Docket, Trial
from ffr_dist.launch.fleet.orders import Failure, Kind, Make, Order, Patience, Record, Say, Start, Stop, Stopped
from ffr_dist.launch.fleet.supply import End, Supply
from ffr_dist.plan.rounds import Wait

IN_FLIGHT = 2
"""Intervals of an actor: one on its device, one on its way to the store."""
_LISTENED_S = 5.0
"""More than this between two looks: nobody listened."""


@dataclass(slots=True)
class _Try:
    """An interval with an actor."""

    work: Work
    since: float
    unsampled: int
    """Candidates that no batch was told of yet."""
    moot: bool = False
    """Somebody else has committed it."""


@dataclass(slots=True)
class _Actor:
    name: str
    seat: _Seat
    node: str = ""
    born: float | None = None
    """When its process was there; until then it waits for a place on a node."""
    ready: bool = False
    heard: float = 0.0
    moved: float = 0.0
    """When it last did something: a batch, a commit, or the beginning of its work."""
    batches: int = 0
    silent: bool = False
    making: dict[int, _Try] = field(default_factory=dict)
    keeps: int | None = None
    """A suspect that it is kept free for, or makes alone."""

    @property
    def able(self) -> bool:
        return self.ready and not self.silent

    @property
    def sampling(self) -> int | None:
        """The interval on its device: of those that lack batches the one that it has longest."""
        return next((interval for interval, tried in self.making.items() if tried.unsampled > 0), None)


@dataclass(slots=True)
class _Seat:
    """A place for an actor."""

    actor: _Actor | None = None
    due: float = 0.0
    faults: int = 0
    """In a row, without a commit between."""


class Fleet:
    """The state of all actors of one driver. Not thread-safe.

    ``before`` are intervals that have failed in earlier starts; ``committed`` is how many are committed already.
    """

    def __init__(
        self,
        supply: Supply,
        patience: Patience,
        *,
        prefix: str = "w",
        before: Collection[int] = (),
        committed: int = 0,
        now: float = 0.0,
        chance: random.Random | None = None,
    ) -> None:
        self.end: End | Stopped | None = None
        self.shortage = ""
        """Why there may be no worker, in words; set by who knows the cluster."""
        self._supply = supply
        self._patience = patience
        self._prefix = prefix
        self._chance = chance or random.Random()
        self._committed = committed
        self._commits = 0
        """Of this start."""
        self._wall = now
        self._now = 0.0
        self._seats: list[_Seat] = []
        self._actors: dict[str, _Actor] = {}
        self._made = 0
        self._holders: dict[int, set[str]] = {}
        """Who has an interval, the silent included."""
        self._again: deque[int] = deque()
        """Lost intervals, to be given out before any other."""
        self._docket = Docket(patience, {interval: set() for interval in before})
        self._alive: Collection[str] | None = None
        self._batch_s: deque[float] = deque(maxlen=200)
        self._interval_s: deque[float] = deque(maxlen=200)
        self._store_since: float | None = None
        self._store_faults = 0
        self._pause = 0.0
        self._start_faults = 0
        self._nobody_since: float | None = None
        self._nobody_said = 0.0
        self._drained: tuple[str, float] | None = None
        self._out: list[Order] = []
        self._look()

    # What happened.

    def resize(self, wanted: int, now: float) -> None:
        """So many actors from now on. Fewer: only the places of actors that are not up yet are given up."""
        self._pass(now)
        while len(self._seats) < wanted:
            self._seats.append(_Seat(due=self._now))
        spare = [seat for seat in self._seats if seat.actor is None or not seat.actor.ready]
        # Empty places first, then those whose actor waits for a node, then those that load.
        spare.sort(key=lambda seat: 0 if seat.actor is None else 1 if seat.actor.born is None else 2)
        for seat in spare[: max(0, len(self._seats) - wanted)]:
            if seat.actor is not None:
                self._dismiss(seat.actor)
            self._seats.remove(seat)

    def nodes(self, alive: Collection[str], now: float) -> None:
        """The nodes there are. Whoever sat on another is gone with it."""
        self._pass(now)
        self._alive = alive
        for actor in list(self._actors.values()):
            if actor.node and actor.node not in alive:
                self.died(actor.name, "its node left", now)

    def born(self, name: str, node: str, now: float) -> None:
        """The actor's process runs, on this node."""
        self._pass(now)
        if actor := self._actors.get(name):
            actor.node, actor.born, actor.heard = node, self._now, self._now

    def ready(self, name: str, device: str, now: float) -> None:
        """The actor has loaded its weights."""
        self._pass(now)
        if actor := self._actors.get(name):
            actor.ready, actor.heard, actor.moved = True, self._now, self._now
            self._start_faults = 0
            self._say(WorkerUp(worker=name, node=actor.node, device=device))

    def answered(self, name: str, batches: Sequence[BatchDone], now: float) -> None:
        """The actor answers, and has made these batches since it last did."""
        self._pass(now)
        actor = self._actors.get(name)
        if actor is None:
            return
        actor.heard, actor.silent = self._now, False
        for done in batches:
            actor.moved = self._now
            actor.batches += 1
            self._batch_s.append(done.sample_s)
            if done.interval in actor.making:
                actor.making[done.interval].unsampled -= done.candidates

    def received(self, name: str, receipt: Receipt, now: float) -> None:
        """A receipt came."""
        self._pass(now)
        commit = receipt.commit
        self._supply.committed(commit)
        news = receipt.mine
        if actor := self._actors.get(name):
            actor.heard = actor.moved = self._now
            actor.silent, actor.seat.faults = False, 0
            if tried := self._release(actor, commit.interval):
                self._interval_s.append(self._now - tried.since)
                news = not tried.moot
        for other in self._holders.get(commit.interval, ()):
            self._actors[other].making[commit.interval].moot = True
        self._say(_committed(name, receipt))
        if commit.abandoned is None:
            self._committed += news
            self._commits += 1
            self._docket.committed(commit.interval)
            self._store_since, self._store_faults, self._pause = None, 0, 0.0
            self._give_up()
        else:
            self._docket.forget(commit.interval)

    def raised(self, name: str, interval: int, why: str, now: float) -> None:
        """The attempt raised an exception. Its process is replaced: what it left on the device may be poisoned."""
        self._pass(now)
        if actor := self._actors.get(name):
            self._fail(actor, interval, "exception", why)

    def store_failed(self, name: str, interval: int, why: str, now: float) -> None:
        """The attempt could not reach the store, which is neither the interval's doing nor the actor's."""
        self._pass(now)
        if actor := self._actors.get(name):
            tried = self._release(actor, interval)
            actor.moved = self._now
            if tried is not None and not tried.moot:
                self._lose(interval)
            self._say(AttemptFailed(interval=interval, worker=name, kind="store", why=why))
            self._store_fault(why)

    def failed_to_load(self, name: str, why: str, now: float) -> None:
        """The actor cannot get ready."""
        self._pass(now)
        if actor := self._actors.get(name):
            self._fault(actor, why)
            self._dismiss(actor)
            self._no_start(why)

    def died(self, name: str, why: str, now: float) -> None:
        """The actor is gone. Whether its process died or its node left is found out later."""
        self._pass(now)
        if actor := self._actors.get(name):
            self._put_on_trial(actor, actor.making, "death", why)
            self._penalise(actor.seat)
            self._dismiss(actor)  # it may only seem to be dead

    def recorded(self, failures: Sequence[Failure], now: float) -> None:
        """All failures that are stored of an interval, after a :class:`Record`."""
        self._pass(now)
        held = self._held(failures[-1].interval)
        self._docket.recorded(failures, held=held, due=self._now + self._backoff(len(failures)))
        self._give_up()
        self._stop_if(self._docket.systemic())

    def drain(self, why: str, grace: float, now: float) -> None:
        """Hand out no more; end when what is in flight has come back, or after ``grace``. The first reason stands."""
        self._pass(now)
        until = self._now + grace
        self._drained = (why, until) if self._drained is None else (self._drained[0], min(self._drained[1], until))

    # What there is.

    @property
    def up(self) -> int:
        """Actors that are ready and answer."""
        return sum(actor.able for actor in self._actors.values())

    @property
    def running(self) -> int:
        """Actors whose process is there, and costs. May be asked from any thread."""
        return sum(actor.born is not None for actor in list(self._actors.values()))

    @property
    def wanted(self) -> int:
        return len(self._seats)

    @property
    def rest_s(self) -> float:
        """How long what is in flight may still take, by what intervals have taken."""
        if not self._interval_s:
            return 0.0
        median = statistics.median(self._interval_s)
        begun = (tried.since for actor in self._actors.values() for tried in actor.making.values())
        return max((max(0.0, median - (self._now - since)) for since in begun), default=0.0)

    # What to do.

    def decide(self, now: float) -> list[Order]:
        """What to do now."""
        self._pass(now)
        if self.end is None:
            self._close_trials()
            self._watch()
            if self._drained is None:
                self._fill_seats()
                self._hand_out()
                self._tell_if_nobody()
            elif not self._holders or self._now >= self._drained[1]:
                self._look()  # what came back may have been the last that was missing
                self._stop_if(self._drained[0])
        out, self._out = self._out, []
        return out

    def _pass(self, now: float) -> None:
        self._now += min(max(0.0, now - self._wall), _LISTENED_S)
        self._wall = now

    def _say(self, event: Event) -> None:
        self._out.append(Say(event))

    def _stop_if(self, why: str | None) -> None:
        if why is not None and self.end is None:
            self.end = Stopped(why)

    def _backoff(self, times: int) -> float:
        patience = self._patience
        wait = min(patience.backoff_most, patience.backoff_first * 2.0 ** min(times - 1, 30))
        return wait * self._chance.uniform(0.5, 1.0)

    # Actors come and go.

    def _fill_seats(self) -> None:
        for seat in self._seats:
            if seat.actor is None and seat.due <= self._now:
                name = f"{self._prefix}-{self._made:04d}"
                self._made += 1
                seat.actor = self._actors[name] = _Actor(name, seat, heard=self._now, moved=self._now)
                self._out.append(Start(name))

    def _watch(self) -> None:
        """Who is silent, who hangs."""
        patience = self._patience
        hang = patience.hang_floor
        if self._batch_s:
            hang = max(hang, patience.hang_medians * statistics.median(self._batch_s))
        for actor in list(self._actors.values()):
            if actor.born is None:
                continue
            unheard = self._now - actor.heard
            if unheard > patience.dropped:
                self._drop(actor, f"no answer for {unheard:.0f} s")
            elif unheard > patience.silent:
                self._hush(actor)
            elif actor.making:
                self._watch_work(actor, hang if actor.batches else max(hang, patience.first_batch))
            elif not actor.ready and self._now - actor.born > patience.first_batch:
                self.failed_to_load(actor.name, f"not ready after {patience.first_batch:.0f} s", self._wall)

    def _watch_work(self, actor: _Actor, limit: float) -> None:
        still = self._now - actor.moved
        interval = actor.sampling
        if interval is not None and still > limit:
            self._fail(actor, interval, "hang", f"no batch for {still:.0f} s")
        elif interval is None and still > self._patience.upload:
            why = f"no commit {still:.0f} s after the last batch"
            self._say(AttemptFailed(interval=next(iter(actor.making)), worker=actor.name, kind="store", why=why))
            self._fault(actor, why)
            self._dismiss(actor)
            self._store_fault(why)

    def _hush(self, actor: _Actor) -> None:
        if not actor.silent:
            actor.silent = True
            if actor.making:
                self._say(Warned(f"worker {actor.name} does not answer; others get what it was making"))
            for interval, tried in actor.making.items():
                if not tried.moot:
                    self._lose(interval)

    def _drop(self, actor: _Actor, why: str) -> None:
        """A process that cannot even answer, on a node that stands, is as good as hung."""
        interval = actor.sampling
        self._put_on_trial(actor, () if interval is None else (interval,), "hang", why)
        self._penalise(actor.seat)
        self._dismiss(actor)

    def _fail(self, actor: _Actor, interval: int, kind: Kind, why: str) -> None:
        """An attempt failed by its own doing: it is recorded, and the actor replaced."""
        tried = self._release(actor, interval)
        if tried is not None and not tried.moot:
            self._charge(actor.name, actor.node, interval, kind, why)
        self._fault(actor, f"interval {interval}: {why}")
        self._dismiss(actor)

    def _fault(self, actor: _Actor, why: str) -> None:
        self._penalise(actor.seat)
        self._say(WorkerDown(worker=actor.name, node=actor.node, why=why, fault=True))

    def _penalise(self, seat: _Seat) -> None:
        seat.faults += 1
        seat.due = self._now + self._backoff(seat.faults)

    def _dismiss(self, actor: _Actor) -> None:
        self._out.append(Stop(actor.name))
        self._forget(actor)

    def _forget(self, actor: _Actor) -> None:
        """The actor is gone: what it had is lost, its seat is empty."""
        del self._actors[actor.name]
        actor.seat.actor = None
        for interval in list(actor.making):
            tried = self._release(actor, interval)
            if tried is not None and not tried.moot:
                self._lose(interval)

    def _release(self, actor: _Actor, interval: int) -> _Try | None:
        holders = self._holders.get(interval, set())
        holders.discard(actor.name)
        if not holders:
            self._holders.pop(interval, None)
        if actor.keeps == interval:
            actor.keeps = None
        return actor.making.pop(interval, None)

    def _held(self, interval: int) -> bool:
        """Whether somebody who answers has it."""
        return any(self._actors[name].able for name in self._holders.get(interval, ()))

    def _lose(self, interval: int) -> None:
        """Give it out again, unless there is no need to, or a reason not to."""
        if self._held(interval) or self._docket.withholds(interval):
            return
        if interval in self._docket.suspects:
            self._docket.retries.setdefault(interval, self._now)
        else:
            self._again.append(interval)

    # Failures.

    def _put_on_trial(self, actor: _Actor, intervals: Iterable[int], kind: Kind, why: str) -> None:
        self._docket.put_on_trial(
            Trial(
                due=self._now + self._patience.verdict,
                worker=actor.name,
                node=actor.node,
                intervals=tuple(one for one in intervals if not actor.making[one].moot),
                kind=kind,
                why=why,
                was_ready=actor.ready,
            )
        )

    def _close_trials(self) -> None:
        for trial, left in self._docket.close_trials(self._now, self._alive):
            why = "its node left" if left else trial.why
            self._say(WorkerDown(worker=trial.worker, node=trial.node, why=why, fault=not left))
            if not left:
                for interval in trial.intervals:
                    self._charge(trial.worker, trial.node, interval, trial.kind, trial.why)
                if not trial.was_ready:
                    self._no_start(trial.why)

    def _charge(self, worker: str, node: str, interval: int, kind: Kind, why: str) -> None:
        self._say(AttemptFailed(interval=interval, worker=worker, kind=kind, why=why))
        failure = self._docket.charge(
            worker=worker,
            node=node,
            interval=interval,
            kind=kind,
            why=why,
            committed=self._committed,
            attempt=f"{worker}-{self._chance.getrandbits(32):08x}",
            held=self._held(interval) or interval in self._again,
        )
        self._out.append(Record(failure))
        for holder in self._holders.get(interval, ()):
            self._actors[holder].keeps = interval  # and gets nothing beside it any more

    def _give_up(self) -> None:
        for interval, why in self._docket.given_up(self._committed):
            self._abandon(interval, why)

    def _abandon(self, interval: int, why: str) -> None:
        try:
            standing = self._supply.abandon(interval, why)
        except StoreError as error:
            self._store_fault(str(error))
        else:
            self._docket.forget(interval)
            if standing.abandoned is not None:  # else somebody committed it in the end
                self._say(Abandoned(interval=interval, why=why))

    def _no_start(self, why: str) -> None:
        self._start_faults += 1
        if self._start_faults >= self._patience.failures and not self.up:
            self._stop_if(f"no worker can start, {self._start_faults} have tried: {why}")

    def _store_fault(self, why: str) -> None:
        self._store_faults += 1
        if self._store_since is None:
            self._store_since = self._now
        lasted = self._now - self._store_since
        if lasted > self._patience.store:
            self._stop_if(f"the store has failed for {lasted:.0f} s, the last time so: {why}")
        self._pause = self._now + self._backoff(self._store_faults)

    # Intervals go out.

    def _look(self) -> None:
        """Whether there is anything to make."""
        step = self._next()
        if isinstance(step, Work):
            self._again.appendleft(step.interval)

    def _hand_out(self) -> None:
        if self._now < self._pause:
            return
        self._retry()
        for load in range(IN_FLIGHT):
            for actor in list(self._actors.values()):
                if actor.able and actor.keeps is None and len(actor.making) == load and not self._serve(actor):
                    return

    def _serve(self, actor: _Actor) -> bool:
        """Give the actor the next interval that is nobody's; False where there is none."""
        step = self._next()
        while isinstance(step, Work):
            if step.interval not in self._docket.suspects:
                self._give(actor, step)
                return True
            if not self._docket.withholds(step.interval):
                self._docket.retries.setdefault(step.interval, self._now + self._patience.backoff_first)
            step = self._next()
        if step is not None and self.end is None:
            self._at_the_tail()
        return False

    def _retry(self) -> None:
        """Keep an actor free for each suspect that is due, and give it when the actor has nothing else."""
        for interval in self._docket.due(self._now):
            avoid = self._docket.suspects.get(interval, set())
            fit = [a for a in self._actors.values() if a.able and a.keeps in {None, interval}]
            if not fit:
                return
            actor = min(fit, key=lambda a: (a.keeps != interval, a.node in avoid, len(a.making), a.name))
            actor.keeps = interval
            if actor.making:
                continue
            self._again.appendleft(interval)
            step = self._next()
            if step is None or self.end is not None:
                return
            if isinstance(step, Work) and step.interval == interval:
                self._docket.retries.pop(interval, None)
                self._give(actor, step)
            else:  # somebody else has decided it meanwhile
                self._docket.forget(interval)
                actor.keeps = None
                if isinstance(step, Work):
                    self._again.appendleft(step.interval)

    def _next(self) -> Work | Wait | End | None:
        """What the supply gives next, lost intervals first. None where the store failed it."""
        if self._again:
            self._supply.lost(self._again.popleft())
        try:
            step = self._supply.next()
        except MissingError:
            raise  # what was there is gone, and waiting does not bring it back
        except StoreError as error:
            self._store_fault(str(error))
            return None
        if not isinstance(step, Work | Wait):
            self.end = step
        return step

    def _give(self, actor: _Actor, work: Work) -> None:
        if actor.sampling is None:
            actor.moved = self._now
        actor.making[work.interval] = _Try(work, self._now, _size(work))
        self._holders.setdefault(work.interval, set()).add(actor.name)
        self._out.append(Make(actor.name, work))

    def _at_the_tail(self) -> None:
        """Nothing is left to hand out: copy what takes long, and see whether only lost causes are left."""
        docket = self._docket
        if not self._holders and not docket.open:
            if not docket.doomed:
                self._stop_if("no work is left to hand out, yet the plan is not complete")
            self._stop_if(docket.systemic(last_hope_gone=not self._commits))
            for interval, why in list(docket.doomed.items()) if self.end is None else ():
                self._abandon(interval, why)
            return
        if not self._interval_s:
            return
        patience = self._patience
        limit = max(patience.copy_floor, patience.copy_medians * statistics.median(self._interval_s))
        late = sorted(
            (tried.since, interval, tried.work)
            for actor in self._actors.values()
            for interval, tried in actor.making.items()
            if self._now - tried.since > limit
            and not tried.moot
            and len(self._holders[interval]) == 1
            and interval not in docket.suspects
        )
        idle = [actor for actor in self._actors.values() if actor.able and actor.keeps is None and not actor.making]
        for actor, (_, _, work) in zip(idle, late, strict=False):
            self._give(actor, work)

    def _tell_if_nobody(self) -> None:
        if self.up:
            self._nobody_since = None
        elif self._nobody_since is None:
            self._nobody_since = self._nobody_said = self._now
        elif self._now - self._nobody_said >= self._patience.nobody:
            self._nobody_said = self._now
            minutes = (self._now - self._nobody_since) / 60
            why = f" ({self.shortage})" if self.shortage else ""
            self._say(
                Warned(
                    f"no worker is up for {minutes:.0f} min; {self.wanted} are wanted, {self.running} are loading{why}; "
                    "the run waits for them"
                )
            )


def _size(work: Work) -> int:
    """Candidates of an interval."""
    start = (work.interval - work.round.first_interval) * work.interval_size
    return min(work.interval_size, work.round.size - start)


def _committed(worker: str, receipt: Receipt) -> Committed:
    commit = receipt.commit
    rejected: Counter[str] = Counter()
    for tally in commit.groups.values():
        rejected.update(tally.rejected)
    return Committed(
        interval=commit.interval,
        worker=worker,
        mine=receipt.mine,
        accepted=sum(tally.accepted for tally in commit.groups.values()),
        rejected=dict(rejected),
        bytes=sum(ref.bytes for ref in (commit.tar, commit.sidecar) if ref is not None),
        seconds=dict(receipt.seconds),
    )
