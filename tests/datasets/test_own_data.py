"""Data of one's own: Hugging Face folders and WebDataset tars."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import uuid
from pathlib import Path

import huggingface_fixture
import pyarrow as pa
import pyarrow.parquet as pa_parquet
import pytest
import webdataset_fixture
from hub_server import serve
from huggingface_fixture import png, rows, table
from PIL import Image
from small_sets import PNG
from webdataset_fixture import sample, write_tar

from ffr_dist.config import from_data
from ffr_dist.datasets.huggingface import HuggingfaceConfig
from ffr_dist.datasets.ingest import ingest
from ffr_dist.datasets.labels import occurring_groups
from ffr_dist.datasets.webdataset import WebdatasetConfig
from ffr_dist.errors import ConfigError, DataError
from ffr_dist.store import open_store

PETS = ("cat_sofa", "cat_garden", "dog_sofa", "dog_garden")
METADATA = "file_name,animal,place\n"
FROM_THE_HUB = """
import json
from ffr_dist.datasets.huggingface import HuggingfaceConfig
config = HuggingfaceConfig(root="hf://datasets/me/pets", bias="place", biases={"sofa": 0, "garden": 1})
found = {split.name: [split.counts(), [sample.name for sample in split.samples()]] for split in config.splits(0)}
print(json.dumps(found))
"""


def parse(data, **settings):
    kind = {"huggingface": HuggingfaceConfig, "webdataset": WebdatasetConfig}[data["kind"]]
    return from_data(kind, data | settings, "test")


def splits(config):
    return {split.name: split for split in config.splits(0)}


def counts(config):
    return {name: dict(split.counts()) for name, split in splits(config).items()}


def problem(config) -> str:
    with pytest.raises(DataError) as caught:
        config.splits(0)
    return str(caught.value)


def imported(split):
    return ingest(split, open_store(f"memory://{uuid.uuid4().hex}"), codec=PNG, size=16)


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    return huggingface_fixture.write(tmp_path_factory.mktemp("hub"))


@pytest.fixture(scope="module")
def tars(tmp_path_factory):
    return webdataset_fixture.write(tmp_path_factory.mktemp("tars"))


@pytest.fixture
def pets(hub, tmp_path):
    """A copy to damage: the folder of its files, and its ``data:``."""
    shutil.copytree(hub["root"], tmp_path / "pets")
    return tmp_path / "pets" / "data", hub | {"root": str(tmp_path / "pets")}


@pytest.fixture
def photos(tmp_path):
    """A folder of images with metadata, and its ``data:``."""
    for split in ("train", "test"):
        lines = [METADATA]
        for label, bias, number in rows(split):
            file = f"{('cat', 'dog')[label]}-{bias}-{number}.png"
            (tmp_path / split).mkdir(exist_ok=True)
            (tmp_path / split / file).write_bytes(png(label, bias, number))
            lines.append(f"{file},{('cat', 'dog')[label]},{bias}\n")
        (tmp_path / split / "metadata.csv").write_text("".join(lines))
    data = {"kind": "huggingface", "root": str(tmp_path), "label": "animal", "bias": "place", "val_share": 0.2}
    return tmp_path, data | {"classes": {"cat": 0, "dog": 1}}


# Parquet files


def test_parquet_files_become_splits(hub):
    found = splits(parse(hub))
    assert list(found) == ["train", "val", "test"]
    for name, theirs in (("train", "train"), ("val", "validation"), ("test", "test")):
        assert dict(found[name].counts()) == dict(zip(PETS, huggingface_fixture.COUNTS[theirs], strict=True))
        assert imported(found[name]).groups == found[name].counts()
    order = [(sample.group.label, sample.group.bias, sample.image) for sample in found["train"].samples()]
    assert order == [(label, bias, png(label, bias, number)) for label, bias, number in rows("train")]
    last = list(found["train"].samples())[-1]
    assert last.name == "data/train-00001-of-00002.parquet:6"
    assert [s.folder for s in parse(hub).splits(1)] == [s.folder for s in found.values()]


def test_what_the_hubs_own_library_writes_is_read(tmp_path, hub):
    datasets = pytest.importorskip("datasets")
    theirs = datasets.load_dataset(
        "parquet", data_files=f"{hub['root']}/data/train-*.parquet", split="train", cache_dir=str(tmp_path / "cache")
    )
    for split, part in (("train", range(12)), ("test", range(12, 16))):
        theirs.select(part).to_parquet(str(tmp_path / "own" / f"{split}.parquet"))
    found = splits(parse(hub, root=str(tmp_path / "own")))
    images = [sample.image for split in found.values() for sample in split.samples()]
    assert images == [png(*row) for row in rows("train")]
    names = [sample.group.name for split in found.values() for sample in split.samples()]
    names_of = theirs.features["label"].int2str
    assert names == [f"{names_of(row['label'])}_{row['place']}".lower() for row in theirs.remove_columns("image")]


def test_a_dataset_is_read_from_the_hub(hub, tmp_path):
    with serve(Path(hub["root"]), "me/pets") as endpoint:  # known to the library when it is imported
        environment = os.environ | {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
        done = subprocess.run(
            [sys.executable, "-c", FROM_THE_HUB], env=environment, capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stderr
    local = {split.name: [split.counts(), [s.name for s in split.samples()]] for split in parse(hub).splits(0)}
    assert json.loads(done.stdout) == local


def test_the_folders_of_a_conversion_are_splits(pets):
    files, data = pets
    for file in sorted(files.iterdir()):
        split, number = file.name.split("-")[:2]
        (files.parent / "default" / split).mkdir(parents=True, exist_ok=True)
        file.rename(files.parent / "default" / split / f"{number[1:]}.parquet")
    assert counts(parse(data))["val"]["cat_sofa"] == 2


def test_a_recipe_can_say_what_texts_mean(hub):
    theirs = parse(hub, classes={"Dog": 0, "Cat": 1}, biases={"sofa": 1, "garden": -1}, split_names={"train": "train"})
    assert counts(theirs) == {"train": {"dog": 6, "dog_sofa": 1, "cat": 2, "cat_sofa": 7}}
    named = {"a": [0, 0], "b": [0, 1], "c": [1, 0], "d": [1, 1]}
    assert counts(parse(hub, groups=named))["train"] == {"a": 7, "b": 2, "c": 1, "d": 6}
    told = problem(parse(hub, groups={name: named[name] for name in "abc"}))
    assert "split train: no group declares label 1 with bias 1" in told
    told = problem(parse(hub, biases={"sofa": 0}))
    assert "column place: 'garden' is not in 'biases'" in told
    told = problem(parse(hub, biases=None))
    assert "'garden', 'sofa' cannot be taken for numbers from -1; say under 'biases'" in told
    with pytest.raises(ConfigError, match="group name 'A B'"):
        parse(hub, groups={"A B": [0, 0]})


def test_without_a_bias_a_group_is_a_class(hub):
    assert counts(parse(hub, bias=None, biases=None))["train"] == {"cat": 9, "dog": 7}


def test_numbers_stand_for_themselves_where_nothing_names_them(tmp_path):
    columns = {"img": [png(0, 0, n) for n in range(4)], "y": [2, 0, 0, 2], "far": [True, False, True, True]}
    pa_parquet.write_table(pa.table(columns), tmp_path / "train.parquet")
    data = {"kind": "huggingface", "root": str(tmp_path), "image": "img", "label": "y", "bias": "far"}
    assert counts(parse(data)) == {"train": {"label_0_bias_0": 1, "label_0_bias_1": 1, "label_2_bias_1": 2}}


def test_group_names_fall_back_where_words_do_not_serve():
    cells = [(0, 0), (1, 0), (1, 1)]
    assert occurring_groups(cells, {"Big Cat!": 0, "dog": 1}, {"a": 0, "b": 1}).names == ("big_cat_a", "dog_a", "dog_b")
    numbered = ("label_0_bias_0", "label_1_bias_0", "label_1_bias_1")
    for classes in ({"猫": 0, "犬": 1}, {"cat": 0, "kitten": 0, "dog": 1}, {"c" * 50: 0, "d": 1}, {"0": 0, "1": 1}):
        assert occurring_groups(cells, classes, {"a": 0, "b": 1}).names == numbered
    twice = occurring_groups([(0, 1), (1, 0)], {"x_y": 0, "x": 1}, {"y_z": 0, "z": 1})
    assert twice.names == ("label_0_bias_1", "label_1_bias_0")


def test_a_pair_is_called_the_same_in_each_split(tmp_path):
    for split, animals in (("train", ["cat", "dog"]), ("test", ["cat", "犬"])):
        columns = {"image": [png(0, 0, n) for n in range(2)], "label": animals}
        pa_parquet.write_table(pa.table(columns), tmp_path / f"{split}.parquet")
    data = {"kind": "huggingface", "root": str(tmp_path), "bias": None, "classes": {"cat": 0, "dog": 1, "犬": 2}}
    assert counts(parse(data)) == {"train": {"label_0": 1, "label_1": 1}, "test": {"label_0": 1, "label_2": 1}}


def test_files_that_are_missing_or_of_two_versions_are_told(pets):
    files, data = pets
    shutil.copy(files / "test-00000-of-00001.parquet", files / "test-00000-of-00001-0123456789abcdef.parquet")
    assert "split test has the files 0, 0 of 1" in problem(parse(data))
    (files / "test-00000-of-00001.parquet").unlink()
    assert counts(parse(data))["test"]["dog_sofa"] == 2
    (files / "train-00000-of-00002.parquet").unlink()
    assert "split train has the files 1 of 2" in problem(parse(data))


def test_several_configurations_are_told_apart(pets):
    files, data = pets
    shutil.copytree(files, files.parent / "large")
    told = problem(parse(data))
    assert f"several configurations (data, large); give the folder of one, {data['root']}/data" in told
    assert counts(parse(data, root=f"{data['root']}/large"))["train"]["cat_sofa"] == 7


def test_columns_and_splits_that_are_not_there_are_told(hub):
    told = problem(parse(hub, bias="background"))
    assert "has no column background; it has image, label, place" in told
    assert "column place is of string, and images are bytes" in problem(parse(hub, image="place"))
    told = problem(parse(hub, split_names={"training": "train", "test": "test"}))
    assert "of its splits (test, train, validation) none is train" in told
    assert "it has a validation split; leave val_share out" in problem(parse(hub, val_share=0.1))


def test_a_file_that_is_cut_short_is_told(pets):
    files, data = pets
    file = files / "test-00000-of-00001.parquet"
    file.write_bytes(file.read_bytes()[:-100])
    assert f"{file} cannot be read as parquet" in problem(parse(data))


def test_images_that_are_none_are_told_or_left_out(pets):
    files, data = pets
    some = table(rows("test"))
    images = some["image"].to_pylist()
    images[2] = {"bytes": b"<html>", "path": "../../etc/passwd"}
    images[5] = None
    some = some.set_column(0, "image", pa.array(images, huggingface_fixture.IMAGE))
    pa_parquet.write_table(some, files / "test-00000-of-00001.parquet")
    with pytest.raises(DataError, match=r"2 of its images cannot be used:\n  data/test-00000-of-00001.parquet:2"):
        imported(splits(parse(data))["test"])
    manifest = imported(splits(parse(data, on_bad_image="skip"))["test"])
    assert manifest.images == 6
    assert manifest.detail["skipped"]["count"] == 2


def test_a_path_inside_a_parquet_file_is_not_followed(pets, tmp_path):
    files, data = pets
    (tmp_path / "secret.png").write_bytes(png(0, 0, 0))
    some = table(rows("test"))
    images = [{"bytes": None, "path": str(tmp_path / "secret.png")} for _ in range(8)]
    some = some.set_column(0, "image", pa.array(images, huggingface_fixture.IMAGE))
    pa_parquet.write_table(some, files / "test-00000-of-00001.parquet")
    with pytest.raises(DataError, match="holds no image but a path"):
        imported(splits(parse(data, on_bad_image="skip"))["test"])


def test_a_note_that_is_no_note_of_classes_is_passed_over(pets):
    files, data = pets
    for note in (b"{", b"[]", b'{"info": {"features": {"label": {"names": [1, 2]}}}}'):
        for file in files.iterdir():
            some = pa_parquet.read_table(file).replace_schema_metadata({b"huggingface": note})
            pa_parquet.write_table(some, file)
        assert counts(parse(data))["train"]["label_0_bias_0"] == 7


# Folders of images


def test_metadata_describes_a_folder_of_images(photos):
    _, data = photos
    found = splits(parse(data))
    assert dict(found["test"].counts()) == {f"label_{label}_bias_{bias}": 2 for label in (0, 1) for bias in (0, 1)}
    assert sum(found["train"].counts().values()) + sum(found["val"].counts().values()) == 16
    assert imported(found["train"]).groups == found["train"].counts()


def test_metadata_may_be_lines_of_json_for_all_splits(photos):
    root, data = photos
    lines = []
    for split in ("train", "test"):
        body = (root / split / "metadata.csv").read_text().splitlines()[1:]
        (root / split / "metadata.csv").unlink()
        for line in body:
            file, animal, place = line.split(",")
            lines.append(
                json.dumps({"file_name": f"{split}/{file}", "animal": animal, "place": int(place), "more": []})
            )
    (root / "metadata.jsonl").write_text("\n".join([*lines, ""]))
    assert sum(counts(parse(data))["test"].values()) == 8
    (root / "metadata.jsonl").write_text("\n".join([lines[0], '{"file_name": "train/x.png"}']))
    assert "metadata.jsonl, line 2 has no animal, place. Say what they are called" in problem(parse(data))
    (root / "metadata.jsonl").write_text("\n".join([lines[0], "", "{"]))
    assert "metadata.jsonl, line 3 is not JSON" in problem(parse(data))


@pytest.mark.parametrize("name", ["../../secret.png", "/etc/secret.png", "s3://bucket/a.png", "a\\b.png"])
def test_names_that_leave_the_folder_are_refused(photos, name):
    root, data = photos
    with (root / "train" / "metadata.csv").open("a") as file:
        file.write(f"{name},cat,0\n")
    assert "1 file not a path below the folder of images" in problem(parse(data))


def test_images_and_rows_that_have_no_other_are_told(photos):
    root, data = photos
    (root / "test" / "new.png").write_bytes(png(0, 0, 0))
    (root / "test" / ".hidden.png").write_bytes(b"")
    assert "1 file without a row in test/metadata.csv, train/metadata.csv: 'test/new.png'" in problem(parse(data))
    (root / "test" / "new.png").unlink()
    (root / "train" / "cat-0-0.png").unlink()
    assert "1 file not in" in problem(parse(data))


def test_without_metadata_folders_are_the_labels(tmp_path):
    for split in ("train", "validation", "test"):
        for label, animal in enumerate(("wolf", "cat")):
            for number in range(2):
                file = tmp_path / "data" / split / animal / f"{number}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(png(label, 0, number))
    data = {"kind": "huggingface", "root": str(tmp_path), "bias": None}
    assert counts(parse(data)) == {name: {"cat": 2, "wolf": 2} for name in ("train", "val", "test")}
    assert [group.label for group in splits(parse(data))["train"].groups] == [0, 1]
    assert "without metadata.csv or metadata.jsonl" in problem(parse(data, bias="place"))


def test_what_is_no_dataset_is_told(tmp_path):
    data = {"kind": "huggingface", "root": str(tmp_path), "bias": None}
    (tmp_path / "README.md").write_text("nothing here")
    assert "neither parquet files nor images; check the path" in problem(parse(data))
    (tmp_path / "data-00000-of-00001.arrow").write_bytes(b"")
    assert "what save_to_disk writes" in problem(parse(data))


# Tars


def test_tars_become_splits(tars):
    found = splits(parse(tars))
    for name, expected in webdataset_fixture.COUNTS.items():
        assert dict(found[name].counts()) == dict(zip(PETS, expected, strict=True))
        assert imported(found[name]).groups == found[name].counts()
    first = next(found["train"].samples())
    assert (first.name, first.image) == ("train-0000.tar/0000", png(0, 0, 0))
    assert [s.folder for s in parse(tars).splits(1)] == [s.folder for s in found.values()]


def test_tars_without_declared_groups_or_bias(tars):
    plain = counts(parse(tars, groups=None))
    assert plain["train"] == {"label_0_bias_0": 7, "label_0_bias_1": 2, "label_1_bias_0": 1, "label_1_bias_1": 6}
    assert counts(parse(tars, groups=None, bias=None))["val"] == {"label_0": 3, "label_1": 3}
    swapped = counts(parse(tars, groups=None, label="place", bias=None))
    assert swapped["train"] == {"label_0": 8, "label_1": 8}


def test_a_label_that_no_group_declares_is_told(tars):
    told = problem(parse(tars, groups={"cat_sofa": [0, 0]}))
    assert "split train: no group declares label 0 with bias 1 (2 images, the first is 'train-0001.tar/0001')" in told


def test_a_tar_in_two_splits_is_refused(tars):
    assert "is of split train and of split test" in problem(parse(tars, test=tars["train"]))


def test_the_identity_is_of_the_tars_bytes(tars, tmp_path):
    for file in Path(tars["val"]).parent.glob("*.tar"):
        shutil.copy(file, tmp_path)
    moved = {key: str(value).replace(str(Path(tars["val"]).parent), str(tmp_path)) for key, value in tars.items()}
    data = tars | {"train": moved["train"], "val": moved["val"], "test": f"{tmp_path}/test-*.tar"}
    before = splits(parse(data))
    assert before["train"].folder == splits(parse(tars))["train"].folder
    held = list(before["val"].samples())
    write_tar(tmp_path / "val-0000.tar", [m for n in range(6) for m in sample(f"{n:04d}", n // 3, n % 2, 7 + n)])
    with pytest.raises(DataError, match="changed since it was read"):
        list(before["val"].samples())
    after = splits(parse(data))
    assert after["val"].folder != before["val"].folder
    assert [s.image for s in after["val"].samples()] != [s.image for s in held]


@pytest.mark.parametrize(
    ("members", "told"),
    [
        ([("../0.png", b"x"), ("../0.cls", b"0")], "leaves the tar's folder"),
        ([("0.png", b"<html>"), ("0.cls", b"0"), ("0.json", b'{"place": 0}')], "0.png"),
        ([*sample("0", 0, 0, 0)[:2]], "has no .json, where its 'place' should stand"),
        ([("0.png", png(0, 0, 0)), ("0.cls", b"cat"), ("0.json", b'{"place": 0}')], "its .cls is 'cat'"),
        ([("0.txt", b"a caption")], "holds no image"),
    ],
)
def test_a_bad_tar_is_told(tars, tmp_path, members, told):
    write_tar(tmp_path / "bad.tar", members)
    said = problem(parse(tars, val=str(tmp_path / "bad.tar")))
    assert told in said
    assert "bad.tar" in said


def test_a_link_in_a_tar_is_refused(tars, tmp_path):
    with tarfile.open(tmp_path / "bad.tar", "w") as tar:
        link = tarfile.TarInfo("0.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    assert "is a symbolic link" in problem(parse(tars, val=str(tmp_path / "bad.tar")))


def test_tars_that_are_not_there_are_told(tars, tmp_path):
    assert "no tar of such a name is there" in problem(parse(tars, val=f"{tmp_path}/*.tar"))
    assert f"{tmp_path}/x.tar is not there" in problem(parse(tars, val=f"{tmp_path}/x.tar"))


def test_an_image_that_ends_early_is_told_or_left_out(tars, tmp_path):
    out = io.BytesIO()
    Image.new("RGB", (64, 64)).save(out, "BMP")
    cut = out.getvalue()[:-3_000]
    members = [m for n in range(4) for m in sample(f"{n}", n // 2, n % 2, n)]
    note = json.dumps({"place": 0}).encode()
    write_tar(tmp_path / "val.tar", [*members, ("9.jpg", cut), ("9.cls", b"0"), ("9.json", note)])
    with pytest.raises(DataError, match=r"val\.tar/9"):
        imported(splits(parse(tars, val=f"{tmp_path}/val.tar"))["val"])
    manifest = imported(splits(parse(tars, val=f"{tmp_path}/val.tar", on_bad_image="skip"))["val"])
    assert manifest.images == 4
