"""The training loop: ``fit`` against a bare PyTorch loop, and GroupDRO against ERM, with the data in memory.

``train_step``: a small convolutional classifier learns from 64 images of 32 × 32 a step, float32 on one CPU thread, AdamW. The
peer is the loop that anyone would write for one process: batch, forward, backward, step, nothing else; the loss is read every
25 steps, as ours logs it. Ours also draws seeds, sets the rate, weighs parts by global counts, sums what is logged, and watches its
checkpoints' thread, of which it has none here. ``train_step_cpu`` counts CPU seconds instead, which other work on the machine
moves less. ``groupdro``: the same with GroupDRO's sums by group and weights, against ERM through the same loop.

Trials of the sides alternate, in turn forwards and backwards; each side's figure is the median, in images a second.
"""

from __future__ import annotations

import copy
import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from bench import Line
from ffr_dist.train import FitConfig, Task, fit
from ffr_dist.train.losses import GroupDRO, sample_losses, sums_by_group

BATCH, SIDE, GROUPS = 64, 32, 4
LR = 1e-3


@dataclass(frozen=True, slots=True)
class Batch:
    images: torch.Tensor
    labels: torch.Tensor
    groups: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> Batch:
        return Batch(*(part.to(device, non_blocking=True) for part in (self.images, self.labels, self.groups)))


@dataclass(frozen=True, slots=True)
class InMemory:
    """A few batches, over and over."""

    batches: Sequence[Batch]

    def iterate(self, start: int, rank: int, world: int) -> Iterator[Batch]:  # noqa: ARG002 (for one process)
        step = start
        while True:
            yield self.batches[step % len(self.batches)]
            step += 1


def run(*, quick: bool) -> Iterator[Line]:
    """The ratios."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield from lines(steps=50 if quick else 100, trials=5 if quick else 11)
    finally:
        torch.set_num_threads(threads)


def lines(steps: int, trials: int) -> Iterator[Line]:
    data, model = batches(), small_net()
    sides: dict[str, Callable[[], object]] = {
        "bare": lambda: bare(copy.deepcopy(model), data, steps),
        "erm": lambda: fit(erm(copy.deepcopy(model), data), config(steps)),
        "groupdro": lambda: fit(robust(copy.deepcopy(model), data), config(steps)),
    }
    walls, cpus = medians(sides, trials)
    images = steps * BATCH
    for name, seconds in (("train_step", walls), ("train_step_cpu", cpus)):
        yield Line(name=name, ours=images / seconds["erm"], peer=images / seconds["bare"], goal=0.98, unit="images/s")
    for name, seconds in (("groupdro", walls), ("groupdro_cpu", cpus)):
        yield Line(
            name=name, ours=images / seconds["groupdro"], peer=images / seconds["erm"], goal=0.98, unit="images/s"
        )


def bare(model: nn.Module, data: InMemory, steps: int) -> None:
    """The peer."""
    optimizer = torch.optim.AdamW(model.parameters(), LR, fused=True)
    model.train()
    source = data.iterate(0, 0, 1)
    for step in range(1, steps + 1):
        batch = next(source).to("cpu")
        loss = functional.cross_entropy(model(batch.images), batch.labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if step % config(steps).log_every == 0:
            loss.item()


def config(steps: int) -> FitConfig:
    return FitConfig(steps=steps, lr=LR, log_every=25)


def erm(model: nn.Module, data: InMemory) -> Task:
    def loss(module: nn.Module, batch: Batch) -> torch.Tensor:
        return sample_losses(module, batch.images, batch.labels).sum()[None]

    return Task(name="erm", model=model, batches=data, counts=lambda batch: torch.tensor([len(batch)]), loss=loss)


def robust(model: nn.Module, data: InMemory) -> Task:
    weights = GroupDRO([1000] * GROUPS)

    def counts(batch: Batch) -> torch.Tensor:
        return torch.bincount(batch.groups, minlength=GROUPS)

    def loss(module: nn.Module, batch: Batch) -> torch.Tensor:
        return sums_by_group(sample_losses(module, batch.images, batch.labels), batch.groups, GROUPS)

    return Task(
        name="groupdro",
        model=model,
        batches=data,
        counts=counts,
        loss=loss,
        weights=weights.weights,
        state=weights.state,
    )


def batches() -> InMemory:
    draws = torch.Generator().manual_seed(0)
    made = []
    for _ in range(8):
        groups = torch.randint(GROUPS, (BATCH,), generator=draws)
        made.append(Batch(torch.rand(BATCH, 3, SIDE, SIDE, generator=draws), groups % 2, groups))
    return InMemory(made)


def small_net() -> nn.Module:
    """About the demo's classifier."""
    torch.manual_seed(0)
    widths = (3, 24, 40, 64)
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.GroupNorm(8, after), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(widths[-1] * (SIDE // 8) ** 2, 2))


def medians(sides: dict[str, Callable[[], object]], trials: int) -> tuple[dict[str, float], dict[str, float]]:
    """Median wall and CPU seconds of each side, measured in turn after one warm-up."""
    walls: dict[str, list[float]] = {name: [] for name in sides}
    cpus: dict[str, list[float]] = {name: [] for name in sides}
    for trial in range(trials + 1):
        for name in list(sides)[:: -1 if trial % 2 else 1]:
            wall, cpu = time.perf_counter(), time.process_time()
            sides[name]()
            if trial:
                walls[name].append(time.perf_counter() - wall)
                cpus[name].append(time.process_time() - cpu)
    return tuple({name: statistics.median(times) for name, times in found.items()} for found in (walls, cpus))  # type: ignore[return-value]
