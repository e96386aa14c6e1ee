"""The benches of reading, at sizes at which their figures say nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bench import Line, Row
from bench.read import GROUPS, compare, quality, resume, write_sets

ROOT = Path(__file__).parents[2]


def test_quality_tells_storage_order_from_a_shuffle():
    order = np.arange(8_000)
    assert quality(order, 8_000) == {"rank correlation": 1.0, "group run": 1_000.0, "twice": 0, "lost": 0}
    shuffled = quality(np.random.default_rng(0).permutation(order), 8_000)
    assert shuffled["rank correlation"] < 0.05
    assert 1.1 < shuffled["group run"] < 1.2


def test_quality_counts_what_was_lost_and_seen_twice():
    found = quality(np.array([0, 1, 1, 2, 5, 6, 7]), len(GROUPS))
    assert (found["twice"], found["lost"]) == (1, 2)


@pytest.mark.slow
def test_every_reader_that_is_there_reads_the_set(tmp_path):
    write_sets(tmp_path, 64, 2_560)
    found = list(compare("disk_64px", 64, str(tmp_path), 2_560, 1))
    lines = {line.name: line for line in found if isinstance(line, Line)}
    assert lines["read_disk_64px_floor"].ratio > 0
    rows = {row.side.removeprefix("disk_64px "): row.figures for row in found if isinstance(row, Row)}
    for side in ("ours", "webdataset"):
        assert (rows[side]["twice"], rows[side]["lost"]) == (0, 0)
    assert {side.partition(":")[0] for side in rows} == {
        "floor", "ours", "webdataset", "mosaicml-streaming", "litdata", "datasets"
    }  # fmt: skip
    assert all(figures or ": " in side for side, figures in rows.items())
    (line,) = resume(str(tmp_path), 2_560, 1)
    assert line.ours == 1000


@pytest.mark.slow
@pytest.mark.parametrize(
    ("measure", "names"),
    [
        (
            "from bench.balanced_read import *; l = compare(64, 2048, 1)",
            ["balanced_64px", "balanced_64px_cpu", "balanced_memory"],
        ),
        (
            "from bench.memory import *; l = memory_reader(2560)",
            ["memory_reader_first", "memory_reader", "memory_reader_columns"],
        ),
    ],
)
def test_the_others_run_to_their_end(measure, names):
    shown = subprocess.run(
        [sys.executable, "-c", f"{measure}; print(*(line.name for line in l))"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.split() == names
