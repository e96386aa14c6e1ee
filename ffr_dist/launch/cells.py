"""Cells of the comparison: trained stage by stage, scored on test, one JSON each.

A stage lies in ``train/<hash>/``, where the hash covers what it asks for, the fingerprints of the data it reads, its seed and
the weights it starts from. So a stage that two cells share (FFR's pretraining) is trained once, and a stage that anyone
needs again is found. ``stage.json`` is written last: without it the stage is not done.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from ffr_dist.config import digest
from ffr_dist.errors import BrokenError, DataError, InputError, MissingError
from ffr_dist.evaluate.score import count_correct
from ffr_dist.launch.context import Run
from ffr_dist.launch.events import Began, Ended, Training, Warned
from ffr_dist.metrics import Count, group_metrics
from ffr_dist.models.classifier import build_classifier, load_weights, save_weights
from ffr_dist.read.dataset import Dataset, open_dataset
from ffr_dist.recipe import CellConfig
from ffr_dist.shards import layout
from ffr_dist.store import Store
from ffr_dist.train import Checkpoints, FitConfig, FitResult, Progress, Score, fit
from ffr_dist.train.classify import classification_task
from ffr_dist.train.stage import Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class CellData:
    """The sets of one seed, opened: read-only and shared by all cells of the seed."""

    sets: Mapping[str, Dataset]
    """``real``, ``synthetic``, ``generator``: what stages may name."""
    val: Dataset
    test: Dataset
    real_fingerprint: str
    pool_fingerprint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedStage:
    """A finished stage."""

    folder: str
    weights: str
    """Key of the weights in the run's store."""
    sha256: str
    identity: Mapping[str, Any]
    history: list[dict[str, Any]]
    seconds: float
    """What training took, all alternatives together; of the last start only, where it was resumed."""
    chosen: Mapping[str, Any]
    """The fit settings that validated best, its score and step."""


def open_cell_data(run: Run, stores: Mapping[str, Store]) -> CellData:
    """Open the imported real sets of a seed and the finished pool."""
    opened = {name: open_dataset(store) for name, store in stores.items()}
    pool = open_dataset(run.store)
    sets = {"real": opened["train"], "synthetic": pool}
    if "generator" in opened:
        sets["generator"] = opened["generator"]
    for name in ("val", "test"):
        empty = [group for group, count in opened[name].counts().items() if count == 0]
        if empty:
            raise DataError(f"the {name} split declares group {', '.join(empty)} but holds no sample of it")
    real = digest({name: opened[name].fingerprint for name in ("train", "val", "test")})
    return CellData(
        sets=sets, val=opened["val"], test=opened["test"], real_fingerprint=real, pool_fingerprint=pool.fingerprint
    )


def stages_of(run: Run, cell: CellConfig, data: CellData) -> tuple[Stage, ...]:
    """What the method wants trained for a cell."""
    stages = run.method.train(cell.arm, cell.mitigation, data.sets["real"].counts())
    for stage in stages:
        for source in stage.sources:
            if source.set not in data.sets:
                raise InputError(f"arm {cell.arm} needs the set {source.set!r}, which this dataset does not have")
    return stages


def train_cell(
    run: Run, cell: CellConfig, seed: int, data: CellData, *, until: str | None = None
) -> list[TrainedStage]:
    """Train the stages of a cell that are not done yet, up to the one named ``until``; all of them, in order."""
    trained: list[TrainedStage] = []
    stages = stages_of(run, cell, data)
    if until is not None and until not in {stage.name for stage in stages}:
        raise InputError(f"arm {cell.arm} has no stage {until!r}; it has {', '.join(stage.name for stage in stages)}")
    for stage in stages:
        trained.append(_train_stage(run, _Asked(cell, seed, stage, trained[-1] if trained else None), data))
        if stage.name == until:
            break
    return trained


def score_cell(run: Run, cell: CellConfig, seed: int, data: CellData, stages: Sequence[TrainedStage]) -> dict[str, Any]:
    """The row of results of a trained cell, scored on test once and kept beside its weights."""
    trained = stages[-1]
    key = f"{trained.folder}/test-{data.test.fingerprint[:12]}.json"
    try:
        found = json.loads(run.store.get(key))
        counts = {name: Count(*found[name]) for name in data.test.groups.names}
    except MissingError:
        counts = count_correct(_load(run, trained, data), data.test)
        body = {name: [count.correct, count.count] for name, count in counts.items()}
        run.store.put(key, json.dumps(body, sort_keys=True).encode())
    metrics = group_metrics(counts, data.sets["real"].counts())
    return {
        "method": run.method.name,
        "arm": cell.arm,
        "mitigation": cell.mitigation,
        "bias_ratio": getattr(run.recipe.data, "bias_ratio", None),
        "seed": seed,
        "worst_group": metrics.worst_group,
        "group_mean": metrics.group_mean,
        "train_weighted_mean": metrics.train_weighted_mean,
        "micro": metrics.micro,
        "n_worst": metrics.n_worst,
        "pool": data.pool_fingerprint,
        "real": data.real_fingerprint,
        "groups": {name: {"correct": count.correct, "count": count.count} for name, count in counts.items()},
        "stages": [stage.folder for stage in stages],
        "chosen": dict(trained.chosen),
    }


@dataclass(frozen=True, slots=True)
class _Asked:
    """A stage to train: whose, and from what."""

    cell: CellConfig
    seed: int
    stage: Stage
    before: TrainedStage | None

    @property
    def cell_name(self) -> str:
        return f"{self.cell.arm} × {self.cell.mitigation}, seed {self.seed}"

    @property
    def what(self) -> str:
        return f"{self.stage.name}: {self.cell_name}"


@dataclass(frozen=True, slots=True)
class _Fitted:
    """One of a stage's alternatives, trained."""

    config: FitConfig
    result: FitResult
    weights: bytes

    @property
    def value(self) -> tuple[float, ...]:
        return () if self.result.best is None else self.result.best.value


def _train_stage(run: Run, asked: _Asked, data: CellData) -> TrainedStage:
    chosen = {
        str(source.set): data.sets[source.set].fingerprint
        if source.counts is None
        else data.sets[source.set].lowest(source.counts).fingerprint
        for source in asked.stage.sources
    }
    identity = {
        "stage": asked.stage.identity(),
        "model": run.recipe.train.model.model_dump(mode="json"),
        "augment": run.recipe.train.augment,
        "seed": asked.seed,
        "sets": chosen,
        "val": data.val.fingerprint,
        "init": None if asked.before is None else asked.before.sha256,
    }
    folder = layout.train_folder(digest(identity, 16))
    found = read_stage(run.store, folder)
    if found is not None:
        run.tell(Ended(asked.what, _told(found), reused=True))
        return found
    run.tell(Began(asked.what))
    began = time.monotonic()
    fits = [
        _fit(
            run,
            asked,
            data,
            config=template.model_copy(update={"seed": asked.seed}),
            prefix=f"{folder}/fit-{number}",
        )
        for number, template in enumerate(asked.stage.fits)
    ]
    best = max(fits, key=lambda fitted: fitted.value)  # the first of equals
    trained = _write_stage(run.store, folder, identity, best, time.monotonic() - began)
    _warn_if_worse(run, asked, trained)
    run.tell(Ended(asked.what, _told(trained)))
    return trained


def _fit(run: Run, asked: _Asked, data: CellData, *, config: FitConfig, prefix: str) -> _Fitted:
    model = build_classifier(run.recipe.train.model, data.sets["real"].groups.classes, asked.seed)
    if asked.before is not None:
        model.load_state_dict(load_weights(_weights_body(run.store, asked.before)))

    def validate(model: nn.Module) -> Score:
        return _score(model, data.val)

    def tell(progress: Progress) -> None:
        run.tell(Training(asked.cell_name, asked.stage.name, progress))

    task = classification_task(
        asked.stage,
        model,
        data.sets,
        run.study.groups,
        asked.seed,
        validate=validate,
        augment=run.recipe.train.augment,
    )
    result = fit(task, config, checkpoints=Checkpoints(run.store, prefix), progress=tell)
    return _Fitted(config, result, save_weights(model))


def _write_stage(store: Store, folder: str, identity: Mapping[str, Any], best: _Fitted, seconds: float) -> TrainedStage:
    sha256 = hashlib.sha256(best.weights).hexdigest()
    weights = f"{folder}/weights-{sha256[:12]}.safetensors"
    score = best.result.best
    trained = TrainedStage(
        folder=folder,
        weights=weights,
        sha256=sha256,
        identity=identity,
        history=best.result.history,
        seconds=round(seconds, 3),
        chosen={
            "lr": best.config.lr,
            "step": best.result.best_step,
            "val_worst_group": None if score is None else score.value[0],
            **({} if score is None else dict(score.detail)),
        },
    )
    store.put(weights, best.weights)
    store.put(f"{folder}/stage.json", json.dumps(asdict(trained), sort_keys=True).encode())
    for info in list(store.list(folder)):
        if info.key.startswith(f"{folder}/fit-"):
            store.delete(info.key)
    return trained


def _score(model: nn.Module, val: Dataset) -> Score:
    metrics = group_metrics(count_correct(model, val))
    return Score(
        (metrics.worst_group, metrics.group_mean),
        {"val_group_mean": metrics.group_mean, "val_worst": metrics.worst_name, "val_n_worst": metrics.n_worst},
    )


def read_stage(store: Store, folder: str) -> TrainedStage | None:
    """A finished stage, or None."""
    try:
        return TrainedStage(**json.loads(store.get(f"{folder}/stage.json")))
    except MissingError:
        return None


def _weights_body(store: Store, trained: TrainedStage) -> bytes:
    body = store.get(trained.weights)
    if hashlib.sha256(body).hexdigest() != trained.sha256:
        raise BrokenError(
            f"{trained.weights} is damaged (sha256 differs); delete {trained.folder}/ and run the same command again"
        )
    return body


def _load(run: Run, trained: TrainedStage, data: CellData) -> nn.Module:
    model = build_classifier(run.recipe.train.model, data.sets["real"].groups.classes, 0)
    model.load_state_dict(load_weights(_weights_body(run.store, trained)))
    if torch.cuda.is_available():
        model.cuda()
    return model.eval()


def _warn_if_worse(run: Run, asked: _Asked, trained: TrainedStage) -> None:
    """Fine-tuning that lowers the validation worst group has taught the bias again; the reader must know."""
    scores = [row for row in trained.history if "score" in row]
    if asked.before is not None and scores and trained.chosen["val_worst_group"] < scores[0]["score"][0]:
        run.tell(
            Warned(
                f"{asked.what} lowered the validation worst group from {scores[0]['score'][0]:.1%} to "
                f"{trained.chosen['val_worst_group']:.1%} ({scores[0]['val_n_worst']} samples)"
            )
        )


def _told(trained: TrainedStage) -> str:
    chosen = trained.chosen
    if chosen["val_worst_group"] is None:
        return f"lr {chosen['lr']:g}"
    return (
        f"val worst group {chosen['val_worst_group']:.1%} (n={chosen['val_n_worst']}), "
        f"step {chosen['step']}, lr {chosen['lr']:g}"
    )
