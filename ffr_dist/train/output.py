"""What a run tells while it trains, and what it leaves in its store: progress, figures and checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import torch

from ffr_dist.errors import FFRError
from ffr_dist.train.background import Background
from ffr_dist.train.checkpoint import Checkpoints, snapshot
from ffr_dist.train.config import FitConfig
from ffr_dist.train.progress import Pace, Progress
from ffr_dist.train.state import State
from ffr_dist.train.task import Score, Task
from ffr_dist.train.trackers import TrackerName, Trackers


class Output:
    """Of one process; without ``checkpoints`` nothing is stored. Used in a ``with`` block, whose end waits until all is.

    The thread that stores is waited for by the next checkpoint, not by the next step; what it meets, the next step raises.
    """

    def __init__(
        self,
        task: Task,
        config: FitConfig,
        state: State,
        checkpoints: Checkpoints | None,
        services: Sequence[TrackerName],
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self._task, self._config, self._state = task, config, state
        self._checkpoints, self._progress = checkpoints, progress
        self._trackers = None if checkpoints is None else Trackers(checkpoints.store, checkpoints.prefix, services)
        self._background = Background()
        self._images = torch.zeros((), dtype=torch.float64)
        self._rate: float | None = None
        self._pace = Pace(state.step, config.steps)

    def __enter__(self) -> Self:
        if self._trackers is not None:
            settings = self._config.model_dump(mode="json")
            self._trackers.begin(
                self._state.step, {"task": self._task.name, "data": self._task.fingerprint, **settings}
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Where the run ends by an error, that one is told, not what its last figures met.
        with self._background, suppress(*([] if error is None else [FFRError])):
            self._store_figures()
        if self._trackers is not None:
            self._trackers.end()

    def stepped(self, images: torch.Tensor) -> None:
        """After each step, with the images of all processes in it, which are summed where they are: nobody waits."""
        self._images = self._images.to(images.device) + images
        self._background.check()
        if self._trackers is not None and self._trackers.due and not self._background.busy:
            self._store_figures()

    def log(self) -> None:
        """A log line. Every process calls this alike, as it does what follows."""
        row = self._state.log()
        if row is None:
            return
        self._rate = self._pace.rate(float(self._images))
        self._images.zero_()
        measured = {"images_per_second": self._rate, "eta_s": self._pace.eta_s(self._state.step)}
        self._tell({**row, **{name: round(value, 1) for name, value in measured.items() if value is not None}})

    def validate(self) -> None:
        with self._pace.pause():
            row = self._state.validate()
        if row is not None:
            detail = {name: value for name, value in row.items() if name not in {"step", "score"}}
            self._tell(row, Score(tuple(row["score"]), detail))

    def save(self) -> None:
        """Copy a checkpoint and begin to store it, after the figures up to it."""
        tensors, meta = self._state.checkpoint()
        if self._checkpoints is None or self._trackers is None:
            return
        self._background.wait()  # first: there is room for one copy
        checkpoints, step, figures, copies = (
            self._checkpoints,
            self._state.step,
            self._trackers.writing(),
            snapshot(tensors),
        )

        def write() -> None:
            figures()
            checkpoints.save(step, copies, meta)

        self._background.start(write)

    def _store_figures(self) -> None:
        if self._trackers is not None:
            self._background.start(self._trackers.writing())

    def _tell(self, row: Mapping[str, Any], score: Score | None = None) -> None:
        if self._trackers is not None:
            self._trackers.tell(row)
        last = self._state.last_logged
        if self._progress is None or last is None:
            return
        self._progress(
            Progress(
                task=self._task.name,
                step=self._state.step,
                steps=self._config.steps,
                loss=last["loss"],
                lr=last["lr"],
                images_per_second=self._rate,
                eta_s=self._pace.eta_s(self._state.step),
                score=score,
            )
        )
