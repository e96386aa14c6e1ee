"""The two commands that ``generate_vs_ray_data`` measures: ``python -m bench._ray_sides ours|peer FILE``.

Both make the same images with the same sampler on the same number of Ray actors, encode them alike, and write tars of the same
size to the same file system. The command is its own way to go on: started again after a crash it finishes what is missing.
"""

# Neither side pays for the other's imports, and a method takes what its protocol says.
# ruff: noqa: ARG002, PLC0415

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ffr_dist.datasets.embedded import GROUPS
from ffr_dist.groups import Groups
from ffr_dist.models.sampler import Outcomes
from ffr_dist.quota import Exact, Request
from ffr_dist.records import sample_json, synthetic_key
from ffr_dist.seeds import draw_seed
from ffr_dist.shards.codec import CodecConfig, encode_planes

CODEC = CodecConfig()
NAMES = GROUPS.names[:2]
"""The groups that images are made of."""
_PICTURES = 32
_SEED = 3
_CPUS = 4
"""Logical ones of Ray: a worker takes one, and the peer's tasks must not wait for those."""
IN_FLIGHT = 2
"""Blocks of one of the peer's actors, as many as intervals of ours. Its default of 4 starves one of two actors at the end."""
_RECIPE = """
name: bench
seed: {seed}
output: {output}
data: {{kind: embedded, train: 64, val: 32, test: 32}}
size: {size}
method:
  name: ffr
  generator: {{weights: embedded, steps: 1, guidance: 1.0, size: {size}}}
  prompts: {{low_temple: [one], low_flowers: [one], high_temple: [six], high_flowers: [six]}}
generate: {{workers: {workers}, batch: {batch}, images_per_shard: {per_shard}}}
train: {{pretrain_steps: 1, finetune_steps: 1, batch: 8, lrs: [0.1], finetune_lrs: [0.1]}}
compare: {{cells: [{{arm: none}}]}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a side is to make, and where."""

    folder: str
    """Holds ``set``, the output, and ``made``, the log of the devices."""
    ray_folder: str
    images: int
    """Equally many of each of ``NAMES``."""
    size: int
    batch: int
    per_shard: int
    workers: int
    rate: float
    """Images a second of one worker's device."""
    checkpoint: bool = True
    """The peer's CheckpointConfig; ours has no such choice."""
    encode_stage: bool = False
    """The peer's images are encoded by tasks of a stage of their own, not by the actors that sample."""

    @property
    def set(self) -> Path:
        return Path(self.folder) / "set"

    @property
    def made(self) -> Path:
        return Path(self.folder) / "made"

    @property
    def finished(self) -> Path:
        """Written when the set is complete, before Ray is stopped."""
        return Path(self.folder) / "finished"

    def save(self) -> Path:
        file = Path(self.folder) / "plan.json"
        file.write_text(json.dumps(asdict(self)))
        return file


class Device:
    """A sampler whose device is busy for a fixed time per batch and leaves the CPU free, as a GPU does.

    Each image it makes is a line of ``made``: when, by which process, which.
    """

    seed = _SEED

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._pictures = pictures(plan.size)
        self._made = os.open(plan.made, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def fetch(self, requests: Sequence[Request]) -> torch.Tensor:
        return torch.from_numpy(np.stack([self._picture(request) for request in requests]))

    def sample(self, requests: Sequence[Request], fetched: torch.Tensor) -> Outcomes:
        time.sleep(len(requests) / self._plan.rate)
        stamp = f"{time.time():.6f} {os.getpid()}"
        lines = dict.fromkeys(f"{stamp} {synthetic_key(request.group, request.k)}\n" for request in requests)
        os.write(self._made, "".join(lines).encode())  # one write: lines of two processes do not mix
        return Outcomes(images=fetched, valid=torch.ones(len(requests), dtype=torch.bool))

    def _picture(self, request: Request) -> NDArray[np.uint8]:
        """Another one for each candidate, since copies would be sorted out."""
        draw = draw_seed(self.seed, request.group, request.k, "latents")
        picture = self._pictures[draw % _PICTURES]
        return np.roll(picture, (draw // 64 % self._plan.size, draw // 2**32 % self._plan.size), axis=(1, 2))


def pictures(side: int) -> NDArray[np.uint8]:
    """(count, 3, side, side): periodic waves of colour with a little noise, about the bytes of a photograph."""
    random = np.random.default_rng(0)
    ramp = np.linspace(0, 2 * np.pi, side, endpoint=False)
    made = []
    for _ in range(_PICTURES):
        waves = [np.sin(ramp * random.integers(1, 6) + random.uniform(0, 6)) for _ in range(6)]
        planes = np.stack([np.add.outer(waves[2 * plane], waves[2 * plane + 1]) for plane in range(3)])
        made.append(np.clip(128 + 55 * planes + random.normal(0, 6, planes.shape), 0, 255).astype(np.uint8))
    return np.stack(made)


def request_of(group: str, k: int) -> Request:
    return Request(group=group, k=k, prompt=f"a photo of {group}")


# Ours.


@dataclass(frozen=True)
class Made:
    """A method that asks the device for equally many images of two groups."""

    plan: Plan
    groups: Groups

    name = "bench"
    arms = ("none",)

    def pixel_fields(self) -> Mapping[str, Any]:
        return {}

    def check(self) -> None:
        pass

    def weights_sha256(self) -> str:
        return ""

    def quota(self, real: Mapping[str, int]) -> Exact:
        return Exact({name: self.plan.images // len(NAMES) if name in NAMES else 0 for name in self.groups.names})

    def arm_counts(self, arm: str, real: Mapping[str, int]) -> Mapping[str, int]:
        return dict.fromkeys(self.groups.names, 0)

    def prepare(self, real: Mapping[str, Any]) -> tuple[()]:
        return ()

    def requests(self, inputs: Any, group: str, ks: Sequence[int]) -> list[Request]:
        return [request_of(group, k) for k in ks]

    def sampler(self, inputs: Any, device: str) -> Device:
        return Device(self.plan)

    def train(self, arm: str, mitigation: Any, real: Mapping[str, int]) -> tuple[()]:
        return ()


def ours(plan: Plan) -> None:
    from ffr_dist.config import parse
    from ffr_dist.launch.context import check_recipe, start_run
    from ffr_dist.launch.pool import make_pool
    from ffr_dist.recipe import Recipe

    settings = {"size": plan.size, "workers": plan.workers, "batch": plan.batch, "per_shard": plan.per_shard}
    text = _RECIPE.format(seed=_SEED, output=plan.set, **settings)
    checked = check_recipe(parse(Recipe, text, "bench"), text, Made(plan, GROUPS))
    make_pool(start_run(checked, command="python -m bench generate_vs_ray_data"))


# The peer.


class SampleStage:
    """A stage of ``map_batches``: ids to pixels, or with ``encode`` to image files.

    Two calls run at once, so that one fetches or encodes while the other samples.
    """

    def __init__(self, plan: Plan, encode: bool) -> None:
        self._device = Device(plan)
        self._encode = encode
        self._turn = threading.Lock()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        requests = [request_of(*_split(number)) for number in batch["id"].tolist()]
        fetched = self._device.fetch(requests)
        with self._turn:
            outcomes = self._device.sample(requests, fetched)
        sampled = {"id": batch["id"], "pixels": outcomes.images.numpy()}
        return encode_stage(sampled) if self._encode else sampled


def encode_stage(batch: dict[str, Any]) -> dict[str, Any]:
    """A stage of ``map_batches``: pixels to what ``write_webdataset`` takes."""
    keys, notes = [], []
    for number in batch["id"].tolist():
        group, k = _split(number)
        keys.append(synthetic_key(group, k))
        seed = draw_seed(_SEED, group, k, "latents")
        prompt = request_of(group, k).prompt
        notes.append(sample_json(keys[-1], GROUPS.by_name(group), "synthetic", seed=seed, prompt=prompt))
    files = [encode_planes(planes, CODEC) for planes in batch["pixels"]]
    return {"id": batch["id"], "__key__": keys, CODEC.format: files, "json": notes}


def members(sample: dict[str, Any]) -> dict[str, Any]:
    """What of a row belongs into the tar: all but the column that the checkpoints want."""
    return {name: value for name, value in sample.items() if name != "id"}


def peer(plan: Plan) -> None:
    import ray.data
    from ray.data.checkpoint import CheckpointConfig

    context = ray.data.DataContext.get_current()
    if plan.checkpoint:
        context.checkpoint_config = CheckpointConfig("id", f"{plan.folder}/checkpoint")
    # A source that checkpoints can filter (from_items is none), and a block for each tar.
    data = ray.data.range(plan.images, override_num_blocks=-(-plan.images // plan.per_shard))
    data = data.map_batches(
        SampleStage,
        fn_constructor_args=(plan, not plan.encode_stage),
        batch_size=plan.batch,
        num_cpus=1,
        compute=ray.data.ActorPoolStrategy(
            size=plan.workers,
            max_tasks_in_flight_per_actor=IN_FLIGHT,
            max_concurrent_calls_per_actor=IN_FLIGHT,
            enable_true_multi_threading=True,
        ),
    )
    if plan.encode_stage:
        data = data.map_batches(encode_stage, batch_size=None, zero_copy_batch=True)
    data.write_webdataset(str(plan.set), encoder=members)


def _split(number: int) -> tuple[str, int]:
    """The group and k of a row."""
    return NAMES[number % len(NAMES)], number // len(NAMES)


def main() -> None:
    import ray

    side, file = sys.argv[1:]
    plan = Plan(**json.loads(Path(file).read_text()))
    ray.init(
        num_cpus=_CPUS,
        include_dashboard=False,
        object_store_memory=256 * 2**20,
        _temp_dir=plan.ray_folder,
        log_to_driver=False,
        logging_level="ERROR",
    )
    {"ours": ours, "peer": peer}[side](plan)
    plan.finished.write_text(str(time.time()))
    ray.shutdown()


if __name__ == "__main__":
    main()
