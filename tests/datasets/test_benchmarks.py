"""bFFHQ, coloured MNIST, Corrupted CIFAR-10 and BAR, from their publishers' files."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path

import bar_fixture
import bffhq_fixture
import cmnist_fixture
import corrupted_cifar10_fixture
import pytest
from disent_release import write_pairs
from hypothesis import given
from hypothesis import strategies as st
from small_sets import PNG

from ffr_dist.config import from_data
from ffr_dist.datasets.bar import ACTIONS, BarConfig
from ffr_dist.datasets.disent import BffhqConfig, CmnistConfig, CorruptedCifar10Config
from ffr_dist.datasets.files import FileRow
from ffr_dist.datasets.holdout import hold_out
from ffr_dist.datasets.ingest import ingest
from ffr_dist.errors import ConfigError, DataError
from ffr_dist.store import open_store

FIXTURES = {
    BarConfig: bar_fixture,
    BffhqConfig: bffhq_fixture,
    CmnistConfig: cmnist_fixture,
    CorruptedCifar10Config: corrupted_cifar10_fixture,
}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The folder and the ``data:`` of each dataset, by its config."""
    made = {}
    for config, fixture in FIXTURES.items():
        folder = tmp_path_factory.mktemp(fixture.__name__)
        made[config] = folder, fixture.write(folder)
    return made


@pytest.fixture
def own(written, tmp_path):
    """A copy to damage: its root, and its config with other settings."""

    def copy(kind, **settings):
        data = written[kind][1]
        root = tmp_path / Path(data["root"]).name
        shutil.copytree(data["root"], root)
        return root, from_data(kind, data | {"root": str(root)} | settings, "test")

    return copy


def config(written, kind, **settings):
    return from_data(kind, written[kind][1] | settings, "test")


def splits(config):
    return {split.name: split for split in config.splits(0)}


def problem(config) -> str:
    with pytest.raises(DataError) as caught:
        config.splits(0)
    return str(caught.value)


@pytest.mark.parametrize("kind", FIXTURES, ids=lambda kind: kind.__name__)
def test_the_release_is_imported(written, kind):
    chosen = config(written, kind)
    assert [split.folder for split in chosen.splits(0)] == [split.folder for split in chosen.splits(1)]
    for split in chosen.splits(0):
        store = open_store(f"memory://{uuid.uuid4().hex}")
        assert ingest(split, store, codec=PNG, size=16).groups == split.counts()


def test_bffhq_declares_age_and_gender(written):
    found = splits(config(written, BffhqConfig))
    for name, counts in bffhq_fixture.COUNTS.items():
        assert tuple(found[name].counts().values()) == counts
        assert [(g.name, g.label, g.bias) for g in found[name].groups] == [
            ("young_women", 0, 0),
            ("young_men", 0, 1),
            ("old_women", 1, 0),
            ("old_men", 1, 1),
        ]
    for sample in found["train"].samples():
        assert sample.name.endswith(f"_{sample.group.label}_{sample.group.bias}.png")
        assert ("/align/" in sample.name) == (sample.group.label == sample.group.bias)


def test_training_declares_every_pair_and_the_others_what_they_hold(written):
    found = splits(config(written, CmnistConfig))
    train = found["train"].counts()
    assert len(train) == 100
    assert (train["digit_3_colour_3"], train["digit_3_colour_4"], train["digit_9_colour_0"]) == (4, 1, 0)
    assert (len(found["val"].groups), len(found["test"].groups)) == (13, 20)
    assert min((*found["val"].counts().values(), *found["test"].counts().values())) == 1
    assert found["test"].groups.by_name("digit_9_colour_0") == found["train"].groups.by_name("digit_9_colour_0")
    held = splits(config(written, CmnistConfig, train_groups="held"))["train"].counts()
    assert held == {name: count for name, count in train.items() if count}


def test_the_bias_ratio_names_the_folder(written):
    few, more = (splits(config(written, CorruptedCifar10Config, bias_ratio=ratio)) for ratio in (0.995, 0.95))
    assert sum(few["train"].counts().values()) == 46
    assert sum(more["train"].counts().values()) == 52
    assert few["test"].folder == more["test"].folder
    assert few["train"].groups.by_name("ship_corruption_8").label == 8
    with pytest.raises(ConfigError, match="bias_ratio: the release has bias ratios 0"):
        config(written, CorruptedCifar10Config, bias_ratio=0.9)
    told = problem(config(written, BffhqConfig, bias_ratio=0.98))
    assert "only 0.5pct" in told
    assert "bias_ratio to one of 0.995" in told


def test_bar_has_classes_for_groups(written):
    found = splits(config(written, BarConfig))
    assert found["test"].groups.names == ACTIONS
    assert {group.bias for group in found["train"].groups} == {-1}
    together = {name: found["train"].counts()[name] + count for name, count in found["val"].counts().items()}
    assert together == bar_fixture.TRAIN
    assert found["val"].counts()["climbing"] == 2
    names = {name: [sample.name for sample in split.samples()] for name, split in found.items()}
    assert not set(names["train"]) & set(names["val"])
    other = splits(config(written, BarConfig, split_seed=1))
    assert [sample.name for sample in other["val"].samples()] != names["val"]
    assert other["test"].folder == found["test"].folder


@given(counts=st.lists(st.integers(1, 30), min_size=1, max_size=4), share=st.floats(0.01, 0.99))
def test_holding_out_leaves_something_of_each_group_and_loses_nothing(counts, share):
    rows = [FileRow(f"{label}-{n}", label, -1) for label, count in enumerate(counts) for n in range(count)]
    train, val = hold_out(rows, share, 0)
    assert sorted((*train, *val), key=rows.index) == rows
    for label, count in enumerate(counts):
        held = sum(row.label == label for row in val)
        assert held == min(count - 1, max(1, round(share * count)))
    again, _ = hold_out(rows[: counts[0]], share, 0)  # which ones go does not depend on other groups
    assert again == tuple(row for row in train if row.label == 0)


@pytest.mark.parametrize("kind", FIXTURES, ids=lambda kind: kind.__name__)
def test_a_root_at_the_wrong_level_is_told_the_right_one(written, kind):
    folder, data = written[kind]
    assert f"give {data['root']}" in problem(config(written, kind, root=str(folder)))
    inside = "train" if kind is BarConfig else "0.5pct"
    if kind is not CorruptedCifar10Config:  # whose recipe asks for another share
        assert f"give {data['root']}" in problem(config(written, kind, root=f"{data['root']}/{inside}"))


def test_what_is_missing_of_a_release_is_named(own):
    root, chosen = own(BffhqConfig)
    shutil.rmtree(root / "valid")
    assert f"{root} holds no valid/" in problem(chosen)
    shutil.rmtree(root / "0.5pct" / "conflict")
    assert f"{root} holds no 0.5pct/conflict/" in problem(chosen)


def test_validation_lies_where_the_release_has_it(own):
    root, chosen = own(CmnistConfig)
    (root / "0.5pct" / "valid").rename(root / "valid")
    assert f"{root} holds no 0.5pct/valid/" in problem(chosen)


def test_names_that_say_no_label_are_told(own):
    root, chosen = own(BffhqConfig)
    for name in ("readme.txt", "7_0.png", "8_one_0.png", "9_0_1.jpg"):
        (root / "test" / name).write_bytes(b"x")
    told = problem(chosen)
    assert "4 files not called {id}_{label}_{bias}.png" in told
    assert "'test/7_0.png'" in told


def test_labels_of_another_dataset_are_told(own):
    root, chosen = own(BffhqConfig)
    write_pairs(root / "valid", [(2, 0), (0, 7)], by_class=False, first=900)
    told = problem(chosen)
    assert "2 files with a label above 1 or a bias above 1: 'valid/900_2_0.png', 'valid/901_0_7.png'" in told


def test_an_image_that_is_none_refuses_the_import(own):
    root, chosen = own(CmnistConfig)
    (root / "test" / "3" / "500_3_3.png").write_bytes(b"<html>quota exceeded</html>")
    with pytest.raises(DataError, match=r"test/3/500_3_3\.png"):
        ingest(splits(chosen)["test"], open_store(f"memory://{uuid.uuid4().hex}"), codec=PNG, size=16)


def test_bar_refuses_other_actions_and_the_other_benchmark(own):
    root, chosen = own(BarConfig)
    (root / "test" / "swimming_0.jpg").write_bytes(b"x")
    assert "'test/swimming_0.jpg'" in problem(chosen)
    write_pairs(root / "train" / "align", [(0, 0)], by_class=True)
    told = problem(chosen)
    assert "BiasEnsemble" in told
    assert "kind 'folder'" in told
