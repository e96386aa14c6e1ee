"""What only a folder has: links, pipes, a disk that fills up, folders that stand in the way."""

from __future__ import annotations

import errno
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ffr_dist.errors import MissingError, StoreError
from ffr_dist.store import Mine, open_store


def keys(store):
    return [info.key for info in store.list()]


@pytest.fixture
def small_disk(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "none", disk], check=False, capture_output=True
    ).returncode:
        pytest.skip("mounting a small disk is not permitted here")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_on_a_full_disk_a_write_says_so_and_leaves_nothing_half(small_disk, tmp_path):
    store = open_store(str(small_disk / "out"))
    big = os.urandom(3 << 20)
    (tmp_path / "big").write_bytes(big)
    store.put("kept", b"older")
    for write in (
        lambda: store.put("kept", big),
        lambda: store.put("new", big),
        lambda: store.put_if_absent("new", big),
        lambda: store.put_file("new", tmp_path / "big"),
        lambda: open_store(str(tmp_path)).copy("big", store, "new"),
    ):
        with pytest.raises(StoreError, match=r"disk is full.*run the same command again"):
            write()
    assert keys(store) == ["kept"]
    assert store.get("kept") == b"older"
    assert [name for _, _, names in os.walk(small_disk) for name in names] == ["kept"]
    assert store.put_if_absent("new", b"small") == Mine()


def test_a_link_is_followed_but_never_in_a_circle(tmp_path):
    (tmp_path / "elsewhere" / "deep").mkdir(parents=True)
    (tmp_path / "elsewhere" / "deep" / "x").write_bytes(b"123")
    out = tmp_path / "out"
    store = open_store(str(out))
    store.put("a", b"")
    (out / "shards").symlink_to(tmp_path / "elsewhere")
    (out / "circle").symlink_to(out)
    (out / "self").symlink_to(out / "self")
    (out / "nothing").symlink_to(tmp_path / "nothing")
    assert keys(store) == ["a", "shards/deep/x"]
    assert store.get("shards/deep/x") == b"123"
    for key in ("self", "nothing"):
        with pytest.raises(MissingError):
            store.get(key)


def test_a_pipe_is_no_object_and_nobody_waits_for_it(tmp_path):
    store = open_store(str(tmp_path))
    os.mkfifo(tmp_path / "pipe")
    assert keys(store) == []
    for read in (store.get, store.head, lambda key: store.get_ranges(key, [0], [1])):
        with pytest.raises(MissingError, match="pipe"):
            read("pipe")


def test_what_stands_in_the_way_is_named_at_once(tmp_path):
    store = open_store(str(tmp_path))
    store.put("file", b"")
    store.put("folder/x", b"")
    for key, cause in (("file/x", "file"), ("file/x/y", "file"), ("folder", "folder")):
        for write in (store.put, store.put_if_absent):
            with pytest.raises(StoreError, match=cause):
                write(key, b"body")
    assert keys(store) == ["file", "folder/x"]


def test_a_folder_goes_with_its_last_object_while_others_write_into_it(tmp_path):
    store = open_store(str(tmp_path))
    store.put("a/b/c", b"")
    store.delete("a/b/c")
    assert list(tmp_path.iterdir()) == []

    def work(writer):
        for number in range(150):
            key = f"deep/er/{writer}-{number}"
            store.put(key, b"x")
            assert store.get(key) == b"x"
            store.delete(key)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_was_made_and_deleted_by_others_at_that_moment_is_made_again(tmp_path, monkeypatch):
    mkdir, theirs = Path.mkdir, [1]

    def late(folder, *arguments, **options):
        if theirs:
            theirs.pop()
            raise FileExistsError(errno.EEXIST, "made by another, and gone again")
        mkdir(folder, *arguments, **options)

    store = open_store(str(tmp_path))
    monkeypatch.setattr(Path, "mkdir", late)
    store.put("a/b", b"x")
    assert store.get("a/b") == b"x"
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    for blocked in ("a/b/c", "nowhere/c"):
        with pytest.raises(StoreError):
            store.put(blocked, b"x")


def test_a_folder_that_may_not_be_written_is_an_error_at_once(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    store = open_store(str(tmp_path))
    tmp_path.chmod(0o500)
    with pytest.raises(StoreError, match="ermission"):
        store.put_if_absent("k", b"")
