"""The whole way of one recipe, stage after stage. Each finds what is done and goes on from there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ffr_dist.config import digest
from ffr_dist.errors import MissingError, StoppedError
from ffr_dist.evaluate.audit import audit
from ffr_dist.launch.cells import score_cell, train_cell
from ffr_dist.launch.context import Run, import_real, load_checked, start_run
from ffr_dist.launch.events import Began, Ended
from ffr_dist.launch.pool import make_pool
from ffr_dist.launch.publish import AUDIT, write_report
from ffr_dist.launch.rows import write_rows
from ffr_dist.launch.sets import open_cell_data
from ffr_dist.read.dataset import Dataset, open_dataset
from ffr_dist.store import Store


def run_all(run: Run, *, inline: bool = False) -> list[dict[str, Any]]:
    """Import, generate, audit, train, evaluate, report; the rows of results."""
    real = {seed: import_real(run, seed) for seed in run.recipe.compare.seeds}
    make_pool(run, inline=inline)
    check_pool(run, real[run.recipe.compare.seeds[0]])
    rows = []
    for seed, stores in real.items():
        data = open_cell_data(run, stores)
        rows += [
            score_cell(run, cell, seed, data, train_cell(run, cell, seed, data)) for cell in run.recipe.compare.cells
        ]
    write_rows(run.store, rows)
    run.tell(Ended("report", write_report(run)))
    return rows


def check_pool(run: Run, stores: Mapping[str, Store]) -> None:
    """Audit the finished pool once; StoppedError where it fails a threshold of the recipe."""
    pool = open_dataset(run.store)
    probe = open_dataset(stores.get("probe", stores["train"]))
    asked = digest([pool.fingerprint, probe.fingerprint, run.recipe.audit.model_dump(mode="json")])
    found = _read_audit(run.store)
    known = found is not None and found["asked"] == asked
    if found is None or not known:
        run.tell(Began("audit"))
        generator = open_dataset(stores["generator"]) if "generator" in stores else None
        found = {"asked": asked, **audit(pool, probe, run.recipe.audit, generator).to_json()}
        run.store.put(AUDIT, json.dumps(found, sort_keys=True).encode())
    if found["failures"]:
        raise StoppedError(
            f"the pool failed its audit, so nothing was trained on it: {'; '.join(found['failures'])}. Look at it with "
            "'ffr report', then change the generator, or the thresholds in 'audit'"
        )
    run.tell(Ended("audit", found["summary"], reused=known))


def _read_audit(store: Store) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(store.get(AUDIT))
    except MissingError:
        return None
    return found


def generate_dataset(recipe: str, out: str | None = None) -> Dataset:
    """Generate (or go on generating) the pool of a recipe on Ray, and open it."""
    run = start_run(load_checked(recipe), out=out, command=f"ffr generate {recipe}")
    make_pool(run)
    return open_dataset(run.store)
