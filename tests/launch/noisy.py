"""A method of noise, for tests: the whole way of a generation at the price of a few milliseconds, with faults on demand.

A fault strikes where a candidate is sampled: ``raise``, ``hang``, ``die``, ``wrong`` (input), or ``hold``, which waits until the
file ``until`` is there. With ``once`` it leaves its process's number in that file and strikes no more.
"""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
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
UNHURRIED = replace(QUICK, hang_floor=600.0, copy_floor=600.0, silent=300.0)
"""Nothing is taken for a hang, a straggler or silence, however busy the machine is."""


@dataclass(frozen=True)
class Fault:
    kind: str
    group: str
    k: int
    once: str = ""
    until: str = ""

    def strikes(self, requests):
        if not any(request.group == self.group and request.k == self.k for request in requests):
            return False
        if self.once:
            mine = Path(f"{self.once}.{os.getpid()}")
            mine.write_text(str(os.getpid()))
            try:
                os.link(mine, self.once)  # whole or not at all
            except FileExistsError:
                return False
            finally:
                mine.unlink()
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
                while fault.kind == "hold" and not Path(fault.until).exists():
                    time.sleep(0.02)
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
        return self.training.from_scratch(sources=(), by_source=False, mitigation=mitigation)


def noisy_text(data, workers=2, extra=""):
    text = recipe_text(data, workers=("generate: {batch: 4", f"generate: {{workers: {workers}, {extra}batch: 4"))
    head, _, _ = text.partition("compare:")
    return head + "compare:\n  cells:\n    - {arm: none}\n    - {arm: mixed}\n"


def by_value():
    """Actors cannot import modules of the tests."""
    cloudpickle.register_pickle_by_value(noise)
    cloudpickle.register_pickle_by_value(sys.modules[Noisy.__module__])


def noisy_method(recipe, *, faults=(), delay_s=0.0, bad=BAD):
    frozen = tuple((group, tuple(shares.items())) for group, shares in bad.items())
    return Noisy(recipe.seed, recipe.train, tuple(faults), delay_s, frozen)


def noisy_run(data, out, *, faults=(), delay_s=0.05, bad=BAD, workers=2, extra="", tell=None):
    from ffr_dist.config import parse
    from ffr_dist.recipe import Recipe

    by_value()
    text = noisy_text(data, workers, extra)
    method = noisy_method(parse(Recipe, text, "noisy"), faults=faults, delay_s=delay_s, bad=bad)
    return make_run(text, str(out), method=method, tell=tell)


def command(recipe, out, *flags, faults=(), delay_s=0.0, patience=QUICK):
    """A command line for ``ffr generate`` with this method in place of the recipe's."""
    settings = {"faults": [asdict(fault) for fault in faults], "delay_s": delay_s, "patience": asdict(patience)}
    return [sys.executable, __file__, json.dumps(settings), "generate", str(recipe), "--out", str(out), *flags]


def started(argv, *, environment=(), **rest):
    """A process that can import what these tests can."""
    path = os.pathsep.join(filter(None, sys.path))
    return subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONPATH": path} | dict(environment),
        **rest,
    )


def main():
    import noisy  # by its name, so that it pickles by value

    from ffr_dist.cli import main as ffr
    from ffr_dist.launch import context, pool

    settings = json.loads(sys.argv.pop(1))
    faults = [noisy.Fault(**fault) for fault in settings["faults"]]
    noisy.by_value()
    context.build_method = lambda recipe, groups: noisy.noisy_method(recipe, faults=faults, delay_s=settings["delay_s"])
    pool.make_pool.__kwdefaults__["patience"] = replace(Patience(), **settings["patience"])
    ffr()


if __name__ == "__main__":
    main()
