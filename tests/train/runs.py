"""A run of ``fit`` that does the same in the test and in processes that it starts: ``python runs.py HOW DATA OUT …``.

``RANK`` and the like in the environment make it one of several processes.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import IO

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from points import net, plane_task
from small_sets import GROUPS

from ffr_dist.errors import FFRError, StoppedError
from ffr_dist.models.architectures import SmallCNNConfig
from ffr_dist.models.classifier import build_classifier, save_weights
from ffr_dist.read.dataset import open_dataset
from ffr_dist.store import Store, open_store
from ffr_dist.store.folder import Folder
from ffr_dist.train import Checkpoints, FitConfig, FitResult, Score, Task, fit
from ffr_dist.train.augment import AugmentConfig
from ffr_dist.train.classify import classification_task
from ffr_dist.train.stage import Mitigation, Source, Stage

COUNTS = {"land_land": 9, "land_sea": 3, "sea_land": 2, "sea_sea": 9}
EXACT = FitConfig(steps=7, lr=0.05, optimizer="sgd", weight_decay=0.0, clip_norm=1.0, log_every=2)
JOBS: Mapping[str, tuple[Mitigation, FitConfig]] = {
    "erm": ("erm", EXACT),
    "groupdro": ("groupdro", EXACT),
    "resample": ("resample", EXACT),
    "accumulated": ("erm", EXACT.model_copy(update={"accumulation": 2, "ema": 0.5})),
}


class Watched:
    """Batches that are written down as they are taken: a line a step. May end the process, or the run, at one."""

    def __init__(self, inner, file: Path, *, stop: int | None = None, kill: signal.Signals | None = None) -> None:
        self._inner, self._file, self._stop, self._kill = inner, file, stop, kill

    def iterate(self, start, rank, world):
        with self._file.open("a") as file:
            for step, batch in enumerate(self._inner.iterate(start, rank, world), start):
                if step == self._stop:
                    if self._kill is not None and rank == world - 1:
                        os.kill(os.getpid(), self._kill)
                    if self._kill is None:
                        raise StoppedError("asked to")
                file.write(json.dumps([step, batch.positions.tolist(), batch.labels.tolist()]) + "\n")
                file.flush()
                yield batch


def make_task(data: Store, mitigation: Mitigation, *, batch: int = 11, double: bool = True) -> Task:
    """23 samples in batches of 11: the last of an epoch is one sample, so that others have none."""
    torch.set_num_threads(1)
    model = build_classifier(SmallCNNConfig(width=8), 2, 0)
    model = model.double() if double else model
    stage = Stage(name="train", sources=(Source(set="real"),), mitigation=mitigation, batch=batch, fits=())
    sets = {"real": open_dataset(data)}
    return classification_task(stage, model, sets, GROUPS, 0, validate=score, augment=AugmentConfig(shift=2))


def train(
    data: Store, mitigation: Mitigation, config: FitConfig, *, batch: int = 11, checkpoints: Checkpoints | None = None
) -> tuple[torch.nn.Module, FitResult]:
    task = make_task(data, mitigation, batch=batch, double=config.optimizer == "sgd")
    return task.model, fit(task, config, checkpoints=checkpoints)


def score(model: torch.nn.Module) -> Score:
    weights = next(model.parameters()).detach()
    return Score((float(weights.sum()),))


def started(
    how: str, data: str, out: Path, processes: int, *arguments: str, script: str = __file__
) -> list[subprocess.Popen]:
    """As many processes as one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    running = []
    for rank in range(processes):
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
        meet = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, script, how, data, str(out), *arguments]
        running.append(
            subprocess.Popen(command, env={**os.environ, **place, **meet}, stderr=subprocess.PIPE, text=True)
        )
    return running


def ended(running: list[subprocess.Popen], seconds: float = 120) -> list[tuple[int, str]]:
    """Exit code and last words of each, which has so long."""
    try:
        words = [process.communicate(timeout=seconds)[1] for process in running]
        return [(process.returncode, text) for process, text in zip(running, words, strict=True)]
    finally:
        for process in running:
            process.kill()
            process.wait()


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


class Unlooked(Checkpoints):
    """Of a process that must not look for itself which checkpoint is the newest."""

    def find(self):
        raise AssertionError


class SlowFolder(Folder):
    """A folder to which half of a body is written, and the rest a while later."""

    def put(self, key: str, body: bytes) -> None:
        def write(file: IO[bytes]) -> None:
            file.write(body[: len(body) // 2])
            file.flush()
            time.sleep(0.03)
            file.write(body[len(body) // 2 :])

        with self._errors(key):
            self._publish(key, write, os.replace)


RESUMED = FitConfig(
    steps=20, lr=0.01, schedule="cosine", warmup_steps=3, validate_every=4, checkpoint_every=3, log_every=7, ema=0.8
)
LONG = RESUMED.model_copy(update={"steps": 45})


def train_to_files(
    data: str, out: Path, mitigation: Mitigation, store: Store, config: FitConfig = RESUMED, watched: Path | None = None
) -> None:
    task = make_task(open_store(data), mitigation, batch=6, double=False)
    if watched is not None:
        task = replace(task, batches=Watched(task.batches, watched))
    result = fit(task, config, checkpoints=Checkpoints(store, "fit"))
    (out / "weights").write_bytes(save_weights(task.model))
    (out / "history").write_text(json.dumps([result.history, result.best_step], sort_keys=True))


def kill_at_any_moment(data: str, out: Path, kills: int) -> dict[str, int]:
    """Start a run, kill it, start it again, and anew once it is whole; each a process forked before anything is done.

    The files of whole runs are ``weights-0``, ``history-0``, …
    """
    moments = random.Random(0)
    seen = {"killed": 0, "within an upload": 0, "whole": 0}
    folder = out / "run"
    while seen["killed"] < kills or folder.exists():
        folder.mkdir(exist_ok=True)
        steps = folder / "steps"
        child = os.fork()
        if child == 0:
            root = SlowFolder(folder / "checkpoints")
            train_to_files(data, folder, "erm", Store(str(root.root), root, root), LONG, steps)
            os._exit(0)
        ended = 0
        while not ended and not steps.exists():
            time.sleep(0.002)
            ended, _ = os.waitpid(child, os.WNOHANG)
        if not ended and seen["killed"] < kills:
            time.sleep(moments.uniform(0, 0.8))
            os.kill(child, signal.SIGKILL)
        if not ended:
            _, status = os.waitpid(child, 0)
            seen["killed"] += os.WIFSIGNALED(status)
        # A write that was cut off leaves its temporary file.
        left = list(folder.rglob(".*#1"))
        seen["within an upload"] += bool(left)
        for file in [*left, *folder.glob("steps")]:
            file.unlink()
        if (folder / "history").exists():
            for name in ("weights", "history"):
                (folder / name).rename(out / f"{name}-{seen['whole']}")
            seen["whole"] += 1
            shutil.rmtree(folder)
    return seen


def main() -> None:
    how, data, out, *rest = sys.argv[1:]
    folder = Path(out)
    rank, world = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    match how:
        case "killed":
            mitigation, ending, number, when = rest
            killer = Killer(str(folder / "checkpoints"), ending, int(number), before=when == "before")
            train_to_files(data, folder, mitigation, killer)  # type: ignore[arg-type]
        case "any moment":
            (folder / "seen").write_text(json.dumps(kill_at_any_moment(data, folder, int(rest[0]))))
        case "norm":
            fit(plane_task(net(norm=True)), EXACT)
        case "together":
            for job in rest:
                mitigation, config = JOBS[job]
                model, result = train(open_store(data), mitigation, config)
                (folder / f"{job}-{rank}").write_bytes(save_weights(model))
                (folder / f"{job}-{rank}.json").write_text(json.dumps(result.history))
        case "until":
            stop, kill = int(rest[0]), signal.Signals[rest[1]] if rest[1:] else None
            task = make_task(open_store(data), "groupdro")
            watched = Watched(task.batches, folder / f"steps-{world}-{rank}", stop=stop, kill=kill)
            kind = Checkpoints if rank == "0" else Unlooked
            checkpoints = kind(open_store(str(folder / "checkpoints")), "fit")
            fit(replace(task, batches=watched), ELASTIC, checkpoints=checkpoints)
            (folder / f"weights-{rank}").write_bytes(save_weights(task.model))


ELASTIC = EXACT.model_copy(update={"checkpoint_every": 1})

if __name__ == "__main__":
    try:
        main()
    except FFRError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(error.exit_code)
