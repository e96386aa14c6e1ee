"""Which intervals failed by their own doing, and what follows from it.

* Only an exception of an attempt's code, a hang, or the death of its process counts. A death is on trial until it is
  known whether the node outlived the process: the loss of a node never counts.
* What failed is tried again, alone in its actor, so that another failure has one cause.
* Doomed is what failed three times in two actors. It is abandoned once something was committed after its first
  failure. Where nothing is, and other intervals fail too, the fault is the system's.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from ffr_dist.launch.fleet.orders import Failure, Kind, Patience

_WHY = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A death whose cause is not known yet."""

    due: float
    worker: str
    node: str
    intervals: tuple[int, ...]
    kind: Kind
    why: str
    was_ready: bool


@dataclass(slots=True)
class Docket:
    """The failed intervals of one driver. Built with those that are known to have failed before."""

    patience: Patience
    suspects: dict[int, set[str]]
    """Intervals that are made alone, with the nodes they failed on."""
    retries: dict[int, float] = field(default_factory=dict)
    """Suspects that nobody has, and when they are due."""
    doomed: dict[int, str] = field(default_factory=dict)
    """Why, in words."""
    failed: set[int] = field(default_factory=set)
    """Since the last commit, abandoned ones included."""
    trials: list[Trial] = field(default_factory=list)
    _recording: set[int] = field(default_factory=set)
    _first: dict[int, int] = field(default_factory=dict)
    """Of doomed intervals: how many others were committed at the first failure."""

    def withholds(self, interval: int) -> bool:
        """Whether this interval must not go out now."""
        return interval in self.doomed or interval in self._recording

    @property
    def open(self) -> bool:
        """Whether something is still to be tried or found out."""
        return bool(self.retries or self.trials or self._recording)

    def due(self, now: float) -> list[int]:
        return [one for one, due in self.retries.items() if due <= now and one not in self._recording]

    def put_on_trial(self, trial: Trial) -> None:
        self.trials.append(trial)
        for interval in trial.intervals:
            self.suspects.setdefault(interval, set())

    def close_trials(self, now: float, alive: Collection[str] | None) -> list[tuple[Trial, bool]]:
        """The trials that are over, each with whether the node was lost. Acquits what only died with its node."""
        over: list[tuple[Trial, bool]] = []
        open_: list[Trial] = []
        for trial in self.trials:
            left = alive is not None and trial.node != "" and trial.node not in alive
            if left or trial.due <= now:
                over.append((trial, left))
            else:
                open_.append(trial)
        self.trials = open_
        accused = {interval for trial in open_ for interval in trial.intervals}
        for trial, left in over:
            for interval in trial.intervals if left else ():
                if not self.suspects.get(interval, {""}) and interval not in accused:
                    del self.suspects[interval]
        return over

    def charge(
        self, *, worker: str, node: str, interval: int, kind: Kind, why: str, committed: int, attempt: str, held: bool
    ) -> Failure:
        """A failure, to be stored; unless somebody else has the interval (``held``), it is withheld until then."""
        self.failed.add(interval)
        self.suspects.setdefault(interval, set()).add(node)
        if not held:
            self._recording.add(interval)
        return Failure(
            interval=interval,
            attempt=attempt,
            worker=worker,
            node=node,
            kind=kind,
            why=why[:_WHY],
            committed=committed,
        )

    def recorded(self, failures: Sequence[Failure], *, held: bool, due: float) -> None:
        """All stored failures of an interval. ``held``: somebody has it; if that fails too, they are counted again."""
        interval = failures[-1].interval
        self._recording.discard(interval)
        if held:
            return
        patience = self.patience
        if len(failures) >= patience.failures and len({one.worker for one in failures}) >= patience.actors:
            self.retries.pop(interval, None)
            last = failures[-1]
            self.doomed[interval] = f"{len(failures)} attempts failed, the last one by {last.kind}: {last.why}"
            self._first[interval] = min(one.committed for one in failures)
        else:
            self.retries[interval] = due
            self.suspects[interval] = {one.node for one in failures}

    def committed(self, interval: int) -> None:
        """This interval is decided, and not by giving it up."""
        self.forget(interval)
        self.failed.clear()

    def forget(self, interval: int) -> None:
        for table in (self.suspects, self.retries, self.doomed, self._first):
            table.pop(interval, None)
        self._recording.discard(interval)

    def given_up(self, committed: int) -> list[tuple[int, str]]:
        """The doomed intervals to abandon, now that so many are committed."""
        return [(interval, why) for interval, why in self.doomed.items() if committed > self._first[interval]]

    def systemic(self, *, last_hope_gone: bool = False) -> str | None:
        """Why the fault is not the intervals'. ``last_hope_gone``: nothing is left that could be committed."""
        if not self.doomed or (len(self.failed) < self.patience.systemic and not last_hope_gone):
            return None
        interval, why = next(reversed(self.doomed.items()))
        count = "one interval" if len(self.failed) < 2 else f"{len(self.failed)} intervals"
        return f"systemic fault: {count} failed and nothing else was committed; interval {interval}: {why}"
