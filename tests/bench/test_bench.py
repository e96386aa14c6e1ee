import json
import subprocess
import sys
from pathlib import Path

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
