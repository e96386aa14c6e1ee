"""The noisy method of the launch tests, of any size, with every image that is sampled written down: what was made twice
can be counted afterwards, whatever became of the process that made it."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, replace

import noisy
from noisy import BAD, GROUPS, SIZE, Fault, FaultySampler, Noisy

from ffr_dist.quota import Exact
from ffr_dist.train.stage import TrainConfig


class RecordingSampler(FaultySampler):
    def __init__(self, faults, record, **rest):
        super().__init__(faults, **rest)
        self._record = record

    def sample(self, requests, fetched):
        outcomes = super().sample(requests, fetched)
        lines = "".join(f"{group} {k}\n" for group, k in dict.fromkeys((one.group, one.k) for one in requests))
        with open(self._record, "ab", buffering=0) as file:  # noqa: PTH123 - one write, appended whole
            file.write(lines.encode())
        return outcomes


@dataclass(frozen=True, kw_only=True)
class Recorded(Noisy):
    each: int
    """Quota of each group."""
    record: str = os.devnull

    def quota(self, real):
        return Exact(dict.fromkeys(GROUPS, self.each))

    def sampler(self, inputs, device):
        bad = {group: dict(shares) for group, shares in self.bad}
        return RecordingSampler(self.faults, self.record, seed=self.seed, size=SIZE, bad=bad, delay_s=self.delay_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """What a scenario asks of the method; travels to processes as JSON in an environment variable."""

    each: int = 24
    delay_s: float = 0.0
    faults: tuple[tuple[str, str, int, str], ...] = ()
    """Kind, group, k, and the file that makes it strike once."""
    record: str = os.devnull
    quick: bool = False
    """Hangs, and a store that stays away, are borne for seconds only."""

    def method(self, seed: int, training: TrainConfig) -> Recorded:
        bad = tuple((group, tuple(shares.items())) for group, shares in BAD.items())
        faults = tuple(Fault(kind, group, k, once) for kind, group, k, once in self.faults)
        return Recorded(
            seed=seed,
            training=training,
            faults=faults,
            delay_s=self.delay_s,
            bad=bad,
            each=self.each,
            record=self.record,
        )

    def dumps(self) -> str:
        return json.dumps({name: getattr(self, name) for name in self.__slots__})

    @classmethod
    def loads(cls, text: str) -> Noise:
        found = json.loads(text)
        return replace(cls(), **found | {"faults": tuple(tuple(fault) for fault in found["faults"])})


PATIENCE = replace(noisy.QUICK, store=15.0)
