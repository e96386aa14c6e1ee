"""A small real output, generated once and copied for each test; and verbs that kill their own process at a write."""

from __future__ import annotations

import os
import random
import signal
from datetime import timedelta

from small_run import GROUPS, make_run, recipe_text, write_data

from ffr_dist.launch import curate
from ffr_dist.launch.context import load_checked
from ffr_dist.launch.pool import make_pool
from ffr_dist.store import open_store

WRITES = ("put", "put_file", "put_if_absent", "copy", "delete")
QUOTAS = {
    "small": (10, 18, 18, 9),
    "fewer": (8, 16, 16, 8),
    "more": (10, 19, 18, 11),
}
EXCLUDED = ("low_flowers-00000001", "high_temple-00000000")


def write_recipes(folder):
    """One recipe with three quotas."""
    write_data(folder / "data")
    for name, counts in QUOTAS.items():
        quota = ", ".join(f"{group}: {count}" for group, count in zip(GROUPS, counts, strict=True))
        text = recipe_text(
            folder / "data",
            output=folder / "out",
            seeds=("seeds: [0, 1]", "seeds: [0]"),
            quota=("  prompts:", f"  quota: {{{quota}}}\n  prompts:"),
        )
        (folder / f"{name}.yaml").write_text(text)


def generate(recipe, out):
    return make_pool(make_run(recipe.read_text(), str(out)), inline=True)


def verb(step, folder, store, to=None):
    """One of the verbs as the command line calls it, on a store that is given."""
    if step == "extend":
        return curate.extend(load_checked(str(folder / "fewer.yaml")), store, "ffr generate fewer.yaml")
    if step == "settle":
        return curate.tighten(store, {"blank_std": 2.5, "grey_levels": 0.001})
    if step == "exclude":
        return curate.exclude(store, EXCLUDED)
    if step == "finish --now":
        return curate.finish_now(store)
    if step == "gc --purge":
        return curate.collect_garbage(store, older=timedelta(hours=24), purge=True, dry_run=False)
    return curate.export(store, to, shard_mb=1)


class Counter:
    """Counts the writes to stores, and ends the process with SIGKILL before or after the one that is due."""

    def __init__(self, *stores, due=0, before=True):
        self.count, self._due, self._before = 0, due, before
        for store in stores:
            for name in WRITES:
                setattr(store, name, self._watched(getattr(store, name)))

    def _watched(self, write):
        def call(*arguments):
            self.count += 1
            due = self.count == self._due
            if due and self._before:
                os.kill(os.getpid(), signal.SIGKILL)
            result = write(*arguments)
            if due:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return call


def killed_verb(step, folder, out, to, due, before):
    store, target = open_store(out), open_store(to)
    Counter(store, target, due=due, before=before)
    verb(step, folder, store, target)


def seeded(step, writes):
    """The write of a step that is killed in every run of the tests, and whether before or after it."""
    rng = random.Random(step)
    return rng.randint(1, writes), rng.random() < 0.5
