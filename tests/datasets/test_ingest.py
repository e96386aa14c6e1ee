from __future__ import annotations

import hashlib
import io
import itertools
import tarfile
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ffr_dist.datasets.folder import FolderConfig
from ffr_dist.datasets.ingest import ingest
from ffr_dist.datasets.source import Sample, Split
from ffr_dist.errors import ConflictError, DataError, InputError
from ffr_dist.groups import Group, Groups
from ffr_dist.shards.codec import CodecConfig, decode
from ffr_dist.shards.index import read_index
from ffr_dist.shards.manifest import read_manifest
from ffr_dist.shards.verify import verify
from ffr_dist.store import Store, open_store

CATS, DOGS = Group("cats", 0, 0), Group("dogs", 1, 0)
GROUPS = Groups.of([CATS, DOGS])
JPG, PNG = CodecConfig(), CodecConfig(format="png")

_numbers = itertools.count()


def fresh() -> Store:
    return open_store(f"memory://ingest-{next(_numbers)}")


def as_split(samples: list[Sample], name: str = "train", skip: bool = False) -> Split:
    counts = {group.name: sum(sample.group == group for sample in samples) for group in GROUPS}
    return Split(
        name=name,
        groups=GROUPS,
        identity={"of": name},
        samples=lambda: iter(samples),
        counts=lambda: counts,
        skip_bad_images=skip,
    )


def picture(seed: int, height: int = 8, width: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def saved(pixels: np.ndarray, kind: str = "PNG", mode: str = "RGB", **options: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(out, kind, **options)
    return out.getvalue()


def some(count: int) -> list[Sample]:
    return [Sample(image=saved(picture(n)), group=(CATS, DOGS)[n % 2], name=f"{n}.png") for n in range(count)]


def stored(store: Store) -> dict[str, bytes]:
    """Members of all shards, by name."""
    members = {}
    for shard in read_manifest(store).shards:
        with tarfile.open(fileobj=io.BytesIO(store.get(shard.key))) as tar:
            for info in tar:
                opened = tar.extractfile(info)
                assert opened is not None
                members[info.name] = opened.read()
    return members


def test_a_split_becomes_a_finished_set(tmp_path):
    store = open_store(str(tmp_path))
    manifest = ingest(as_split(some(7)), store, codec=PNG, size=8, images_per_shard=3)
    assert manifest.kind == "imported"
    assert manifest.groups == {"cats": 4, "dogs": 3}
    assert [shard.images for shard in manifest.shards] == [3, 3, 1]
    assert verify(store).ok
    index = read_index(store, manifest).to_pydict()
    assert index["name"] == [f"{n}.png" for n in range(7)]
    assert index["group"] == ["cats", "dogs"] * 3 + ["cats"]
    assert set(index["source"]) == {"real"}
    members = stored(store)
    for row in range(7):
        assert np.array_equal(decode(members[f"train-{row:08d}.png"]), picture(row))


def test_the_manifest_hash_is_what_anyone_computes():
    store = fresh()
    manifest = ingest(as_split(some(5)), store, codec=JPG, size=8)
    images = {name.removesuffix(".jpg"): body for name, body in stored(store).items() if name.endswith(".jpg")}
    lines = [
        f"{key} {('cats', 'dogs')[int(key[-8:]) % 2]} {hashlib.sha256(images[key]).hexdigest()}\n" for key in images
    ]
    assert manifest.manifest_sha256 == hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 16), (5, 40), (8, 8), (1, 1)])
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK"])
def test_every_image_ends_in_the_recipe_size_and_codec(height, width, mode):
    image = saved(picture(1, height, width), "JPEG" if mode == "CMYK" else "PNG", mode)
    store = fresh()
    ingest(as_split([Sample(image=image, group=CATS, name="odd.png")]), store, codec=JPG, size=8)
    body = stored(store)["train-00000000.jpg"]
    assert body.startswith(b"\xff\xd8\xff")
    assert decode(body).shape == (8, 8, 3)


def test_shrinking_does_not_alias():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    store = fresh()
    ingest(as_split([Sample(image=stripes, group=CATS, name="stripes")]), store, codec=PNG, size=8)
    shrunk = decode(stored(store)["train-00000000.png"]).astype(int)
    assert np.abs(shrunk - 127).max() <= 8


def test_pixels_of_the_right_size_are_stored_as_they_are():
    store = fresh()
    ingest(as_split([Sample(image=picture(3), group=CATS, name="row 3")]), store, codec=PNG, size=8)
    assert np.array_equal(decode(stored(store)["train-00000000.png"]), picture(3))


def test_equal_splits_give_equal_objects():
    one, two = fresh(), fresh()
    for store in (one, two):
        ingest(as_split(some(20)), store, codec=JPG, size=5, images_per_shard=6)
    assert {info.key: one.get(info.key) for info in one.list()} == {info.key: two.get(info.key) for info in two.list()}


def test_what_is_there_is_not_read_again():
    store = fresh()
    first = ingest(as_split(some(4)), store, codec=JPG, size=8)

    def unread() -> Iterator[Sample]:
        raise AssertionError

    again = Split(name="train", groups=GROUPS, identity={}, samples=unread, counts=dict)
    assert ingest(again, store, codec=JPG, size=8) == first


@pytest.mark.parametrize("other", [{"codec": PNG}, {"size": 9}, {"keep_bytes": True}])
def test_other_settings_than_those_of_the_import_are_a_conflict(other):
    store = fresh()
    asked = {"codec": JPG, "size": 8}
    ingest(as_split(some(4)), store, **asked)
    with pytest.raises(ConflictError, match="choose another output"):
        ingest(as_split(some(4)), store, **(asked | other))


@given(places=st.sets(st.integers(0, 19), min_size=1), cut=st.floats(0, 0.9))
@settings(max_examples=25, deadline=None)
def test_half_written_images_are_named_and_counted(places, cut):
    samples = some(20)
    for place in places:
        whole = saved(picture(place, 32, 32), "JPEG")
        samples[place] = Sample(
            image=whole[: int(len(whole) * cut)], group=samples[place].group, name=f"half{place}.jpg"
        )
    store = fresh()
    with pytest.raises(DataError) as caught:
        ingest(as_split(samples), store, codec=JPG, size=8, images_per_shard=4)
    told = str(caught.value)
    assert f"split train: {len(places)} of its images cannot be used" in told
    for place in sorted(places)[:5]:
        assert f"half{place}.jpg: " in told
    assert (f"and {len(places) - 5} more" in told) == (len(places) > 5)
    assert "on_bad_image: skip" in told
    with pytest.raises(InputError, match="not finished"):
        read_manifest(store)


def test_bad_images_are_skipped_and_counted_where_the_split_says_so():
    samples = some(9)
    samples[2] = Sample(image=b"", group=CATS, name="empty.png")
    samples[5] = Sample(image=b"GIF89a nonsense", group=DOGS, name="odd.gif")
    store = fresh()
    manifest = ingest(as_split(samples, skip=True), store, codec=PNG, size=8)
    assert manifest.groups == {"cats": 4, "dogs": 3}
    skipped = manifest.detail["skipped"]
    assert skipped["count"] == 2
    assert [line.partition(":")[0] for line in skipped["first"]] == ["empty.png", "odd.gif"]
    assert "2.png" not in read_index(store, manifest)["name"].to_pylist()
    assert verify(store).ok


def test_a_picture_that_unfolds_to_more_than_memory_is_refused():
    bomb = saved(np.zeros((1, 1, 3), np.uint8))
    huge = bomb.replace((1).to_bytes(4, "big") * 2, (60_000).to_bytes(4, "big") * 2, 1)
    assert huge != bomb
    with pytest.raises(DataError, match=r"bomb\.png"):
        ingest(as_split([Sample(image=huge, group=CATS, name="bomb.png")]), fresh(), codec=JPG, size=8)


@pytest.mark.parametrize("name", ["val", "test"])
@pytest.mark.parametrize("skip", [False, True])
def test_an_empty_declared_group_of_an_evaluated_split_is_refused(name, skip):
    store = fresh()
    samples = [sample for sample in some(6) if sample.group == CATS]
    with pytest.raises(DataError, match=f"split {name}: no image of declared group dogs"):
        ingest(as_split(samples, name=name, skip=skip), store, codec=JPG, size=8)
    assert not store.exists("manifest.json")


def test_a_group_emptied_by_skipping_is_refused():
    samples = [*some(1), Sample(image=b"half", group=DOGS, name="dog.png")]
    with pytest.raises(DataError, match="no image of declared group dogs"):
        ingest(as_split(samples, name="val", skip=True), fresh(), codec=JPG, size=8)


def test_an_empty_group_of_the_training_split_stays_declared():
    samples = [sample for sample in some(6) if sample.group == CATS]
    assert ingest(as_split(samples), fresh(), codec=JPG, size=8).groups == {"cats": 3, "dogs": 0}


def test_kept_files_are_stored_byte_by_byte():
    files = [saved(picture(1, 9, 5), "JPEG", quality=70), saved(picture(2)), saved(picture(3), "WEBP")]
    samples = [Sample(image=file, group=CATS, name=str(place)) for place, file in enumerate(files)]
    store = fresh()
    manifest = ingest(as_split(samples), store, codec=PNG, size=8, keep_bytes=True)
    assert (manifest.codec, manifest.size) == (None, None)
    images = [body for name, body in stored(store).items() if not name.endswith(".json")]
    assert images == files
    assert verify(store).ok


@pytest.mark.parametrize("image", [b"half a file", picture(1), saved(picture(1), "BMP")])
def test_what_cannot_be_kept_is_named(image):
    with pytest.raises(DataError, match=r"odd: "):
        ingest(as_split([Sample(image=image, group=CATS, name="odd")]), fresh(), codec=JPG, size=8, keep_bytes=True)


def test_memory_does_not_grow_with_the_split(tmp_path):
    body = saved(picture(1, 300, 300))

    def peak(images: int) -> int:
        made = (Sample(image=body + bytes(n % 7), group=CATS, name=str(n)) for n in range(images))
        split = Split(name="train", groups=GROUPS, identity={}, samples=lambda: made, counts=dict)
        tracemalloc.start()
        ingest(split, open_store(str(tmp_path / str(images))), codec=JPG, size=16, images_per_shard=8)
        largest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return largest

    peak(8)
    assert peak(240) < 1.5 * peak(60)


def test_a_folder_goes_the_whole_way(tmp_path: Path):
    (tmp_path / "images").mkdir()
    table = ["file,label,bias,split"]
    for number, (split, label, bias) in enumerate(itertools.product(["train", "val", "test"], [0, 1], [0, 1])):
        (tmp_path / "images" / f"{number}.png").write_bytes(saved(picture(number, 20, 12)))
        table.append(f"{number}.png,{label},{bias},{split}")
    (tmp_path / "labels.csv").write_text("\n".join(table))
    cells = {"0": 0, "1": 1}
    config = FolderConfig(
        table=str(tmp_path / "labels.csv"),
        images=str(tmp_path / "images"),
        classes=cells,
        biases=cells,
        groups={f"y{label}_b{bias}": (label, bias) for label in (0, 1) for bias in (0, 1)},
    )
    out = open_store(str(tmp_path / "out"))
    for split in config.splits(0):
        store = out.below(f"real/{split.folder}")
        assert ingest(split, store, codec=JPG, size=16).groups == split.counts()
        checked = verify(store)
        assert checked.ok, checked.problems
        assert checked.images == 4
