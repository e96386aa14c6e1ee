"""A report of what an output holds: results.json, audit.json, stages, sheets."""

import json
import math

import numpy as np
import pytest
from small_run import make_run, recipe_text
from small_sets import fresh_store

from ffr_dist.errors import BrokenError, ConflictError
from ffr_dist.launch.audited import audit_content, audit_sheets, read_audit
from ffr_dist.launch.outcomes import results_content
from ffr_dist.launch.publish import write_report
from ffr_dist.launch.rows import add_row, write_rows
from ffr_dist.report import content
from ffr_dist.report.sheets import contact_sheet

GROUPS = {"low_temple": (0, 0), "low_flowers": (0, 1), "high_temple": (1, 0), "high_flowers": (1, 1)}


def row(arm="ffr", mitigation="erm", ratio=0.95, seed=0, variant="", worst=30, stages=(), **more):
    counts = {
        name: {"label": label, "bias": bias, "correct": 45, "count": 50} for name, (label, bias) in GROUPS.items()
    }
    counts["low_flowers"]["correct"] = worst
    return {
        "method": "ffr",
        "arm": arm,
        "mitigation": mitigation,
        "bias_ratio": ratio,
        "variant": variant,
        "seed": seed,
        "pool": "p",
        "real": f"{ratio} {variant} {seed}",
        "stages": list(stages),
        "chosen": {},
        "groups": counts,
        "worst_group": worst / 50,
        "worst_name": "low_flowers",
        "n_worst": 50,
        "group_mean": 0.8,
        "train_weighted_mean": 0.85,
        "micro": 0.8,
        "ddp": 0.1,
        "deo_max": None,
        "intervals": {
            "worst_group": [max(0, worst / 50 - 0.1), worst / 50 + 0.1],
            "group_mean": [0.7, 0.9],
            "ddp": [0.0, 0.2],
        },
        **more,
    }


def stage(store, folder, name="finetune", points=40):
    history = [{"step": s, "loss": math.exp(-s / 9)} for s in range(1, points)]
    history += [{"step": s, "score": [0.5 + s / 999, 0.6], "val_n_worst": 8} for s in range(0, points, 5)]
    told = {
        "folder": folder,
        "weights": f"{folder}/w",
        "sha256": "0" * 64,
        "identity": {"stage": {"name": name}},
        "model": {},
        "history": history,
        "seconds": 2.0,
        "chosen": {"step": 5, "lr": 0.1, "val_worst_group": 0.5},
    }
    store.put(f"{folder}/stage.json", json.dumps(told).encode())


@pytest.fixture(scope="module")
def run(data):
    return make_run(recipe_text(data), fresh_store().url)


def test_cells_are_means_over_seeds_with_paired_differences(run):
    rows = [row("none", seed=s, worst=w) for s, w in ((0, 10), (1, 14))]
    rows += [row("ffr", "groupdro", seed=s, worst=w) for s, w in ((0, 30), (1, 30), (2, 45))]
    rows += [row("ffr", "groupdro", variant="head", worst=1)]
    none, lead, head = results_content(rows, run.recipe.compare.lead).cells
    assert none.worst_group.value == pytest.approx(0.24)
    assert lead.gain.value == pytest.approx(0.36), "over the two seeds that both have"
    assert lead.gain.low < 0.36 < lead.gain.high
    assert (lead.gain.pairs, lead.gain.test) == (2, "paired t")
    assert 0 < lead.gain.p < 1
    assert (head.worst_group.low, head.group_mean.low, head.measures["ddp"].high) == (0, 0.7, 0.2), (
        "one seed: of the test set"
    )
    assert (head.micro.low, head.measures["train_weighted_mean"].low) == (None, None)
    assert (none.gain, lead.lead_gain) == (None, None)
    assert 0 <= none.worst_group.low < 0.24 < none.worst_group.high <= 1, "an interval of two seeds is cut off"
    assert -1 <= none.lead_gain.low < none.lead_gain.high <= 1
    assert none.lead_gain.value == pytest.approx(-0.36)
    assert (head.gain, head.setting) == (None, ("ffr", 0.95, "head")), "there is no baseline of its variant"
    assert set(lead.measures) == {"train_weighted_mean", "ddp"}, "what is undefined is left out"


def test_a_study_s_report_is_written_from_its_output_alone(run):
    store = run.store
    rows = []
    for number, (arm, ratio) in enumerate((f"arm{n}", ratio) for ratio in (0.9, 0.99) for n in range(15)):
        for seed in (0, 1):
            folder = f"train/{number:04d}{seed}"
            stage(store, folder)
            rows.append(row(arm, ratio=ratio, seed=seed, worst=20 + number, stages=[folder]))
    one = {"arm": "asb", "mitigation": "dfr", "bias_ratio": 0.9, "variant": "head-only"}
    tries = [{"val_worst_group": v, "val_group_mean": 0.7, "by_seed": [{"lr": v / 100, "step": 3}]} for v in (0.4, 0.6)]
    beside = {
        "study": {"name": "s", "recipe": "r", "cells": 60, "lead": None},
        "tuning": [{**one, "seeds": [0], "chosen": 1, "tries": tries}],
        "skipped": [{**one, "why": "no val group"}],
        "failures": [{**one, "seed": 4, "stage": "finetune", "error": "MemoryError: <big>"}],
    }
    write_rows(store, rows, beside)
    store.put("study.yaml", b"name: the-study\n")
    write_report(run)
    page = store.get("report.html").decode()
    for told in (
        "Worst group over the bias ratio",
        "ffr, bias ratio 0.99",
        "Shown are 24 of 30 cells",
        "asb × dfr, bias ratio 0.9, head-only, seed 4",
        "finetune: MemoryError: &lt;big&gt;",
        "no val group",
        "2 of 2: lr 0.006",
        "name: the-study",
        "60 trained",
    ):
        assert told in page, told
    assert page.count('class="worst-line"') == 24


def test_seeds_that_agree_give_no_interval_and_no_p(run):
    rows = [row("none", seed=s, worst=10) for s in (0, 1)] + [row("ffr", "groupdro", seed=s, worst=30) for s in (0, 1)]
    none, lead = results_content(rows, run.recipe.compare.lead).cells
    assert lead.gain == content.Gain(pytest.approx(0.4), pairs=2, test="paired t")
    assert none.worst_group == content.Estimate(pytest.approx(0.2))


@pytest.mark.parametrize("body", ['{"rows": [', "[]", '{"rows": [{"arm": "ffr"}]}', '{"rows": 3}', b"\xff"])
def test_damaged_results_are_named_with_a_cure(run, body):
    run.store.put("results.json", body if isinstance(body, bytes) else body.encode())
    for read in (lambda: write_report(run), lambda: add_row(run.store, row())):
        with pytest.raises(BrokenError, match=r"results\.json does not hold results .*; delete it and run"):
            read()


def test_rows_that_cannot_stand_in_one_table_are_refused_in_a_report_too(run):
    for others, told in (
        ([{**row("none"), "pool": "q"}], "two different pools"),
        ([{**row("none"), "real": "other"}], "two different sets of real images"),
        ([row(worst=1)], "two results of one cell"),
    ):
        run.store.put("results.json", json.dumps({"rows": [row(), *others]}).encode())
        with pytest.raises(ConflictError, match=told):
            write_report(run)


def test_a_damaged_audit_is_named_with_a_cure(run):
    for body in (b"{", b"[]", b"{}"):
        run.store.put("audit.json", body)
        with pytest.raises(BrokenError, match=r"audit\.json does not tell of an audit; delete it and run 'ffr audit'"):
            read_audit(run.store)
    run.store.delete("audit.json")
    with pytest.raises(BrokenError, match=r"audit\.json"):
        audit_content({"asked": "", "failures": [], "summary": "", "groups": [3]})


def test_all_of_audit_json_is_told(run):
    count = {"correct": 8, "count": 10}
    of_group = {"group": "g", "images": 9, "label_generated": 0.9, "label_real": None, "bias_generated": None}
    found = {
        "groups": [{**of_group, "bias_real": None}],
        "overall": {**of_group, "group": "mean of groups", "bias_real": None},
        "distances": None,
        "checks": [{"name": "n", "measured": 3, "at_least": None, "at_most": 2, "group": "", "unit": "count"}],
        "failures": ["n is 3"],
        "real_or_fake": {
            "accuracy": 0.7,
            "count": 100,
            "null_low": 0.4,
            "null_high": 0.6,
            "p": 0.01,
            "permutations": 99,
            "advice": "a",
        },
        "feature_distances": {
            "weights_sha256": "ab" * 32,
            "features": 64,
            "groups": [
                {"group": "g", "real": 5, "generated": 5, "fd": 2.0, "fd_low": 1.0, "fd_high": 3.0, "fd_real": 1.5}
                | {"kid": -0.1, "kid_low": -0.2, "kid_high": 0.1, "kid_real": 0.0}
            ],
        },
        "gaps": {
            "trained_on_generated": {"g": {"generated": count, "real": {"correct": 5, "count": 10}}},
            "trained_on_real": {"g": {"generated": count, "real": {"correct": 0, "count": 0}}},
        },
        "duplicates": {"exact": 0, "near": 1, "bits": 8, "images": 9, "groups": {"g": 1}},
    }
    told = audit_content(found)
    assert not told.checks[0].passed
    assert told.gaps.trained_on_generated[0].gap == pytest.approx(0.3)
    assert told.gaps.trained_on_real[0].gap is None, "there was no real image of that group"
    assert told.feature_distances.groups[0].kid.low == -0.2
    bare = audit_content({**found, "real_or_fake": None, "feature_distances": None, "gaps": None})
    assert (bare.real_or_fake, bare.feature_distances, bare.gaps) == (None, None, None)

    image = contact_sheet(list(np.zeros((4, 8, 8, 3), np.uint8)), 2)
    run.store.put("audit/g-worst.png", image)
    listed = [
        {"group": "g", "kind": "worst", "caption": "c", "file": f"audit/g-{kind}.png"} for kind in ("worst", "gone")
    ]
    assert [sheet.image for sheet in audit_sheets(run.store, listed)] == [image], "a sheet that is gone is left out"


def test_sheets_that_do_not_fit_are_named(run, monkeypatch):
    from ffr_dist.launch import publish

    found = [publish.content.Sheet(group=name, image=bytes(60), caption="", kind="best") for name in "ab"]
    monkeypatch.setattr(publish, "_SHEET_BYTES", 100)
    left_out = []
    assert publish._within(found, left_out) == (found[0],)
    assert left_out == ["best of b"]
