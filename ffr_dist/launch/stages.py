"""Stages of cells: trained once, and found by whoever needs them again.

A stage lies in ``train/<hash>/``, where the hash covers what it asks for, the fingerprints of the data it reads, its seed, the
weights it starts from and those that found its mistakes. So a stage that two cells share (FFR's pretraining) is trained once.
``stage.json`` is written last: without it the stage is not done.

Several processes may train a stage together. The first of them alone looks what is done, writes and is listened to; the
others wait for its word, so that all go the same way.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ffr_dist.config import digest
from ffr_dist.errors import BrokenError, InputError, MissingError
from ffr_dist.evaluate.score import count_correct
from ffr_dist.launch.context import Run
from ffr_dist.launch.events import Began, Ended, Training, Warned
from ffr_dist.launch.sets import CellData
from ffr_dist.metrics import Count, group_metrics
from ffr_dist.models.classifier import Classifier, build_classifier, load_weights, save_weights
from ffr_dist.models.heads import take_head
from ffr_dist.models.pretrained import classifier_sha256
from ffr_dist.read.batches import ImageBatches
from ffr_dist.read.config import ReadConfig
from ffr_dist.read.dataset import Dataset
from ffr_dist.recipe import CellConfig
from ffr_dist.shards import layout
from ffr_dist.store import Store
from ffr_dist.train import Checkpoints, Progress, Score, Task, fit
from ffr_dist.train.classify import chosen_sets, classification_task
from ffr_dist.train.dfr import fit_head
from ffr_dist.train.jtt import find_mistakes
from ffr_dist.train.stage import AnyStage, HeadStage, Stage
from ffr_dist.train.world import World, world


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedStage:
    """A finished stage."""

    folder: str
    weights: str
    """Key of the weights in the run's store."""
    sha256: str
    identity: Mapping[str, Any]
    model: Mapping[str, Any]
    """The config of the classifier, for whoever builds it again."""
    history: list[dict[str, Any]]
    seconds: float
    """What training took, all alternatives together; of the last start only, where it was resumed."""
    chosen: Mapping[str, Any]
    """The fit settings that validated best, its score and step."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A stage to train: whose, and from what."""

    cell: CellConfig
    seed: int
    stage: AnyStage
    earlier: tuple[TrainedStage, ...] = ()
    """The cell's stages before it, trained, in order."""

    @property
    def before(self) -> TrainedStage | None:
        """What it starts from; None: from fresh weights."""
        earlier = self.earlier if self.finder is None else self.earlier[:-1]
        return earlier[-1] if earlier else None

    @property
    def finder(self) -> TrainedStage | None:
        """What has found the mistakes that it draws more often, where there is such a stage."""
        finds = isinstance(self.stage, Stage) and self.stage.jtt is not None
        return self.earlier[-1] if finds and self.earlier else None

    @property
    def cell_name(self) -> str:
        return f"{self.cell.arm} × {self.cell.mitigation}, seed {self.seed}"

    @property
    def what(self) -> str:
        return f"{self.stage.name}: {self.cell_name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Learned:
    """What a stage has come to: its weights, and what is told of them."""

    weights: bytes
    history: list[dict[str, Any]]
    score: Score | None
    chosen: Mapping[str, Any]
    """What was chosen among the stage's alternatives, by ``score``."""

    @property
    def value(self) -> tuple[float, ...]:
        return () if self.score is None else self.score.value


def train_stage(run: Run, asked: Asked, data: CellData) -> TrainedStage:
    here = world()
    identity = here.by_main(lambda: _identity(run, asked, data))
    folder = layout.train_folder(digest(identity, 16))
    found = here.by_main(lambda: read_stage(run.store, folder))
    if found is not None:
        run.tell(Ended(asked.what, _told(found), reused=True))
        return found
    run.tell(Began(asked.what))
    began = time.monotonic()
    stage = asked.stage
    if isinstance(stage, HeadStage):
        learned = [_fit_head(run, asked, stage, data, here)]
    else:
        mistakes = None if asked.finder is None else _mistakes(run, asked, asked.finder, stage, data, here)
        learned = [
            _fit(run, asked, stage, data, here, number=number, prefix=_try_folder(folder, number), mistakes=mistakes)
            for number in range(len(stage.fits))
        ]
    best = max(learned, key=lambda one: one.value)  # the first of equals
    seconds = time.monotonic() - began
    trained = here.by_main(lambda: _write_stage(run, folder, identity, best, seconds, len(learned)))
    _warn_if_worse(run, asked, trained)
    run.tell(Ended(asked.what, _told(trained)))
    return trained


def _identity(run: Run, asked: Asked, data: CellData) -> dict[str, Any]:
    """All that determines a stage, as a JSON value."""
    config = run.recipe.train.model
    return {
        "stage": asked.stage.identity(),
        # The weights by what they are, below, and not by where they lie.
        "model": config.model_dump(mode="json", exclude={"weights"}),
        "model_sha256": classifier_sha256(config),
        "augment": run.recipe.train.augment.model_dump(mode="json"),
        "seed": asked.seed,
        "sets": {
            str(source.set): data.sets[source.set].fingerprint
            if source.counts is None
            else data.sets[source.set].lowest(source.counts).fingerprint
            for source in asked.stage.sources
        },
        "val": data.val.fingerprint,
        "init": None if asked.before is None else asked.before.sha256,
        "finder": None if asked.finder is None else asked.finder.sha256,
        # Broken images that were passed over had others in their places.
        **({"skip_broken": run.recipe.read.skip_broken} if run.recipe.read.skip_broken else {}),
    }


def _mistakes(
    run: Run, asked: Asked, finder: TrainedStage, stage: Stage, data: CellData, here: World
) -> NDArray[np.int64]:
    """What the stage before gets wrong of a stage's sources. Kept, as on another device a tie may fall otherwise."""
    sets = chosen_sets(stage, data.sets)
    key, count = f"{finder.folder}/mistakes.bin", sum(len(dataset) for dataset in sets)
    body = here.by_main(lambda: run.store.get(key) if run.store.exists(key) else None)
    if body is None:
        model = load_model(run, finder, data).to(here.device)
        here.meet()
        wrong = np.zeros(count, np.bool_)
        wrong[find_mistakes(model, sets, here, run.recipe.read)] = True
        body = np.packbits(wrong).tobytes()
        here.by_main(lambda: run.store.put(key, body))
    if len(body) != -(-count // 8):
        raise BrokenError(
            f"{key} does not hold a bit for each of {count:,} samples; delete it, and run the same command again"
        )
    mistakes = np.flatnonzero(np.unpackbits(np.frombuffer(body, np.uint8), count=count))
    if not 0 < len(mistakes) < count:
        how = "no sample" if not len(mistakes) else "every sample"
        run.tell(
            Warned(f"{asked.what}: the stage before gets {how} wrong, so that this is erm; change train.jtt.steps")
        )
    return mistakes


def _fit(
    run: Run,
    asked: Asked,
    stage: Stage,
    data: CellData,
    here: World,
    *,
    number: int,
    prefix: str,
    mistakes: NDArray[np.int64] | None,
) -> _Learned:
    """One of a stage's alternatives, trained."""
    config = stage.fits[number].model_copy(update={"seed": asked.seed})
    model = load_model(run, asked.before, data) if asked.before is not None else _fresh(run, data, asked.seed)
    val = share_of(data.val, here)

    def validate(model: nn.Module) -> Score:
        metrics = group_metrics(count_shares(model, val, here, run.recipe.read))
        return Score(
            (metrics.worst_group, metrics.group_mean),
            {"val_group_mean": metrics.group_mean, "val_worst": metrics.worst_name, "val_n_worst": metrics.n_worst},
        )

    def tell(progress: Progress) -> None:
        run.tell(Training(asked.cell_name, stage.name, progress))

    task = classification_task(
        stage,
        model,
        data.sets,
        run.checked.groups,
        asked.seed,
        mistakes=mistakes,
        validate=validate if stage.validated else None,
        augment=run.recipe.train.augment,
        read=run.recipe.read,
    )
    checkpoints = Checkpoints(run.store, prefix)
    here.meet()
    result = fit(task, config, checkpoints=checkpoints, progress=tell, trackers=run.recipe.train.trackers)
    skipped = _tell_skipped(run, asked, task, here)
    return _Learned(
        weights=save_weights(model),
        history=result.history,
        score=result.best,
        chosen={
            "lr": config.lr,
            "step": result.best_step,
            **({} if mistakes is None else {"mistakes": len(mistakes)}),
            **({"skipped": skipped} if skipped else {}),
        },
    )


def _tell_skipped(run: Run, asked: Asked, task: Task, here: World) -> int:
    """How many broken images this start has passed over, in all processes."""
    mine = task.batches.skipped if isinstance(task.batches, ImageBatches) else ()
    count = int(here.sum(torch.tensor(len(mine))))
    if count:
        named = f": {'; '.join(mine)}" if mine else ""
        run.tell(
            Warned(
                f"{asked.what} saw {count} broken images and took others of their groups, as read.skip_broken allows{named}"
            )
        )
    return count


def _fit_head(run: Run, asked: Asked, stage: HeadStage, data: CellData, here: World) -> _Learned:
    if asked.before is None:
        raise InputError(f"stage {stage.name} fits a head to the features of a stage before it, and there is none")
    model = load_model(run, asked.before, data).to(here.device)
    here.meet()
    found = fit_head(model, stage, chosen_sets(stage, data.sets), data.val, asked.seed, here, run.recipe.read)
    weights = {name: value for name, value in model.state_dict().items() if not name.startswith("head.")}
    weights |= {f"head.{name}": value for name, value in found.tensors.items()}
    take_head(model, weights)
    model.load_state_dict(weights)
    return _Learned(
        weights=save_weights(model),
        history=found.history,
        score=found.score,
        chosen={"strength": found.strength, "step": 0, "val_is": "the half that the fit of this score has not seen"},
    )


def _write_stage(
    run: Run, folder: str, identity: Mapping[str, Any], learned: _Learned, seconds: float, tries: int
) -> TrainedStage:
    sha256 = hashlib.sha256(learned.weights).hexdigest()
    weights = f"{folder}/weights-{sha256[:12]}.safetensors"
    score = learned.score
    trained = TrainedStage(
        folder=folder,
        weights=weights,
        sha256=sha256,
        identity=identity,
        model=run.recipe.train.model.model_dump(mode="json"),
        history=learned.history,
        seconds=round(seconds, 3),
        chosen={
            **learned.chosen,
            "val_worst_group": None if score is None else score.value[0],
            **({} if score is None else dict(score.detail)),
        },
    )
    run.store.put(weights, learned.weights)
    run.store.put(f"{folder}/stage.json", json.dumps(asdict(trained), sort_keys=True).encode())
    for number in range(tries):
        Checkpoints(run.store, _try_folder(folder, number)).drop()
    return trained


def _try_folder(folder: str, number: int) -> str:
    """Where one of a stage's alternatives has its checkpoints, and leaves its log."""
    return f"{folder}/fit-{number}"


def share_of(dataset: Dataset, here: World) -> Dataset:
    """What this process counts of a set."""
    return dataset.take(here.share(len(dataset)))


def count_shares(model: nn.Module, share: Dataset, here: World, read: ReadConfig) -> dict[str, Count]:
    """Correct answers by group, of all processes' shares together."""
    counts = count_correct(model, share, read=read)
    mine = torch.tensor([[count.correct, count.count] for count in counts.values()])
    return {name: Count(*row) for name, row in zip(counts, here.sum(mine).tolist(), strict=True)}


def read_stage(store: Store, folder: str) -> TrainedStage | None:
    """A finished stage, or None."""
    try:
        return TrainedStage(**json.loads(store.get(f"{folder}/stage.json")))
    except MissingError:
        return None
    except (ValueError, TypeError) as error:
        raise BrokenError(
            f"{folder}/stage.json does not tell of a trained stage; delete {folder}/ and run the same command again"
        ) from error


def _weights_body(store: Store, trained: TrainedStage) -> bytes:
    body = store.get(trained.weights)
    if hashlib.sha256(body).hexdigest() != trained.sha256:
        raise BrokenError(
            f"{trained.weights} is damaged (sha256 differs); delete {trained.folder}/ and run the same command again"
        )
    return body


def _fresh(run: Run, data: CellData, seed: int) -> Classifier:
    return build_classifier(run.recipe.train.model, data.sets["real"].groups.classes, seed)


def load_model(run: Run, trained: TrainedStage, data: CellData) -> Classifier:
    """The model of a finished stage, whole: its head, and its statistics of batches."""
    model = _fresh(run, data, 0)
    weights = load_weights(_weights_body(run.store, trained))
    take_head(model, weights)
    model.load_state_dict(weights)
    return model.eval()


def _warn_if_worse(run: Run, asked: Asked, trained: TrainedStage) -> None:
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
    how = f"C {chosen['strength']:g}" if "strength" in chosen else f"step {chosen['step']}, lr {chosen['lr']:g}"
    if chosen["val_worst_group"] is None:
        return how
    return f"val worst group {chosen['val_worst_group']:.1%} (n={chosen['val_n_worst']}), {how}"
