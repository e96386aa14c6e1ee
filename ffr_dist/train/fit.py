"""The one training loop.

Invariants:

* Global step n sees the same samples with the same loss weights on any number of processes (see ``Task``); for models
  without batch statistics the gradient equals one process's up to rounding.
* A step is a function of the state after the step before it: learning rate, sample order and random draws (dropout,
  augmentation) are computed from (seed, step), never carried along. So a checkpoint needs no RNG or scheduler state, and a
  run that was killed and resumed continues as if it had not been (bit for bit on one CPU process).
* A step waits neither for the device nor for the store: what is logged is summed where it is, and a checkpoint is copied,
  then written by a thread.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import reduce
from torch import nn

from ffr_dist.train.checkpoint import Checkpoints
from ffr_dist.train.config import FitConfig
from ffr_dist.train.device import Feed, autocast, explained, modes, placed, refuse_unfit, train_mode
from ffr_dist.train.output import Output
from ffr_dist.train.progress import Progress
from ffr_dist.train.state import State
from ffr_dist.train.task import Batches, Score, Task
from ffr_dist.train.trackers import TrackerName
from ffr_dist.train.world import World, world


@dataclass(frozen=True, slots=True, kw_only=True)
class FitResult:
    """The model of the task now holds the best weights (the last ones where nothing validates)."""

    best_step: int
    best: Score | None
    history: list[dict[str, Any]]
    """One JSON row per log line and per validation."""


def fit(
    task: Task,
    config: FitConfig,
    *,
    checkpoints: Checkpoints | None = None,
    progress: Callable[[Progress], None] | None = None,
    trackers: Sequence[TrackerName] = (),
) -> FitResult:
    """Train ``task.model`` for ``config.steps`` optimiser steps, from the newest checkpoint if there is one.

    Beside the checkpoints lie ``log.jsonl`` and TensorBoard's event files, also where ``checkpoint_every`` asks for no
    checkpoint; ``trackers`` names services that are told the same. Every process of the world calls this alike.
    """
    here = world()
    refuse_unfit(task, config, here.device)
    with modes(config), explained(task, config, here):
        module = placed(task, config, here)
        state = State(task, config, here)
        if checkpoints is not None:
            state.resume(checkpoints)
        if not state.over:
            writes = checkpoints if here.is_main else None
            output = Output(task, config, state, writes, trackers, progress)
            with output, _batches(task.batches, config, state, here) as batches:
                if state.step == 0:
                    output.validate()
                train_mode(task)
                feed = Feed(here.device)
                while not state.over:
                    state.begin()
                    read = list(itertools.islice(batches, config.accumulation))
                    images, counts = _counted(task, read, here)
                    state.move(_step(task, config, here, module, state, counts, feed.put(read)))
                    output.stepped(images)
                    if state.due(config.log_every):
                        output.log()
                    if state.due(config.validate_every):
                        output.validate()
                        train_mode(task)
                    if checkpoints is not None and config.checkpoint_every and state.due(config.checkpoint_every):
                        output.save()
        state.finish()
    return FitResult(best_step=state.best_step, best=state.best, history=state.history)


def _counted(task: Task, batches: list[Any], here: World) -> tuple[torch.Tensor, torch.Tensor]:
    """Images, and samples of each part, of all processes and batches of a step; in one message."""
    parts = torch.stack([task.counts(batch) for batch in batches]).sum(0, dtype=torch.float64)
    images = parts.new_tensor([sum(len(batch) for batch in batches)])
    counted = torch.cat([images, parts])
    if here.size > 1:
        counted = _summed(counted.to(here.device, non_blocking=True), here)
    return counted[0], counted[1:]


def _step(
    task: Task,
    config: FitConfig,
    here: World,
    module: nn.Module,
    state: State,
    counts: torch.Tensor,
    batches: list[Any],
) -> torch.Tensor:
    """Forward and backward of one optimiser step; this process's share of the global loss."""
    device = here.device
    share = state.part_weights.to(counts.device) / counts.clamp(min=1)
    total = torch.zeros((), device=device, dtype=torch.float64)
    for number, batch in enumerate(batches):
        last = number == len(batches) - 1
        with nullcontext() if last or here.size == 1 else module.no_sync():  # type: ignore[operator]
            with autocast(config, device):
                sums = task.loss(module, batch)
            if task.weights is not None:
                counts = counts.to(device, non_blocking=True)
                share = task.weights(_summed(sums.detach().double(), here), counts).double() / counts.clamp(min=1)
            loss = (sums * share.to(device, sums.dtype, non_blocking=True)).sum()
            total += loss.detach()
            if number == 0:
                # Not before the forward pass: on CPUs the heap would shrink to nothing after each step, and grow again.
                state.optimizer.zero_grad()
            # DDP averages the gradients over the processes, a sum is wanted: hence the factor.
            whole = loss * here.size if here.size > 1 else loss
            (whole if state.scaler is None else state.scaler.scale(whole)).backward()  # type: ignore[no-untyped-call]
    return total


def _summed(values: torch.Tensor, here: World) -> torch.Tensor:
    return values if here.size == 1 else reduce(values, "sum")


@contextmanager
def _batches(source: Batches, config: FitConfig, state: State, here: World) -> Iterator[Iterator[Any]]:
    """This process's batches from the next step on; whoever reads them ahead is stopped at the end."""
    batches = source.iterate(state.step * config.accumulation, here.rank, here.size)
    try:
        yield batches
    finally:
        if isinstance(batches, Generator):
            batches.close()
