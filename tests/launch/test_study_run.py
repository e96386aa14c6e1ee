"""Studies on the embedded world: what is refused, what is trained once, what a failure or a kill leaves."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny_study
from hypothesis import given
from hypothesis import strategies as st
from ray import cloudpickle
from tiny_study import GRIDS, SETTINGS, TUNED, checked_study, study_text

from ffr_dist.datasets import embedded
from ffr_dist.errors import ConfigError, ConflictError, StoppedError
from ffr_dist.launch.context import start_run
from ffr_dist.launch.events import Began, CellEnded
from ffr_dist.launch.fleet.heartbeat import Heartbeat
from ffr_dist.launch.fleet.signals import StopSignals
from ffr_dist.launch.rows import cell_of, way_of
from ffr_dist.launch.study import crew as crew_module
from ffr_dist.launch.study.dag import Job, Schedule
from ffr_dist.launch.study.plan import Ground, Planner
from ffr_dist.launch.study.run import _ask, _start, run_study
from ffr_dist.launch.study.table import tables_of
from ffr_dist.launch.study.tune import choose
from ffr_dist.launch.study.work import Answer, do
from ffr_dist.shards.selection import latest_revision, write_first_revision
from ffr_dist.store import open_store
from ffr_dist.study import Way


@st.composite
def forests(draw):
    """Jobs, each needing none or an earlier one; and those that fail when they are tried."""
    count = draw(st.integers(1, 12))
    jobs = [Job(str(n), n, draw(st.sampled_from([None, *map(str, range(n))]))) for n in range(count)]
    return jobs, draw(st.sets(st.sampled_from([job.id for job in jobs])))


@given(forests(), st.integers(1, 4), st.randoms())
def test_each_job_is_done_once_after_what_it_needs_or_lost_with_it(forest, room, luck):
    jobs, broken = forest
    by_id = {job.id: job for job in jobs}
    schedule = Schedule(jobs)
    running, done, failed, lost = [], [], [], []
    while not schedule.over:
        while len(running) < room and (job := schedule.take()) is not None:
            assert job.needs is None or job.needs in done
            running.append(job)
        assert schedule.running == len(running)
        job = running.pop(luck.randrange(len(running)))
        if job.id in broken:
            failed.append(job.id)
            lost += [other.id for other in schedule.failed(job)]
        else:
            done.append(job.id)
            schedule.done(job)
    assert sorted([*done, *failed, *lost], key=int) == [job.id for job in jobs]
    assert set(failed) <= broken
    for name in lost:
        assert by_id[name].needs in {*failed, *lost}


def test_the_best_mean_over_seeds_is_chosen_and_the_first_of_equals():
    way = Way("", 0.9, "ffr", "erm")

    def tried(*scores):
        return [{"val_worst_group": worst, "val_group_mean": mean} for worst, mean in scores]

    tries = [tried((0.9, 0.9), (0.1, 0.9)), tried((0.5, 0.6), (0.6, 0.6)), tried((0.5, 0.6), (0.6, 0.6))]
    found = choose(way, [0, 1], tries)
    assert found.place == 1
    assert found.report["tries"][0]["val_worst_group"] == pytest.approx(0.5)
    assert choose(way, [0, 1], [tries[1], tried((0.55, 0.7), (0.55, 0.7))]).place == 1  # by the group mean


def refused(**values):
    with pytest.raises(ConfigError) as caught:
        checked_study(**values)
    return str(caught.value)


def test_every_impossible_cell_is_named_at_once():
    told = refused(
        grids=[
            *GRIDS,
            {"arms": ["group_balanced"], "mitigations": ["erm", "groupdro"], "bias_ratios": [0.8]},
            {"arms": ["none"], "mitigations": ["erm", "dfr"], "bias_ratios": [0.999]},
            {"arms": ["none"], "mitigations": ["dfr"], "bias_ratios": [0.97]},
        ]
    )
    assert "group_balanced × groupdro, r 0.8: arm group_balanced draws every (group, source)" in told
    assert "none × erm, r 0.999; none × dfr, r 0.999: the train split has no sample of group low_flowers" in told
    assert "none × dfr, r 0.97:" in told
    assert "DFR halves each group" in told
    assert "skip_impossible: true" in told
    assert "none × erm, r 0.9" not in told.replace("0.999", "")


def test_impossible_cells_are_left_out_and_listed_where_the_study_says_so():
    grids = [{"arms": ["none", "group_balanced"], "mitigations": ["erm", "groupdro"], "seeds": [0, 1]}]
    checked = checked_study(grids=grids, lead=None, skip_impossible=True)
    assert [str(way) for way in checked.skipped] == ["group_balanced × groupdro, r 0.9"]
    assert len(checked.cells) == 6
    assert not [cell for cell in checked.tuning if cell.way in checked.skipped]
    untunable = checked_study(
        grids=[{"arms": ["none"], "mitigations": ["erm", "dfr"], "bias_ratios": [0.8]}],
        tune={"bias_ratio": 0.97, "seeds": [0]},
        lead=None,
        skip_impossible=True,
    )
    assert {cell.way.mitigation for cell in untunable.cells} == {"erm"}
    assert next(iter(untunable.skipped.values())).startswith("cannot be tuned: ")
    told = refused(grids=[{"arms": ["none"], "bias_ratios": [0.999]}], tune=None, lead=None, skip_impossible=True)
    assert "every cell is impossible" in told
    assert "none × erm, r 0.999: the train split has no sample of group low_flowers" in told


@pytest.mark.parametrize(
    ("ratio", "told"), [(0.999, "tune, r 0.999: the train split has no sample"), (1.5, "r 1.5: tune.bias_ratio: input")]
)
def test_a_mistake_of_tuning_is_told_once(ratio, told):
    said = refused(grids=[GRIDS[0]], tune={"bias_ratio": ratio, "seeds": [0, 1]})
    assert told in said
    assert len(said.splitlines()) <= 3
    assert "none × erm" not in said
    assert "cannot be used" not in said


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"grids": [{"arms": ["none", "ffrr"]}]}, "ffr has no arm ffrr; it knows none, usb"),
        ({"set": {**SETTINGS, "train.lr": [0.1]}}, "train.lr: unknown key; did you mean 'lrs'"),
        (
            {"grids": [{"arms": ["none"], "bias_ratios": [1.5]}]},
            "r 1.5: bias_ratios: input should be less than or equal to 1",
        ),
        (
            {"grids": [{"arms": ["none"], "variant": {"name": "v", "set": {"train.model.kind": "resmet"}}}]},
            "variant v",
        ),
        ({"set": {**SETTINGS, **TUNED, "method.prompts": {"low_temple": ["a"]}}}, "no prompt covers group low_flowers"),
        ({"set": SETTINGS}, "tune: the recipe has one rate"),
        (
            {
                "grids": [
                    *GRIDS,
                    {"arms": ["ffr"], "variant": {"name": "v", "set": {"train.lrs": [1], "train.finetune_lrs": [1]}}},
                ]
            },
            "variant v: 1 rates to choose from, where others have 2; give each way of training the same number of tries",
        ),
        (
            {"set": {**SETTINGS, **TUNED, "method.quota": dict.fromkeys(embedded.GROUPS.names, 2)}},
            "raise method.quota",
        ),
    ],
)
def test_mistakes_are_refused_before_anything_is_written(values, told):
    values = {"lead": None, "skip_impossible": True, **values}
    assert told in refused(**values)


def test_a_dataset_without_a_bias_ratio_has_none_to_vary(data):
    from small_run import recipe_text

    from ffr_dist.launch.study.check import load_checked_study

    folder = data.parent
    (folder / "small.yaml").write_text(recipe_text(data))
    file = folder / "study.yaml"
    text = "name: small\nrecipe: small.yaml\noutput: out\ngrids:\n  - {arms: [none]}\n"
    file.write_text(text)
    assert [str(cell) for cell in load_checked_study(str(file)).cells] == ["none × erm, seed 0"]
    file.write_text(text.replace("[none]", "[none], bias_ratios: [0.9]"))
    with pytest.raises(ConfigError, match="data of kind folder has no bias_ratio; leave it out"):
        load_checked_study(str(file))


@pytest.fixture(scope="module", autouse=True)
def _few_generator_images():
    before = embedded.GENERATOR_IMAGES
    tiny_study.few_generator_images()
    embedded._lay_out_generator.cache_clear()
    yield
    embedded.GENERATOR_IMAGES = before
    embedded._lay_out_generator.cache_clear()


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("study")


@pytest.fixture(scope="module")
def finished(out):
    told = []
    return run_study(checked_study(), out=str(out), command="ffr study", tell=told.append, inline=True), told


def pool_alone(out, where):
    """A copy of an output as it was before anything was trained."""
    shutil.copytree(out, where, ignore=shutil.ignore_patterns("train", "results.json", "report.html", "drivers"))
    return where


def test_rows_stand_in_the_order_of_the_study_with_what_was_tuned_beside_them(finished, out):
    result, told = finished
    assert not result.failures
    document = json.loads((out / "results.json").read_text())
    assert document["rows"] == result.rows
    named = [(row["bias_ratio"], row["variant"], row["arm"], row["mitigation"], row["seed"]) for row in result.rows]
    assert named == [
        *(
            (ratio, "", arm, mitigation, seed)
            for ratio in (0.9, 0.8)
            for arm in ("none", "ffr")
            for mitigation in ("erm", "groupdro", "dfr")
            for seed in (0, 1)
        ),
        (0.9, "head-only", "none", "erm", 0),
        (0.9, "head-only", "ffr", "erm", 0),
    ]
    assert len({cell_of(row) for row in result.rows}) == len(result.rows)
    assert len({row["pool"] for row in result.rows}) == 1
    assert [(one["variant"], one["arm"], one["mitigation"], len(one["tries"])) for one in document["tuning"]] == [
        ("", "none", "erm", 2), ("", "none", "groupdro", 2), ("", "none", "dfr", 2),
        ("", "ffr", "erm", 2), ("", "ffr", "groupdro", 2), ("", "ffr", "dfr", 2),
        ("head-only", "none", "erm", 2), ("head-only", "ffr", "erm", 2),
    ]  # fmt: skip
    for one in document["tuning"]:
        assert one["bias_ratio"] == 0.9
        assert one["seeds"] == [0]
        rates = {row["chosen"].get("lr") for row in result.rows if (row["variant"], row["arm"], row["mitigation"]) == (one["variant"], one["arm"], one["mitigation"])}  # fmt: skip
        assert rates == {one["tries"][one["chosen"]]["by_seed"][0].get("lr")}  # one choice, at all ratios
    assert document["study"] == {
        "name": "tiny", "recipe": "ffr-demo", "cells": 26, "lead": {"arm": "ffr", "mitigation": "erm"},
    }  # fmt: skip
    ended = [event for event in told if isinstance(event, CellEnded)]
    assert [event.done for event in ended] == [*range(1, 9), *range(1, 27)]
    assert not any(event.failed for event in ended)


def test_a_stage_is_trained_once_whoever_needs_it(finished, out):
    result, _ = finished
    of = {(way_of(row)[1:], row["seed"]): row["stages"] for row in result.rows}
    assert of[(0.9, "", "ffr", "erm"), 0][0] == of[(0.9, "", "ffr", "groupdro"), 0][0]
    assert of[(0.9, "", "ffr", "erm"), 0][0] == of[(0.9, "", "ffr", "dfr"), 0][0]
    assert of[(0.9, "", "ffr", "erm"), 0][0] == of[(0.9, "head-only", "ffr", "erm"), 0][0]
    assert of[(0.9, "", "none", "erm"), 0] == of[(0.9, "head-only", "none", "erm"), 0]  # it has no second stage
    assert of[(0.9, "", "ffr", "erm"), 0][0] != of[(0.8, "", "ffr", "erm"), 0][0]  # another validation set
    folders = {path.parent.name for path in out.glob("train/*/stage.json")}
    assert len(folders) == len(list((out / "train").iterdir()))
    cards = list(out.glob("train/*/model/README.md"))
    assert all("An image classifier of 2 classes: low, high." in card.read_text() for card in cards)  # as groups begin
    models = {card.parent.parent.name for card in cards}
    assert models == {row["stages"][-1].removeprefix("train/") for row in result.rows}  # of cells, not of tries


def test_the_pool_serves_the_cell_that_needs_most(finished, out):
    counts = json.loads((out / "manifest.json").read_text())["groups"]
    assert counts == {"low_temple": 24, "low_flowers": 48, "high_temple": 48, "high_flowers": 24}  # as r 0.9 asks


def test_the_same_command_does_nothing_twice_and_writes_the_same_bytes(finished, out):
    before = (out / "results.json").read_bytes()
    told = []
    run_study(checked_study(), out=str(out), command="ffr study", tell=told.append, inline=True)
    assert (out / "results.json").read_bytes() == before
    assert not [event for event in told if isinstance(event, Began)]
    assert all(event.reused for event in told if isinstance(event, CellEnded))


def test_a_study_may_grow_and_keeps_what_is_trained(finished, out, tmp_path):
    where = pool_alone(out, tmp_path / "grown")
    small = {"tune": None, "lead": None, "set": {**SETTINGS, "train.lrs": [0.001], "train.finetune_lrs": [0.001]}}
    first = run_study(
        checked_study(grids=[{"arms": ["none"]}], **small), out=str(where), command="ffr study", inline=True
    )
    told = []
    more = checked_study(grids=[{"arms": ["none"], "bias_ratios": [0.9, 0.95]}], **small)
    grown = run_study(more, out=str(where), command="ffr study", tell=told.append, inline=True)
    assert json.loads((where / "manifest.json").read_text())["groups"]["low_flowers"] == 54  # what r 0.95 asks for
    assert grown.rows[0]["stages"] == first.rows[0]["stages"]
    assert len({row["pool"] for row in grown.rows}) == 1
    less = checked_study(grids=[{"arms": ["none"]}], **small)
    assert run_study(less, out=str(where), command="ffr study", inline=True).rows == grown.rows[:1]


def test_what_fails_takes_with_it_only_what_needs_it(finished, out, tmp_path, monkeypatch):
    where = pool_alone(out, tmp_path / "failing")
    checked = checked_study(grids=[{**GRIDS[0], "bias_ratios": [0.9]}])

    def breaking(task, desk):
        if task.cell.arm == "ffr" and task.until == "finetune" and task.cell.mitigation == "groupdro":
            return Answer(error="the device is on fire")
        if task.until is None and task.cell.mitigation == "dfr" and desk.seed == 1:
            return Answer(error="no test today")
        return do(task, desk)

    monkeypatch.setattr(crew_module, "do", breaking)
    result = run_study(checked, out=str(where), command="ffr study", inline=True)
    failed = {(one["arm"], one["mitigation"], one["seed"], one["error"]) for one in result.failures}
    assert failed == {
        ("ffr", "groupdro", 0, "the device is on fire"),  # none of its alternatives could be tried
        ("ffr", "groupdro", 1, "the device is on fire"),
        ("none", "dfr", 1, "no test today"),
        ("ffr", "dfr", 1, "no test today"),
    }
    assert len(result.rows) + len(result.failures) == 12
    assert json.loads((where / "results.json").read_text())["failures"] == result.failures
    records = [json.loads(path.read_text()) for path in (where / "study-failures").iterdir()]
    assert {record["error"] for record in records} == {"the device is on fire", "no test today"}
    monkeypatch.undo()
    assert not run_study(checked, out=str(where), command="ffr study", inline=True).failures
    assert not list(where.glob("study-failures/*"))
    document = json.loads((where / "results.json").read_text())
    assert document["rows"] == finished[0].rows[:12]
    assert document["failures"] == []


def test_an_error_of_a_stage_is_its_answer(finished, out, monkeypatch):
    from ffr_dist.launch.study import work

    desks, tasks = [], []
    monkeypatch.setattr(
        crew_module, "do", lambda task, desk: (desks.append(desk), tasks.append(task), do(task, desk))[2]
    )
    run_study(checked_study(), out=str(out), command="ffr study", inline=True)
    monkeypatch.setattr(work, "train_stages", lambda *_, **__: 1 / 0)
    answer = do(tasks[0], desks[0])
    assert answer.error == "ZeroDivisionError: division by zero"
    assert "train_stages" in answer.trace


def test_the_table_pairs_seeds(finished):
    result, _ = finished
    tables = tables_of(result.rows, checked_study().study.lead)
    assert [(table["bias_ratio"], table["variant"]) for table in tables] == [(0.9, ""), (0.8, ""), (0.9, "head-only")]
    lines = {(line["arm"], line["mitigation"]): line for line in tables[0]["lines"]}
    ours = [row["worst_group"] for row in result.rows[6:8]]
    base = [row["worst_group"] for row in result.rows[:2]]
    line = lines["ffr", "erm"]
    assert line["to_baseline"]["mean"] == pytest.approx(sum(a - b for a, b in zip(ours, base, strict=True)) / 2)
    assert line["to_baseline"]["pairs"] == 2
    assert line["to_lead"] is None
    assert lines["none", "erm"]["to_baseline"] is None
    assert lines["none", "erm"]["to_lead"]["mean"] == -line["to_baseline"]["mean"]
    assert line["n_worst"] == 10
    alone = {line["arm"]: line for line in tables[2]["lines"]}["ffr"]  # one seed
    assert alone["to_baseline"]["low"] is None
    assert 0 <= alone["worst_group"]["low"] <= alone["worst_group"]["mean"] <= alone["worst_group"]["high"] <= 1


def test_an_output_of_other_pixels_is_refused(finished, out):
    other = checked_study(set={**SETTINGS, **TUNED, "method.generator.guidance": 3.0})
    with pytest.raises(ConflictError, match=r"method\.generator\.guidance"):
        start_run(other.base(other.demand()), out=str(out), command="ffr study")


def refuse(checked, out, error):
    """The study is refused, and nothing in the output is another."""

    def content():
        return {path: path.read_bytes() for path in out.rglob("*") if path.is_file() and path.parent.name != "drivers"}

    before = content()
    with pytest.raises(error) as caught:
        run_study(checked, out=str(out), command="ffr study", inline=True)
    assert content() == before
    return str(caught.value)


def test_a_second_driver_is_refused_before_it_changes_anything(finished, out):
    other = checked_study(grids=[{"arms": ["none"], "bias_ratios": [0.95]}], tune=None, lead=None)
    with Heartbeat(open_store(str(out)), every_s=0.2):
        told = refuse(other, out, ConflictError)
    assert "another driver is at work" in told
    assert "ffr generate --join" in told


def test_an_output_of_another_study_is_refused(finished, out):
    assert "holds the study tiny, whose results other would replace" in refuse(
        checked_study(name="other"), out, ConflictError
    )


def test_a_failed_audit_says_how_to_look_and_how_to_go_on(finished, out, tmp_path):
    where = pool_alone(out, tmp_path / "failed")
    strict = checked_study(set={**SETTINGS, **TUNED, "audit.min_label_accuracy": 1.0})
    with pytest.raises(StoppedError) as caught:
        run_study(strict, out=str(where), command="ffr study tiny", inline=True)
    assert f"ffr report {where}. " in str(caught.value)
    assert "audit.min_label_accuracy" in str(caught.value)
    assert str(caught.value).endswith("To go on: ffr study tiny")


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_on_ray_the_same_bytes_and_a_job_that_kills_its_process_fails_alone(
    cluster, finished, out, tmp_path, monkeypatch
):
    from ffr_dist.launch.study import on_ray

    where = pool_alone(out, tmp_path / "ray")
    cloudpickle.register_pickle_by_value(sys.modules[__name__])

    def dying(task, desk):
        if task.cell.arm == "ffr" and task.cell.mitigation == "groupdro" and task.until == "finetune":
            os.kill(os.getpid(), signal.SIGKILL)
        return do(task, desk)

    monkeypatch.setattr(on_ray, "do", dying)
    checked = checked_study(workers=2)
    result = run_study(checked, out=str(where), command="ffr study")
    assert {(one["arm"], one["mitigation"]) for one in result.failures} == {("ffr", "groupdro")}
    assert all("its process died 3 times" in one["error"] for one in result.failures)
    monkeypatch.undo()
    assert not run_study(checked, out=str(where), command="ffr study").failures
    assert (where / "results.json").read_bytes() == (out / "results.json").read_bytes()


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_node_that_is_taken_away_counts_against_no_job(cluster, tmp_path, monkeypatch):
    import ray

    from ffr_dist.launch.study import on_ray

    nodes = [cluster.add_node(num_cpus=3) for _ in range(2)]  # the head has too few
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    where = tmp_path / "where"

    def where_it_is(task, desk):
        if not where.exists():
            where.write_text(ray.get_runtime_context().get_node_id())
            time.sleep(600)
        return Answer()

    monkeypatch.setattr(on_ray, "do", where_it_is)
    monkeypatch.setattr(on_ray, "_DEATHS", 1)
    ended = []
    with on_ray.Workers(open_store(str(tmp_path)), 1, 3, StopSignals()) as workers:
        workers.start(Job("one", SimpleNamespace(desk="desk"), None), {"desk": None})
        while not (where.exists() and where.read_text()):
            assert not workers.wait()
        [taken] = [node for node in nodes if node.node_id == where.read_text()]
        cluster.remove_node(taken, allow_graceful=False)
        while not ended:
            ended = workers.wait()
    assert [answer.error for _, answer in ended] == [None]
    nodes.remove(taken)
    cluster.remove_node(*nodes)


@pytest.mark.ray
@pytest.mark.store
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_in_a_bucket_the_same_bytes(finished, out, tmp_path, s3):
    pool, url = pool_alone(out, tmp_path / "pool"), f"{s3.url}/study"
    bucket = open_store(url)
    for file in pool.rglob("*"):
        if file.is_file():
            bucket.put(str(file.relative_to(pool)), file.read_bytes())
    file = tmp_path / "tiny.yaml"
    file.write_text(study_text(workers=2))
    command = [sys.executable, str(Path(tiny_study.__file__)), str(file), "--out", url]
    subprocess.run(command, check=True, env=os.environ | {"RAY_ADDRESS": "local"})  # where there are credentials
    assert bucket.get("results.json") == (out / "results.json").read_bytes()


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_at_any_moment_the_same_command_ends_in_the_same_bytes(finished, out, tmp_path):
    where = pool_alone(out, tmp_path / "killed")
    file = tmp_path / "tiny.yaml"
    file.write_text(study_text())
    luck = random.Random(6)
    for flags in (["--inline"], [], ["--inline"]):
        done = stages(where)
        command = [sys.executable, str(Path(tiny_study.__file__)), str(file), "--out", str(where), *flags]
        driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)
        due = done + luck.randrange(3, 12)
        while driver.poll() is None and stages(where) < due:
            time.sleep(luck.uniform(0.01, 0.3))
        driver.kill()
        _, said = driver.communicate()
        assert driver.returncode == -signal.SIGKILL, said.decode()
        assert not (where / "results.json").exists()
    assert not run_study(checked_study(), out=str(where), command="ffr study", inline=True).failures
    assert (where / "results.json").read_bytes() == (out / "results.json").read_bytes()


def stages(where):
    return sum(1 for _ in where.glob("train/*/stage.json"))


def test_a_signal_stops_it_with_what_to_do(out, finished, monkeypatch):
    def interrupted(task, desk):
        raise KeyboardInterrupt

    monkeypatch.setattr(crew_module, "do", interrupted)
    with pytest.raises(StoppedError, match=r"what is done is kept\. To go on: ffr study tiny"):
        run_study(checked_study(), out=str(out), command="ffr study tiny", inline=True)
    assert StopSignals().asked is None


def test_a_stage_that_two_ratios_share_is_one_job():
    """Two jobs would train in one folder: where the quota caps every ratio, FFR's first stage reads the same images."""
    quota = dict.fromkeys(("low_temple", "low_flowers", "high_temple", "high_flowers"), 10)
    checked = checked_study(
        set={**SETTINGS, "method.quota": quota, "method.allow_fraction": True},
        grids=[{"arms": ["ffr"], "bias_ratios": [0.8, 0.9], "seeds": [0]}],
        tune=None,
    )
    grounds = {
        (key, 0): Ground(
            folders={},
            counts=setting.real_counts(0),
            fingerprints={"real": f"real at {key}", "synthetic": "pool", "val": "same"},
        )
        for key, setting in checked.settings.items()
    }
    recipes = {key: setting.recipe for key, setting in checked.settings.items()}
    groups = next(iter(checked.settings.values())).groups
    planner = Planner(store=open_store("memory://jobs"), recipes=recipes, grounds=grounds, groups=groups, threads=1)
    jobs = planner.jobs(checked.cells, lambda _: None, test=False).jobs
    assert [job.work.what.partition(":")[0] for job in jobs] == ["pretrain", "finetune", "finetune"]


def test_a_study_grows_beyond_the_ratio_of_its_recipe(tmp_path):
    grid = {"arms": ["none", "ffr"], "seeds": [0]}
    first = checked_study(grids=[{**grid, "bias_ratios": [0.8]}], tune=None)
    run = _start(first, str(tmp_path), "ffr study", print)
    _ask(run)
    write_first_revision(run.store, run.checked.quota(), run.recipe.generate.keep.near_duplicates)
    more = checked_study(grids=[{**grid, "bias_ratios": [0.8, 0.9]}], tune=None)
    assert more.demand()["low_temple"] > first.demand()["low_temple"]
    _ask(_start(more, str(tmp_path), "ffr study", print))
    assert latest_revision(run.store).quota == more.demand()
