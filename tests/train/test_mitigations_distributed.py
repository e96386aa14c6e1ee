"""Two and three real processes learn with each mitigation what one learns."""

from __future__ import annotations

import mitigated
import pytest
import torch
from runs import ended, started
from small_sets import write_set

from ffr_dist.models.classifier import load_weights
from ffr_dist.store import open_store


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    folders = [str(tmp_path_factory.mktemp(name)) for name in ("train", "val")]
    write_set(open_store(folders[0]), {"land_land": 9, "land_sea": 3, "sea_land": 2, "sea_sea": 9})
    write_set(open_store(folders[1]), {"land_land": 9, "land_sea": 5, "sea_land": 4, "sea_sea": 9}, seed=1, split="val")
    return folders


@pytest.mark.parametrize("processes", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_processes_learn_what_one_learns(sets, tmp_path, processes):
    train, val = sets
    ends = ended(started(",".join(mitigated.JOBS), train, tmp_path, processes, val, script=mitigated.__file__))
    assert [code for code, _ in ends] == [0] * processes, ends
    for job in mitigated.JOBS:
        alone = mitigated.learn(job, *sets).state_dict()
        for rank in range(processes):
            together = load_weights((tmp_path / f"{job}-{rank}").read_bytes())
            assert set(together) == set(alone)
            for name, value in alone.items():
                assert value.dtype == torch.float64
                torch.testing.assert_close(together[name], value, rtol=0, atol=1e-9, msg=f"{job} {rank} {name}")
