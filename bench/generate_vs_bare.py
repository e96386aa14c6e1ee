"""The whole engine against a bare loop of the same sampler at the same batch.

The engine is what ``ffr generate`` runs in one process: driver, worker, keep rules, encoding, tar, hashes, sidecar, durable
objects and commits, from the first plan to the last commit; the bare loop samples the same candidates and drops them.

``generate_device``: a device that is busy a fixed time for each batch and leaves the CPU free: 64 images of 512 × 512 a
second. Nothing but waiting keeps the engine from the bare loop's rate: the floor is the first plan and what follows the
last batch, which no overlap can hide. That is 0.12 CPU seconds of each run (the last batch encoded, its interval packed and
stored, the set settled and finished), hence 0.985 for the 512 images of the quick form and 0.996 for 2048.

``generate_vs_script``: on the same device the published script's way: sample a batch, encode it with the same codec, save
each image, then sample the next. Overlap can hide all but the device's time, so that the goal is 0.97 of script ÷ bare.

``generate_embedded``: the pipeline that is shipped, on the CPU. Where one CPU does all, sampling can have no more than
sample / (sample + encode + pack) of it; each part is measured alone in the same run, and the goal is 0.97 of that.

Trials of all sides alternate; each side's figure is the median, in images a second.
"""

from __future__ import annotations

import hashlib
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from bench import Line
from bench.pack import scratch
from ffr_dist.datasets.embedded import prompts
from ffr_dist.generate.driver import Driver, Finished
from ffr_dist.generate.inline import run_inline
from ffr_dist.generate.keep import KeepConfig, pinned_keep
from ffr_dist.generate.shard import Made, image_file, pack_interval
from ffr_dist.generate.worker import Requests, Worker, WorkSpec
from ffr_dist.groups import Group, Groups
from ffr_dist.models.generator import DiffusersSampler, GeneratorConfig
from ffr_dist.models.sampler import Outcomes, Sampler
from ffr_dist.plan.document import Pinned
from ffr_dist.quota import Exact, Request
from ffr_dist.seeds import draw_seed
from ffr_dist.shards.codec import CodecConfig, encode_planes
from ffr_dist.shards.layout import tar_key
from ffr_dist.store import Store, open_store

CODEC = CodecConfig()
NAMES = ("low_temple", "low_flowers", "high_temple", "high_flowers")
GROUPS = Groups.of([Group(name, place // 2, place % 2) for place, name in enumerate(NAMES)])
GOAL = 0.97
SIDE = 512
BATCH = 16
RATE = 64.0
"""Images a second of the synthetic device."""
TEXTS = prompts()

_numbers = itertools.count()


def run(*, quick: bool) -> Iterator[Line]:
    yield from on_a_device(images=512 if quick else 2048, trials=1 if quick else 3)
    yield on_the_cpu(images=96 if quick else 512, trials=1 if quick else 5)


def on_a_device(images: int, trials: int) -> Iterator[Line]:
    sampler = BusyDevice(BATCH / RATE)
    with scratch() as folder:
        few = images // 8  # what has neither beginning nor end has its rate from fewer
        engine(sampler, folder, 2 * BATCH, BATCH, SIDE)  # imports and first calls are not what is measured
        sides = {
            "bare": lambda: bare(sampler, few, BATCH),
            "engine": lambda: engine(sampler, folder, images, BATCH, SIDE),
            "script": lambda: script(sampler, Path(folder), few, BATCH),
        }
        seconds = medians(sides, trials)
    rates = {name: (images if name == "engine" else few) / took for name, took in seconds.items()}
    yield Line(name="generate_device", ours=rates["engine"], peer=rates["bare"], goal=GOAL, unit="images/s")
    yield Line(
        name="generate_vs_script",
        ours=rates["engine"],
        peer=rates["script"],
        goal=GOAL * rates["bare"] / rates["script"],
        unit="images/s",
    )


def on_the_cpu(images: int, trials: int) -> Line:
    torch.set_num_threads(1)
    config = GeneratorConfig(weights="embedded", steps=10, guidance=2.0, size=32)
    sampler = DiffusersSampler(config, seed=0)
    with scratch() as folder:
        sides = {
            "bare": lambda: bare(sampler, images, BATCH),
            "engine": lambda: engine(sampler, folder, images, BATCH, config.size),
            "rest": lambda: rest(open_store(f"{folder}/rest"), images),
        }
        seconds = medians(sides, trials)
    bound = seconds["bare"] / (seconds["bare"] + seconds["rest"])
    return Line(
        name="generate_embedded",
        ours=images / seconds["engine"],
        peer=images / seconds["bare"],
        goal=GOAL * bound,
        unit="images/s",
    )


class BusyDevice:
    """A device with a fixed time for each batch. It copies images that lie ready, each with a stamp that tells it apart."""

    def __init__(self, seconds: float) -> None:
        self.seed = 0
        self._seconds = seconds
        self._ready = torch.from_numpy(photographs(BATCH, SIDE))

    def fetch(self, requests: Sequence[Request]) -> torch.Tensor:
        seeds = [draw_seed(self.seed, request.group, request.k, "latents") for request in requests]
        bits = np.unpackbits(np.array(seeds, ">u8").view(np.uint8).reshape(len(seeds), 8), axis=1)
        return torch.from_numpy(bits.reshape(-1, 1, 8, 8) * np.uint8(255))

    def sample(self, requests: Sequence[Request], fetched: torch.Tensor) -> Outcomes:
        ends = time.perf_counter() + self._seconds
        images = self._ready[: len(requests)].clone()
        images[:, :, :8, :8] = fetched
        valid = torch.ones(len(requests), dtype=torch.bool)
        time.sleep(max(0.0, ends - time.perf_counter()))
        return Outcomes(images=images, valid=valid)


def photographs(count: int, side: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Colours that drift over the image, with grain: about the bytes per pixel of a photograph."""
    random = np.random.default_rng(0)
    coarse = torch.from_numpy(random.uniform(0, 255, (count, 3, 9, 9)))
    smooth = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic").numpy()
    return np.clip(smooth + random.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8)


def batches(images: int, size: int) -> Iterator[list[Request]]:
    """The candidates of a run, the same number of each group."""
    wanted = [request for k in range(images // len(NAMES)) for name in NAMES for request in requests(name, [k])]
    for start in range(0, len(wanted), size):
        yield wanted[start : start + size]


def requests(group: str, ks: Sequence[int]) -> list[Request]:
    texts = TEXTS[group]
    return [Request(group=group, k=k, prompt=texts[draw_seed(0, group, k, "prompt") % len(texts)]) for k in ks]


def bare(sampler: Sampler, images: int, size: int) -> None:
    for batch in batches(images, size):
        sampler.sample(batch, sampler.fetch(batch)).images.cpu()


def script(sampler: Sampler, folder: Path, images: int, size: int) -> None:
    """One thing after the other, a file for each image."""
    with tempfile.TemporaryDirectory(dir=folder) as out:
        for batch in batches(images, size):
            made = sampler.sample(batch, sampler.fetch(batch)).images.cpu().numpy()
            for request, planes in zip(batch, made, strict=True):
                Path(out, f"{request.group}-{request.k}.jpg").write_bytes(encode_planes(planes, CODEC))


def engine(sampler: Sampler, folder: str, images: int, batch: int, side: int) -> None:
    """From the first plan to the last commit, into an output of its own."""
    store = open_store(f"{folder}/out-{next(_numbers)}")
    pinned = Pinned(
        batch=batch,
        images_per_shard=256,
        threads=1,
        weights_sha256="",
        prepared={},
        keep=pinned_keep(KeepConfig()),
    )
    driver = Driver(store, GROUPS, Exact(dict.fromkeys(NAMES, images // len(NAMES))), pinned)
    spec = WorkSpec(groups=GROUPS, codec=CODEC, size=side, pinned=pinned)
    made: Requests = requests
    with Worker(spec, store, sampler, made) as worker:
        end = run_inline(driver, worker)
    assert isinstance(end, Finished), end
    assert not end.settled.shortfall, end.settled.shortfall


def rest(store: Store, images: int) -> None:
    """What follows sampling, in one thread: keep rules' sums aside, an engine can do no less."""
    planes = photographs(BATCH, 32)
    made = []
    for number, batch in enumerate(batches(images, 256)):
        for place, request in enumerate(batch):
            file = image_file(planes[place % BATCH], CODEC, looks=False)
            made.append(Made(request, seed=0, reason=None, scores={"std": 1.0, "grey": 1.0}, file=file, thumbnail=None))
        shard = pack_interval(made, GROUPS, CODEC)
        assert shard.tar is not None
        store.put(tar_key(number, hashlib.sha256(shard.tar).hexdigest()), shard.tar)
        made.clear()


def medians(sides: Mapping[str, Callable[[], object]], trials: int) -> dict[str, float]:
    """Median wall seconds of each, measured in turn."""
    measured: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(trials):
        for name, side in sides.items():
            began = time.perf_counter()
            side()
            measured[name].append(time.perf_counter() - began)
    return {name: statistics.median(seconds) for name, seconds in measured.items()}
