"""A small task that needs no images: points on a noisy plane, drawn by step, and a model with a little of everything."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from ffr_dist.train import Task


@dataclass
class Points:
    x: torch.Tensor
    y: torch.Tensor

    def __len__(self):
        return len(self.y)

    def to(self, device):
        return Points(self.x.to(device), self.y.to(device))


@dataclass(frozen=True)
class Plane:
    """Batches of ``size`` points, cut into slices for the processes."""

    size: int = 12
    dtype: torch.dtype = torch.float32

    def iterate(self, start, rank, world):
        step = start
        while True:
            x = torch.randn(self.size, 3, 4, 4, generator=torch.Generator().manual_seed(step)).to(self.dtype)
            yield Points(x[rank::world], x.sum((1, 2, 3))[rank::world])
            step += 1


def net(*, norm: bool = False, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    middle = nn.BatchNorm2d(6) if norm else nn.Identity()
    return nn.Sequential(
        nn.Conv2d(3, 6, 3),
        middle,
        nn.Tanh(),
        nn.Dropout(dropout),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 1),
    )


def plane_task(model: nn.Module | None = None, **options) -> Task:
    def loss(module, points):
        return (module(points.x).flatten() - points.y).square().sum()[None]

    given = {"batches": Plane(), "counts": lambda points: torch.tensor([len(points)]), "loss": loss, **options}
    return Task(name="plane", model=net() if model is None else model, **given)
