"""What every store does, on a folder, in memory, and on a real S3 service."""

from __future__ import annotations

import itertools
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ffr_dist.errors import AccessError, BrokenError, InputError, MissingError
from ffr_dist.store import Mine, Theirs, open_store, probe

KINDS = ["folder", "memory", pytest.param("s3", marks=pytest.mark.store)]
HOSTILE = [
    "a%2eb", "a b", "a+b", "a&b=c", "a:b", "a*?", 'a"b', "[a]{b}", "über/ß", "😀", "~", "-", "a#", "a'b", "a;b,c", "%00", "..a", "a..",
]  # fmt: skip
REFUSED = [
    "", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/../b", "a/./b", "a\\b", "a\nb", "a\0", "a#1", "a#12/b", "\ud800", "x" * 256,
    "y/" * 500 + "z",
]  # fmt: skip
BIG = bytes(range(256)) * (20 << 12)  # 20 MiB: in parts


@pytest.fixture(params=KINDS)
def url(request, tmp_path):
    if request.param == "s3":
        return f"{request.getfixturevalue('s3').url}/pre/fix"
    return str(tmp_path / "out") if request.param == "folder" else f"memory://{uuid.uuid4().hex}/pre"


@pytest.fixture
def store(url):
    return open_store(url)


def keys(infos):
    return [info.key for info in infos]


def test_the_last_put_wins_and_an_empty_body_is_one(store):
    for body in (b"older", b"", b"new"):
        store.put("a/b", body)
        assert store.get("a/b") == body
        assert store.head("a/b").size == len(body)
        assert store.head("a/b").key == "a/b"
    assert store.exists("a/b")
    assert not store.exists("a")


def test_a_large_body_is_put_whole_from_memory_and_from_a_file(store, tmp_path):
    for name, body in (("big", BIG), ("small", b"x"), ("empty", b"")):
        (tmp_path / name).write_bytes(body)
        store.put(f"put/{name}", body)
        store.put_file(f"file/{name}", tmp_path / name)
        assert store.get(f"put/{name}") == body == store.get(f"file/{name}")
    assert [(info.key, info.size) for info in store.list("file")] == [
        ("file/big", len(BIG)), ("file/empty", 0), ("file/small", 1)
    ]  # fmt: skip
    assert store.put_if_absent("large", BIG) == Mine()
    assert store.put_if_absent("large", b"") == Theirs(BIG)


def test_of_many_creators_one_wins_and_all_agree(url):
    racers, names = 16, [f"commits/{number:08d}.json" for number in range(40)]
    start = threading.Barrier(racers)

    def race(racer):
        store, outcomes = open_store(url), []
        for name in names:
            start.wait()
            outcomes.append(store.put_if_absent(name, b"%d" % racer))
        return outcomes

    with ThreadPoolExecutor(racers) as pool:
        by_racer = list(pool.map(race, range(racers)))
    store = open_store(url)
    for place, name in enumerate(names):
        owners = [racer for racer in range(racers) if by_racer[racer][place] == Mine()]
        assert len(owners) == 1
        body = store.get(name)
        assert body == b"%d" % owners[0]
        assert {o.body for o in (outcomes[place] for outcomes in by_racer) if isinstance(o, Theirs)} == {body}
    assert keys(store.list("commits")) == names


def test_offering_equal_bytes_again_is_mine(store):
    assert [store.put_if_absent("k", body) for body in (b"x", b"x", b"y")] == [Mine(), Mine(), Theirs(b"x")]
    store.delete("k")
    assert store.put_if_absent("k", b"y") == Mine()


def test_a_listing_is_sorted_by_key_and_of_folders_not_of_beginnings(store):
    names = ["a", "a-b", "a.b", "ab/c", "b/a", "b/a0", "b/a-", "b/a.d/e", "b/Z", "b/ä", "ba", "c/d/e/f", "c/d/e-f"]
    for name in names:
        store.put(name, name.encode())
    assert keys(store.list()) == sorted(names)
    assert keys(store.list("a")) == []
    assert keys(store.list("b")) == keys(store.list("b/")) == sorted(name for name in names if name.startswith("b/"))
    assert keys(store.list("c/d")) == ["c/d/e-f", "c/d/e/f"]
    assert keys(store.list("nothing")) == []
    for after in [*names, "0", "b", "b/a/", "b/b", "zz"]:
        if not after.endswith("/"):
            assert keys(store.list(after=after)) == sorted(name for name in names if name > after), after
            inside = sorted(name for name in names if name.startswith("b/") and name > after)
            assert keys(store.list("b", after=after)) == inside, after


def test_a_long_listing_comes_in_order_and_as_it_is_read(store):
    names = [f"x/{number:05d}" for number in range(1_200)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: store.put(name, b""), names))
    assert keys(store.list("x")) == names
    assert keys(store.list("x", after=names[99])) == names[100:]
    assert keys(itertools.islice(store.list("x"), 3)) == names[:3]


def test_a_folder_of_a_store_is_a_store(store, url):
    below = store.below("real").below("train")
    below.put("shards/1", b"x")
    assert store.get("real/train/shards/1") == b"x" == open_store(f"{url}/real/train").get("shards/1")
    store.put("real/train-2/shards/1", b"y")
    assert keys(below.list()) == ["shards/1"] == keys(below.list("shards"))
    assert keys(below.list(after="shards/0")) == ["shards/1"]
    assert below.head("shards/1").key == "shards/1"
    assert below.config == store.config
    below.delete("shards/1")
    assert keys(store.list()) == ["real/train-2/shards/1"]


def test_ranges_are_slices_near_and_far(store):
    store.put("k", BIG)
    starts, lengths = [5, 0, 5, 4 << 20, len(BIG) - 3, 7], [10, 1, 10, 3 << 20, 3, 1 << 20]
    assert store.get_ranges("k", starts, lengths) == [BIG[a : a + n] for a, n in zip(starts, lengths, strict=True)]
    assert store.get_ranges("k", [], []) == []
    room = bytearray(sum(lengths))
    views = [memoryview(room)[sum(lengths[:place]) :][:length] for place, length in enumerate(lengths)]
    store.read_into("k", starts, views)
    assert bytes(room) == b"".join(BIG[a : a + n] for a, n in zip(starts, lengths, strict=True))
    store.read_into("k", [3], [memoryview(b"")])


def test_an_empty_range_is_nothing_wherever_it_lies(store):
    store.put("a", bytes(range(10)))
    store.put("empty", b"")
    assert store.get_ranges("a", [0, 3, 10], [0, 2, 0]) == [b"", b"\3\4", b""]
    assert store.get_ranges("a", [4], [0]) == [b""]
    assert store.get_ranges("empty", [0], [0]) == [b""]
    with pytest.raises(MissingError):
        store.get_ranges("absent", [0], [0])


@pytest.mark.parametrize("ranges", [([5], [100]), ([0, 5], [2, 6]), ([10], [1]), ([50], [10]), ([5, 50], [5, 10])])
def test_a_truncated_object_is_broken_and_no_crash(store, ranges, capfd):
    store.put("shards/1.tar", b"0123456789")
    with pytest.raises(BrokenError, match=r"shards/1\.tar has 10 bytes"):
        store.get_ranges("shards/1.tar", *ranges)
    with pytest.raises(BrokenError, match=r"shards/1\.tar has 10 bytes"):
        store.read_into("shards/1.tar", ranges[0], [memoryview(bytearray(length)) for length in ranges[1]])
    assert "panicked" not in capfd.readouterr().err


def test_what_is_not_there_is_named_and_deleting_it_is_nothing(store):
    store.put("a", b"")
    for call in (
        store.get,
        store.head,
        lambda key: store.get_ranges(key, [0], [1]),
        lambda key: store.read_into(key, [0], [memoryview(bytearray(1))]),
        lambda key: store.copy(key, store, "z"),
    ):
        for key in ("nothing/here", "a/b", "no"):
            with pytest.raises(MissingError, match=key):
                call(key)
    for key in ("nothing/here", "a/b", "no"):
        store.delete(key)
    assert keys(store.list()) == ["a"]


def test_a_copy_is_the_same_bytes_within_a_store_and_to_another(store, tmp_path):
    store.put("big", BIG)
    store.put("small", b"x")
    for to in (
        store,
        store.below("deep"),
        open_store(str(tmp_path / "folder")),
        open_store(f"memory://{uuid.uuid4().hex}/f"),
    ):
        to.put("copy/small", b"older")
        for name in ("big", "small"):
            store.copy(name, to, f"copy/{name}")
        assert to.get("copy/big") == BIG
        assert to.get("copy/small") == b"x"
    assert keys(store.list()) == ["big", "copy/big", "copy/small", "deep/copy/big", "deep/copy/small", "small"]


def test_its_clock_is_the_one_of_its_objects_and_leaves_nothing(store, url):
    before, now = store.now(), store.now()
    store.put("k", b"")
    assert before <= now <= store.head("k").modified + timedelta(seconds=1)
    assert abs(datetime.now(UTC) - now) < timedelta(minutes=5)
    store.delete("k")
    assert keys(store.list()) == []
    assert not Path(url, ".probe").exists()


def test_a_listing_and_an_object_tell_the_same_of_it(store):
    for number in range(5):  # on one that keeps fractions of seconds, five of them are not all zero
        store.put(f"a/{number}", b"body")
    assert [store.head(info.key) for info in store.list("a")] == list(store.list("a"))


def test_the_probe_passes_and_leaves_nothing(store, url):
    store.put("k", b"")
    probe(store)
    assert keys(store.list()) == ["k"]
    assert not Path(url, ".probe").exists()


@pytest.mark.parametrize("key", HOSTILE)
def test_a_strange_key_is_kept_to_the_letter(store, key):
    assert store.put_if_absent(key, b"body") == Mine()
    assert store.get(key) == b"body"
    assert keys(store.list()) == [key]
    store.copy(key, store, f"{key}-2")
    store.delete(key)
    assert keys(store.list()) == [f"{key}-2"]


def test_a_key_that_leaves_the_store_is_refused_by_every_call(store):
    for key in REFUSED:
        for call in (
            store.get, store.head, store.delete, store.below, lambda key: store.put(key, b""), lambda key: store.put_file(key, ""),
            lambda key: store.put_if_absent(key, b""), lambda key: store.copy(key, store, "a"), lambda key: store.copy("a", store, key),
        ):  # fmt: skip
            with pytest.raises(InputError, match="not a key"):
                call(key)
    assert keys(store.list()) == []


@pytest.mark.store
@pytest.mark.parametrize("wrong", ["AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"])
def test_wrong_credentials_are_the_users_to_mend(s3, monkeypatch, wrong):
    monkeypatch.setenv(wrong, "x" * 20)
    with pytest.raises(AccessError, match="check the credentials") as error:
        probe(open_store(s3.url))
    assert error.value.exit_code == 2
    assert "x" * 20 not in str(error.value)
