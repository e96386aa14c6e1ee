"""README.md and croissant.json of a finished pool, read by the programs that they are for."""

import json
import socket
from pathlib import Path

import noisy
import numpy as np
import pytest
from small_run import make_run, recipe_text

from ffr_dist.config import parse
from ffr_dist.errors import StoppedError
from ffr_dist.launch import curate
from ffr_dist.launch.cards import write_cards
from ffr_dist.launch.context import check_recipe
from ffr_dist.launch.pool import finish_pool, make_pool
from ffr_dist.read.dataset import open_dataset
from ffr_dist.recipe import Recipe
from ffr_dist.report.dataset_card import DatasetCard, Tally, plain, render_dataset_card
from ffr_dist.shards.index import read_index
from ffr_dist.shards.manifest import read_manifest

# webdataset and mlcroissant leave files for the collector to close.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def plain_text(data):
    return recipe_text(data).partition("compare:")[0] + "compare:\n  cells: [{arm: none}]\n"


@pytest.fixture(scope="module")
def out(data, tmp_path_factory):
    """A finished pool, of which an image was then taken out: its old shard lies there still."""
    text = plain_text(data)
    method = noisy.noisy_method(parse(Recipe, text, "small"))
    run = make_run(text, str(tmp_path_factory.mktemp("cards")), method=method)
    first = make_pool(run, inline=True)
    with pytest.raises(StoppedError):  # one more has to be generated
        curate.exclude(run.store, [read_index(run.store, first)["key"][0].as_py()])
    make_pool(run, inline=True)
    return run.store


@pytest.fixture
def offline(monkeypatch):
    def refused(self, address):
        raise AssertionError(f"asked the network for {address}")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="module")
def front(out):
    from huggingface_hub import DatasetCard as HubCard

    return HubCard(out.get("README.md").decode()).data


def test_the_hub_reads_the_front_matter(out, front):
    manifest = read_manifest(out)
    assert (front.license, front.license_name) == ("other", "not-stated")
    assert front.task_categories == ["image-classification"]
    assert front.size_categories == ["n<1K"]
    (config,) = front.configs
    assert config["data_files"] == [{"split": "train", "path": [shard.key for shard in manifest.shards]}]


def test_the_card_names_the_shards_of_the_set_alone(out):
    manifest = read_manifest(out)
    listed = [shard.key for shard in manifest.shards]
    there = {info.key for info in out.list("shards") if info.key.endswith(".tar")}
    assert there > set(listed), "the shard that held the excluded image is not in the set"
    described = json.loads(out.get("croissant.json"))["distribution"]
    assert [file["contentUrl"] for file in described if file.get("encodingFormat") == "application/x-tar"] == listed


def test_the_card_tells_counts_reasons_and_the_hash(out):
    manifest, text = read_manifest(out), out.get("README.md").decode()
    assert manifest.manifest_sha256 in text
    assert "| revision | 1 |" in text
    for name, images in manifest.groups.items():
        assert any(line.startswith(f"| {plain(name)} |") and f"| {images} |" in line for line in text.splitlines())
    assert "| rejected |" in text


def test_datasets_loads_the_folder_by_its_card(out, tmp_path, offline):
    from datasets import load_dataset

    found = load_dataset(out.url, split="train", cache_dir=str(tmp_path / "cache"))
    ours = open_dataset(out)
    assert found["__key__"] == ours.keys.to_pylist()
    assert [note["label"] for note in found["json"]] == ours.labels.tolist()


def test_webdataset_reads_what_the_card_says(out):
    blocks = [part.partition("```")[0] for part in out.get("README.md").decode().split("```python")[1:]]
    names = {}
    exec(next(block for block in blocks if "webdataset" in block).replace("OUTPUT", out.url), names)
    found = list(names["images"])
    assert [sample["__key__"] for sample in found] == open_dataset(out).keys.to_pylist()
    assert found[0]["jpg"].size == (32, 32)


def test_mlcroissant_finds_no_fault_and_reads_every_image(out, tmp_path_factory, monkeypatch, offline):
    monkeypatch.setenv("CROISSANT_CACHE", str(tmp_path_factory.mktemp("croissant")))  # read when it is first imported
    import mlcroissant

    described = mlcroissant.Dataset(Path(out.url) / "croissant.json")
    issues = described.metadata.ctx.issues
    assert not issues.errors
    unknown = ("license", "datePublished", "citeAs")  # nobody has told us
    assert all(any(name in warning for name in unknown) for warning in map(str, issues.warnings)), issues.warnings
    found = {record["images/key"].decode(): record for record in described.records("images")}
    ours = open_dataset(out)
    rows = read_index(out, read_manifest(out)).to_pylist()
    assert found.keys() == {row["key"] for row in rows}
    for row in rows:
        record = found[row["key"]]
        told = (record["images/label"], record["images/bias"], record["images/seed"])
        assert told == (row["label"], row["bias"], row["seed"])
        assert record["images/group"].decode() == row["group"]
        assert record["images/prompt"].decode() == row["prompt"]
    assert np.array_equal(np.asarray(found[rows[3]["key"]]["images/image"]), ours.pixels([3])[0])


def test_cards_are_written_anew_only_where_the_set_is_another(out):
    before = {name: (Path(out.url) / name).stat().st_mtime_ns for name in ("README.md", "croissant.json")}
    finish_pool(out)
    assert {name: (Path(out.url) / name).stat().st_mtime_ns for name in before} == before


def test_prompts_and_hostile_words_stay_words(out, data):
    prompts = {"low_temple": ("a | b", "<script>\n# c", *map(str, range(20)))}
    card = DatasetCard(
        name="x", manifest=read_manifest(out), tallies={"low_temple": Tally()}, prompts=prompts, settings={}, filters={}
    )
    text = render_dataset_card(card)
    assert "“a \\| b”; “\\<script\\> \\# c”" in text
    assert "and 10 more in `recipe.yaml`" in text
    assert "No candidate was rejected." in text


def test_a_method_with_prompts_tells_them(out, data):
    text = plain_text(data)
    checked = check_recipe(parse(Recipe, text, "small"), text)
    out.delete("croissant.json")
    write_cards(out, checked, read_manifest(out))
    assert "“a photo of the digit nine over flowers”" in out.get("README.md").decode()
