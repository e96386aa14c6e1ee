from __future__ import annotations

import builtins
import io
import os
import pickle
import shutil
import uuid
from pathlib import Path

import cifar10_fixture
import numpy as np
import pytest
from cifar10_fixture import CIFAR10, backgrounds, python2_pickle
from hypothesis import given, settings
from hypothesis import strategies as st
from small_sets import PNG

from ffr_dist.config import from_data
from ffr_dist.datasets.cifar import CifarConfig
from ffr_dist.datasets.ingest import ingest
from ffr_dist.datasets.pickles import Array, read_object, read_pickle
from ffr_dist.errors import ConfigError, DataError
from ffr_dist.read.dataset import open_dataset
from ffr_dist.store import open_store

TESTED = [*range(10), *reversed(range(10))]
"""Labels of the fixture's test batch."""


@pytest.fixture(scope="module")
def cifar10(tmp_path_factory):
    return from_data(CifarConfig, cifar10_fixture.write(tmp_path_factory.mktemp("cifar10")), "test")


@pytest.fixture
def with_labels(cifar10, tmp_path):
    """The config with other labels of backgrounds."""

    def write(found: object) -> CifarConfig:
        np.save(tmp_path / "labels.npy", np.array(found, dtype=object), allow_pickle=True)
        return cifar10.model_copy(update={"backgrounds": str(tmp_path / "labels.npy")})

    return write


def splits(config):
    return {split.name: split for split in config.splits(0)}


def problem(config) -> str:
    with pytest.raises(DataError) as caught:
        config.splits(0)
    return str(caught.value)


def npy(value: object) -> bytes:
    file = io.BytesIO()
    np.save(file, np.array(value, dtype=object), allow_pickle=True)
    return file.getvalue()


def test_cifar_10_is_imported(cifar10):
    found = splits(cifar10)
    assert list(found) == ["train", "val", "test"]
    assert [(group.name, group.label, group.bias) for group in found["train"].groups] == [
        (name, label, -1) for label, name in enumerate(CIFAR10)
    ]
    assert found["train"].counts()["cat"] == 15 + 1 - 1
    for split in found.values():
        store = open_store(f"memory://{uuid.uuid4().hex}")
        assert ingest(split, store, codec=PNG, size=32).groups == split.counts()
        opened = open_dataset(store)
        samples = list(split.samples())
        shown = opened.pixels(np.arange(len(samples)))
        assert all(np.array_equal(pixels, sample.image) for pixels, sample in zip(shown, samples, strict=True))


def test_pixels_are_the_planes_of_the_rows(cifar10):
    for name, first in (("train", None), ("test", 900)):
        for sample in splits(cifar10)[name].samples():
            batch, row = sample.name.split("/")
            start = 100 * int(batch[-1]) if first is None else first
            assert np.array_equal(sample.image, cifar10_fixture.image(sample.group.label, start + int(row)))


def test_val_is_the_same_number_of_each_class_and_always_the_same_images(cifar10):
    found = splits(cifar10)
    assert set(found["val"].counts().values()) == {1}
    train, val = ({sample.name for sample in found[name].samples()} for name in ("train", "val"))
    assert len(train) + len(val) == 65
    assert not train & val
    assert [split.folder for split in cifar10.splits(7)] == [split.folder for split in found.values()]
    other = splits(cifar10.model_copy(update={"split_seed": 1}))
    assert other["val"].folder != found["val"].folder
    assert other["test"].folder == found["test"].folder
    assert problem(cifar10.model_copy(update={"val": 50})).startswith("val is 50, 5 images of each class")
    with pytest.raises(ConfigError, match="val is 15; write a multiple of the 10 classes"):
        from_data(CifarConfig, {"kind": "cifar10", "root": "x", "val": 15}, "test")


def test_backgrounds_are_joined_by_the_place_in_the_class_from_one(cifar10):
    expected = backgrounds(TESTED, CIFAR10)
    seen = dict.fromkeys(CIFAR10, 0)
    for sample in splits(cifar10)["test"].samples():
        name = CIFAR10[sample.group.label]
        seen[name] += 1
        assert sample.group.bias == expected[name][f"{seen[name]:04d}.png"]
        assert sample.group.name == f"{name}_background_{sample.group.bias}"
    assert set(seen.values()) == {2}


def test_only_cells_that_occur_are_groups(with_labels):
    found = backgrounds(TESTED, CIFAR10)
    found["dog"] = {"0001.png": np.int64(7), "0002.png": np.int64(7)}
    test = splits(with_labels(found))["test"]
    assert test.counts()["dog_background_7"] == 2
    assert len(test.groups) == 19
    assert [(group.label, group.bias) for group in test.groups if group.label == 5] == [(5, 7)]


def test_without_labels_of_backgrounds_the_test_has_a_group_for_each_class(cifar10):
    test = splits(cifar10.model_copy(update={"backgrounds": None}))["test"]
    assert test.counts() == dict.fromkeys(CIFAR10, 2)
    assert {group.bias for group in test.groups} == {-1}


def test_cifar_100_has_its_fine_labels(tmp_path):
    config = from_data(CifarConfig, cifar10_fixture.write_100(tmp_path), "test")
    train, val, test = config.splits(0)
    assert train.groups.names == tuple(cifar10_fixture.CIFAR100)
    assert sum(train.counts().values()) == 101
    assert train.counts()["class_7"] == 2
    assert set(val.counts().values()) == set(test.counts().values()) == {1}
    np.save(tmp_path / "ten.npy", np.array(backgrounds(TESTED, CIFAR10), dtype=object), allow_pickle=True)
    told = problem(config.model_copy(update={"backgrounds": str(tmp_path / "ten.npy")}))
    assert "labels other classes than the set has" in told
    wrong = CifarConfig(kind="cifar10", root=config.root)
    assert "holds no batches.meta" in problem(wrong)


def test_ranks_from_zero_missing_ranks_and_ranks_beyond_the_batch_are_refused(with_labels):
    found = backgrounds(TESTED, CIFAR10)
    from_zero = {name: {f"{int(file[:4]) - 1:04d}.png": n for file, n in of.items()} for name, of in found.items()}
    told = problem(with_labels(from_zero))
    assert "counts the images of class airplane from 0000.png; the published labels count from 0001.png" in told
    missing = {**found, "cat": {"0001.png": 0}}
    assert "no background of image 2 of class cat" in problem(with_labels(missing))
    beyond = {**found, "cat": {**found["cat"], "0003.png": 0}}
    assert "labels more images than the test batch has, of cat" in problem(with_labels(beyond))
    assert "names an image 'x.png'" in problem(with_labels({**found, "cat": {"x.png": 0}}))
    assert "gives 0001.png background 8" in problem(with_labels({**found, "cat": {"0001.png": 8}}))
    assert "gives 0001.png background 'red'" in problem(with_labels({**found, "cat": {"0001.png": "red"}}))
    assert "labels other classes than the set has (cat, kitten)" in problem(
        with_labels({"kitten" if name == "cat" else name: of for name, of in found.items()})
    )
    assert "does not hold images by class" in problem(with_labels({"cat": 3}))
    assert "does not hold images by class" in problem(with_labels(7))


def test_the_folder_to_give_is_named(cifar10, tmp_path):
    root = Path(cifar10.root)
    assert problem(cifar10.model_copy(update={"root": str(root.parent)})).endswith(f"give {root}")
    shutil.copytree(root, tmp_path / "copy")
    copy = cifar10.model_copy(update={"root": str(tmp_path / "copy")})
    (tmp_path / "copy/data_batch_3").unlink()
    assert "data_batch_3 is not there" in problem(copy)
    for wrong in (
        {"labels": [0], "data": np.zeros((1, 3071), np.uint8)},
        {"labels": [10], "data": np.zeros((1, 3072), np.uint8)},
    ):
        (tmp_path / "copy/data_batch_3").write_bytes(python2_pickle(wrong))
        assert "data_batch_3 is not a batch of cifar10" in problem(copy)
    (tmp_path / "copy/data_batch_3").write_bytes(python2_pickle({"data": [1]}))
    assert "data_batch_3 has no field 'labels'" in problem(copy)
    (tmp_path / "copy/batches.meta").write_bytes(python2_pickle({"label_names": ["one"]}))
    assert "does not name 10 classes" in problem(copy)


class Calls:
    """Unpickled, it calls."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call


HOSTILE = {
    "os.system": (Calls(os.system, "touch hostile"), "system"),
    "eval": (Calls(builtins.eval, "open('hostile', 'w')"), "eval"),
    "nested": ({"labels": [Calls(builtins.exec, "open('hostile', 'w')")]}, "exec"),
    "getattr": (Calls(getattr, "x", "upper"), "getattr"),
    "in an array": (np.array([Calls(os.system, "touch hostile")], dtype=object), "system"),
    "numpy": (Calls(np.fromfile, "/etc/passwd"), "fromfile"),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_hostile_pickle_is_refused_and_runs_nothing(cifar10, tmp_path, monkeypatch, name, protocol):
    monkeypatch.chdir(tmp_path)
    value, asked = HOSTILE[name]
    body = pickle.dumps(value, protocol=protocol)
    shutil.copytree(cifar10.root, tmp_path / "copy")
    (tmp_path / "copy/test_batch").write_bytes(body)
    told = problem(cifar10.model_copy(update={"root": str(tmp_path / "copy")}))
    assert f"{tmp_path}/copy/test_batch is not a pickle of plain values and arrays (it asks for " in told
    assert asked in told
    labels = tmp_path / "labels.npy"
    labels.write_bytes(npy({})[: npy({}).index(b"\n") + 1] + body)
    assert asked in problem(cifar10.model_copy(update={"backgrounds": str(labels)}))
    assert not (tmp_path / "hostile").exists()


@pytest.mark.parametrize("dtype", [np.uint8, ">i4", "<i8", np.float32])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_come_back_as_they_were(dtype, order):
    array = np.asarray(np.arange(6).reshape(2, 3), dtype=dtype, order=order)
    for body in (pickle.dumps(array, 2), pickle.dumps(array, 4), python2_pickle(array)):
        found = read_pickle(body, "x")
        assert isinstance(found, Array)
        assert found.value.tolist() == array.tolist()
    assert read_object(npy({"a": [1, "b", b"c", np.int32(3)]}), "x") == {"a": [1, "b", b"c", 3]}


CLASSES = [b"_codecs\nencode", b"numpy\ndtype", b"numpy\nndarray", b"numpy.core.multiarray\nscalar"]


def test_arrays_that_are_not_what_they_say_are_refused():
    good = pickle.dumps(np.arange(6, dtype=np.uint8), 2)
    for bad in (
        good.replace(b"K\x06\x85", b"K\x07\x85"),  # a longer shape
        good.replace(b"u1", b"O8"),
        good.replace(b"u1", b"V1"),
        pickle.dumps(np.array(["a"]), 2),
        pickle.dumps(np.zeros(2, [("x", "u1"), ("y", "u1")]), 2),
        b"\x80\x02K\x01r\xff\xff\xff\x7f.",  # remembers one value under a number of two thousand millions
        *(b"\x80\x02c%s\nN}U\x04nameK\x01s\x86b." % named for named in CLASSES),  # sets an attribute of a class
        good[:-20],
        b"",
    ):
        with pytest.raises(DataError, match="x is not a pickle of plain values and arrays"):
            read_pickle(bad, "x")
    for bad in (b"", b"\x93NUMPY\x01\x00", npy([1, 2]), good, b"\x93NUMPY\x01\x00\x10\x00{'descr': 'O'}  \n"):
        with pytest.raises(DataError, match="x "):
            read_object(bad, "x")


@pytest.mark.filterwarnings("ignore:invalid escape:DeprecationWarning")
@given(place=st.integers(0), byte=st.integers(0, 255))
@settings(max_examples=150)
def test_a_damaged_pickle_is_an_input_error(place, byte):
    body = bytearray(python2_pickle(cifar10_fixture.batch([0, 1], 0, "training")))
    start = place % len(body)
    # The pixels are most of the file, and any byte of them is a pixel: the damage lies before and after them.
    start = start if start < 200 else len(body) - 1 - start % 120
    body[start] = byte
    try:
        read_pickle(bytes(body), "x")
    except DataError:
        return
