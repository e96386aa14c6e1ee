"""Our shards through other people's readers."""

from __future__ import annotations

import hashlib
import io

import numpy as np
import pytest
from PIL import Image
from small_sets import fresh_store, write_set

from ffr_dist.errors import InputError
from ffr_dist.read.compat import webdataset_urls
from ffr_dist.read.dataset import Dataset, open_dataset
from ffr_dist.store import open_store

COUNTS = {"land_land": 12, "land_sea": 3, "sea_land": 4, "sea_sea": 9}


@pytest.fixture
def folder(tmp_path):
    write_set(open_store(str(tmp_path / "out")), COUNTS)
    return str(tmp_path / "out")


def bodies(data: Dataset) -> dict[str, bytes]:
    return dict(zip(data.keys.to_pylist(), data.images(range(len(data))), strict=True))


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_webdataset(folder):  # it leaves its files to the garbage collector
    import webdataset

    urls = webdataset_urls(folder)
    assert len(urls) == 3
    found = list(webdataset.WebDataset(urls, shardshuffle=False))
    data = open_dataset(folder)
    assert {sample["__key__"]: sample["png"] for sample in found} == bodies(data)
    decoded = list(webdataset.WebDataset(urls, shardshuffle=False).decode("rgb8").to_tuple("png", "json"))
    assert [note["label"] for _, note in decoded] == data.labels.tolist()
    assert np.array_equal(decoded[5][0], data.pixels([5])[0])


def test_hugging_face_datasets(folder, tmp_path):
    from datasets import load_dataset

    files = {"train": webdataset_urls(folder)}
    found = load_dataset("webdataset", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    data = open_dataset(folder)
    assert found["__key__"] == data.keys.to_pylist()
    assert [note["group"] for note in found["json"]] == [data.groups.names[place] for place in data.group_ids]
    assert np.array_equal(np.asarray(found[7]["png"].convert("RGB")), data.pixels([7])[0])


def test_with_tarfile_alone(folder):
    import tarfile

    found = {}
    for url in webdataset_urls(folder):
        with tarfile.open(url) as tar:
            found |= {member.name: tar.extractfile(member).read() for member in tar.getmembers()}
    ours = bodies(open_dataset(folder))
    images = {name.removesuffix(".png"): body for name, body in found.items() if name.endswith(".png")}
    assert {name: hashlib.sha256(body).digest() for name, body in images.items()} == {
        name: hashlib.sha256(body).digest() for name, body in ours.items()
    }
    assert Image.open(io.BytesIO(images["train-00000000"])).size == (8, 8)


def test_a_set_in_memory_has_no_paths():
    store = fresh_store()
    write_set(store, COUNTS)
    with pytest.raises(InputError, match="memory of this process"):
        webdataset_urls(store)
