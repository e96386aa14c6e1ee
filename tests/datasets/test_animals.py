from __future__ import annotations

import itertools
import re
import shutil
import uuid
from collections import Counter
from pathlib import Path

import fsspec
import metashift_fixture
import pytest
import spuco_animals_fixture
import waterbirds_fixture
from small_sets import PNG

from ffr_dist.config import from_data
from ffr_dist.datasets import metashift, spuco_animals, waterbirds
from ffr_dist.datasets.ingest import ingest
from ffr_dist.datasets.metashift import MetashiftConfig
from ffr_dist.datasets.spuco_animals import SpucoAnimalsConfig
from ffr_dist.datasets.waterbirds import WaterbirdsConfig
from ffr_dist.errors import ConfigError, DataError
from ffr_dist.launch.context import check_recipe
from ffr_dist.launch.planning import summarise
from ffr_dist.methods import Inputs
from ffr_dist.read.dataset import open_dataset
from ffr_dist.recipe import load_recipe
from ffr_dist.store import open_store

CONFIGS = {"spuco_animals": SpucoAnimalsConfig, "waterbirds": WaterbirdsConfig, "metashift": MetashiftConfig}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder and the config of each fixture."""
    found = {}
    for fixture in (spuco_animals_fixture, waterbirds_fixture, metashift_fixture):
        folder = tmp_path_factory.mktemp(fixture.__name__) / "data" / "files"
        folder.mkdir(parents=True)
        data = fixture.write(folder)
        found[data["kind"]] = Path(data["root"]), from_data(CONFIGS[data["kind"]], data, "test")
    return found


def splits(config):
    return {split.name: split for split in config.splits(0)}


def counts(config):
    return {name: tuple(split.counts().values()) for name, split in splits(config).items()}


def problem(config) -> str:
    with pytest.raises(DataError) as caught:
        config.splits(0)
    return str(caught.value)


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_fixture_is_imported(made, kind):
    _, config = made[kind]
    for split in config.splits(0):
        store = open_store(f"memory://{uuid.uuid4().hex}")
        manifest = ingest(split, store, codec=PNG, size=16)
        assert manifest.groups == split.counts()
        samples = list(split.samples())
        assert Counter(sample.group.name for sample in samples) == Counter(split.counts())
        assert len({sample.name for sample in samples}) == len(samples)
        opened = open_dataset(store)
        assert (opened.groups, manifest.size, len(opened)) == (split.groups, 16, len(samples))
    assert list(splits(config)) == ["train", "val", "test"]
    assert [split.folder for split in config.splits(0)] == [split.folder for split in config.splits(1)]


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_url_gives_the_same_splits(made, kind):
    root, config = made[kind]
    at = f"/{uuid.uuid4().hex}"
    fsspec.filesystem("memory").put(str(root), at, recursive=True)
    far = config.model_copy(update={"root": f"memory:/{at}"})
    assert [split.folder for split in far.splits(0)] == [split.folder for split in config.splits(0)]
    assert next(splits(far)["test"].samples()).image == next(splits(config)["test"].samples()).image


# SpuCo Animals


def test_eight_of_the_sixteen_cells_of_spuco_animals_are_groups(made):
    train = splits(made["spuco_animals"][1])["train"]
    assert [(group.label, group.bias) for group in train.groups] == [
        (0, 0), (0, 1), (1, 0), (1, 1), (2, 2), (2, 3), (3, 2), (3, 3),
    ]  # fmt: skip
    assert train.counts() == {group.name: 8 if group.label == group.bias else 2 for group in train.groups}
    folders = {(sample.group.name, sample.name.rpartition("/")[0]) for sample in train.samples()}
    assert ("waterbird_land", "spuco_birds/train/waterbirds/land") in folders
    assert ("small_dog_indoor", "spuco_dogs/train/small_dogs/indoor") in folders
    assert len(folders) == 8


@pytest.mark.parametrize(
    ("bias_ratio", "train", "val"),
    [(None, 500, 25), (0.95, 500, 25), (0.97, 310, 16), (0.99, 102, 10), (0.999, 11, 10)],
)
def test_spuco_animals_is_thinned_to_the_released_counts(monkeypatch, bias_ratio, train, val):
    published = {name: 1 for name, *_ in spuco_animals_fixture.names(spuco_animals_fixture.PUBLISHED)}
    monkeypatch.setattr(spuco_animals, "list_inputs", lambda _: published)
    found = splits(SpucoAnimalsConfig(root="/animals", bias_ratio=bias_ratio))
    for name, aligned, other in (("train", 10_000, train), ("val", 500, val), ("test", 500, 500)):
        expected = {group.name: aligned if group.label == group.bias else other for group in found[name].groups}
        assert found[name].counts() == expected


def test_split_seed_says_which_images_are_removed(made):
    _, config = made["spuco_animals"]
    thinned = config.model_copy(update={"bias_ratio": 0.9})
    other = thinned.model_copy(update={"split_seed": 3})
    assert counts(thinned)["train"] == counts(other)["train"] == (8, 1, 1, 8, 8, 1, 1, 8)
    assert splits(thinned)["train"].folder != splits(other)["train"].folder
    assert [split.left_out for split in thinned.splits(0)] == [{"thinned": 4}, {}, {}]
    kept = {sample.name for sample in splits(thinned)["train"].samples()}
    assert kept < {sample.name for sample in splits(config)["train"].samples()}
    assert splits(thinned)["test"].folder == splits(config)["test"].folder
    with pytest.raises(ConfigError, match="bias_ratio"):
        from_data(SpucoAnimalsConfig, {"root": "x", "bias_ratio": 1.2}, "test")


# Waterbirds


def published_waterbirds(monkeypatch, tmp_path, **settings):
    lines = waterbirds_fixture.table(waterbirds_fixture.PUBLISHED)
    (tmp_path / "metadata.csv").write_text("\n".join([waterbirds_fixture.HEADER, *lines]))
    there = {line.split(",")[1]: 1 for line in lines} | {"metadata.csv": 1}
    monkeypatch.setattr(waterbirds, "list_inputs", lambda _: there)
    return counts(WaterbirdsConfig(root=str(tmp_path), **settings))


def test_waterbirds_is_thinned_in_training_only(monkeypatch, tmp_path):
    published = waterbirds_fixture.PUBLISHED
    assert published_waterbirds(monkeypatch, tmp_path) == published
    assert published_waterbirds(monkeypatch, tmp_path, bias_ratio=0.95) == published
    at_99 = published_waterbirds(monkeypatch, tmp_path, bias_ratio=0.99)
    assert at_99 == {**published, "train": (3_498, 36, 11, 1_057)}


def test_land_birds_that_the_table_calls_water_birds(made):
    _, config = made["waterbirds"]
    published = counts(config)
    relabelled, dropped = (
        counts(config.model_copy(update={"mislabelled": how})) for how in ("relabel", "drop")
    )  # fmt: skip
    for name, (land_land, land_water, water_land, water_water) in published.items():
        assert relabelled[name] == (land_land, land_water + 1, water_land, water_water - 1)
        assert dropped[name] == (land_land, land_water, water_land, water_water - 1)
    without = splits(config.model_copy(update={"mislabelled": "drop", "bias_ratio": 0.9}))
    assert without["train"].left_out == {"mislabelled species": 1, "thinned": 1}
    assert without["val"].left_out == {"mislabelled species": 1}
    with pytest.raises(ConfigError, match="mislabelled"):
        from_data(WaterbirdsConfig, {"root": "x", "mislabelled": "guess"}, "test")


def test_what_is_wrong_with_the_table_of_waterbirds_is_told(tmp_path):
    config = WaterbirdsConfig(**waterbirds_fixture.write(tmp_path))
    table = tmp_path / "metadata.csv"
    good = table.read_text()
    first = good.splitlines()[1]
    other = first.replace(",0,0,0,", ",2,0,7,")
    table.write_text(good.replace(first, other))
    told = problem(config)
    assert "metadata.csv cannot be used" in told
    assert "row 1: y is '2', where 0 or 1 is meant; place is '7', where 0 or 1 is meant" in told
    table.write_text(good.replace(first, first.replace(",0,0,0,", ",0,3,0,")))
    assert "split is '3', where 0 or 1 or 2 is meant" in problem(config)
    table.write_text(good.replace("img_filename", "file"))
    assert "no column img_filename; it has img_id, file" in problem(config)
    table.write_text(good.replace("009.Brewer_Blackbird/", "../"))
    assert "not a path below the folder of images" in problem(config)
    table.write_text("\n".join(line for line in good.splitlines() if ",2,0,/" not in line and ",2,1,/" not in line))
    assert "no row of split test" in problem(config)
    table.write_text(good)
    (tmp_path / first.split(",")[1]).unlink()
    assert f"1 file not in {tmp_path}: {first.split(',')[1]!r}" in problem(config)
    table.unlink()
    assert "holds no metadata.csv" in problem(config)


# MetaShift


def test_the_test_of_metashift_declares_groups_that_training_has_not(made):
    found = splits(made["metashift"][1])
    assert found["train"].counts() == {"cat_sofa": 4, "cat_bed": 7, "dog_bench": 3, "dog_bike": 7}
    assert found["val"].groups == found["test"].groups
    assert found["test"].groups.names == ("cat_shelf", "dog_shelf")
    assert not {g.bias for g in found["test"].groups} & {g.bias for g in found["train"].groups}
    shelf = [sample.name for name in ("val", "test") for sample in found[name].samples()]
    assert sorted(shelf) == sorted(
        file for file, *_ in metashift_fixture.names(metashift_fixture.COUNTS) if file.startswith("test/")
    )


def test_metashift_is_split_as_others_split_it(monkeypatch):
    names = [name for name, *_ in metashift_fixture.names(metashift_fixture.PUBLISHED)]
    monkeypatch.setattr(metashift, "list_inputs", lambda _: dict.fromkeys(reversed(names), 1))
    found = counts(MetashiftConfig(root="/metashift"))
    assert found == {"train": (202, 348, 124, 350), "val": (34, 47), "test": (201, 259)}
    first, again, other = (splits(MetashiftConfig(root="/m", split_seed=seed))["val"].folder for seed in (0, 0, 1))
    assert first == again != other


# Wrong folders


@pytest.mark.parametrize(
    ("kind", "below"),
    [
        ("spuco_animals", "spuco_birds"),
        ("spuco_animals", "spuco_dogs/train"),
        ("waterbirds", "001.Black_footed_Albatross"),
        ("metashift", "train"),
    ],
)
def test_the_folder_to_give_is_named(made, kind, below):
    root, config = made[kind]
    assert problem(config.model_copy(update={"root": str(root.parent)})).endswith(f"give {root}")
    assert problem(config.model_copy(update={"root": f"{root}/{below}"})).endswith(f"give {root}")


@pytest.mark.parametrize(
    ("kind", "gone", "told"),
    [
        ("spuco_animals", "spuco_dogs", "holds no spuco_dogs/"),
        ("spuco_animals", "spuco_birds/val/waterbirds/land", "no image in spuco_birds/val/waterbirds/land"),
        ("metashift", "test/dog/dog(shelf)", "no image in test/dog/dog(shelf)"),
        ("metashift", "train/cat", "holds no train/cat/"),
    ],
)
def test_what_is_missing_is_named(made, tmp_path, kind, gone, told):
    root, config = made[kind]
    shutil.copytree(root, tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / gone)
    assert told in problem(config.model_copy(update={"root": str(tmp_path / "copy")}))


def test_too_few_shelves_cannot_be_split(made, tmp_path):
    root, config = made["metashift"]
    shutil.copytree(root, tmp_path / "copy")
    for animal in ("cat", "dog"):
        for file in sorted((tmp_path / f"copy/test/{animal}/{animal}(shelf)").iterdir())[1:]:
            file.unlink()
    assert "2 images beside shelves, too few" in problem(config.model_copy(update={"root": str(tmp_path / "copy")}))


# The recipes


@pytest.fixture(scope="module")
def recipes(made):
    """Both recipes, over the fixtures."""
    found = {}
    for name, kind in (("spuco-animals-ffr", "spuco_animals"), ("waterbirds-ffr", "waterbirds")):
        recipe, text = load_recipe(name)
        data = recipe.data.model_copy(update={"root": str(made[kind][0])})
        found[name] = check_recipe(recipe.model_copy(update={"data": data}), text)
    return found


@pytest.mark.parametrize("name", ["spuco-animals-ffr", "waterbirds-ffr"])
def test_the_recipes_can_be_planned(recipes, name):
    checked = recipes[name]
    told = summarise(checked)
    assert list(told["groups"]) == list(checked.groups.names)
    assert all(group["quota"] > 0 for group in told["groups"].values())
    cells = {(cell.arm, cell.mitigation) for cell in checked.recipe.compare.cells}
    assert cells == set(itertools.product(("none", "usb", "asb", "ffr"), ("erm", "resample", "groupdro", "dfr")))


def test_spuco_animals_asks_for_as_many_images_as_the_paper(recipes):
    method = recipes["spuco-animals-ffr"].method
    published = {group.name: 10_000 if group.label == group.bias else 500 for group in spuco_animals.GROUPS}
    assert set(method.arm_counts("ffr", published).values()) == {4_750}
    assert sum(method.arm_counts("usb", published).values()) == 38_000
    waterbirds_train = dict(zip(waterbirds.GROUPS.names, waterbirds_fixture.PUBLISHED["train"], strict=True))
    quota = recipes["waterbirds-ffr"].method.quota(waterbirds_train).counts
    assert max(quota.values()) == 3_442


@pytest.mark.parametrize("name", ["spuco-animals-ffr", "waterbirds-ffr"])
def test_prompts_name_an_animal_and_a_place(recipes, name):
    method = recipes[name].method
    words = method.config.words
    for group in method.groups.names:
        animal, place = re.fullmatch(r"(.+)_([a-z]+)", group).groups()
        places = words.get(place) or words[f"{place}s"]
        before = " " if name == "waterbirds-ffr" or "dog" in group else {"land": " on ", "water": " in "}[place]
        meant = {f"a photo of {one}{before}{there}" for one in words[animal] for there in places}
        asked = {request.prompt for request in method.requests(Inputs(real={}, prepared={}), group, range(400))}
        assert asked <= meant
        assert len(asked) > min(60, len(meant) // 2)


def test_the_lists_of_animals_and_places_are_whole(recipes):
    words = recipes["spuco-animals-ffr"].method.config.words
    assert {name: len(set(of)) for name, of in words.items()} == {
        "landbird": 35, "waterbird": 24, "small_dog": 36, "big_dog": 74, "land": 20, "water": 10, "indoors": 11, "outdoors": 10,
    }  # fmt: skip
