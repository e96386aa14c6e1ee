"""A GPU fed from shards against one fed from its own memory: ResNet-50 at 224 × 224 through the same ``fit``.

bfloat16, channels last, compiled, 256 images a step, SGD. Ours reads photo-like JPEGs of quality 95 from shards in a local folder,
decodes them in threads and copies them to the GPU; the peer's batches lie there already. The rate is that of the steps between the
first log line, by which the model is compiled, and the last. Without a GPU nothing is measured.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from bench import Line, Row
from bench.pack import pictures
from ffr_dist.groups import Group, Groups
from ffr_dist.models.architectures import ResNetConfig
from ffr_dist.models.classifier import build_classifier
from ffr_dist.read.batches import Batch, ImageBatches
from ffr_dist.read.dataset import Dataset, open_dataset
from ffr_dist.shards.codec import CodecConfig, encode_planes
from ffr_dist.shards.imported import write_imported
from ffr_dist.store import open_store
from ffr_dist.train import FitConfig, Progress, Task, fit
from ffr_dist.train.losses import sample_losses

SIDE, BATCH, CLASSES = 224, 256, 2
GROUPS = Groups.of([Group(f"class_{label}", label, 0) for label in range(CLASSES)])
CODEC = CodecConfig()
DISTINCT = 256
"""Pictures; they take longer to make than to read."""


def run(*, quick: bool) -> Iterator[Line | Row]:
    """The ratio."""
    if not torch.cuda.is_available():
        yield Row(name="train_gpu", side="not measured: torch finds no CUDA device here", figures={})
        return
    steps, trials = (100, 1) if quick else (300, 3)
    with tempfile.TemporaryDirectory() as folder:
        dataset = write_set(folder, images=40 * BATCH)
        rates: dict[str, list[float]] = {"shards": [], "memory": []}
        for _ in range(trials):
            rates["shards"].append(rate(ImageBatches([dataset], GROUPS, batch=BATCH, seed=0), steps))
            rates["memory"].append(rate(OnDevice(dataset), steps))
    ours, peer = (statistics.median(rates[side]) for side in ("shards", "memory"))
    yield Line(name="train_gpu", ours=ours, peer=peer, goal=0.97, unit="images/s")


@dataclass(frozen=True, slots=True)
class OnDevice:
    """One batch, over and over, in the GPU's memory."""

    dataset: Dataset

    def iterate(self, start: int, rank: int, world: int) -> Iterator[Batch]:
        batch = next(ImageBatches([self.dataset], GROUPS, batch=BATCH, seed=0).iterate(start, rank, world)).to("cuda")
        while True:
            yield batch


def rate(batches: ImageBatches | OnDevice, steps: int) -> float:
    """Images a second after the first log line: the median of the others."""
    torch.compiler.reset()
    told: list[Progress] = []
    every = steps // 5
    config = FitConfig(
        steps=steps,
        lr=0.01,
        optimizer="sgd",
        precision="bf16",
        channels_last=True,
        compile=True,
        log_every=every,
    )

    def loss(module: torch.nn.Module, batch: Batch) -> torch.Tensor:
        return sample_losses(module, batch.images.float().div_(255), batch.labels).sum()[None]

    task = Task(
        name="resnet50",
        model=build_classifier(ResNetConfig(depth=50), CLASSES, 0),
        batches=batches,
        counts=lambda batch: torch.tensor([len(batch)]),
        loss=loss,
    )
    fit(task, config, progress=told.append)
    return statistics.median(one.images_per_second or 0.0 for one in told[1:])


def write_set(folder: str, images: int) -> Dataset:
    bodies = [encode_planes(planes, CODEC) for planes in pictures(SIDE, DISTINCT)]
    samples = ((GROUPS.items[row % CLASSES], bodies[row % DISTINCT], f"{row}.jpg") for row in range(images))
    store = open_store(folder)
    write_imported(store, "train", GROUPS, samples, codec=CODEC, size=SIDE, images_per_shard=256)
    return open_dataset(store)
