"""A sampler with no model, for tests: coloured noise that every candidate determines alone, and some bad images.

Like a real one it is a deterministic function of its requests; the batch's shape enters the pixels on purpose, so that
a test notices a batch that is not padded as the plan says.
"""

import hashlib
import threading
import time

import numpy as np
import torch

from ffr_dist.generate.keep import KeepConfig
from ffr_dist.groups import Group, Groups
from ffr_dist.models.sampler import Outcomes
from ffr_dist.plan.document import Pinned
from ffr_dist.quota import Exact, Request
from ffr_dist.seeds import draw_seed
from ffr_dist.shards.codec import CodecConfig

GROUPS = Groups.of([Group("red_cat", 0, 0), Group("red_dog", 1, 0), Group("blue_cat", 0, 1), Group("blue_dog", 1, 1)])
QUOTA = Exact({"red_cat": 30, "red_dog": 12, "blue_cat": 0, "blue_dog": 25})
BAD = {"red_cat": {"blank": 0.3, "copy": 0.2}, "blue_dog": {"nan": 0.4, "copy": 0.1}}
"""Makes several rounds of QUOTA, and leaves shards to trim."""
SIZE = 16
CODEC = CodecConfig(format="jpg", quality=90)
KEEP = KeepConfig()


def pinned(batch=8, images_per_shard=16, threads=1, keep=KEEP):
    return Pinned(
        batch=batch,
        images_per_shard=images_per_shard,
        threads=threads,
        weights_sha256="",
        prepared={},
        keep=keep.model_dump(mode="json"),
    )


def requests(group, ks):
    return [Request(group=group, k=k, prompt=f"a photo of a {group.replace('_', ' ')}") for k in ks]


class NoiseSampler:
    """``bad[group]``: shares of candidates that are blank, NaN, refused by the sampler, or a copy of one image."""

    def __init__(self, seed=0, size=SIZE, bad=None, delay_s=0.0, fail_at=None):
        self.seed = seed
        self._size = size
        self._bad = bad or {}
        self._delay_s = delay_s
        self._fail_at = fail_at
        self._sampling = threading.Lock()
        self.threads = set()
        self.batches = []

    def fetch(self, requests):
        return [
            np.random.default_rng(draw_seed(self.seed, request.group, request.k, "latents")) for request in requests
        ]

    def sample(self, requests, fetched):
        assert self._sampling.acquire(blocking=False), "two threads on one device"
        try:
            self.threads.add(threading.get_ident())
            self.batches.append([(request.group, request.k) for request in requests])
            if self._fail_at in self.batches[-1]:
                raise RuntimeError("the device is on fire")
            time.sleep(self._delay_s)
            return self._outcomes(requests, fetched)
        finally:
            self._sampling.release()

    def _outcomes(self, requests, fetched):
        images, valid, reasons, scores = [], [], [], []
        for request, rng in zip(requests, fetched, strict=True):
            fate = rng.random()
            image = rng.integers(0, 256, (3, self._size, self._size))
            bad = self._bad.get(request.group, {})
            edge, kind = 0.0, "fine"
            for name, share in bad.items():
                edge += share
                if fate < edge:
                    kind = name
                    break
            if kind == "copy":
                image = np.random.default_rng(5).integers(0, 256, image.shape)
            image[:, 0, 0] = len(requests)
            if kind == "blank":
                image[:] = 77
            images.append(image)
            valid.append(kind != "nan")
            reasons.append("no_mask" if kind == "refused" else None)
            scores.append(fate)
        return Outcomes(
            images=torch.tensor(np.array(images), dtype=torch.uint8),
            valid=torch.tensor(valid),
            reasons=reasons if any(reasons) else (),
            scores={"fate": torch.tensor(scores)},
        )


def contents(store, *folders):
    """Every object but commits and what names them: those carry attempts and times."""
    return {
        info.key: hashlib.sha256(store.get(info.key)).hexdigest()
        for folder in folders or ("shards", "plan", "selection")
        for info in store.list(folder)
    }
