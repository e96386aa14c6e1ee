"""A run of ``fit`` that does the same in the test and in processes that it starts: ``python runs.py JOB STORE OUT``.

``RANK`` and the like in the environment make it one of several processes.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from small_sets import GROUPS

from ffr_dist.models.classifier import ClassifierConfig, build_classifier, save_weights
from ffr_dist.read.dataset import open_dataset
from ffr_dist.store import Store, open_store
from ffr_dist.train import Checkpoints, FitConfig, FitResult, Score, fit
from ffr_dist.train.classify import classification_task
from ffr_dist.train.stage import Mitigation, Source, Stage

COUNTS = {"land_land": 9, "land_sea": 3, "sea_land": 2, "sea_sea": 9}
EXACT = FitConfig(steps=7, lr=0.05, optimizer="sgd", weight_decay=0.0, clip_norm=1.0, log_every=2)
JOBS: Mapping[str, tuple[Mitigation, FitConfig]] = {
    "erm": ("erm", EXACT),
    "groupdro": ("groupdro", EXACT),
    "resample": ("resample", EXACT),
    "accumulated": ("erm", EXACT.model_copy(update={"accumulation": 2})),
}


def train(
    data: Store, mitigation: Mitigation, config: FitConfig, *, batch: int = 11, checkpoints: Checkpoints | None = None
) -> tuple[torch.nn.Module, FitResult]:
    """23 samples in batches of 11: the last of an epoch is one sample, so that others have none."""
    torch.set_num_threads(1)
    model = build_classifier(ClassifierConfig(width=8), 2, 0)
    if config.optimizer == "sgd":
        model = model.double()
    stage = Stage(name="train", sources=(Source(set="real"),), mitigation=mitigation, batch=batch, fits=())
    sets = {"real": open_dataset(data)}
    task = classification_task(stage, model, sets, GROUPS, 0, validate=score, augment="shift")
    return model, fit(task, config, checkpoints=checkpoints)


def score(model: torch.nn.Module) -> Score:
    weights = next(model.parameters()).detach()
    return Score((float(weights.sum()),))


def start(jobs: list[str], store: str, out: Path, processes: int) -> None:
    """Run jobs, one after the other, in as many processes as one; each writes ``<job>-<rank>``."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    running = []
    for rank in range(processes):
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
        meet = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, __file__, ",".join(jobs), store, str(out)]
        running.append(subprocess.Popen(command, env={**os.environ, **place, **meet}))
    try:
        assert [process.wait(120) for process in running] == [0] * processes
    finally:
        for process in running:
            process.kill()


class Killer(Store):
    """A store whose process dies at the n-th write of a key that ends in ``ending``, before or after it."""

    def __init__(self, url: str, ending: str, number: int, *, before: bool) -> None:
        inner = open_store(url)
        super().__init__(inner.url, inner._backend, inner._writer)
        self._ending, self._left, self._before = ending, number, before

    def put(self, key: str, body: bytes) -> None:
        mine = key.endswith(self._ending)
        self._left -= mine
        if mine and self._left == 0 and self._before:
            os.kill(os.getpid(), signal.SIGKILL)
        super().put(key, body)
        if mine and self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


RESUMED = FitConfig(
    steps=20, lr=0.01, schedule="cosine", warmup_steps=3, validate_every=4, checkpoint_every=3, log_every=7
)


def train_to_files(data: str, out: Path, mitigation: Mitigation, store: Store) -> None:
    model, result = train(open_store(data), mitigation, RESUMED, checkpoints=Checkpoints(store, "fit"), batch=6)
    (out / "weights").write_bytes(save_weights(model))
    (out / "history").write_text(json.dumps([result.history, result.best_step]))


def main() -> None:
    jobs, store, out = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    if jobs == "killed":
        mitigation, ending, number, when = sys.argv[4:]
        killer = Killer(str(out / "checkpoints"), ending, int(number), before=when == "before")
        train_to_files(store, out, mitigation, killer)  # type: ignore[arg-type]
        return
    for job in jobs.split(","):
        mitigation, config = JOBS[job]
        model, result = train(open_store(store), mitigation, config)
        (out / f"{job}-{os.environ['RANK']}").write_bytes(save_weights(model))
        (out / f"{job}-{os.environ['RANK']}.json").write_text(json.dumps(result.history))


if __name__ == "__main__":
    main()
