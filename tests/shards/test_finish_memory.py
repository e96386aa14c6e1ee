"""The promise of at most 64 bytes a candidate, of a whole process: settling, index, digest and manifest."""

import os
import subprocess
import sys
from pathlib import Path

import measure_finish
import pytest
from measure_finish import PER_INTERVAL


def peak_of(folder, intervals, near):
    measure_finish.write_output(folder, intervals, near)
    # One arena: how much the allocator of the C library keeps for each of its threads is no property of ours.
    environment = os.environ | {"MALLOC_ARENA_MAX": "1", "ARROW_DEFAULT_MEMORY_POOL": "system"}
    done = subprocess.run(
        [sys.executable, Path(measure_finish.__file__), str(folder), str(intervals)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    images, peak = map(int, done.stdout.split())
    assert images == intervals * PER_INTERVAL
    return peak


@pytest.mark.slow
@pytest.mark.parametrize("near", [None, 8])
def test_finish_holds_at_most_64_bytes_a_candidate(tmp_path, near):
    few, many = 150, 1000
    small, large = peak_of(tmp_path / "few", few, near), peak_of(tmp_path / "many", many, near)
    assert (large - small) / ((many - few) * PER_INTERVAL) <= 64
