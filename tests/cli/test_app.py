"""The command line as its users meet it: what it prints, what it returns, and what it says to wrong input."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_run import make_run, recipe_text, write_data

from ffr_dist.cli.app import app
from ffr_dist.launch.local import run_all

README = Path(__file__).parents[2] / "README.md"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    write_data(folder)
    return folder


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """A whole run, made by the functions beneath the verbs."""
    out = tmp_path_factory.mktemp("finished")
    one_seed = recipe_text(data, seeds=("seeds: [0, 1]", "seeds: [0]"))
    run_all(make_run(one_seed, str(out)), inline=True)
    (out.parent / "finished.yaml").write_text(one_seed)
    return out, out.parent / "finished.yaml"


def test_every_verb_stands_in_the_readme():
    text = README.read_text()
    for command in app.registered_commands:
        name = command.name or command.callback.__name__
        assert f"ffr {name}" in text, name


def test_init_writes_recipes_that_parse(ffr, tmp_path):
    code, listed, _ = ffr("init", "--list")
    assert code == 0
    names = [line.split()[0] for line in listed.splitlines()]
    assert "ffr-demo" in names
    for name in names:
        target = tmp_path / f"{name}.yaml"
        assert ffr("init", target, "--from", name)[0] == 0
        assert target.read_text().startswith("# ")
    assert ffr("init", tmp_path / "ffr-demo.yaml")[0] == 2  # never over a file that is there
    assert ffr("init", tmp_path / "x.yaml", "--from", "fr-demo")[0] == 2


def test_plan_tells_machines_and_people(ffr, data, tmp_path):
    file = tmp_path / "small.yaml"
    file.write_text(recipe_text(data, output=tmp_path / "out"))
    code, told, _ = ffr("plan", file, "--json")
    plan = json.loads(told)
    assert code == 0
    assert plan.keys() == {
        "groups", "batch", "intervals", "candidates", "bytes", "images_per_second", "measured", "unfillable", "to_go",
        "fleets", "spent",
    }  # fmt: skip
    assert plan["groups"]["high_temple"]["quota"] == 16
    code, told, _ = ffr("plan", file)
    assert code == 0
    assert "rate unknown" in told
    assert not (tmp_path / "out").exists()


def test_preview_draws_before_anything_is_written(ffr, data, tmp_path):
    file = tmp_path / "small.yaml"
    file.write_text(recipe_text(data, output=tmp_path / "out"))
    code, told, _ = ffr("preview", file, "--per-group", 2, "--out", tmp_path / "sheet.png")
    assert code == 0
    assert "low_temple: 2 of 2 kept" in told
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "out").exists()


def test_status_verify_and_finish_read_an_output(ffr, finished):
    out, _ = finished
    code, told, _ = ffr("status", out, "--json")
    status = json.loads(told)
    assert code == 0
    assert status.keys() == {
        "output", "finished", "revision", "round", "intervals", "abandoned", "failures", "groups", "bytes",
        "images_per_second", "drivers", "spent", "to_go", "events", "study",
    }  # fmt: skip
    assert status["finished"] is True
    assert status["groups"]["low_temple"].keys() == {"quota", "tried", "accepted", "acceptance", "rejected"}
    code, told, _ = ffr("status", out, "--watch", "--json")  # finished: one line, and it ends
    assert code == 0
    assert json.loads(told)["intervals"] == status["intervals"]
    code, told, _ = ffr("status", out, "--watch")
    assert code == 0
    assert told.startswith("finished: 48 of 48 images")
    code, told, _ = ffr("verify", out, "--json")
    found = json.loads(told)
    assert code == 0
    assert found.keys() == {"ok", "shards", "images", "groups", "manifest_sha256", "problems"}
    assert found["images"] == 48
    code, told, _ = ffr("finish", out)
    assert code == 0
    assert found["manifest_sha256"] in told
    for verb in ("status", "verify"):
        assert ffr(verb, out)[0] == 0


PRICED = (
    "generate: {batch: 4, images_per_shard: 8}",
    "generate: {batch: 4, images_per_shard: 8, images_per_second: 3, price_per_gpu_hour: 2.5}",
)


def test_a_plan_tells_time_and_cost_for_1_8_and_64_workers(ffr, data, tmp_path):
    file = tmp_path / "small.yaml"
    file.write_text(recipe_text(data, output=tmp_path / "out", priced=PRICED))
    code, told, _ = ffr("plan", file, "--json")
    assert code == 0
    fleets = json.loads(told)["fleets"]
    assert [fleet["workers"] for fleet in fleets] == [1, 8, 64]
    for fleet in fleets:
        assert fleet.keys() == {"workers", "gpus", "seconds", "cost"}
        assert fleet["seconds"].keys() == fleet["cost"].keys() == {"expected", "low", "high"}
    code, told, _ = ffr("plan", file)
    assert "as the recipe states" in told
    assert not (tmp_path / "out").exists()


def test_a_pilot_can_be_looked_at_before_the_rest_is_paid_for(ffr, data, tmp_path):
    file = tmp_path / "small.yaml"
    wanted = (
        "  prompts:",
        "  quota: {low_temple: 210, low_flowers: 210, high_temple: 210, high_flowers: 210}\n  prompts:",
    )
    large = (
        "generate: {batch: 4, images_per_shard: 8}",
        "generate: {batch: 32, images_per_shard: 128, price_per_gpu_hour: 2.5}",
    )
    file.write_text(recipe_text(data, output=tmp_path / "out", wanted=wanted, large=large))
    code, told, err = ffr("generate", file, "--stop-after", "pilot", "--inline")
    assert code == 0, err
    said = " ".join(told.split())
    assert re.search(r"low_temple │ 210 │ (199|200) │ 9\d\.\d \(9\d\.\d – ", said), said
    assert re.search(r"to go on: ffr generate \S+small.yaml --inline$", said), said
    code, told, _ = ffr("plan", file, "--json")
    plan = json.loads(told)
    assert plan["measured"] == {"acceptance": True, "rate": True}
    assert plan["to_go"]["candidates"] >= 40
    for fleet in plan["fleets"]:
        assert fleet["seconds"]["low"] < fleet["seconds"]["expected"] < fleet["seconds"]["high"]
        assert fleet["cost"]["low"] < fleet["cost"]["high"]
    assert plan["spent"]["cost"] > 0
    code, told, _ = ffr("status", tmp_path / "out", "--json")
    status = json.loads(told)
    assert status["finished"] is False
    assert status["to_go"]["seconds"]["expected"] > 0
    assert [driver["state"] for driver in status["drivers"]] == ["ended"]
    assert status["spent"]["device_seconds"] == pytest.approx(plan["spent"]["device_seconds"])
    assert any(event["event"] == "ended" for event in status["events"])


def test_there_is_one_place_to_stop_after(ffr, data, tmp_path):
    file = tmp_path / "small.yaml"
    file.write_text(recipe_text(data, output=tmp_path / "out"))
    code, _, told = ffr("generate", file, "--stop-after", "lunch")
    assert code == 2
    assert "'pilot'" in told
    assert not (tmp_path / "out").exists()


def test_verify_ends_with_4_and_names_the_damage(ffr, finished, tmp_path):
    import shutil

    out, _ = finished
    copy = shutil.copytree(out, tmp_path / "copy")
    tar = min((copy / "shards").glob("*.tar"))
    body = bytearray(tar.read_bytes())
    body[700] ^= 1
    tar.write_bytes(body)
    code, told, _ = ffr("verify", copy, "--json")
    assert code == 4
    assert tar.name in json.loads(told)["problems"][0]


def test_one_cell_is_scored_and_entered(ffr, finished):
    out, recipe = finished
    code, told, _ = ffr("evaluate", recipe, "--out", out, "--arm", "asb", "--mitigation", "erm", "--seed", 0)
    assert code == 0, told
    rows = json.loads((out / "results.json").read_text())["rows"]
    assert ("asb", "erm") in {(row["arm"], row["mitigation"]) for row in rows}
    code, told, _ = ffr("pretrain", recipe, "--out", out)
    assert code == 0
    assert "weights-" in told
    assert ffr("finetune", recipe, "--out", out)[0] == 0
    assert ffr("report", recipe, "--out", out)[0] == 0


def test_train_ends_with_all_stages_of_a_cell_and_scores_none(ffr, finished):
    out, recipe = finished
    before = (out / "results.json").read_bytes()
    code, told, _ = ffr("train", recipe, "--out", out, "--arm", "ffr", "--mitigation", "dfr")
    assert code == 0, told
    assert "pretrain: ffr × dfr, seed 0: " in told
    assert "✓ dfr: ffr × dfr, seed 0: val worst group " in told
    folder = out / re.search(r"weights: .*/(train/\w+)/weights-", told)[1]
    assert json.loads((folder / "stage.json").read_text())["identity"]["stage"]["name"] == "dfr"
    assert (folder / "model" / "README.md").is_file()
    assert not list(folder.glob("test-*.json"))
    assert (out / "results.json").read_bytes() == before


def test_help_names_every_mitigation(ffr):
    from typing import get_args

    from ffr_dist.train.stage import Mitigation

    code, told, _ = ffr("train", "--help")
    assert code == 0
    assert set(get_args(Mitigation)) <= set(re.findall(r"\w+", told))


def test_a_cell_that_there_cannot_be_is_refused(ffr, finished):
    out, recipe = finished
    for arguments, told in (
        (("finetune", recipe, "--arm", "none"), "arm none has no stage 'finetune'; it has train"),
        (("train", recipe, "--mitigation", "upsample"), "'balanced_softmax' or 'logit_adjustment' (got 'upsample')"),
        (("train", recipe, "--arm", "group_balanced", "--mitigation", "dfr"), "leave 'mitigation' out"),
        (("train", recipe, "--arm", "frf"), "ffr has no arm 'frf'"),
    ):
        code, _, words = ffr(*arguments, "--out", out)
        assert code == 2
        assert told in words


def test_doctor_finds_this_machine_right(ffr, monkeypatch):
    from ffr_dist.launch import doctor

    monkeypatch.setattr(doctor, "_ray", lambda: doctor.Finding("ray", ok=True, found="left to the tests of Ray"))
    code, told, _ = ffr("doctor", "--json")
    assert code == 0, told
    assert {finding["what"] for finding in json.loads(told)} >= {"python", "libraries", "local store", "device", "ray"}


def test_doctor_tries_an_output(ffr, monkeypatch, tmp_path):
    from ffr_dist.launch import doctor

    for name in ("_ray", "_device"):
        monkeypatch.setattr(doctor, name, lambda: doctor.Finding("x", ok=True, found="left to other tests"))
    code, told, _ = ffr("doctor", tmp_path / "out", "--json")
    assert code == 0, told
    assert json.loads(told)[-1]["what"] == f"output {tmp_path / 'out'}"
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    (tmp_path / "file").write_text("")
    code, told, _ = ffr("doctor", tmp_path / "file", "--json")
    assert code == 4
    assert json.loads(told)[-1]["ok"] is False


def test_doctor_repeats_no_password_and_survives_a_dying_ray(ffr, monkeypatch):
    from ffr_dist.launch import cluster, doctor

    class RayletDiedError(Exception):
        """As Ray's own errors: of no kind that Python has."""

    def die():
        raise RayletDiedError("the local raylet died")

    monkeypatch.setattr(cluster, "try_ray", die)
    monkeypatch.setattr(doctor, "_device", lambda: doctor.Finding("x", ok=True, found="left to other tests"))
    for flags in ((), ("--json",)):
        code, told, error = ffr("doctor", "s3://me:hunter2hunter2@bucket/out", *flags)
        assert (code, error) == (4, "")
        assert "the local raylet died" in told
        assert "environment" in told
        assert "hunter2" not in told


def test_init_from_what_is_not_there_leaves_no_file(ffr, tmp_path):
    code, _, error = ffr("init", tmp_path / "mine.yaml", "--from", "nothing")
    assert (code, "ffr-demo" in error) == (2, True)
    assert not (tmp_path / "mine.yaml").exists()


def test_no_message_shows_a_secret(ffr, monkeypatch, tmp_path):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMIK7MDENG")
    code, _, told = ffr("status", tmp_path / "wJalrXUtnFEMIK7MDENG")
    assert code == 2
    assert "there is no output" in told
    assert "wJalrXUtnFEMIK7MDENG" not in told


WRONG = {
    "a misspelt key": ("codec", ("size: 32\nmethod", "siez: 32\nmethod"), "did you mean 'size'"),
    "a misspelt key below": ("below", ("steps: 2,", "stepps: 2,"), "did you mean 'steps'"),
    "a wrong type": ("type", ("seed: 3", 'seed: "3"'), "seed: "),
    "weights that are not there": (
        "weights",
        ("train:\n", "train:\n  model: {kind: resnet, weights: ./nowhere}\n"),
        "no such folder",
    ),
    "an unknown arm": ("arm", ("{arm: none}", "{arm: nune}"), "no arm 'nune'"),
    "a group without prompt": (
        "prompt",
        ("    high_temple: [a photo of the digit six over temple]\n", ""),
        "no prompt covers group high_temple",
    ),
    "two groups with one prompt": (
        "alike",
        (
            "    high_temple: [a photo of the digit six over temple]",
            "    high_temple: [a  photo of the digit one over Temple]",
        ),
        "groups low_temple and high_temple have the same prompt",
    ),
    "a prompt without group": ("group", ("    high_temple: [a photo", "    high_tempel: [a photo"), "high_tempel"),
    "a negative quota": (
        "quota",
        ("  prompts:", "  quota: {low_temple: -1}\n  prompts:"),
        "quota of group low_temple is -1",
    ),
    "no quota at all": ("zero", ("  prompts:", "  quota: {low_temple: 0}\n  prompts:"), "every quota is 0"),
    "a generator that is not there": ("weights", ("weights: embedded", "weights: /nowhere"), "/nowhere"),
    "a table that is not there": ("table", ("labels.csv", "lables.csv"), "lables.csv"),
    "a class that nobody maps": ("class", ("classes: {low: 0, high: 1}", "classes: {low: 0, hi: 1}"), "high"),
    "a password": ("secret", ("output: ", "output: s3://me:word@host/"), "password"),
    "a signature": ("signed", ("weights: embedded", "weights: 'https://host/pipe?X-Amz-Signature=abc'"), "signature"),
    "not YAML": ("yaml", ("name: small", "name: [small"), "is not YAML"),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_recipes_end_with_2_one_message_and_nothing_written(what, ffr, data, tmp_path):
    _, replaced, expected = WRONG[what]
    file = tmp_path / "wrong.yaml"
    file.write_text(recipe_text(data, output=tmp_path / "out", wrong=replaced))
    for verb in ("plan", "generate"):
        code, _, told = ffr(verb, file)
        assert code == 2, told
        assert expected in told
        assert "Traceback" not in told
    assert not (tmp_path / "out").exists()


def test_a_generator_folder_without_weights_is_named(ffr, data, tmp_path):
    folder = tmp_path / "pipe"
    folder.mkdir()
    (folder / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline", "_diffusers_version": "0.35"}')
    file = tmp_path / "wrong.yaml"
    file.write_text(recipe_text(data, weights=("weights: embedded", f"weights: {folder}")))
    code, _, told = ffr("plan", file)
    assert code == 2
    assert str(folder) in told


def test_an_empty_declared_group_in_validation_is_refused(ffr, tmp_path):
    write_data(tmp_path / "data", {"train": (4, 2, 2, 4), "val": (2, 0, 2, 2), "test": (2, 2, 2, 2)})
    file = tmp_path / "wrong.yaml"
    file.write_text(recipe_text(tmp_path / "data", output=tmp_path / "out"))
    code, _, told = ffr("import", file)
    assert code == 2
    assert re.search(r"val.*low_flowers", told)


def test_an_unreadable_image_is_named_counted_or_skipped(ffr, data, tmp_path):
    import shutil

    shutil.copytree(data, tmp_path / "data")
    victim = tmp_path / "data" / "images" / "train-low_temple-0.png"
    victim.write_bytes(victim.read_bytes()[:200])  # half-written
    file = tmp_path / "refuse.yaml"
    file.write_text(recipe_text(tmp_path / "data", output=tmp_path / "refuse"))
    code, _, told = ffr("import", file)
    assert code == 2
    assert victim.name in told
    assert not list((tmp_path / "refuse" / "real").glob("train-*/manifest.json"))
    file.write_text(
        recipe_text(
            tmp_path / "data",
            output=tmp_path / "skip",
            skip=("size: 32\nmethod", "  on_bad_image: skip\nsize: 32\nmethod"),
        )
    )
    code, _, told = ffr("import", file)
    assert code == 0, told
    manifest = json.loads(next((tmp_path / "skip" / "real").glob("train-*/manifest.json")).read_text())
    assert manifest["images"] == 47
    assert manifest["detail"]["skipped"]["count"] == 1


def test_an_output_that_cannot_be_written_is_wrong_input(ffr, data, tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    file = tmp_path / "small.yaml"
    file.write_text(recipe_text(data))
    code, _, told = ffr("import", file, "--out", blocked / "out")
    assert code == 2
    assert "not writable" in told


def test_an_empty_out_is_refused(ffr, data, tmp_path, monkeypatch):
    file = tmp_path / "small.yaml"
    file.write_text(recipe_text(data, output=tmp_path / "out"))
    monkeypatch.chdir(tmp_path)
    code, _, told = ffr("import", file, "--out", "")
    assert (code, "the output is an empty name" in told) == (2, True)
    assert [path.name for path in tmp_path.iterdir()] == ["small.yaml"]


def test_a_signal_ends_a_verb_with_how_to_go_on(tmp_path):
    """Each process waits for its recipe, a pipe that nothing is written to: there the signal finds it."""
    recipe = tmp_path / "recipe.yaml"
    os.mkfifo(recipe)
    for verb, number in (("import", signal.SIGTERM), ("report", signal.SIGINT)):
        command = [sys.executable, "-m", "ffr_dist.cli", verb, str(recipe)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process, recipe.open("w"):
            time.sleep(0.5)  # from open to read: a signal just before a blocking call is seen when that returns
            process.send_signal(number)
            _, told = process.communicate()
        assert process.returncode == 3
        assert told == f"ffr: stopped; what is done is kept. To go on: ffr {verb} {recipe}\n"


@pytest.mark.parametrize("verb", ["status", "verify", "finish"])
def test_what_is_no_output_is_said_so(verb, ffr, tmp_path):
    assert ffr(verb, tmp_path / "nowhere")[0] == 2
    code, _, told = ffr(verb, tmp_path)
    assert code == 2
    assert "Traceback" not in told
