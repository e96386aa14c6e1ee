"""A second method goes the whole way: it edits real images, prepares an artefact, keeps survivors, knows no bias."""

import json

import pytest
from edit_method import Edit
from small_run import make_run, recipe_text

from ffr_dist.config import parse
from ffr_dist.groups import Group, Groups
from ffr_dist.launch.local import run_all
from ffr_dist.recipe import Recipe
from ffr_dist.shards.index import read_index
from ffr_dist.shards.manifest import read_manifest
from ffr_dist.shards.verify import verify

TRIES = 20
GROUPS = Groups((Group("low", 0, -1), Group("high", 1, -1)))


def edit_text(data):
    text = recipe_text(
        data,
        bias=("bias: photo", "bias: null"),
        biases=("  biases: {temple: 0, flowers: 1}\n", ""),
        groups=(
            "groups: {low_temple: [0, 0], low_flowers: [0, 1], high_temple: [1, 0], high_flowers: [1, 1]}",
            "groups: {low: [0, -1], high: [1, -1]}",
        ),
    )
    head, _, _ = text.partition("compare:")
    cells = "compare:\n  cells:\n    - {arm: none}\n    - {arm: mixed, mitigation: groupdro}\n"
    return head + cells


def edit_run(data, out):
    text = edit_text(data)
    recipe = parse(Recipe, text, "edit")
    method = Edit(groups=GROUPS, seed=recipe.seed, training=recipe.train, tries=TRIES)
    return make_run(text, str(out), method=method)


@pytest.fixture(scope="module")
def edited(data, tmp_path_factory):
    run = edit_run(data, tmp_path_factory.mktemp("edit"))
    return run, run_all(run, inline=True)


def test_survivors_are_kept_and_the_rest_is_accounted_for(edited):
    run, _ = edited
    survivors = sum(k % 7 != 3 for k in range(TRIES))
    manifest = read_manifest(run.store)
    assert dict(manifest.groups) == {"low": survivors, "high": survivors}
    assert verify(run.store).ok


def test_each_image_names_the_real_one_behind_it(edited):
    run, _ = edited
    table = read_index(run.store, read_manifest(run.store))
    assert set(table["bias"].to_pylist()) == {-1}
    sources = table["source_key"].to_pylist()
    assert all(source.startswith("train-") for source in sources)
    assert len(set(sources)) > 10


def test_the_artefact_is_made_once_and_pinned(edited):
    run, _ = edited
    prepared = {info.key.split("/")[1] for info in run.store.list("prepared")}
    markers = {
        folder.rpartition("-")[0]: json.loads(run.store.get(f"prepared/{folder}/step.json"))["sha256"]
        for folder in prepared
    }
    assert markers.keys() == {"tint", "drafts"}
    assert json.loads(run.store.get("plan/round-000.json"))["pinned"]["prepared"] == markers


def test_an_artefact_that_is_sampled_is_a_set_of_its_own(edited):
    run, _ = edited
    folder = next(info.key.rsplit("/", 1)[0] for info in run.store.list("prepared") if "drafts" in info.key)
    drafts = run.store.below("/".join(folder.split("/")[:2]))
    found = verify(drafts)
    assert found.ok
    assert dict(found.groups) == {"low": 5, "high": 5}  # one of six has no mask


def test_both_arms_have_results(edited):
    _, rows = edited
    assert [row["arm"] for row in rows] == ["none", "mixed"]
    assert all(set(row["groups"]) == {"low", "high"} for row in rows)


def test_the_same_set_comes_out_again(edited, data, tmp_path):
    run, _ = edited
    again = edit_run(data, tmp_path)
    run_all(again, inline=True)
    assert read_manifest(again.store).manifest_sha256 == read_manifest(run.store).manifest_sha256
