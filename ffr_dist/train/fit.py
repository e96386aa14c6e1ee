"""The one training loop.

Invariants:

* Global step n sees the same samples with the same loss weights on any number of processes (see ``Task``); for models
  without batch statistics the gradient equals one process's up to rounding.
* A step is a function of the state after the step before it: learning rate, sample order and random draws (dropout,
  augmentation) are computed from (seed, step), never carried along. So a checkpoint needs no RNG or scheduler state, and a
  run that was killed and resumed continues as if it had not been (bit for bit on one CPU process).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from accelerate import Accelerator
from pydantic import Field, PositiveFloat, PositiveInt
from torch import nn

from ffr_dist.config import Config, digest
from ffr_dist.errors import ConfigError, ConflictError, StoppedError
from ffr_dist.seeds import draw_seed
from ffr_dist.train.checkpoint import Checkpoints
from ffr_dist.train.task import Score, Task


class FitConfig(Config):
    """How long and how fast to learn."""

    steps: PositiveInt
    lr: PositiveFloat
    optimizer: Literal["adam", "adamw", "sgd"] = "adamw"
    betas: tuple[float, float] = (0.9, 0.999)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    weight_decay: float = Field(default=0.01, ge=0)
    schedule: Literal["constant", "cosine"] = "constant"
    warmup_steps: int = Field(default=0, ge=0)
    final_lr: float = Field(default=0.0, ge=0, le=1)
    """What the cosine ends at, as a share of ``lr``."""
    clip_norm: PositiveFloat | None = None
    accumulation: PositiveInt = 1
    precision: Literal["no", "bf16"] = "no"
    seed: int = 0
    validate_every: PositiveInt | None = None
    """Steps between validations; None validates before the first and after the last step only."""
    checkpoint_every: PositiveInt | None = None
    """Steps between checkpoints; None keeps none."""
    log_every: PositiveInt = 25


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Told every ``log_every`` steps."""

    task: str
    step: int
    steps: int
    loss: float
    lr: float
    score: Score | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FitResult:
    """The model of the task now holds the best weights (the last ones where nothing validates)."""

    best_step: int
    best: Score | None
    history: list[dict[str, Any]]
    """One JSON row per log line and per validation."""


def learning_rate(config: FitConfig, step: int) -> float:
    """The rate of optimiser step ``step`` (from 0)."""
    warm = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    if config.schedule == "constant":
        return config.lr * warm
    fall = 0.5 * (1 + math.cos(math.pi * step / config.steps))
    return config.lr * warm * (config.final_lr + (1 - config.final_lr) * fall)


def fit(
    task: Task,
    config: FitConfig,
    *,
    checkpoints: Checkpoints | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> FitResult:
    """Train ``task.model`` for ``config.steps`` optimiser steps, from the newest checkpoint if there is one."""
    _refuse_unfit(task, config)
    accelerator = Accelerator(mixed_precision=config.precision, cpu=not torch.cuda.is_available())
    task.model.to(accelerator.device)
    parameters = list(task.parameters or [p for p in task.model.parameters() if p.requires_grad])
    optimizer = _optimizer(parameters, config)
    model, prepared = accelerator.prepare(task.model, optimizer)
    run = _Run(task, config, parameters, optimizer)
    if checkpoints is not None:
        run.resume(checkpoints)
    batches = task.batches.iterate(run.step * config.accumulation, accelerator.process_index, accelerator.num_processes)

    if run.step == 0:
        run.validated(_validate(task, model), progress)
    model.train()
    while run.step < config.steps:
        run.begin(accelerator.process_index)
        loss = _step(task, accelerator, model, list(_take(batches, config.accumulation)))
        if config.clip_norm is not None:
            accelerator.clip_grad_norm_(parameters, config.clip_norm)
        prepared.step()
        prepared.zero_grad()
        run.stepped(loss)

        if run.due(config.log_every):
            run.logged(progress)
        if run.due(config.validate_every):
            run.validated(_validate(task, model), progress)
            model.train()
        if checkpoints is not None and config.checkpoint_every and run.due(config.checkpoint_every):
            run.save(checkpoints, writes=accelerator.is_main_process)
    run.load_best()
    model.eval()
    return FitResult(best_step=run.best_step, best=run.best, history=run.history)


def _refuse_unfit(task: Task, config: FitConfig) -> None:
    if task.weights is not None and config.accumulation > 1:
        raise ConfigError(
            f"task {task.name}: weights that follow the loss (GroupDRO) need the whole batch at once; "
            "set accumulation to 1 or lower the batch size"
        )


def _step(task: Task, accelerator: Accelerator, model: nn.Module, batches: list[Any]) -> torch.Tensor:
    """Forward and backward of one optimiser step; returns its global loss, detached."""
    device = accelerator.device
    batches = [batch.to(device) for batch in batches]
    counts = torch.stack([task.counts(batch).to(device, torch.float64) for batch in batches]).sum(0)
    counts = accelerator.reduce(counts, "sum")
    total = torch.zeros((), device=device, dtype=torch.float64)
    fixed = torch.as_tensor(task.part_weights, device=device, dtype=torch.float64)
    for number, batch in enumerate(batches):
        last = number == len(batches) - 1
        with nullcontext() if last else accelerator.no_sync(model):
            with accelerator.autocast():
                sums = task.loss(model, batch)
            global_sums = accelerator.reduce(sums.detach().double(), "sum")
            weights = fixed if task.weights is None else task.weights(global_sums, counts).double()
            share = weights / counts.clamp(min=1)
            # DDP averages the gradients over the processes, a sum is wanted: hence the factor.
            accelerator.backward((sums * (share * accelerator.num_processes).to(sums.dtype)).sum())
            total += (global_sums * share).sum()
    return total


def _validate(task: Task, model: nn.Module) -> Score | None:
    if task.validate is None:
        return None
    model.eval()
    with torch.inference_mode():
        return task.validate(model)


def _take(batches: Iterator[Any], count: int) -> Iterator[Any]:
    return itertools.islice(batches, count)


def _optimizer(parameters: list[nn.Parameter], config: FitConfig) -> torch.optim.Optimizer:
    if config.optimizer == "sgd":
        return torch.optim.SGD(parameters, config.lr, momentum=config.momentum, weight_decay=config.weight_decay)
    kind = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
    return kind(parameters, config.lr, betas=config.betas, weight_decay=config.weight_decay, fused=True)


class _Run:
    """What changes while fitting, and its way into and out of a checkpoint."""

    def __init__(
        self, task: Task, config: FitConfig, parameters: list[nn.Parameter], optimizer: torch.optim.Optimizer
    ) -> None:
        self._task = task
        self._config = config
        self._parameters = parameters
        self._optimizer = optimizer
        self._best_weights: dict[str, torch.Tensor] | None = None
        self.step = 0
        self.best_step = 0
        self.best: Score | None = None
        self.history: list[dict[str, Any]] = []
        # Since the last log line; on the device, so that a step does not wait for it.
        self._window_loss: torch.Tensor | float = 0.0
        self._window_steps = 0
        self._identity = digest([task.name, config.model_dump(mode="json")])

    def begin(self, process: int) -> None:
        """Set all that the coming step depends on beside weights and optimiser state."""
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate(self._config, self.step)
        torch.manual_seed(draw_seed(self._config.seed, self._task.name, self.step, f"step{process}"))

    def stepped(self, loss: torch.Tensor) -> None:
        self.step += 1
        self._window_loss = self._window_loss + loss
        self._window_steps += 1
        if self._task.after_step is not None:
            self._task.after_step(self.step)

    def due(self, every: int | None) -> bool:
        """Whether something that happens every so many steps, and after the last one, happens now."""
        return self.step == self._config.steps or (every is not None and self.step % every == 0)

    def logged(self, progress: Callable[[Progress], None] | None) -> None:
        loss = self._finite_window_loss() / self._window_steps
        self.history.append({"step": self.step, "loss": loss, "lr": learning_rate(self._config, self.step - 1)})
        self._window_loss, self._window_steps = 0.0, 0
        self._tell(progress)

    def _finite_window_loss(self) -> float:
        loss = float(self._window_loss)
        if not math.isfinite(loss):
            raise StoppedError(
                f"{self._task.name}: the loss is {loss} after step {self.step}; lower the learning rate "
                f"(now {learning_rate(self._config, self.step - 1):g}) or set clip_norm"
            )
        return loss

    def validated(self, score: Score | None, progress: Callable[[Progress], None] | None) -> None:
        if score is None:
            self.best_step = self.step
            return
        self.history.append({"step": self.step, "score": list(score.value), **score.detail})
        # Step 0 is told, as the start to compare with, but what never trained is not a candidate.
        if self.step and (self.best is None or score.value > self.best.value):
            self.best, self.best_step = score, self.step
            self._best_weights = {name: value.clone() for name, value in self._task.model.state_dict().items()}
        self._tell(progress, score)

    def _tell(self, progress: Callable[[Progress], None] | None, score: Score | None = None) -> None:
        rows = [row for row in self.history if "loss" in row]
        if progress is not None and rows:
            last = rows[-1]
            progress(
                Progress(
                    task=self._task.name,
                    step=self.step,
                    steps=self._config.steps,
                    loss=last["loss"],
                    lr=last["lr"],
                    score=score,
                )
            )

    def load_best(self) -> None:
        if self._best_weights is not None:
            self._task.model.load_state_dict(self._best_weights)

    def save(self, checkpoints: Checkpoints, *, writes: bool) -> None:
        # Asked of every process: a run whose loss is not a number must not come back from its checkpoint.
        window = [self._finite_window_loss(), self._window_steps]
        if not writes:
            return
        tensors = _prefixed("model", self._task.model.state_dict())
        tensors |= _prefixed("state", self._task.state)
        tensors |= _prefixed("best", self._best_weights or {})
        for number, parameter in enumerate(self._parameters):
            tensors |= _prefixed(f"optimizer.{number}", self._optimizer.state[parameter])
        best = None if self.best is None else [list(self.best.value), dict(self.best.detail)]
        meta = {
            "identity": self._identity,
            "best_step": self.best_step,
            "best": best,
            "history": self.history,
            "window": window,
        }
        checkpoints.save(self.step, tensors, meta)

    def resume(self, checkpoints: Checkpoints) -> None:
        found = checkpoints.latest()
        if found is None:
            return
        if found.meta.get("identity") != self._identity or not self._fits(found.tensors):
            raise ConflictError(
                f"the checkpoint below {checkpoints.prefix} is of another task or other settings than "
                f"{self._task.name}; delete it or write to another output"
            )
        self._task.model.load_state_dict(_below("model", found.tensors))
        for name, value in _below("state", found.tensors).items():
            self._task.state[name].copy_(value)
        for number, parameter in enumerate(self._parameters):
            state = _below(f"optimizer.{number}", found.tensors)
            self._optimizer.state[parameter] = {name: _laid_out_as(parameter, value) for name, value in state.items()}
        self._best_weights = _below("best", found.tensors) or None
        self.step, self.best_step, self.history = found.step, found.meta["best_step"], found.meta["history"]
        self._window_loss, self._window_steps = found.meta["window"]
        if found.meta["best"] is not None:
            value, detail = found.meta["best"]
            self.best = Score(tuple(value), detail)

    def _fits(self, tensors: Mapping[str, torch.Tensor]) -> bool:
        """Whether a checkpoint holds this model's tensors and this task's state, by name and shape."""
        model, state = _below("model", tensors), _below("state", tensors)
        return _shapes(model) == _shapes(self._task.model.state_dict()) and _shapes(state) == _shapes(self._task.state)


def _shapes(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in tensors.items()}


def _laid_out_as(parameter: nn.Parameter, value: torch.Tensor) -> torch.Tensor:
    """A tensor of the optimiser where and how it was made: fused kernels walk it and its parameter in memory order."""
    if value.shape != parameter.shape:
        return value.to(parameter.device)  # a step counter
    return torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)


def _prefixed(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def _below(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    start = f"{prefix}."
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}
