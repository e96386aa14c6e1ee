"""The optimiser and its rate, which is a pure function of the step: nothing is stepped twice on two processes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from ffr_dist.train.config import FitConfig


def learning_rate(config: FitConfig, step: int) -> float:
    """The rate of optimiser step ``step`` (from 0)."""
    warm = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    return config.lr * warm * _share(config, step / config.steps)


def _share(config: FitConfig, done: float) -> float:
    match config.schedule:
        case "constant":
            return 1.0
        case "cosine":
            return config.final_lr + (1 - config.final_lr) * 0.5 * (1 + math.cos(math.pi * done))
        case "step":
            return float(config.gamma ** sum(done >= milestone for milestone in config.milestones))


def make_optimizer(parameters: Sequence[nn.Parameter], config: FitConfig) -> torch.optim.Optimizer:
    if config.optimizer == "sgd":
        return torch.optim.SGD(parameters, config.lr, momentum=config.momentum, weight_decay=config.weight_decay)
    kind = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
    return kind(parameters, config.lr, betas=config.betas, weight_decay=config.weight_decay, fused=True)


def restored(parameter: nn.Parameter, value: torch.Tensor) -> torch.Tensor:
    """A tensor of the optimiser where and how it was made: fused kernels walk it and its parameter in memory order."""
    if value.shape != parameter.shape:
        return value.to(parameter.device)  # a step counter
    return torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)
