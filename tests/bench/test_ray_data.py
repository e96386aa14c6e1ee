"""What ``generate_vs_ray_data`` counts with: a bench that cannot see a duplicate would praise everyone."""

import io
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import pytest

from bench import Line, Row
from bench.__main__ import show
from bench._ray_sides import Plan
from bench.generate_vs_ray_data import Command, Cost, Found, MadeImage, compare, count_set, steady_rate


@pytest.fixture
def plan(tmp_path):
    (tmp_path / "set").mkdir()
    settings = {"images": 8, "size": 16, "batch": 2, "per_shard": 4, "workers": 2, "rate": 64.0}
    with tempfile.TemporaryDirectory(prefix="ray-") as short:  # the names of Ray's sockets have room for no more
        yield Plan(folder=str(tmp_path), ray_folder=short, **settings)


def write_tar(file, *keys):
    with tarfile.open(file, "w") as tar:
        for name in (f"{key}.{kind}" for key in keys for kind in ("jpg", "json")):
            member = tarfile.TarInfo(name)
            member.size = 600
            tar.addfile(member, io.BytesIO(bytes(600)))


def test_duplicates_and_broken_tars_of_a_folder_are_seen(plan):
    write_tar(plan.set / "0.tar", "cat-0", "cat-1")
    write_tar(plan.set / "1.tar", "cat-1", "cat-2")
    whole = (plan.set / "0.tar").read_bytes()
    (plan.set / "2.tar").write_bytes(whole[:700])
    assert count_set("peer", plan) == Found(images=4, keys=3, broken=1)


def test_of_ours_counts_what_the_manifest_names(plan):
    write_tar(plan.set / "named.tar", "cat-0", "cat-1")
    write_tar(plan.set / "stray.tar", "cat-1")
    (plan.set / "manifest.json").write_text(json.dumps({"shards": [{"key": "named.tar"}]}))
    assert count_set("ours", plan) == Found(images=2, keys=2, broken=0)


def test_the_steady_rate_leaves_out_the_start_of_each_device_and_its_idle_end():
    quick = [MadeImage(at, 1, "image") for at in (0.0, 5.0, 6.0, 7.0)]
    late = [MadeImage(at, 2, "image") for at in (6.5, 6.5, 7.5, 7.5, 8.5, 8.5)]
    assert steady_rate(sorted(quick + late), since=4.0) == 1.0 + 2.0


def test_a_figure_that_was_not_measured_has_no_line():
    names = [line.name for line in compare("x", [Cost(rate=2.0)], [Cost(rate=1.0)])]
    assert names == ["x_rate"]


def test_a_command_counts_and_kills_grandchildren_too(plan, monkeypatch):
    burn = "import time; t = time.process_time()\nwhile time.process_time() < t + 0.3: pass"
    child = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {burn + chr(10) + 'time.sleep(60)'!r}]).wait()"
    real = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda _, **options: real([sys.executable, "-c", child], **options))
    with Command("ours", plan) as command:
        command.watch(lambda: command.cpu > 0.3)
        mine = command.processes()
        assert len(mine) == 2
    assert not any(alive(pid) for pid in mine)


def alive(pid):
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_rows_are_a_table_below_the_lines(capsys):
    line = Line(name="speed", ours=2.0, peer=1.0, goal=1.0, unit="images/s")
    show(
        [
            line,
            Row(name="faults", side="ours", figures={"losses": 0}),
            Row(name="faults", side="peer", figures={"s": 1.5}),
        ]
    )
    printed = capsys.readouterr().out.splitlines()
    assert printed[3].split() == ["faults", "losses", "s"]
    assert printed[4].split() == ["ours", "0"]
    assert json.loads(printed[-1]) == {"name": "faults", "side": "peer", "s": 1.5}


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(500)
@pytest.mark.parametrize("side", ["ours", "peer"])
def test_both_sides_make_the_whole_set(plan, side):
    plan.set.rmdir()
    with Command(side, plan) as command:
        command.watch(plan.finished.exists)
        command.watch_to_the_end()
    assert count_set(side, plan) == Found(images=plan.images, keys=plan.images, broken=0)
    assert command.cpu > 0
