"""One cell on several processes that ``accelerate launch`` starts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_run import make_run, recipe_text

from ffr_dist.launch.cells import train_cell
from ffr_dist.launch.context import import_real
from ffr_dist.launch.pool import make_pool
from ffr_dist.launch.sets import open_cell_data
from ffr_dist.recipe import CellConfig

pytestmark = pytest.mark.slow

JOB = Path(__file__).parents[2] / "jobs" / "train.py"


def launch(processes, *arguments):
    """``--multi_gpu`` is what makes Accelerate start several; without a GPU they talk through gloo."""
    command = [str(Path(sys.executable).parent / "accelerate"), "launch", "--multi_gpu", "--num_machines", "1"]
    command += ["--num_processes", str(processes), "--main_process_port", "0", str(JOB), *map(str, arguments)]
    ended = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=240, check=False
    )
    return ended.returncode, ended.stdout, ended.stderr


@pytest.fixture(scope="module")
def pool(data, tmp_path_factory):
    """An output whose pool is finished; nothing is imported or trained."""
    out = tmp_path_factory.mktemp("pool")
    make_pool(make_run(recipe_text(data), str(out)), inline=True)
    return out


@pytest.fixture
def recipe(data, pool, tmp_path):
    shutil.copytree(pool, tmp_path / "out")
    path = tmp_path / "small.yaml"
    path.write_text(recipe_text(data, output=tmp_path / "out"))
    return path


def files(out):
    """All that is ever written once."""
    return {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file() and path.name != "manifest.json"}


def test_two_processes_train_the_stages_of_one_and_three_find_them_done_and_go_on(data, pool, recipe, tmp_path):
    code, told, words = launch(2, recipe, "--arm", "ffr", "--mitigation", "dfr")
    assert code == 0, words
    assert told.count("weights: ") == 1
    assert told.count("✓ finetune: ffr") == 1
    assert "process 1" not in words

    run = make_run(recipe_text(data), str(shutil.copytree(pool, tmp_path / "alone")))
    cell = CellConfig(arm="ffr", mitigation="dfr")
    alone = train_cell(run, cell, 0, open_cell_data(run, import_real(run, 0)))
    # The second stage starts from weights that differ in their last bits, and so lies elsewhere.
    first = json.loads((tmp_path / "out" / alone[0].folder / "stage.json").read_text())
    assert first["identity"] == json.loads(json.dumps(dict(alone[0].identity)))
    for name in ("score", "loss"):
        rows = [[row[name] for row in history if name in row] for history in (first["history"], alone[0].history)]
        np.testing.assert_allclose(*rows, rtol=1e-3)

    before = files(tmp_path / "out")
    code, told, words = launch(3, recipe, "--arm", "ffr", "--mitigation", "jtt")
    assert code == 0, words
    assert "= pretrain: ffr × jtt" in told
    assert told.count("✓ identify: ffr × jtt") == told.count("✓ finetune: ffr × jtt") == 1
    (mistakes,) = (tmp_path / "out").glob("train/*/mistakes.bin")
    assert mistakes.stat().st_size == 6  # a bit for each of 48 samples
    assert files(tmp_path / "out").items() >= before.items()


def test_an_error_ends_all_and_is_told(recipe):
    code, _, words = launch(2, recipe, "--arm", "group_balanced", "--mitigation", "dfr")
    assert code != 0
    assert "ffr: arm group_balanced draws" in words
    shutil.rmtree(recipe.parent / "out" / "manifests")
    code, _, words = launch(2, recipe, "--arm", "ffr")
    assert code != 0
    assert "ffr: " in words
    assert "ffr generate" in words
    assert "ffr (process 1)" not in words
