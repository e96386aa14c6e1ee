import hashlib
import itertools
from unittest import mock

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shard_outputs import fresh_store

from ffr_dist.errors import BrokenError, StoreError
from ffr_dist.shards import layout
from ffr_dist.shards.commit import Commit, GroupTally, ObjectRef, abandon, publish
from ffr_dist.shards.log import SEGMENT, CommitLog, decided
from ffr_dist.shards.segment import Segment, segment_of, unfold, unpack

SMALL = 4
"""Intervals of a segment in these tests."""
_attempts = itertools.count()


@pytest.fixture
def small():
    with small_segments():
        yield


def small_segments():
    return mock.patch("ffr_dist.shards.log.SEGMENT", SMALL)


def made(interval, groups, environment=(("gpu", "x"),), seconds=0.5):
    """A commit of these groups: name -> (accepted, rejected)."""
    attempt = f"a{next(_attempts)}"
    tar, sidecar = (hashlib.sha256(f"{attempt}{part}".encode()).hexdigest() for part in range(2))
    accepted = sum(count for count, _ in groups.values())
    return Commit(
        interval=interval,
        attempt=attempt,
        tar=ObjectRef(layout.tar_key(interval, tar), tar, 2**40 + interval) if accepted else None,
        sidecar=ObjectRef(layout.sidecar_key(interval, sidecar), sidecar, 9),
        groups={
            name: GroupTally(count + sum(rejected.values()), count, rejected)
            for name, (count, rejected) in groups.items()
        },
        environment=dict(environment),
        seconds=seconds,
    )


texts = st.text(st.characters(codec="utf-8"), max_size=5)
counts = st.integers(0, 2**40)
commits_at = st.one_of(
    st.builds(
        lambda groups, environment, seconds: lambda interval: made(interval, groups, environment.items(), seconds),
        st.dictionaries(texts, st.tuples(counts, st.dictionaries(texts, counts, max_size=3)), max_size=3),
        st.dictionaries(texts, texts, max_size=2),
        st.floats(0, 1e9),
    ),
    st.builds(lambda reason: lambda interval: abandon(interval, f"a{next(_attempts)}", reason), texts),
)


@settings(max_examples=40)
@given(st.lists(st.sets(st.integers(0, 12)), max_size=5))
def test_the_log_is_what_was_committed_in_any_order(batches):
    store = fresh_store()
    log, seen = CommitLog(store), set()
    for batch in batches:
        for interval in batch:
            publish(store, abandon(interval, "a", "x"))
        new = []
        assert log.refresh(lambda segment: new.extend(segment.commits())) == len(batch - seen)  # noqa: B023 - called at once
        assert [commit.interval for commit in new] == sorted(batch - seen)
        seen |= batch
        assert [commit.interval for commit in log.commits()] == sorted(seen)
        assert log.first_gap == min(set(range(14)) - seen)
    assert log.refresh() == 0


def test_foreign_objects_decide_nothing(store):
    for key in ("commits/readme.txt", "commits/00000001.json.bak", "commits/1.json", "commits/00000002/x.json"):
        store.put(key, b"hello")
    for key in ("log/readme.txt", "log/00000000.parquet", "log/00000001.parquet.bak", "log/1.parquet"):
        store.put(key, b"PAR1 or not")
    log = CommitLog(store)
    assert log.refresh() == 0
    assert log.first_gap == 0


class World:
    """An output with its true commits, drivers' logs on it, and what befalls the segments."""

    def __init__(self):
        self.store, self.other = fresh_store(), fresh_store()
        self.truth = {}
        self.logs = [(CommitLog(self.store, keep=True), set()), (CommitLog(self.store, keep=True), set())]

    def commit(self, interval, at, who):
        """A worker commits; the driver ``who`` gets a receipt, or nobody does."""
        commit = publish(self.store, at(interval))
        assert self.truth.setdefault(interval, commit) == commit
        publish(self.other, at(interval))
        if who is not None:
            log, seen = self.logs[who]
            log.add(commit)
            seen.add(interval)

    def refresh(self, who):
        log, seen = self.logs[who]
        new = []
        number = log.refresh(lambda segment: new.extend(segment.commits()))
        assert {commit.interval: commit for commit in new} == {
            interval: commit for interval, commit in self.truth.items() if interval not in seen
        }
        assert number == len(new)
        seen |= set(self.truth)

    def restart(self, who):
        self.logs[who] = (CommitLog(self.store, keep=True), set())

    def damage(self, number, kind, place):
        key = layout.log_key(number)
        body = self.store.get(key) if self.store.exists(key) else None
        if kind == "foreign":
            log = CommitLog(self.other, keep=True)
            log.refresh()
            body = self.other.get(key) if self.other.exists(key) else b""
            self.store.put(key, body)
        elif kind == "elsewhere" and body is not None:
            self.store.put(layout.log_key(number + 1), body)
        elif kind == "deleted" and body is not None:
            self.store.delete(key)
        elif kind == "cut" and body is not None:
            self.store.put(key, body[: place % (len(body) + 1)])
        elif kind == "flipped" and body:
            changed = bytearray(body)
            changed[place % len(body)] ^= 1 << place % 8
            self.store.put(key, bytes(changed))

    def check(self):
        """Whoever looks now sees the truth: a reader, and each driver that has looked."""
        before = {info.key for info in self.store.list()}
        assert list(decided(self.store)) == [self.truth[interval] for interval in sorted(self.truth)]
        assert {info.key for info in self.store.list()} == before
        for log, seen in self.logs:
            assert list(log.commits()) == [self.truth[interval] for interval in sorted(seen)]
            gaps = set(range(30)) - seen
            assert log.first_gap == min(gaps)
            assert {interval for interval in range(30) if interval in log} == seen
            assert log.gap(5, 25) == min((gap for gap in gaps if 5 <= gap < 25), default=None)


steps = st.one_of(
    st.tuples(st.just("commit"), st.integers(0, 21), commits_at, st.sampled_from([None, 0, 1])),
    st.tuples(st.just("refresh"), st.integers(0, 1)),
    st.tuples(st.just("restart"), st.integers(0, 1)),
    st.tuples(
        st.just("damage"),
        st.integers(0, 5),
        st.sampled_from(["foreign", "elsewhere", "deleted", "cut", "flipped"]),
        st.integers(0, 10_000),
    ),
)


@settings(max_examples=80)
@given(st.lists(steps, min_size=10, max_size=60))
def test_segments_that_are_there_or_gone_or_damaged_change_nothing(story):
    world = World()
    with small_segments():
        for name, *arguments in story:
            if name == "commit" and arguments[0] in world.truth:
                continue
            getattr(world, name)(*arguments)
        world.check()
        for who in (0, 1):
            world.refresh(who)
        world.check()


@settings(max_examples=60)
@given(st.lists(commits_at, min_size=1, max_size=20), st.randoms())
def test_a_segment_gives_its_commits_back_and_their_sums(at, rng):
    commits = [make(10 + place) for place, make in enumerate(at)]
    mixed = commits[:]
    rng.shuffle(mixed)
    cut = rng.randint(0, len(mixed))
    segment = unfold([segment_of(mixed[:cut]).fold(), segment_of(mixed[cut:]).fold()])
    assert list(segment.commits()) == commits
    body = segment.pack()
    assert body == unfold([segment_of(commits).fold()]).pack()
    stored = unpack(body, 10, len(commits))
    assert list(stored.commits()) == commits
    start = rng.randint(0, len(commits))
    some, sums = commits[start:], stored.between(10 + start, 10 + len(commits)).sums()
    assert sums.abandoned == sum(commit.abandoned is not None for commit in some)
    for name in {name for commit in some for name in commit.groups}:
        tallies = [commit.groups[name] for commit in some if name in commit.groups]
        assert sums.tried[name] == sum(tally.tried for tally in tallies)
        assert sums.accepted[name] == sum(tally.accepted for tally in tallies)
        for reason in {reason for tally in tallies for reason in tally.rejected}:
            assert sums.rejected[name][reason] == sum(tally.rejected.get(reason, 0) for tally in tallies)


def eight(interval=0):
    return [made(interval + place, {"a": (3, {"blank": place}), "b": (0, {"nan": 1})}) for place in range(8)]


def test_no_changed_byte_of_a_segment_is_taken_for_a_good_one():
    body = unfold([segment_of(eight()).fold()]).pack()
    assert unpack(body, 0, 8) is not None
    assert unpack(body, 8, 8) is None
    assert unpack(body, 0, 7) is None
    for place in range(len(body)):
        assert unpack(body[:place], 0, 8) is None
        assert unpack(body[:place] + bytes([body[place] ^ 1 << place % 8]) + body[place + 1 :], 0, 8) is None


def forged(column, change):
    """A sealed segment, one column of which holds something else."""
    table = unfold([segment_of(eight()).fold()]).table
    place = table.column_names.index(column)
    values = table[column].to_pylist()
    change(values)
    return table.set_column(place, table.schema.field(place), pa.array(values, table.schema.field(place).type))


@pytest.mark.parametrize(
    ("column", "change"),
    [
        ("interval", list.reverse),
        ("tar_sha256", lambda values: values.__setitem__(3, None)),
        ("tar_bytes", lambda values: values.__setitem__(3, None)),
        ("sidecar_bytes", lambda values: values.__setitem__(3, -1)),
        ("abandoned", lambda values: values.__setitem__(0, "why")),
        ("environment", lambda values: values.__setitem__(0, "{")),
        ("environment", lambda values: values.__setitem__(0, "[]")),
        ("groups", lambda values: values[2][0].update(tried=99)),
        ("groups", lambda values: values[2][0].update(tried=-3, accepted=-5)),
        ("groups", lambda values: values.__setitem__(5, [])),
    ],
)
def test_a_sealed_segment_that_cannot_be_one_is_refused(column, change):
    assert unpack(Segment(forged(column, lambda values: None)).pack(), 0, 8) is not None
    assert unpack(Segment(forged(column, change)).pack(), 0, 8) is None


def test_any_reader_of_parquet_opens_a_segment(tmp_path):
    import pyarrow.parquet as pq

    (tmp_path / "segment.parquet").write_bytes(unfold([segment_of(eight()).fold()]).pack())
    assert pq.read_table(tmp_path / "segment.parquet")["interval"].to_pylist() == list(range(8))


class Recorder:
    """A store that remembers what was asked of it."""

    def __init__(self, store, refuse=()):
        self._store = store
        self._refuse = refuse
        self.asked = []

    def __getattr__(self, name):
        def call(*arguments, **named):
            self.asked.append((name, *arguments, *named.values()))
            if name in self._refuse:
                raise StoreError("403")
            return getattr(self._store, name)(*arguments, **named)

        return call


def fill(store, intervals):
    log = CommitLog(store, keep=True)
    for interval in intervals:
        log.add(publish(store, made(interval, {"a": (2, {"blank": 1})})))
    return log


@pytest.mark.usefixtures("small")
def test_a_resume_reads_segments_and_lists_from_the_first_gap(store):
    fill(store, [*range(21), *range(24, 28)])  # segments 0 … 4 and 6, and 20 in the open one
    recorder = Recorder(store)
    log, taken = CommitLog(recorder), []
    assert log.refresh(lambda segment: taken.append((int(segment.intervals[0]), len(segment)))) == 25
    assert taken == [*((first, SMALL) for first in (0, 4, 8, 12, 16, 24)), (20, 1)]
    lists = [asked for asked in recorder.asked if asked[0] == "list"]
    assert lists == [("list", "log", None), ("list", "commits", layout.commit_key(20 - 1))]
    # Of each segment one commit is looked at.
    assert len([asked for asked in recorder.asked if asked[0] == "get"]) == 2 * 6 + 1
    assert log.first_gap == 21
    recorder.asked.clear()
    assert log.refresh() == 0
    assert [asked[0] for asked in recorder.asked] == ["list", "list"]


@pytest.mark.usefixtures("small")
def test_a_segment_whose_commits_are_gone_brings_nothing_back(store):
    fill(store, range(8))
    for interval in range(8):
        store.delete(layout.commit_key(interval))
    assert list(decided(store)) == []


@pytest.mark.usefixtures("small")
def test_a_segment_of_another_output_is_not_believed(store):
    other = fresh_store()
    fill(other, range(8))
    mine = list(fill(store, range(8)).commits())
    bodies = [store.get(layout.log_key(number)) for number in range(2)]
    for number in range(2):
        store.put(layout.log_key(number), other.get(layout.log_key(number)))
    assert list(decided(store)) == mine
    CommitLog(store, keep=True).refresh()
    assert [store.get(layout.log_key(number)) for number in range(2)] == bodies


@pytest.mark.usefixtures("small")
def test_a_reader_writes_nothing_and_a_driver_makes_up_what_is_missing(store):
    fill(store, range(8))
    bodies = [store.get(layout.log_key(number)) for number in range(2)]
    store.delete(layout.log_key(0))
    store.put(layout.log_key(1), b"damage")
    reader = CommitLog(Recorder(store, refuse={"put", "put_if_absent", "delete"}))
    assert reader.refresh() == 8
    assert [commit.interval for commit in reader.commits()] == list(range(8))
    CommitLog(store, keep=True).refresh()
    assert [store.get(layout.log_key(number)) for number in range(2)] == bodies


@pytest.mark.usefixtures("small")
def test_a_segment_that_cannot_be_written_stops_nobody(store):
    log = CommitLog(Recorder(store, refuse={"put"}), keep=True)
    for interval in range(6):
        log.add(publish(store, made(interval, {})))
    assert not store.exists(layout.log_key(0))
    assert [commit.interval for commit in log.commits()] == list(range(6))


def test_a_damaged_commit_is_told(store):
    store.put(layout.commit_key(0), b"{}")
    with pytest.raises(BrokenError, match="commits/00000000"):
        CommitLog(store).refresh()


def test_segments_are_as_long_as_their_numbers_say():
    assert SEGMENT == 4096
    assert [layout.number_of_log(key) for key in ("log/00000004.parquet", "log/4.parquet", "log/x")] == [4, None, None]
