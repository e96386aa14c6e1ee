"""From a recipe to a report in one process, and again."""

import hashlib
import io
import json
import tarfile

import pytest
from small_run import GROUPS, make_run, recipe_text

from ffr_dist.errors import ConfigError, ConflictError, StoppedError
from ffr_dist.launch.events import Began, Ended
from ffr_dist.launch.local import run_all
from ffr_dist.launch.planning import read_status, summarise
from ffr_dist.launch.pool import finish_pool
from ffr_dist.launch.rows import add_row, read_rows
from ffr_dist.shards.verify import verify
from ffr_dist.store import open_store


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("whole")


@pytest.fixture(scope="module")
def finished(data, out):
    run = make_run(recipe_text(data), str(out))
    return run, run_all(run, inline=True)


def test_rows_keep_the_contract(finished):
    run, rows = finished
    assert json.loads(run.store.get("results.json"))["rows"] == rows
    assert {(row["arm"], row["mitigation"], row["seed"]) for row in rows} == {
        (cell.arm, cell.mitigation, seed) for cell in run.recipe.compare.cells for seed in (0, 1)
    }
    for row in rows:
        accuracies = [group["correct"] / group["count"] for group in row["groups"].values()]
        assert row["worst_group"] == min(accuracies)
        assert row["group_mean"] == pytest.approx(sum(accuracies) / 4)
        assert tuple(row["groups"]) == GROUPS
        assert {"method", "bias_ratio", "train_weighted_mean", "micro", "n_worst", "pool", "real"} <= row.keys()
    assert len({row["pool"] for row in rows}) == 1


def test_the_pool_is_balanced_and_an_outsider_agrees(finished):
    run, _ = finished
    found = verify(run.store)
    assert found.ok, found.problems
    assert dict(found.groups) == {"low_temple": 8, "low_flowers": 16, "high_temple": 16, "high_flowers": 8}
    lines = []
    for shard in json.loads(run.store.get("manifest.json"))["shards"]:
        with tarfile.open(fileobj=io.BytesIO(run.store.get(shard["key"]))) as tar:
            bodies = {member.name: tar.extractfile(member).read() for member in tar}
        for name, body in bodies.items():
            if name.endswith(".jpg"):
                sample = json.loads(bodies[name.replace(".jpg", ".json")])
                assert {"key", "group", "label", "bias", "source", "seed", "prompt"} <= sample.keys()
                lines.append(f"{sample['key']} {sample['group']} {hashlib.sha256(body).hexdigest()}\n")
    assert hashlib.sha256("".join(sorted(lines)).encode()).hexdigest() == found.manifest_sha256


def test_a_second_run_does_nothing_twice(finished, data, out):
    _, rows = finished
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    told = []
    again = run_all(make_run(recipe_text(data), str(out), tell=told.append), inline=True)
    assert again == rows
    assert not [event for event in told if isinstance(event, Began)]
    assert all(event.reused for event in told if isinstance(event, Ended) and event.what != "report")
    changed = {path.name for path in out.rglob("*") if path.is_file() and before.get(path) != path.stat().st_mtime_ns}
    assert changed <= {"results.json", "report.html", "manifest.json"}  # rewritten alike, from what is there


def test_pretraining_is_shared_between_mitigations(finished):
    _, rows = finished
    firsts = {row["mitigation"]: row["stages"][0] for row in rows if row["arm"] == "ffr" and row["seed"] == 0}
    assert firsts["erm"] == firsts["groupdro"]
    lasts = {row["mitigation"]: row["stages"][1] for row in rows if row["arm"] == "ffr" and row["seed"] == 0}
    assert lasts["erm"] != lasts["groupdro"]


def test_fine_tuning_starts_from_the_whole_of_pretraining(finished):
    run, rows = finished
    first, second = next(row["stages"] for row in rows if row["arm"] == "ffr")
    stage = [json.loads(run.store.get(f"{folder}/stage.json")) for folder in (first, second)]
    assert stage[1]["identity"]["init"] == stage[0]["sha256"]
    best = stage[0]["chosen"]["val_worst_group"]
    assert next(row for row in stage[1]["history"] if "score" in row)["score"][0] == best  # step 0 is stage 1


def test_no_checkpoint_of_a_finished_stage_is_left(finished):
    run, _ = finished
    assert not [info.key for info in run.store.list("train") if "COMPLETE" in info.key or "/state-" in info.key]


def test_the_report_stands_alone(finished):
    run, _ = finished
    page = run.store.get("report.html").decode()
    assert "ffr × groupdro" in page
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_status_and_finish_need_the_store_alone(finished, out):
    store = open_store(str(out), create=False)
    status = read_status(store)
    assert status["finished"]
    assert status["intervals"]["planned"] == status["intervals"]["committed"]
    assert {name: row["quota"] for name, row in status["groups"].items()}["low_flowers"] == 16
    assert finish_pool(store).images == 48


def test_other_pixels_are_refused_by_name(finished, data, out):
    text = recipe_text(data, steps=("steps: 2,", "steps: 3,"))
    with pytest.raises(ConflictError, match=r"method\.generator\.steps"):
        make_run(text, str(out))


def test_another_quota_is_refused(finished, data, out):
    text = recipe_text(
        data,
        quota=("  prompts:", "  quota: {low_flowers: 17, low_temple: 9, high_temple: 17, high_flowers: 9}\n  prompts:"),
    )
    with pytest.raises(ConflictError, match="low_flowers"):
        run_all(make_run(text, str(out)), inline=True)


def test_rows_of_two_pools_do_not_mix(finished):
    run, rows = finished
    with pytest.raises(ConflictError, match="two different pool"):
        add_row(run.store, {**rows[0], "seed": 9, "pool": "another"})
    assert read_rows(run.store) == rows


def test_a_pool_smaller_than_an_arm_needs_is_refused_before_anything_is_written(data, tmp_path):
    text = recipe_text(
        data,
        quota=("  prompts:", "  quota: {low_flowers: 3, low_temple: 3, high_temple: 3, high_flowers: 3}\n  prompts:"),
    )
    with pytest.raises(ConfigError, match="allow_fraction"):
        make_run(text, str(tmp_path / "new"))
    assert not (tmp_path / "new").exists()


def test_a_pool_that_fails_its_audit_is_not_trained_on(data, tmp_path):
    text = recipe_text(data, audit=("audit: {steps: 5}", "audit: {steps: 5, min_label_accuracy: 1.0}"))
    run = make_run(text, str(tmp_path))
    with pytest.raises(StoppedError, match="failed its audit"):
        run_all(run, inline=True)
    assert not list(run.store.list("train"))


def test_the_plan_tells_what_will_be_made(data):
    from ffr_dist.config import parse
    from ffr_dist.launch.context import check_recipe
    from ffr_dist.recipe import Recipe

    text = recipe_text(data)
    plan = summarise(check_recipe(parse(Recipe, text, "small"), text))
    assert plan["groups"]["low_flowers"] == {
        "real": 4,
        "quota": 16,
        "arms": {
            "none": 0,
            "usb": 16,
            "asb": 8,
            "ffr": 8,
            "synthetic_only": 8,
            "group_balanced": 8,
            "generator_data": 0,
        },
    }
    assert plan["intervals"] == 6
    assert plan["batch"] == 4
    assert plan["images_per_second"] is None
    assert plan["bytes"] > 0
