"""A method of noise, for tests: the whole way of a generation at the price of a few milliseconds, with faults on demand.

A fault strikes where a candidate is sampled: ``raise``, ``hang``, ``die`` or ``wrong`` (input). With ``once`` it leaves a file
there and strikes no more.
"""

import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from ray import cloudpickle
from small_run import make_run, recipe_text

from ffr_dist.errors import ConfigError
from ffr_dist.launch.fleet.orders import Patience
from ffr_dist.quota import Exact, Request
from ffr_dist.train.stage import TrainConfig

sys.path.append(str(Path(__file__).parents[1] / "generate"))
import noise

GROUPS = ("low_temple", "low_flowers", "high_temple", "high_flowers")
QUOTA = dict.fromkeys(GROUPS, 24)
BAD = {"low_temple": {"blank": 0.3}, "high_flowers": {"nan": 0.2, "copy": 0.1}}
SIZE = 32
QUICK = Patience(verdict=1.0, backoff_first=0.2, backoff_most=1.0, nobody=5.0)


@dataclass(frozen=True)
class Fault:
    kind: str
    group: str
    k: int
    once: str = ""

    def strikes(self, requests):
        if not any(request.group == self.group and request.k == self.k for request in requests):
            return False
        if self.once:
            try:
                Path(self.once).touch(exist_ok=False)
            except FileExistsError:
                return False
        return True


class FaultySampler(noise.NoiseSampler):
    def __init__(self, faults, **rest):
        super().__init__(**rest)
        self._faults = faults

    def sample(self, requests, fetched):
        for fault in self._faults:
            if fault.strikes(requests):
                if fault.kind == "raise":
                    raise RuntimeError("the device is on fire")
                if fault.kind == "wrong":
                    raise ConfigError("no such generator")
                if fault.kind == "die":
                    os.kill(os.getpid(), signal.SIGKILL)
                if fault.kind == "hang":
                    time.sleep(3600)
        return super().sample(requests, fetched)


@dataclass(frozen=True)
class Noisy:
    seed: int
    training: TrainConfig
    faults: tuple[Fault, ...] = ()
    delay_s: float = 0.0
    bad: tuple[tuple[str, tuple[tuple[str, float], ...]], ...] = ()

    name = "noisy"
    arms = ("none", "mixed")

    def pixel_fields(self):
        return {}

    def check(self):
        pass

    def weights_sha256(self):
        return ""

    def quota(self, real):
        return Exact(QUOTA)

    def arm_counts(self, arm, real):
        return dict.fromkeys(GROUPS, 0)

    def prepare(self, real):
        return ()

    def requests(self, inputs, group, ks):
        return [Request(group=group, k=k, prompt=f"{group} {k}") for k in ks]

    def sampler(self, inputs, device):
        bad = {group: dict(shares) for group, shares in self.bad}
        return FaultySampler(self.faults, seed=self.seed, size=SIZE, bad=bad, delay_s=self.delay_s)

    def train(self, arm, mitigation, real):
        return (self.training.from_scratch(sources=(), by_source=False, mitigation=mitigation),)


def noisy_text(data, workers=2, extra=""):
    text = recipe_text(data, workers=("generate: {batch: 4", f"generate: {{workers: {workers}, {extra}batch: 4"))
    head, _, _ = text.partition("compare:")
    return head + "compare:\n  cells:\n    - {arm: none}\n    - {arm: mixed}\n"


def noisy_run(data, out, *, faults=(), delay_s=0.05, bad=BAD, workers=2, extra="", tell=None):
    from ffr_dist.config import parse
    from ffr_dist.recipe import Recipe

    cloudpickle.register_pickle_by_value(noise)  # actors cannot import a module of the tests
    cloudpickle.register_pickle_by_value(sys.modules[Noisy.__module__])
    text = noisy_text(data, workers, extra)
    recipe = parse(Recipe, text, "noisy")
    frozen = tuple((group, tuple(shares.items())) for group, shares in bad.items())
    method = Noisy(recipe.seed, recipe.train, tuple(faults), delay_s, frozen)
    return make_run(text, str(out), method=method, tell=tell)


def main():
    """A driver in a process of its own: DATA OUT DELAY [join]."""
    import noisy  # by its name, so that it pickles by value

    from ffr_dist.errors import FFRError
    from ffr_dist.launch.pool import make_pool

    data, out, delay_s, *rest = sys.argv[1:]
    run = noisy.noisy_run(Path(data), out, delay_s=float(delay_s))
    try:
        manifest = make_pool(run, join="join" in rest, patience=noisy.QUICK)
    except FFRError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        sys.exit(error.exit_code)
    sys.stdout.write(f"{manifest.manifest_sha256}\n")


if __name__ == "__main__":
    main()
