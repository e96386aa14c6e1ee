"""A second method, for tests only: it edits real images, so that the walls of the house are tried by more than FFR.

It trains one artefact beforehand (the mean colour of the real images), keeps what survives its filter (no top-up), knows no
bias (-1), and names the real image behind each of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from safetensors.torch import load as load_tensors
from torch import nn

from ffr_dist.groups import Groups
from ffr_dist.methods import MapStep, TrainStep
from ffr_dist.models.sampler import Outcomes
from ffr_dist.quota import Request, Survivors
from ffr_dist.read.dataset import open_dataset
from ffr_dist.seeds import draw_seed
from ffr_dist.shards.codec import decode
from ffr_dist.shards.manifest import read_manifest
from ffr_dist.train import FitConfig, Task
from ffr_dist.train.stage import Source, TrainConfig


class Colour(nn.Module):
    def __init__(self):
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(3))

    def forward(self):
        return self.mean


@dataclass
class Pixels:
    colours: torch.Tensor

    def __len__(self):
        return len(self.colours)

    def to(self, device):
        return Pixels(self.colours.to(device))


class Means:
    """The mean colours of a set, the same batch at each step."""

    def __init__(self, store):
        dataset = open_dataset(store)
        bodies = dataset.images(range(min(64, len(dataset))))
        self._colours = torch.tensor(np.stack([decode(body).mean((0, 1)) / 255 for body in bodies]))

    def iterate(self, start, rank, world):
        while True:
            yield Pixels(self._colours.float())


def tint_task(inputs):
    return Task(
        name="tint",
        model=Colour(),
        batches=Means(inputs.real["train"]),
        counts=lambda batch: torch.tensor([len(batch)]),
        loss=lambda model, batch: ((model() - batch.colours) ** 2).sum()[None],
    )


@dataclass(frozen=True)
class EditSampler:
    seed: int
    real: object
    colour: torch.Tensor
    device: str = "cpu"

    def fetch(self, requests):
        dataset = open_dataset(self.real)
        rows = {key: row for row, key in enumerate(dataset.keys.to_pylist())}
        images = dataset.images([rows[request.source_key] for request in requests])
        sources = torch.tensor(np.stack([decode(body) for body in images])).permute(0, 3, 1, 2)
        shares = [draw_seed(self.seed, r.group, r.k, "noise") % 1000 / 1000 for r in requests]
        return sources, torch.tensor(shares)

    def sample(self, requests, fetched):
        sources, shares = fetched
        share = shares[:, None, None, None] / 2
        mixed = (1 - share) * sources / 255 + share * self.colour[None, :, None, None]
        return Outcomes(
            images=(mixed.clamp(0, 1) * 255).round().to(torch.uint8),
            valid=torch.ones(len(requests), dtype=torch.bool),
            reasons=["no_mask" if request.k % 7 == 3 else None for request in requests],
            scores={"share": shares},
        )


@dataclass(frozen=True)
class Edit:
    groups: Groups
    seed: int
    training: TrainConfig
    tries: int

    name = "edit"
    arms = ("none", "mixed")

    def pixel_fields(self):
        return {"tries": self.tries}

    def check(self):
        pass

    def weights_sha256(self):
        return ""

    def quota(self, real):
        return Survivors(dict.fromkeys(self.groups.names, self.tries))

    def arm_counts(self, arm, real):
        return dict.fromkeys(self.groups.names, self.tries if arm == "mixed" else 0)

    def prepare(self, real):
        train = real.get("train")
        identity = {"train": read_manifest(train).manifest_sha256 if train else None}
        tint = TrainStep(name="tint", identity=identity, task=tint_task, fit=FitConfig(steps=30, lr=0.05))
        drafts = MapStep(name="drafts", identity=identity, requests=self._drafts, sampler=self._draft_sampler)
        return (tint, drafts)

    def _drafts(self, inputs):
        return [request for group in self.groups.names for request in self.requests(inputs, group, range(6))]

    def _draft_sampler(self, inputs, device):
        return self.sampler(inputs, device)

    def requests(self, inputs, group, ks):
        dataset = open_dataset(inputs.real["train"])
        names = dataset.groups.names
        keys = [
            key
            for key, number in zip(dataset.keys.to_pylist(), dataset.group_ids, strict=True)
            if names[number] == group
        ]
        return [Request(group=group, k=k, source_key=str(keys[k % len(keys)])) for k in ks]

    def sampler(self, inputs, device):
        colour = load_tensors(inputs.prepared["tint"].get("weights.safetensors"))["mean"]
        return EditSampler(self.seed, inputs.real["train"], colour)

    def train(self, arm, mitigation, real):
        sources = (Source(set="real"), Source(set="synthetic")) if arm == "mixed" else (Source(set="real"),)
        return self.training.from_scratch(sources=sources, by_source=arm == "mixed", mitigation=mitigation)
