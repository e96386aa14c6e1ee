"""One, two and three real processes learn the same."""

from __future__ import annotations

import json

import pytest
import torch
from runs import COUNTS, JOBS, start, train
from small_sets import write_set

from ffr_dist.models.classifier import load_weights
from ffr_dist.store import open_store


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    store = open_store(str(tmp_path_factory.mktemp("data")))
    write_set(store, COUNTS)
    return store


@pytest.mark.parametrize(
    ("processes", "jobs"), [(2, tuple(JOBS)), pytest.param(3, ("groupdro",), marks=pytest.mark.slow)]
)
def test_processes_learn_what_one_learns(store, tmp_path, processes, jobs):
    start(list(jobs), store.url, tmp_path, processes)
    for job in jobs:
        mitigation, config = JOBS[job]
        model, result = train(store, mitigation, config)
        alone = model.state_dict()
        for rank in range(processes):
            together = load_weights((tmp_path / f"{job}-{rank}").read_bytes())
            for name, value in alone.items():
                assert value.dtype == torch.float64
                torch.testing.assert_close(together[name], value, rtol=0, atol=1e-10, msg=f"{job} {rank} {name}")
            history = json.loads((tmp_path / f"{job}-{rank}.json").read_text())
            losses = [row["loss"] for row in history if "loss" in row]
            assert losses == pytest.approx([row["loss"] for row in result.history if "loss" in row], abs=1e-10)
