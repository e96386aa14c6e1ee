"""Cells of the comparison: which stages they train, what a stage leaves, and what is refused."""

from __future__ import annotations

import csv
import itertools
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from small_run import make_run, recipe_text
from small_sets import fresh_store, write_set

from ffr_dist.config import parse
from ffr_dist.errors import BrokenError, ConfigError, DataError, InputError, StoreError
from ffr_dist.evaluate.score import predictions
from ffr_dist.groups import Group, Groups
from ffr_dist.launch.cells import counts_key, score_cell, train_cell
from ffr_dist.launch.context import check_recipe, import_real
from ffr_dist.launch.events import Began, Ended, Warned
from ffr_dist.launch.pool import make_pool
from ffr_dist.launch.publish import write_report
from ffr_dist.launch.rows import write_rows
from ffr_dist.launch.sets import open_cell_data
from ffr_dist.launch.stages import load_model
from ffr_dist.models.classifier import load_weights
from ffr_dist.recipe import CellConfig, Recipe


@pytest.fixture(scope="module")
def made(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("cells")
    run = make_run(recipe_text(data), str(out))
    make_pool(run, inline=True)
    return run, open_cell_data(run, import_real(run, 0))


def cell(arm, mitigation="erm"):
    return CellConfig(arm=arm, mitigation=mitigation)


def variant(made, data, **replaced):
    """The same output, by a recipe that trains otherwise."""
    run, sets = made
    told = []
    return make_run(recipe_text(data, **replaced), run.store.url.removeprefix("file://"), tell=told.append), sets, told


def test_dfr_is_a_stage_after_those_of_erm(made, data):
    run, sets, told = variant(made, data)
    before = train_cell(run, cell("ffr"), 0, sets)
    told.clear()
    trained = train_cell(run, cell("ffr", "dfr"), 0, sets)
    assert trained[:2] == before
    assert [event.what.partition(":")[0] for event in told if isinstance(event, Began)] == ["dfr"]
    stage = json.loads(run.store.get(f"{trained[2].folder}/stage.json"))
    assert stage["identity"]["init"] == before[1].sha256
    assert stage["chosen"]["strength"] in stage["identity"]["stage"]["strengths"]
    assert stage["chosen"]["val_is"] == "the half that the fit of this score has not seen"
    assert 0 <= stage["chosen"]["val_worst_group"] <= 1
    first, second = (load_weights(run.store.get(one.weights)) for one in trained[1:])
    assert {name for name, value in first.items() if not value.equal(second[name])} == {"head.weight", "head.bias"}
    assert set(second) - set(first) == {"head.mean", "head.scale"}

    rows = [
        score_cell(run, cell(*names), 0, sets, train_cell(run, cell(*names), 0, sets))
        for names in [("none",), ("ffr", "dfr")]
    ]
    assert rows[1]["stages"] == [one.folder for one in trained]
    assert score_cell(run, cell("ffr", "dfr"), 0, sets, trained) == rows[1]  # read back, not counted again
    key = counts_key(trained[-1], sets)
    counted = run.store.get(key)
    for body in (b"{", b"[]", b"{}", counted.replace(b"[", b"[1")):
        told.clear()
        run.store.put(key, body)
        assert score_cell(run, cell("ffr", "dfr"), 0, sets, trained) == rows[1]
        assert (run.store.get(key), [type(event) for event in told]) == (counted, [Warned]), "counted again, and told"
    write_rows(run.store, rows)
    write_report(run)
    assert "ffr × dfr" in run.store.get("report.html").decode()


def scores(stage):
    return [row["score"] for row in stage.history if "score" in row]


def test_jtt_finds_mistakes_and_starts_anew_where_it_began(made, data):
    run, sets, told = variant(made, data, jtt=("  batch: 16", "  batch: 16\n  jtt: {steps: 3, weight: 5}"))
    (pretrained, _) = train_cell(run, cell("ffr"), 0, sets)
    told.clear()
    first, finder, last = train_cell(run, cell("ffr", "jtt"), 0, sets)
    assert [event.what for event in told if isinstance(event, Began)] == [
        f"{name}: ffr × jtt, seed 0" for name in ("identify", "finetune")
    ]
    assert first == pretrained
    assert finder.identity["init"] == last.identity["init"] == first.sha256
    assert (finder.identity["finder"], last.identity["finder"]) == (None, finder.sha256)
    assert finder.identity["sets"] == last.identity["sets"]
    # What finds mistakes ends at its last step, and nobody asked validation.
    assert (scores(finder), finder.chosen["step"], finder.chosen["val_worst_group"]) == ([], 3, None)
    assert scores(last)[0] == [first.chosen["val_worst_group"], first.chosen["val_group_mean"]]

    real = sets.sets["real"]
    wrong = predictions(load_model(run, finder, sets), real) != real.labels
    assert last.chosen["mistakes"] == wrong.sum() > 0
    bits = np.unpackbits(np.frombuffer(run.store.get(f"{finder.folder}/mistakes.bin"), np.uint8), count=len(real))
    assert (bits == wrong).all()

    (own_finder, own) = train_cell(run, cell("none", "jtt"), 0, sets)
    assert own_finder.identity["init"] is own.identity["init"] is None
    told.clear()
    assert train_cell(run, cell("none", "jtt"), 0, sets) == [own_finder, own]
    assert {event.reused for event in told if isinstance(event, Ended)} == {True}

    rows = [
        score_cell(run, cell(*names), 0, sets, train_cell(run, cell(*names), 0, sets))
        for names in [("none",), ("ffr", "jtt")]
    ]
    assert rows[1]["stages"] == [one.folder for one in (first, finder, last)]
    write_rows(run.store, rows)
    write_report(run)
    assert "ffr × jtt" in run.store.get("report.html").decode()


def test_mistakes_of_another_finder_are_another_stage(made, data):
    places = []
    for steps in (1, 2):
        run, sets, _ = variant(made, data, jtt=("  batch: 16", f"  batch: 16\n  jtt: {{steps: {steps}, weight: 5}}"))
        finder, last = train_cell(run, cell("none", "jtt"), 0, sets)
        places += [finder.folder, last.folder]
    assert len(set(places)) == 4
    run.store.put(f"{finder.folder}/mistakes.bin", b"?")
    run.store.delete(f"{last.folder}/stage.json")
    with pytest.raises(BrokenError, match=r"mistakes\.bin does not hold a bit for each"):
        train_cell(run, cell("none", "jtt"), 0, sets)


def test_a_finder_without_mistakes_is_told(made, data):
    text = ("  batch: 16", "  batch: 16\n  jtt: {steps: 4}")
    run, sets, told = variant(made, data, jtt=text)
    (finder,) = train_cell(run, cell("none", "jtt"), 0, sets, until="identify")
    run.store.put(f"{finder.folder}/mistakes.bin", bytes(len(sets.sets["real"]) // 8))
    *_, last = train_cell(run, cell("none", "jtt"), 0, sets)
    assert last.chosen["mistakes"] == 0
    assert "gets no sample wrong, so that this is erm" in next(e.message for e in told if isinstance(e, Warned))


@pytest.mark.parametrize("mitigation", ["balanced_softmax", "logit_adjustment"])
def test_offset_logits_are_trained_as_a_stage_of_their_own(made, data, mitigation):
    run, sets, _ = variant(made, data)
    (plain,) = train_cell(run, cell("usb"), 0, sets)
    (trained,) = train_cell(run, cell("usb", mitigation), 0, sets)
    assert trained.identity["stage"]["by_source"]
    assert trained.sha256 != plain.sha256


def test_a_stage_that_is_done_is_found(made, data):
    run, sets, told = variant(made, data)
    trained = train_cell(run, cell("none", "reweight"), 0, sets)
    told.clear()
    assert train_cell(run, cell("none", "reweight"), 0, sets) == trained
    assert [event.reused for event in told if isinstance(event, Ended)] == [True]


def test_a_finished_fit_leaves_its_log_and_no_checkpoint(made, data):
    run, sets, _ = variant(made, data)
    (trained,) = train_cell(run, cell("none", "subsample"), 0, sets)
    left = {info.key.removeprefix(f"{trained.folder}/fit-0/") for info in run.store.list(f"{trained.folder}/fit-0")}
    assert "log.jsonl" in left
    assert not [name for name in left if name.startswith("0000")]


def test_until_names_the_last_stage_to_train(made, data):
    run, sets, _ = variant(made, data)
    assert len(train_cell(run, cell("ffr", "dfr"), 0, sets, until="pretrain")) == 1
    assert len(train_cell(run, cell("ffr", "dfr"), 0, sets, until="finetune")) == 2
    with pytest.raises(InputError, match="arm none has no stage 'finetune'; it has train"):
        train_cell(run, cell("none"), 0, sets, until="finetune")


def test_the_head_alone_is_tuned_on_real_images(made, data):
    run, sets, _ = variant(made, data, head=("  batch: 16", "  batch: 16\n  finetune_trainable: head"))
    trained = train_cell(run, cell("ffr"), 0, sets)
    first, second = (load_weights(run.store.get(one.weights)) for one in trained)
    assert {name for name, value in first.items() if not value.equal(second[name])} == {"head.weight", "head.bias"}


def test_weights_that_were_changed_afterwards_are_refused(made, data):
    run, sets, _ = variant(made, data, lrs=("lrs: [0.002]", "lrs: [0.003]"))
    (trained,) = train_cell(run, cell("none"), 0, sets)
    body = bytearray(run.store.get(trained.weights))
    body[-1] ^= 1
    run.store.put(trained.weights, bytes(body))
    with pytest.raises(BrokenError, match=r"weights-.*sha256 differs"):
        score_cell(run, cell("none"), 0, sets, [trained])


def test_a_stage_that_tells_nothing_is_refused(made, data):
    run, sets, _ = variant(made, data, lrs=("lrs: [0.002]", "lrs: [0.004]"))
    (trained,) = train_cell(run, cell("none"), 0, sets)
    for body in (b"{", b'{"folder": 1}'):
        run.store.put(f"{trained.folder}/stage.json", body)
        with pytest.raises(BrokenError, match=r"stage\.json does not tell .* delete train/"):
            train_cell(run, cell("none"), 0, sets)


def test_a_split_with_labels_outside_the_classes_is_refused(made):
    run, _ = made
    stores = import_real(run, 0)
    groups = Groups.of([*run.checked.groups, Group("other_temple", 2, 0)])
    odd = fresh_store()
    write_set(odd, dict.fromkeys(groups.names, 2), groups=groups, side=32, split="val")
    with pytest.raises(DataError, match=r"val split has labels .* 2 classes .* group other_temple \(2\)"):
        open_cell_data(run, {**stores, "val": odd})


def test_broken_images_are_passed_over_where_the_recipe_allows_it_and_told(made, data):
    run, _, told = variant(
        made, data, read=("audit: ", "read: {skip_broken: 3}\naudit: "), lrs=("lrs: [0.002]", "lrs: [0.006]")
    )
    train = fresh_store()
    write_set(train, dict.fromkeys(run.checked.groups.names, 6), groups=run.checked.groups, side=32)
    stores = {**import_real(run, 0), "train": train}
    whole = open_cell_data(run, stores).sets["real"].whole
    key, start = whole.shards[0].key, int(whole.columns.offset[3])
    body = bytearray(train.get(key))
    body[start : start + 100] = bytes(100)
    train.put(key, bytes(body))
    told.clear()
    with pytest.warns(UserWarning, match="stands for it"):
        (trained,) = train_cell(run, cell("none"), 0, open_cell_data(run, stores))
    assert trained.chosen["skipped"] == 1
    (warned,) = [event.message for event in told if isinstance(event, Warned)]
    assert "saw 1 broken images and took others of their groups" in warned
    assert "00000003" in warned
    strict, _, _ = variant(made, data, lrs=("lrs: [0.002]", "lrs: [0.007]"))
    with pytest.raises(BrokenError, match="00000003"):
        train_cell(strict, cell("none"), 0, open_cell_data(strict, stores))


def test_dfr_needs_a_validation_set_with_groups(made, data):
    run, sets, _ = variant(made, data)
    odd = fresh_store()
    unknown = Groups.of([Group("low", 0, -1), Group("high", 1, -1)])
    write_set(odd, dict.fromkeys(unknown.names, 6), groups=unknown, side=32, split="val")
    val = open_cell_data(run, {**import_real(run, 0), "val": odd}).val
    with pytest.raises(DataError, match="nobody knows the bias"):
        train_cell(run, cell("none", "dfr"), 0, replace(sets, val=val))


def test_cells_that_cannot_be_trained_are_refused_with_the_recipe(data, tmp_path):
    """Before anything is written: by the table alone."""

    def check(cells, drop=lambda row: False):
        table = [row for row in csv.DictReader((data / "labels.csv").read_text().splitlines()) if not drop(row)]
        with (tmp_path / "labels.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, table[0])
            writer.writeheader()
            writer.writerows(table)
        text = recipe_text(data, table=(f"{data}/labels.csv", f"{tmp_path}/labels.csv"))
        start, end = text.index("    - {arm: none}"), len(text)
        text = text[:start] + "".join(f"    - {{arm: {arm}, mitigation: {how}}}\n" for arm, how in cells) + text[end:]
        check_recipe(parse(Recipe, text.replace("  lead: {arm: ffr, mitigation: groupdro}\n", ""), "small"), text)

    def few_in_val(row):
        return row["split"] == "val" and row["photo"] == "temple" and row["file"][-5] != "0" and row["digit"] == "high"

    def none_in_train(row):
        return row["split"] == "train" and row["photo"] == "temple" and row["digit"] == "high"

    check([("none", "erm"), ("ffr", "dfr"), ("usb", "jtt")])
    check([("none", "groupdro")], few_in_val)
    with pytest.raises(DataError, match=r"too few samples of group high_temple \(1\)"):
        check([("none", "erm"), ("ffr", "dfr")], few_in_val)
    check([("none", "erm"), ("none", "jtt"), ("none", "balanced_softmax"), ("usb", "groupdro")], none_in_train)
    for mitigation in ("resample", "groupdro", "logit_adjustment"):
        with pytest.raises(DataError, match=f"no sample of group high_temple, which {mitigation}"):
            check([("none", mitigation)], none_in_train)
    with pytest.raises(InputError, match="arm generator_data needs the set 'generator'"):
        check([("generator_data", "erm")])
    with pytest.raises(ConfigError, match="cannot have 'groupdro' too"):
        check([("group_balanced", "groupdro")])


RESNET = ("  batch: 16", "  batch: 16\n  model: {kind: resnet, depth: 18, width: 8}")


def copied(run, folder, to):
    for info in run.store.list(folder):
        (to / info.key.rpartition("/")[2]).write_bytes(run.store.get(info.key))


def test_a_first_stage_starts_from_the_weights_of_a_folder_head_included(made, data, tmp_path):
    run, sets, _ = variant(made, data, model=RESNET)
    (fresh,) = train_cell(run, cell("none"), 0, sets)
    copied(run, f"{fresh.folder}/model", tmp_path)
    weights = ("  batch: 16", f"  batch: 16\n  model: {{kind: resnet, weights: {tmp_path}}}")
    run, sets, _ = variant(made, data, model=weights)
    (trained,) = train_cell(run, cell("none"), 0, sets)
    assert trained.model["weights"] == str(tmp_path)
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    run, sets, _ = variant(made, data, model=(weights[0], weights[1].replace(str(tmp_path), str(moved))))
    assert train_cell(run, cell("none"), 0, sets) == [trained]  # by what is in it, not by where it lies
    start = next(row for row in trained.history if "score" in row)
    assert start["step"] == 0
    assert start["score"] == [fresh.chosen["val_worst_group"], fresh.chosen["val_group_mean"]]
    assert fresh.identity["model_sha256"] is None
    assert len(trained.identity["model_sha256"]) == 64


def test_a_cell_leaves_a_model_for_others_and_its_test_numbers_come_with_scoring(made, data, tmp_path):
    import torch
    from transformers import AutoModelForImageClassification

    run, sets, _ = variant(made, data, model=RESNET)
    (trained,) = stages = train_cell(run, cell("none"), 0, sets)
    folder = f"{trained.folder}/model"
    card = run.store.get(f"{folder}/README.md").decode()
    assert "small, none × erm, seed 0" in card
    assert "not been counted on test samples" in card
    assert f"`{sets.sets['real'].fingerprint}`" in card
    row = score_cell(run, cell("none"), 0, sets, stages)
    card = run.store.get(f"{folder}/README.md").decode()
    assert f"| {row['worst_group']:.4f} | {row['n_worst']} |" in card
    copied(run, folder, tmp_path)
    model = AutoModelForImageClassification.from_pretrained(tmp_path, local_files_only=True).eval()
    assert model.config.id2label == {0: "low", 1: "high"}
    images = torch.from_numpy(sets.test.pixels(np.arange(len(sets.test)))).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.inference_mode():
        found = model(pixel_values=(images - mean) / std).logits.argmax(1).numpy()
    counted = sum(group["correct"] for group in row["groups"].values())
    assert (found == sets.test.labels).sum() == counted


@pytest.mark.parametrize("mitigation", ["dfr", "jtt"])
def test_a_cell_that_fails_at_any_write_comes_to_the_same_end(made, data, tmp_path, mitigation):
    """Attempt n loses its n-th write, and its process with it; the next one goes on."""
    few = {"jtt": ("  batch: 16", "  batch: 16\n  jtt: {steps: 3}")}
    run, sets, _ = variant(made, data, **few)
    expected = train_cell(run, cell("ffr", mitigation), 0, sets)
    shutil.copytree(run.store.url.removeprefix("file://"), tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "train")
    for attempt in itertools.count(1):
        again = make_run(recipe_text(data, **few), str(tmp_path / "out"))
        left = itertools.count(attempt, -1)

        def put(key, body, write=again.store.put, left=left):
            if next(left) == 1:
                raise StoreError(f"{key} is lost")
            write(key, body)

        again.store.put = put
        try:
            trained = train_cell(again, cell("ffr", mitigation), 0, open_cell_data(again, import_real(again, 0)))
            break
        except StoreError:
            continue
    assert attempt > 5
    assert [one.sha256 for one in trained] == [one.sha256 for one in expected]
    assert [one.chosen for one in trained] == [one.chosen for one in expected]
    assert (
        "An image classifier of 2 classes: low, high."
        in again.store.get(f"{trained[-1].folder}/model/README.md").decode()
    )
