"""What changes while fitting, and its way into and out of a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from accelerate.utils import reduce
from torch import nn

from ffr_dist.errors import ConflictError, StoppedError
from ffr_dist.seeds import draw_seed
from ffr_dist.train.checkpoint import Checkpoints
from ffr_dist.train.config import FitConfig
from ffr_dist.train.ema import Ema
from ffr_dist.train.optimizers import learning_rate, make_optimizer, restored
from ffr_dist.train.task import Score, Task
from ffr_dist.train.world import World

_LEAST_SCALE = 2.0**-10
"""Of fp16's losses; it begins at 2**16 and is halved when a gradient is too large."""


class State:
    """Of one process; the processes differ in their share of the loss since the last log line alone."""

    def __init__(self, task: Task, config: FitConfig, world: World) -> None:
        self._task = task
        self._config = config
        self._world = world
        self.parameters = list(task.parameters or [p for p in task.model.parameters() if p.requires_grad])
        self.optimizer = make_optimizer(self.parameters, config)
        self.scaler = torch.amp.GradScaler(world.device.type) if config.precision == "fp16" else None
        self.ema = None if config.ema is None else Ema(task.model, config.ema)
        self.part_weights = torch.as_tensor(list(task.part_weights), dtype=torch.float64)
        self._best_weights: dict[str, torch.Tensor] | None = None
        self.step = 0
        self.best_step = 0
        self.best: Score | None = None
        self.history: list[dict[str, Any]] = []
        self._stale = 0
        """Validations since the best one."""
        # Since the last log line; on the device, so that a step does not wait for it.
        self._loss = torch.zeros((), device=world.device, dtype=torch.float64)
        self._counted = torch.zeros((), device=world.device, dtype=torch.float64)

    @property
    def over(self) -> bool:
        """Whether there is no step to come."""
        patience = self._config.patience
        return self.step >= self._config.steps or (patience is not None and self._stale >= patience)

    @property
    def last_logged(self) -> dict[str, Any] | None:
        """The newest row of a loss."""
        return next((row for row in reversed(self.history) if "loss" in row), None)

    def due(self, every: int | None) -> bool:
        """Whether something that happens every so many steps, and after the last one, happens now."""
        return self.over or (every is not None and self.step % every == 0)

    def begin(self) -> None:
        """Set all that the coming step depends on beside weights and optimiser state."""
        rate = learning_rate(self._config, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        # Not torch.manual_seed: without a GPU that keeps a note, with a traceback, for each call.
        seed = draw_seed(self._config.seed, self._task.name, self.step, f"step{self._world.rank}")
        torch.default_generator.manual_seed(seed)
        if self._world.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def move(self, loss: torch.Tensor) -> None:
        """The optimiser's step, after the backward pass; ``loss`` is this process's share of the global one."""
        if self.scaler is not None and self._config.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
        if self._config.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.parameters, self._config.clip_norm)
        if self.scaler is None:
            self.optimizer.step()
            self._loss += loss
            self._counted += 1
        else:
            self.scaler.step(self.optimizer)
            self.scaler.update()
            # A loss beyond fp16 is no news: the scaler has skipped the step and halves the scale.
            loss = loss if self._world.size == 1 else reduce(loss, "sum") / self._world.size
            self._loss += loss.nan_to_num(0, 0, 0)
            self._counted += loss.isfinite()
        self.step += 1
        if self.ema is not None:
            self.ema.follow(self.step)
        if self._task.after_step is not None:
            self._task.after_step(self.step)

    def log(self) -> dict[str, Any] | None:
        """A row for the steps since the last one; None where fp16 has skipped all of them."""
        loss, counted = self._window()
        self._loss.zero_()
        self._counted.zero_()
        if not counted:
            return None
        row = {"step": self.step, "loss": loss / counted, "lr": learning_rate(self._config, self.step - 1)}
        self.history.append(row)
        return row

    def _window(self) -> tuple[float, float]:
        """The global loss since the last log line, and of how many steps. Asked of every process at the same step."""
        sums = self._loss if self._world.size == 1 else reduce(self._loss, "sum")
        loss, rate = float(sums), learning_rate(self._config, self.step - 1)
        if not math.isfinite(loss):
            raise StoppedError(
                f"{self._task.name}: the loss is {loss} after step {self.step}; lower the learning rate "
                f"(now {rate:g}) or set clip_norm"
            )
        if self.scaler is not None and self.scaler.get_scale() < _LEAST_SCALE:
            raise StoppedError(
                f"{self._task.name}: the gradients are beyond fp16 after step {self.step}, however far they are scaled "
                f"down; lower the learning rate (now {rate:g}) or set precision to bf16"
            )
        return loss, float(self._counted)

    def validate(self) -> dict[str, Any] | None:
        """Score the model (the moving average, if there is one) and keep it if it is the best so far."""
        if self._task.validate is None:
            self.best_step = self.step
            return None
        with nullcontext() if self.ema is None else self.ema.in_place():
            self._task.model.eval()
            with torch.inference_mode():
                ours = self._task.validate(self._task.model)
            # One process decides for all: a score that differed in its last bit would part them.
            score = self._world.by_main(lambda: ours)
            # Step 0 is told, as the start to compare with, but what never trained is not a candidate.
            if self.step and (self.best is None or score.value > self.best.value):
                self.best, self.best_step = score, self.step
                self._best_weights = {name: value.clone() for name, value in self._task.model.state_dict().items()}
                self._stale = 0
            elif self.step:
                self._stale += 1
        row = {"step": self.step, "score": list(score.value), **score.detail}
        self.history.append(row)
        return row

    def finish(self) -> None:
        """Leave the model with the best weights, the average ones or the last."""
        if self._best_weights is not None:
            self._task.model.load_state_dict(self._best_weights)
        elif self.ema is not None:
            self.ema.put()
        self._task.model.eval()

    def checkpoint(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Tensors and JSON values, of every process at the same step. The tensors are the live ones."""
        # A run whose loss is not a number must not come back from its checkpoint: asked first.
        window = list(self._window())
        tensors = _prefixed("model", self._task.model.state_dict())
        tensors |= _prefixed("state", self._task.state)
        tensors |= _prefixed("best", self._best_weights or {})
        tensors |= _prefixed("ema", {} if self.ema is None else self.ema.tensors)
        for number, parameter in enumerate(self.parameters):
            tensors |= _prefixed(f"optimizer.{number}", self.optimizer.state[parameter])
        best = None if self.best is None else [list(self.best.value), dict(self.best.detail)]
        meta = {
            "identity": self._identity(),
            "best_step": self.best_step,
            "best": best,
            "history": list(self.history),
            "window": window,
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
        }
        return tensors, meta

    def resume(self, checkpoints: Checkpoints) -> None:
        """Go on from the newest checkpoint, if there is one.

        It must be of the same task, data, settings and shapes; ConflictError says what is not the same.
        """
        # One process looks for all: a listing that another one saw a moment later would part them.
        marker = self._world.by_main(checkpoints.find)
        if marker is None:
            return
        found = checkpoints.load(marker)
        differences = [*_differences(found.meta.get("identity"), self._identity()), *self._misfits(found.tensors)]
        if differences:
            raise ConflictError(
                f"the checkpoint of step {found.step} below {checkpoints.store.url}/{checkpoints.prefix} belongs to another "
                f"run than this one of {self._task.name}: {'; '.join(differences)}. Delete it, or write to another output"
            )
        self._task.model.load_state_dict(_below("model", found.tensors))
        for name, value in _below("state", found.tensors).items():
            self._task.state[name].copy_(value)
        for number, parameter in enumerate(self.parameters):
            state = _below(f"optimizer.{number}", found.tensors)
            self.optimizer.state[parameter] = {name: restored(parameter, value) for name, value in state.items()}
        if self.ema is not None:
            self.ema.restore(_below("ema", found.tensors))
        if self.scaler is not None:
            self.scaler.load_state_dict(found.meta["scaler"])
        self._best_weights = _below("best", found.tensors) or None
        self.step, self.best_step, self.history = found.step, found.meta["best_step"], found.meta["history"]
        self._stale = (
            sum("score" in row and row["step"] > self.best_step for row in self.history) if self.best_step else 0
        )
        loss, counted = found.meta["window"]
        self._loss.fill_(loss if self._world.is_main else 0.0)
        self._counted.fill_(counted)
        if found.meta["best"] is not None:
            value, detail = found.meta["best"]
            self.best = Score(tuple(value), detail)

    def _identity(self) -> dict[str, Any]:
        return {
            "task": self._task.name,
            "data": self._task.fingerprint,
            "settings": self._config.model_dump(mode="json"),
        }

    def _misfits(self, tensors: Mapping[str, torch.Tensor]) -> list[str]:
        """How a checkpoint's tensors differ from this model's and this task's, by name and shape."""
        kinds = (("model", self._task.model.state_dict()), ("state", self._task.state))
        return [text for kind, ours in kinds for text in _misfit(kind, _below(kind, tensors), ours)]


def _differences(theirs: Any, ours: Mapping[str, Any]) -> list[str]:
    """In what the identity of a checkpoint is another one."""
    if not isinstance(theirs, dict) or not isinstance(theirs.get("settings"), dict):
        return ["it does not say of what it is"]
    found = []
    if theirs.get("task") != ours["task"]:
        found.append(f"it is of the task {theirs.get('task')}")
    if theirs.get("data") != ours["data"]:
        found.append(f"its data are others (fingerprint {_short(theirs.get('data'))}, here {_short(ours['data'])})")
    settings = theirs["settings"]
    names = sorted({*settings, *ours["settings"]})
    found += [
        f"{name} was {settings.get(name)}, and is {ours['settings'].get(name)}"
        for name in names
        if settings.get(name) != ours["settings"].get(name)
    ]
    return found


def _misfit(kind: str, theirs: Mapping[str, torch.Tensor], ours: Mapping[str, torch.Tensor]) -> list[str]:
    missing, more = sorted(set(ours) - set(theirs)), sorted(set(theirs) - set(ours))
    if missing or more:
        which = f"lacks {missing[0]}" if missing else f"has {more[0]}, which is not here"
        return [f"its {kind} is another one ({which})"]
    for name, value in ours.items():
        if theirs[name].shape != value.shape:
            return [f"its {kind} has {name} of shape {tuple(theirs[name].shape)}, and here it is {tuple(value.shape)}"]
    return []


def _short(fingerprint: Any) -> str:
    return str(fingerprint)[:12] or "none"


def _prefixed(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def _below(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    start = f"{prefix}."
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}
