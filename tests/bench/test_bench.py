import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def python(*arguments):
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_benches_are_listed_with_what_they_measure():
    listed = python("-m", "bench")
    assert listed.returncode == 0
    lines = dict(line.split(maxsplit=1) for line in listed.stdout.splitlines())
    assert set(lines) == {path.stem for path in (ROOT / "bench").glob("[a-z]*.py")}
    assert all(lines.values())


def test_an_unknown_bench_is_told_by_name():
    unknown = python("-m", "bench", "speed")
    assert unknown.returncode == 2
    assert "no bench 'speed'" in unknown.stderr


def test_a_line_is_a_row_for_people_and_an_object_for_programs():
    code = "from bench.__main__ import show; from bench.pack import against_webdataset; show([against_webdataset(8, 1, 1)])"
    shown = python("-c", code)
    assert shown.returncode == 0, shown.stderr
    row = json.loads(shown.stdout.splitlines()[-1])
    assert row["name"] == "pack_8px"
    assert row["goal"] == 1.5
    assert abs(row["ratio"] - row["ours"] / row["peer"]) < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("measure", "names"),
    [
        ("from bench.generate_vs_bare import *; l = on_a_device(64, 1)", ["generate_device", "generate_vs_script"]),
        ("from bench.generate_vs_bare import *; l = [on_the_cpu(16, 1)]", ["generate_embedded"]),
        ("from bench.memory import *; l = [memory_engine(64)]", ["memory_engine"]),
        ("from bench.memory import *; l = [memory_finish(512, 1024)]", ["memory_finish"]),
    ],
)
def test_a_bench_of_the_engine_runs_to_its_end(measure, names):
    """At a size at which its figures say nothing."""
    shown = python("-c", f"{measure}; print(*(line.name for line in l))")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.split() == names
