"""The measured comparisons: each module measures one thing against its peer, in one run, on one machine.

A bench has a docstring that says what is compared, and ``run(*, quick: bool) -> Iterable[Line]``, with a ``Row`` for each
finding that is no ratio.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One ratio: how ``ours`` compares with ``peer``, and what it should be at least."""

    name: str
    ours: float
    peer: float
    goal: float
    unit: str

    @property
    def ratio(self) -> float:
        return self.ours / self.peer

    def json(self) -> str:
        return json.dumps({**asdict(self), "ratio": round(self.ratio, 4)}, sort_keys=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Figures of one side that are no ratio; rows of one ``name`` are a table."""

    name: str
    side: str
    figures: Mapping[str, float]

    def json(self) -> str:
        return json.dumps({"name": self.name, "side": self.side, **self.figures}, sort_keys=True)
