"""Cells of the comparison: trained stage by stage, scored on test, one JSON each; and the model of a cell, for others."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from ffr_dist.errors import InputError, MissingError
from ffr_dist.launch.context import CheckedRecipe, Run, import_real, start_run
from ffr_dist.launch.events import Tell, Warned
from ffr_dist.launch.rows import Row, row_of
from ffr_dist.launch.sets import CellData, open_cell_data
from ffr_dist.launch.stages import Asked, TrainedStage, count_shares, load_model, share_of, train_stage
from ffr_dist.metrics import Count
from ffr_dist.models.card import ModelCard
from ffr_dist.models.export import write_pretrained
from ffr_dist.read.dataset import Dataset
from ffr_dist.recipe import CellConfig
from ffr_dist.store import open_store
from ffr_dist.train.stage import AnyStage
from ffr_dist.train.world import world

_CARD = "README.md"


def begin_cell(checked: CheckedRecipe, seed: int, *, out: str | None, command: str, tell: Tell) -> tuple[Run, CellData]:
    """The output of a checked recipe, and the sets of a seed, imported if they are not there yet."""
    here = world()

    def begin() -> tuple[Run, CellData]:
        if here.is_main:
            run = start_run(checked, out=out, command=command, tell=tell)
            return run, open_cell_data(run, import_real(run, seed))
        store = open_store(checked.recipe.output if out is None else out, create=False, config=checked.recipe.storage)
        run = Run(checked=checked, store=store, command=command)
        stores = {name: store.below(f"real/{split.folder}") for name, split in checked.splits(seed).items()}
        return run, open_cell_data(run, stores)

    return here.main_first(begin)


def stages_of(run: Run, cell: CellConfig, data: CellData) -> tuple[AnyStage, ...]:
    """What the method wants trained for a cell."""
    return run.method.train(cell.arm, cell.mitigation, data.sets["real"].counts())


def train_cell(
    run: Run, cell: CellConfig, seed: int, data: CellData, *, until: str | None = None
) -> list[TrainedStage]:
    """As :func:`train_stages`; the model of a cell that is trained to its end is left for others."""
    trained = train_stages(run, cell, seed, data, until=until)
    if len(trained) == len(stages_of(run, cell, data)):
        world().by_main(lambda: _publish_model(run, cell, seed, trained, data))
    return trained


def train_stages(
    run: Run, cell: CellConfig, seed: int, data: CellData, *, until: str | None = None
) -> list[TrainedStage]:
    """Train the stages of a cell that are not done yet, up to the one named ``until``; all of them, in order."""
    trained: list[TrainedStage] = []
    stages = stages_of(run, cell, data)
    if until is not None and until not in {stage.name for stage in stages}:
        raise InputError(f"arm {cell.arm} has no stage {until!r}; it has {', '.join(stage.name for stage in stages)}")
    for stage in stages:
        trained.append(train_stage(run, Asked(cell, seed, stage, tuple(trained)), data))
        if stage.name == until:
            break
    return trained


def score_cell(run: Run, cell: CellConfig, seed: int, data: CellData, stages: Sequence[TrainedStage]) -> Row:
    """The row of results of a trained cell, scored on test once and kept beside its weights."""
    trained = stages[-1]
    key = counts_key(trained, data)
    here = world()
    counts = here.by_main(lambda: _read_counts(run, key, data.test))
    if counts is None:
        model = load_model(run, trained, data).to(here.device)
        found = counts = count_shares(model, share_of(data.test, here), here, run.recipe.read)

        def write() -> None:
            _publish_model(run, cell, seed, stages, data, found)
            body = {name: [count.correct, count.count] for name, count in found.items()}
            run.store.put(key, json.dumps(body, sort_keys=True).encode())

        here.by_main(write)
    return row_of(run, cell, seed, data, stages, counts)


def counts_key(trained: TrainedStage, data: CellData) -> str:
    """Where the counts of a cell's test lie."""
    return f"{trained.folder}/test-{data.test.fingerprint[:12]}.json"


def _read_counts(run: Run, key: str, test: Dataset) -> dict[str, Count] | None:
    """None where nothing was counted; or nothing that can be read, as counting again is cheap and gives the same."""
    try:
        found = json.loads(run.store.get(key))
        counts = {name: Count(*found[name]) for name in test.groups.names}
        if all(0 <= counts[name].correct <= counts[name].count == n for name, n in test.counts().items()):
            return counts
    except MissingError:
        return None
    except (ValueError, LookupError, TypeError):
        pass
    run.tell(Warned(f"{key} does not hold counts of the test set; they are counted again"))
    return None


def _publish_model(
    run: Run,
    cell: CellConfig,
    seed: int,
    stages: Sequence[TrainedStage],
    data: CellData,
    counts: Mapping[str, Count] | None = None,
) -> None:
    """The model of a cell for others, with its card, in a folder beside its weights; once, and again when it is tested."""
    trained = stages[-1]
    folder = f"{trained.folder}/model"
    if counts is None and run.store.exists(f"{folder}/{_CARD}"):
        return
    config = run.recipe.train.model
    card = ModelCard(
        name=f"{run.recipe.name}, {cell.arm} × {cell.mitigation}, seed {seed}",
        trained_on={
            **{
                f"{one.identity['stage']['name']}: {name}": sha
                for one in stages
                for name, sha in one.identity["sets"].items()
            },
            "val": data.val.fingerprint,
        },
        settings={"architecture": config.kind, "stage": trained.folder, **trained.chosen},
        tested_on=None if counts is None else data.test.fingerprint,
        counts=counts,
    )
    with TemporaryDirectory(prefix="ffr-") as made:
        labels = _class_names(run, data)
        write_pretrained(
            load_model(run, trained, data), config, Path(made), labels=labels, side=run.recipe.size, card=card
        )
        for path in sorted(Path(made).iterdir(), key=lambda path: path.name == _CARD):  # the card last
            run.store.put(f"{folder}/{path.name}", path.read_bytes())


def _class_names(run: Run, data: CellData) -> tuple[str, ...]:
    """As the table of labels calls them, where there is one; or the groups, those of the test set first: it has most."""
    classes = data.sets["real"].groups.classes
    named: Mapping[str, int] = getattr(run.recipe.data, "classes", None) or {}
    if named:
        return tuple(
            "/".join(name for name, label in named.items() if label == number) or str(number)
            for number in range(classes)
        )
    tested = data.test.groups
    return (tested if tested.classes == classes else data.sets["real"].groups).class_names
