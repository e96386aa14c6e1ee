"""The whole way of one recipe, stage after stage. Each finds what is done and goes on from there."""

from __future__ import annotations

from typing import Any

from ffr_dist.launch.audit import check_pool
from ffr_dist.launch.cells import score_cell, train_cell
from ffr_dist.launch.context import Run, import_real, load_checked, start_run
from ffr_dist.launch.events import Ended
from ffr_dist.launch.pool import make_pool
from ffr_dist.launch.publish import write_report
from ffr_dist.launch.rows import write_rows
from ffr_dist.launch.sets import open_cell_data
from ffr_dist.read.dataset import Dataset, open_dataset


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


def generate_dataset(recipe: str, out: str | None = None) -> Dataset:
    """Generate (or go on generating) the pool of a recipe on Ray, and open it."""
    run = start_run(load_checked(recipe), out=out, command=f"ffr generate {recipe}")
    make_pool(run)
    return open_dataset(run.store)
