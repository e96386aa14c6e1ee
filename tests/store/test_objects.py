"""What every store does, shown on a folder and in memory."""

import os
import signal
import subprocess
import sys
import uuid

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ffr_dist.errors import InputError, MissingError, StoreError
from ffr_dist.store import folder, open_store

KINDS = ["folder", "memory"]
slow_machine = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
parts = st.from_regex(r"[a-z0-9][a-z0-9_.-]{0,8}", fullmatch=True)
keys = st.lists(parts, min_size=1, max_size=3).map("/".join)


@pytest.fixture
def make(request, tmp_path_factory):
    def new(kind: str):
        return open_store(str(tmp_path_factory.mktemp("s")) if kind == "folder" else f"memory://{uuid.uuid4().hex}")

    return new


@pytest.fixture(params=KINDS)
def store(request, make):
    return make(request.param)


def no_prefix_of_another(names):
    return not any(a != b and b.startswith(f"{a}/") for a in names for b in names)


@slow_machine
@given(st.sampled_from(KINDS), st.dictionaries(keys, st.binary(max_size=99), max_size=6).filter(no_prefix_of_another))
def test_a_store_is_a_mapping_with_sorted_listing(make, kind, objects):
    store = make(kind)
    for key, body in objects.items():
        store.put(key, b"older")
        store.put(key, body)
    assert [info.key for info in store.list()] == sorted(objects)
    for key, body in objects.items():
        assert store.get(key) == body
        assert store.head(key).size == len(body)
        folder = key.rpartition("/")[0]
        inside = [other for other in sorted(objects) if not folder or other.startswith(f"{folder}/")]
        assert [info.key for info in store.list(folder)] == inside
        assert [info.key for info in store.list(folder, after=key)] == [other for other in inside if other > key]
        if folder:
            below = store.below(folder)
            assert [info.key for info in below.list()] == [other.removeprefix(f"{folder}/") for other in inside]
            assert below.get(key.removeprefix(f"{folder}/")) == body
    for key in objects:
        store.delete(key)
        assert not store.exists(key)
    assert list(store.list()) == []


def test_a_listed_folder_is_a_folder_and_not_a_beginning(store):
    store.put("commits/1", b"")
    store.put("commits-old/1", b"")
    assert [info.key for info in store.list("commits")] == ["commits/1"]
    assert [info.key for info in store.list("com")] == []


def test_what_is_not_there_is_told_by_name(store):
    for read in (store.get, store.head, lambda key: store.get_ranges(key, [0], [1])):
        with pytest.raises(MissingError, match="a/b"):
            read("a/b")
    assert not store.exists("a/b")
    assert list(store.list("a")) == []


@slow_machine
@given(st.data())
def test_ranges_are_slices(make, data):
    store, body = make("memory"), data.draw(st.binary(min_size=1, max_size=500))
    store.put("k", body)
    starts = data.draw(st.lists(st.integers(0, len(body) - 1), max_size=5))
    lengths = [data.draw(st.integers(1, len(body) - start)) for start in starts]
    assert store.get_ranges("k", starts, lengths) == [body[a : a + n] for a, n in zip(starts, lengths, strict=True)]


@slow_machine
@example("../x")
@example("a/../../x")
@example("/etc/x")
@example("a//b")
@example("a/")
@example("a\\..\\b")
@example("a\nb")
@example("a\0")
@example("x#1")
@example("\ud800")
@example("")
@given(
    st.text(max_size=12)
    | st.lists(st.sampled_from(["..", ".", "a", "", "%2e%2e", "~", "#1"]), max_size=5).map("/".join)
)
def test_a_key_is_kept_inside_or_refused(tmp_path_factory, key):
    outer = tmp_path_factory.mktemp("outer")
    store = open_store(str(outer / "in"))
    for inside in (store, store.below("deeper")):
        try:
            inside.put(key, b"body")
            inside.put_if_absent(f"{key}-2", b"body")
        except InputError:
            pass
        else:
            assert inside.get(key) == b"body"
            assert {info.key for info in inside.list()} == {key, f"{key}-2"}
            inside.delete(key)
            inside.delete(f"{key}-2")
        for refused in (inside.get, inside.delete, inside.head, inside.below):
            if ".." in key.split("/"):
                with pytest.raises(InputError, match="not a key"):
                    refused(key)
    assert [path.name for path in outer.iterdir()] == ["in"]


def test_a_store_of_an_unknown_kind_or_place_is_refused(tmp_path):
    with pytest.raises(InputError, match="ftp"):
        open_store("ftp://host/x")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match="not writable"):
        open_store(str(tmp_path / "file"))


def test_memory_is_shared_by_name_and_a_folder_by_path(tmp_path):
    for url in (f"memory://{uuid.uuid4().hex}", str(tmp_path), f"file://{tmp_path}"):
        open_store(url).put("a/b", b"x")
        assert open_store(f"{url}/a").get("b") == b"x"


def test_a_full_disk_is_an_error_that_names_the_key_and_leaves_nothing(tmp_path, monkeypatch):
    store = open_store(str(tmp_path))

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder.os, "fsync", full)
    with pytest.raises(StoreError, match=r"a/b.*No space"):
        store.put("a/b", b"x")
    monkeypatch.undo()
    assert list(store.list()) == []
    assert [name for _, _, files in os.walk(tmp_path) for name in files] == []


KILLED = """
import os, signal, sys
from pathlib import Path
from ffr_dist.store import folder
def die(*_): os.kill(os.getpid(), signal.SIGKILL)
folder.os.replace = die
folder.Folder(Path(sys.argv[1])).put("shards/x.tar", b"x" * 100_000)
"""


def test_a_writer_killed_before_the_last_step_leaves_no_object(tmp_path):
    store = open_store(str(tmp_path))
    store.put("shards/older.tar", b"older")
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(list((tmp_path / "shards").iterdir())) == 2  # its temporary file stays, and is no object
    assert [info.key for info in store.list()] == ["shards/older.tar"]
    store.put("shards/x.tar", b"again")
    assert store.get("shards/x.tar") == b"again"


WRITING = """
import sys
from ffr_dist.store import open_store
store = open_store(sys.argv[1])
print("ready", flush=True)
while True:
    for body in (b"a" * 3_000_000, b"b" * 2_000_000):
        store.put("big", body)
"""


def test_a_reader_never_sees_half_an_object(tmp_path):
    store = open_store(str(tmp_path))
    writer = subprocess.Popen([sys.executable, "-c", WRITING, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    with writer:
        assert writer.stdout.readline() == "ready\n"
        while not store.exists("big"):
            pass
        bodies = {store.get("big") for _ in range(30)}
        writer.kill()
    bodies.add(store.get("big"))
    assert bodies <= {b"a" * 3_000_000, b"b" * 2_000_000}
