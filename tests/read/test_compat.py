"""Our shards through other people's readers and loops."""

from __future__ import annotations

import hashlib
import io
from multiprocessing import get_context

import numpy as np
import pytest
import torch
from PIL import Image
from small_sets import GROUPS, fresh_store, write_set
from torch.utils.data import DataLoader

from ffr_dist.errors import BrokenError, InputError
from ffr_dist.read.batches import ImageBatches
from ffr_dist.read.compat import torch_dataset, webdataset_pipeline, webdataset_urls
from ffr_dist.read.dataset import Dataset, open_dataset
from ffr_dist.shards.manifest import read_manifest
from ffr_dist.store import open_store

COUNTS = {"land_land": 12, "land_sea": 3, "sea_land": 4, "sea_sea": 9}


@pytest.fixture
def folder(tmp_path):
    write_set(open_store(str(tmp_path / "out")), COUNTS)
    return str(tmp_path / "out")


def bodies(data: Dataset) -> dict[str, bytes]:
    return dict(zip(data.keys.to_pylist(), data.images(range(len(data))), strict=True))


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_webdataset_opens_the_paths(folder):  # it leaves its files to the garbage collector
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


def test_a_pipeline_takes_webdatasets_own_words():
    store = fresh_store()
    write_set(store, COUNTS)
    pipeline = webdataset_pipeline(store.url, shardshuffle=3, seed=1).shuffle(9).decode("rgb8").to_tuple("png", "json")
    found = {note["key"]: pixels for pixels, note in pipeline}
    data = open_dataset(store)
    assert found.keys() == set(data.keys.to_pylist())
    assert np.array_equal(found["train-00000011"], data.pixels([11])[0])
    with pytest.raises(InputError, match="cache_dir"):
        webdataset_pipeline(store.url, cache_dir="/tmp")


def test_a_pipeline_does_not_take_a_short_shard_for_a_whole_one():
    store = fresh_store()
    write_set(store, COUNTS)
    pipeline = webdataset_pipeline(store.url)
    key = read_manifest(store).shards[1].key
    store.put(key, store.get(key)[:5120])
    with pytest.raises(BrokenError, match=f"{key} has 5120 bytes"):
        list(pipeline)


def test_a_pipeline_that_is_left_early_leaves_nothing_behind():
    store = fresh_store()
    write_set(store, COUNTS)
    stream = iter(webdataset_pipeline(store.url))
    next(stream)
    stream.close()


def key_of(sample):
    return sample["__key__"]


@pytest.mark.slow
@pytest.mark.parametrize("start", ["spawn", "forkserver"])
def test_workers_share_the_shards_of_a_pipeline(folder, start):
    pipeline = webdataset_pipeline(folder).map(key_of)
    loader = DataLoader(pipeline, batch_size=None, num_workers=2, multiprocessing_context=start)
    assert sorted(loader) == sorted(bodies(open_dataset(folder)))


def reference(folder: str, epoch: int = 0, rank: int = 0, world: int = 1) -> list[list[int]]:
    """Positions and groups of each batch of an epoch, by the reader itself."""
    batches = ImageBatches([open_dataset(folder)], GROUPS, batch=5, seed=3)
    length = batches.steps_per_epoch
    stream = batches.iterate(epoch * length, rank, world)
    return [told(vars_of(next(stream))) for _ in range(length)]


def vars_of(batch) -> dict[str, torch.Tensor]:
    return {"positions": batch.positions, "groups": batch.groups, "images": batch.images}


def told(batch: dict[str, torch.Tensor]) -> tuple[list[int], list[int], bytes]:
    return batch["positions"].tolist(), batch["groups"].tolist(), batch["images"].contiguous().numpy().tobytes()


def test_an_epoch_in_this_process(folder):
    data = torch_dataset(folder, batch=5, seed=3)
    assert len(data) == 6
    assert [told(batch) for batch in data] == reference(folder)
    data.seek(6 + 4)
    assert [told(batch) for batch in data] == reference(folder, epoch=1)[4:]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_workers_and_ranks_see_every_batch_once_and_in_order(folder, workers):
    for rank in range(2):
        data = torch_dataset(folder, batch=5, seed=3, rank=rank, world=2)
        loader = DataLoader(
            data, batch_size=None, num_workers=workers, multiprocessing_context="forkserver", persistent_workers=True
        )
        assert len(loader) == 6
        assert [told(batch) for batch in loader] == reference(folder, 0, rank, 2)
        data.seek(6)  # the workers that are there hear of it
        assert [told(batch) for batch in loader] == reference(folder, 1, rank, 2)
        data.seek(3)
        assert [told(batch) for batch in loader] == reference(folder, 0, rank, 2)[3:]


@pytest.mark.slow
def test_under_spawn_an_epoch_is_exact(folder):
    loader = DataLoader(
        torch_dataset([folder], batch=5, seed=3), batch_size=None, num_workers=2, multiprocessing_context="spawn"
    )
    found = [told(batch) for batch in loader]
    assert found == reference(folder)
    positions = [position for positions, _, _ in found for position in positions]
    assert sorted(positions) == list(range(28))


def test_sets_with_other_groups_are_read_together(folder, tmp_path):
    write_set(open_store(str(tmp_path / "more")), {"sea_sea": 7})
    data = torch_dataset([folder, str(tmp_path / "more")], batch=10, sampling="balanced")
    assert sum(len(batch["labels"]) for batch in data) == 40  # four batches of 10: none is short


def test_ranks_count_from_0(folder):
    with pytest.raises(InputError, match="rank is 2 of 2"):
        torch_dataset(folder, batch=5, rank=2, world=2)


def iterate_and_tell(data, pipe) -> None:
    try:
        next(iter(data))
    except InputError as error:
        pipe.send(str(error))
    pipe.close()


@pytest.mark.parametrize("make", [webdataset_pipeline, lambda url: torch_dataset(url, batch=5)])
def test_a_fork_of_a_bucket_is_refused(make):
    store = fresh_store()
    write_set(store, COUNTS)
    data = make(store.url)
    here, there = get_context("fork").Pipe()
    child = get_context("fork").Process(target=iterate_and_tell, args=(data, there))
    child.start()
    assert "multiprocessing_context='forkserver'" in here.recv()
    child.join()


@pytest.mark.store
@pytest.mark.slow
def test_from_a_bucket_with_workers(s3):
    write_set(open_store(s3.url), COUNTS)
    data = open_dataset(s3.url)
    pipeline = webdataset_pipeline(s3.url).map(key_of)
    # A server of forks may be there from an earlier test, without the credentials of this one.
    options = {"batch_size": None, "num_workers": 2, "multiprocessing_context": "spawn"}
    assert sorted(DataLoader(pipeline, **options)) == sorted(bodies(data))
    loader = DataLoader(torch_dataset(s3.url, batch=5, seed=3), **options)
    assert [told(batch) for batch in loader] == reference(s3.url)
