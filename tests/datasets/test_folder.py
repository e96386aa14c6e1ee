from __future__ import annotations

import csv
import io
import json
import re
import textwrap
from collections import Counter
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pa_parquet
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import TypeAdapter

from ffr_dist.config import from_data
from ffr_dist.datasets import DataConfig, EmbeddedConfig
from ffr_dist.datasets.folder import FolderConfig
from ffr_dist.errors import ConfigError, DataError, InputError
from ffr_dist.read.config import ReadConfig

Row = tuple[str, str, str, str]

ROWS: list[Row] = [
    ("a.png", "cat", "indoor", "train"),
    ("sub/b.png", "cat", "outdoor", "train"),
    ("c.png", "dog", "outdoor", "train"),
    ("d[1].png", "cat", "indoor", "val"),
    ("e.png", "dog", "outdoor", "val"),
    ("f.png", "cat", "outdoor", "test"),
    ("g.png", "dog", "outdoor", "test"),
]
GROUPS = {"cat_in": [0, 0], "cat_out": [0, 1], "dog_out": [1, 1]}
SETTINGS: dict[str, Any] = {
    "kind": "folder",
    "classes": {"cat": 0, "dog": 1},
    "biases": {"indoor": 0, "outdoor": 1},
    "groups": GROUPS,
    "split_groups": {
        "val": {"cat_in": [0, 0], "dog_out": [1, 1]},
        "test": {"cat_out": [0, 1], "dog_out": [1, 1]},
    },
}


def write_images(folder: Path, names: list[str]) -> None:
    for shade, name in enumerate(names):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 6, 3), shade, np.uint8)).save(file)


def write_csv(file: Path, rows: list[Row], header: Row = ("file", "label", "bias", "split")) -> None:
    with file.open("w", newline="") as opened:
        csv.writer(opened).writerows([header, *rows])


def folder(tmp_path: Path, rows: list[Row] = ROWS, **settings: Any) -> FolderConfig:
    write_images(tmp_path / "images", [row[0] for row in ROWS])
    write_csv(tmp_path / "labels.csv", rows)
    return config(tmp_path, **settings)


def config(tmp_path: Path, **settings: Any) -> FolderConfig:
    paths = {"table": str(tmp_path / "labels.csv"), "images": str(tmp_path / "images")}
    return from_data(FolderConfig, SETTINGS | paths | settings, "test")


def problems(config: FolderConfig) -> str:
    with pytest.raises(DataError) as caught:
        config.splits(0)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_the_table_becomes_splits(tmp_path):
    train, val, test = folder(tmp_path).splits(0)
    assert [split.name for split in (train, val, test)] == ["train", "val", "test"]
    assert train.groups.names == ("cat_in", "cat_out", "dog_out")
    assert test.groups.names == ("cat_out", "dog_out")
    assert train.counts() == {"cat_in": 1, "cat_out": 1, "dog_out": 1}
    found = [(sample.name, sample.group.name) for sample in train.samples()]
    assert found == [("a.png", "cat_in"), ("sub/b.png", "cat_out"), ("c.png", "dog_out")]
    image = next(val.samples()).image
    assert isinstance(image, bytes)
    assert Image.open(io.BytesIO(image)).size == (6, 4)


@given(rows=st.lists(st.sampled_from(sorted(GROUPS)), min_size=1, max_size=30))
@settings(max_examples=25, deadline=None)
def test_counts_are_those_of_the_samples(tmp_path_factory, rows):
    place = tmp_path_factory.mktemp("folder")
    classes, biases = ("cat", "dog"), ("indoor", "outdoor")
    table: list[Row] = []
    for number, name in enumerate(rows):
        label, bias = GROUPS[name]
        table.append((f"{number}.png", classes[label], biases[bias], "train"))
    write_images(place / "images", [row[0] for row in table])
    write_csv(place / "labels.csv", table)
    (train,) = config(place).splits(0)
    assert train.counts() == {name: rows.count(name) for name in GROUPS}
    assert Counter(sample.group.name for sample in train.samples()) == Counter(rows)


def test_numbers_of_a_parquet_table_read_like_a_recipe_writes_them(tmp_path):
    write_images(tmp_path / "images", ["a.png", "b.png"])
    columns = {
        "img": ["a.png", "b.png"],
        "y": pa.array([0, 1], pa.int8()),
        "place": [0.0, None],
        "part": [True, True],
    }
    pa_parquet.write_table(pa.table(columns), tmp_path / "labels.parquet")
    chosen = config(
        tmp_path,
        table=str(tmp_path / "labels.parquet"),
        columns={"file": "img", "label": "y", "bias": "place", "split": "part"},
        classes={0: 0, 1: 1},
        biases={"0": 0, "": -1},
        split_names={"true": "train"},
        groups={"known": [0, 0], "unknown": [1, -1]},
        split_groups={},
    )
    (train,) = chosen.splits(0)
    assert train.counts() == {"known": 1, "unknown": 1}


def test_without_a_bias_column_the_bias_is_unknown(tmp_path):
    chosen = folder(
        tmp_path,
        columns={"bias": None},
        biases={},
        groups={"cat": [0, -1], "dog": [1, -1]},
        split_groups={},
    )
    assert chosen.splits(0)[0].counts() == {"cat": 2, "dog": 1}


def test_identity_follows_what_is_imported(tmp_path):
    first = folder(tmp_path).splits(0)
    assert [split.folder for split in folder(tmp_path).splits(1)] == [split.folder for split in first]
    skipping = folder(tmp_path, on_bad_image="skip").splits(0)
    assert skipping[0].folder != first[0].folder
    assert skipping[0].skip_bad_images
    other = [("a.png", "dog", "outdoor", "train"), *ROWS[1:]]
    relabelled = folder(tmp_path, other).splits(0)
    assert relabelled[0].folder != first[0].folder
    assert relabelled[1].folder == first[1].folder
    (tmp_path / "images" / "a.png").write_bytes(b"another file")
    assert config(tmp_path).splits(0)[0].folder != relabelled[0].folder


def test_everything_wrong_with_a_table_is_told_at_once(tmp_path):
    rows = [
        *ROWS,
        ("h.png", "frog", "indoor", "train"),
        ("i.png", "frog", "indoor", "train"),
        ("j.png", "cat", "moon", "train"),
        ("a.png", "cat", "indoor", "holdout"),
        ("g.png", "dog", "indoor", "train"),
    ]
    told = problems(folder(tmp_path, rows))
    assert "3 files not in" in told
    assert "'h.png', 'i.png', 'j.png'" in told
    assert "column label: 'frog' is not in 'classes' (2 rows, the first is row 8); there are 'cat', 'dog'" in told
    assert "column bias: 'moon' is not in 'biases' (1 row, the first is row 10)" in told
    assert "column split: 'holdout' is not in 'split_names' (1 row, the first is row 11)" in told
    assert "2 files named twice: 'a.png', 'g.png'" in told
    assert "split train: no group declares label 1 with bias 0 (1 image, the first is 'g.png')" in told


def test_long_lists_are_cut_and_counted(tmp_path):
    rows = [*ROWS, *((f"missing{number}.png", f"class{number}", "indoor", "train") for number in range(9))]
    told = problems(folder(tmp_path, rows))
    assert "9 files not in" in told
    assert "'missing4.png' and 4 more" in told
    assert "'missing5.png'" not in told
    assert "column label: 4 more values that are not in 'classes'" in told


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../outside.png", "sub/../../outside.png", "./a.png", "sub//b.png", "", "c:\\x.png", "x\0.png",
     "a.png::https://elsewhere/x", "file:///etc/passwd"],
)  # fmt: skip
def test_hostile_names_are_refused(tmp_path, name):
    (tmp_path / "outside.png").write_bytes(b"not yours")
    write_images(tmp_path / "images", [row[0] for row in ROWS])
    rows = [*ROWS, (name, "cat", "indoor", "train")]
    columns = dict(zip(("file", "label", "bias", "split"), map(list, zip(*rows, strict=True)), strict=True))
    pa_parquet.write_table(pa.table(columns), tmp_path / "labels.parquet")
    told = problems(config(tmp_path, table=str(tmp_path / "labels.parquet")))
    assert "not a path below the folder of images" in told
    assert repr(name) in told


def test_missing_columns_are_named(tmp_path):
    write_images(tmp_path / "images", ["a.png"])
    write_csv(tmp_path / "labels.csv", ROWS, header=("path", "label", "bias", "part"))
    told = problems(config(tmp_path))
    assert "has no column file, split; it has path, label, bias, part" in told
    assert "'columns'" in told


def test_a_column_may_serve_twice_but_not_stand_there_twice(tmp_path):
    write_images(tmp_path / "images", ["a.png"])
    write_csv(tmp_path / "labels.csv", [("a.png", "cat", "x", "train")])
    once = {"columns": {"bias": "label"}, "biases": {"cat": 0}, "groups": {"cat": [0, 0]}, "split_groups": {}}
    assert config(tmp_path, **once).splits(0)[0].counts() == {"cat": 1}
    write_csv(tmp_path / "labels.csv", [("a.png", "cat", "x", "train")], header=("file", "label", "label", "split"))
    assert "more than one column label" in problems(config(tmp_path, **once))


@pytest.mark.parametrize("split", ["val", "test"])
def test_an_empty_declared_group_of_an_evaluated_split_is_refused(tmp_path, split):
    told = problems(folder(tmp_path, split_groups={**SETTINGS["split_groups"], split: GROUPS}))
    assert f"split {split}: no image of declared group" in told


def test_an_empty_group_of_the_training_split_is_what_the_pool_is_for(tmp_path):
    train = folder(tmp_path, groups={**GROUPS, "dog_in": [1, 0]}).splits(0)[0]
    assert train.counts()["dog_in"] == 0


def test_a_table_without_training_rows_is_refused(tmp_path):
    assert "no row is of split train" in problems(folder(tmp_path, ROWS[3:]))


@pytest.mark.parametrize("body", [b"", b"\xff\xfe\x00 nonsense \x80", b"file,label,bias,split\n", b"file,label\na\n"])
def test_a_broken_csv_is_one_clear_error(tmp_path, body):
    write_images(tmp_path / "images", ["a.png"])
    (tmp_path / "labels.csv").write_bytes(body)
    assert "labels.csv" in problems(config(tmp_path))


@given(body=st.binary(max_size=300))
@settings(max_examples=40, deadline=None)
def test_hostile_tables_are_input_errors(tmp_path_factory, body):
    place = tmp_path_factory.mktemp("hostile")
    write_images(place / "images", ["a.png"])
    for name in ("labels.csv", "labels.parquet"):
        (place / name).write_bytes((b"PAR1" if name.endswith("parquet") else b"file,label,bias,split\n") + body)
        with pytest.raises(InputError):
            config(place, table=str(place / name)).splits(0)


def test_a_table_or_folder_that_is_not_there_is_named(tmp_path):
    assert "labels.csv is not there" in problems(config(tmp_path))
    write_csv(tmp_path / "labels.csv", ROWS)
    assert "images" in problems(config(tmp_path))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"table": "labels.txt"}, ".csv or a .parquet"),
        ({"clases": {"cat": 0}}, "clases: unknown key; did you mean 'classes'?"),
        ({"columns": {"lable": "y"}}, "columns.lable: unknown key; did you mean 'label'?"),
        ({"groups": {"Cat In": [0, 0]}}, "group name 'Cat In' is not usable"),
        ({"groups": {"one": [0, 0], "two": [0, 0]}}, "two groups share"),
        ({"groups": {"frog": [2, 0]}}, "group frog has label 2, which no value of 'classes' gives"),
        ({"groups": {"moon": [0, 7]}}, "group moon has bias 7, which no value of 'biases' gives"),
        ({"split_groups": {"holdout": GROUPS}}, "no value of 'split_names' gives holdout"),
        ({"columns": {"bias": None}}, "which no value of 'biases' gives"),
        ({"classes": {}}, "classes: "),
        ({"on_bad_image": "ignore"}, "on_bad_image"),
        ({"groups": {"cat": [0]}}, "groups.cat"),
    ],
)
def test_wrong_settings_are_refused_by_key(tmp_path, settings, told):
    with pytest.raises(ConfigError, match=r"(?s).*") as caught:
        config(tmp_path, **settings)
    assert told in str(caught.value)


def test_data_configs_are_told_apart_by_kind():
    adapter = TypeAdapter(DataConfig)
    assert adapter.validate_python({"kind": "embedded"}) == EmbeddedConfig()
    with pytest.raises(ValueError, match="kind"):
        adapter.validate_python({"kind": "folders"})


def test_the_documented_settings_are_settings():
    text = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    blocks = [yaml.safe_load(textwrap.dedent(block)) for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)]
    (reading,) = (block["read"] for block in blocks if "read" in block)
    assert set(reading) == set(ReadConfig.model_fields)
    from_data(ReadConfig, reading, "docs/data.md")
    of_kind = {block["data"]["kind"]: block["data"] for block in blocks if "data" in block}
    (per_split,) = (block for block in blocks if "split_groups" in block)
    whole = of_kind.pop("folder") | per_split
    told = from_data(FolderConfig, whole, "docs/data.md")
    assert told.declared("test").names == ("landbird_ocean", "waterbird_forest")
    assert set(whole) == set(FolderConfig.model_fields)
    for other in of_kind.values():
        TypeAdapter(DataConfig).validate_json(json.dumps(other))


def test_images_and_tables_come_from_any_url(tmp_path):
    write_images(tmp_path / "images", [row[0] for row in ROWS])
    write_csv(tmp_path / "labels.csv", ROWS)
    local = config(tmp_path).splits(0)
    by_url = config(tmp_path, table=f"file://{tmp_path}/labels.csv", images=f"file://{tmp_path}/images/").splits(0)
    assert [split.folder for split in by_url] == [split.folder for split in local]
    assert [sample.image for sample in by_url[0].samples()] == [sample.image for sample in local[0].samples()]
    memory = fsspec.filesystem("memory")
    memory.put(str(tmp_path), "/folder-dataset", recursive=True)
    at = "memory://folder-dataset"
    far = config(tmp_path, table=f"{at}/labels.csv", images=f"{at}/images").splits(0)
    assert [split.folder for split in far] == [split.folder for split in local]
    assert [sample.image for sample in far[0].samples()] == [sample.image for sample in local[0].samples()]
