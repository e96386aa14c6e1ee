from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ffr_dist.errors import DataError
from ffr_dist.store import list_inputs, local_copy, open_input, open_store


def test_a_folder_is_listed_with_paths_from_there(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "b [1].txt").write_bytes(b"12345")
    (tmp_path / "a*.txt").write_bytes(b"")
    expected = {"a*.txt": 0, "deep/er/b [1].txt": 5}
    for url in (str(tmp_path), f"{tmp_path}/", f"file://{tmp_path}"):
        assert list_inputs(url) == expected


def test_a_link_has_the_size_of_its_file(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "elsewhere").write_bytes(b"123")
    (tmp_path / "images" / "a").symlink_to(tmp_path / "elsewhere")
    assert list_inputs(f"{tmp_path}/images") == {"a": 3}


def test_a_file_is_opened_by_path_or_url(tmp_path):
    file = tmp_path / "b [1]*.txt"
    file.write_bytes(b"12345")
    for url in (str(file), f"file://{file}"):
        with open_input(url) as opened:
            assert opened.read() == b"12345"


@pytest.mark.parametrize("url", ["/nowhere/at/all", "file:///nowhere", "memory://nothing-here", "gopher://x/y"])
def test_what_is_not_there_is_named(url):
    with pytest.raises(DataError, match=url):
        list_inputs(url)
    with pytest.raises(DataError, match=url):
        open_input(url)


def test_an_empty_folder_is_named(tmp_path):
    with pytest.raises(DataError, match="holds no files"):
        list_inputs(str(tmp_path))


@pytest.fixture
def weights():
    """A folder of weights in memory of its own."""
    import fsspec

    files = fsspec.filesystem("memory")
    root = f"/{uuid.uuid4().hex}/sd15"
    files.pipe({f"{root}/model_index.json": b"{}", f"{root}/unet/w.safetensors": b"w" * 5_000, f"{root}/empty": b""})
    return files, root


def content(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


WEIGHTS = {"model_index.json": b"{}", "unet/w.safetensors": b"w" * 5_000, "empty": b""}


def test_weights_are_copied_once_and_again_when_they_change(weights, tmp_path, monkeypatch):
    files, root = weights
    copy = local_copy(f"memory:/{root}", tmp_path)
    assert content(copy) == WEIGHTS
    assert copy.parent == tmp_path
    with monkeypatch.context() as patched:
        patched.setattr(type(files), "get_file", None)  # whoever copies again fails
        assert local_copy(f"memory:/{root}/", tmp_path) == copy
    files.pipe(f"{root}/unet/w.safetensors", b"v" * 6_000)
    newer = local_copy(f"memory:/{root}", tmp_path)
    assert newer != copy
    assert content(newer)["unet/w.safetensors"] == b"v" * 6_000
    (newer / "empty").unlink()  # as after a crash of the machine
    assert content(local_copy(f"memory:/{root}", tmp_path)) == content(newer) | {"empty": b""}
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([copy.name, newer.name])


def test_many_copy_to_the_same_place_at_once(tmp_path):
    source = tmp_path / "weights"  # a real folder: threads share one position in a file of fsspec's memory
    for name, body in WEIGHTS.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(body)
    with ThreadPoolExecutor(8) as pool:
        copies = set(pool.map(lambda _: local_copy(f"file://{source}", tmp_path / "cache"), range(16)))
    assert len(copies) == 1
    assert content(copies.pop()) == WEIGHTS


def test_a_copy_that_fails_leaves_nothing(weights, tmp_path, monkeypatch):
    def cut(self, source, target, **_):
        Path(target).write_bytes(b"w")

    monkeypatch.setattr(type(weights[0]), "get_file", cut)
    with pytest.raises(DataError, match="changed while it was copied"):
        local_copy(f"memory:/{weights[1]}", tmp_path)

    def fail(self, source, target, **_):
        Path(target).write_bytes(b"w")
        raise OSError("connection reset")

    monkeypatch.setattr(type(weights[0]), "get_file", fail)
    with pytest.raises(DataError, match="connection reset"):
        local_copy(f"memory:/{weights[1]}", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_local_folder_is_its_own_copy(tmp_path):
    (tmp_path / "w").write_bytes(b"x")
    assert (
        local_copy(str(tmp_path), tmp_path / "cache")
        == tmp_path
        == local_copy(f"file://{tmp_path}", tmp_path / "cache")
    )


@pytest.mark.parametrize("name", ["../out", "a/../../out", "a\\..\\out", "a\nb"])
def test_a_name_that_leaves_the_folder_is_refused(weights, tmp_path, monkeypatch, name):
    files, root = weights
    monkeypatch.setattr(type(files), "find", lambda self, where, detail: {f"{root}/{name}": {"size": 1}})
    with pytest.raises(DataError, match="leaves the folder"):
        local_copy(f"memory:/{root}", tmp_path / "cache")
    assert list(tmp_path.iterdir()) == []


def test_a_secret_in_a_url_is_not_repeated(tmp_path):
    url = "http://user:SECRET@127.0.0.1:1/x?token=SECRET"
    for call in (open_input, list_inputs, lambda url: local_copy(url, tmp_path)):
        with pytest.raises(DataError, match=r"http://127\.0\.0\.1:1/x") as caught:
            call(url)
        assert "SECRET" not in str(caught.value)
        assert caught.value.__cause__ is None


@pytest.mark.store
def test_data_and_weights_come_from_a_real_bucket(s3, tmp_path):
    store = open_store(f"{s3.url}/weights/sd15")
    for name, body in WEIGHTS.items():
        store.put(name, body)
    big = bytes(range(256)) * (12 << 12)
    store.put("unet/big.safetensors", big)
    url = f"{s3.url}/weights/sd15"
    assert list_inputs(url) == {name: len(body) for name, body in WEIGHTS.items()} | {"unet/big.safetensors": len(big)}
    with open_input(f"{url}/unet/w.safetensors") as opened:
        assert opened.read() == WEIGHTS["unet/w.safetensors"]
    copy = local_copy(url, tmp_path)
    assert content(copy) == WEIGHTS | {"unet/big.safetensors": big}
    assert local_copy(url, tmp_path) == copy
    for call in (open_input, list_inputs):
        with pytest.raises(DataError, match="nothing"):
            call(f"{s3.url}/nothing")
