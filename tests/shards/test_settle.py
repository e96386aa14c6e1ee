import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shard_outputs import GROUPS, Candidate, fresh_store, write_interval

from ffr_dist.errors import BrokenError, ConflictError
from ffr_dist.records import synthetic_key
from ffr_dist.shards.commit import abandon, publish
from ffr_dist.shards.log import CommitLog
from ffr_dist.shards.look import distance
from ffr_dist.shards.selection import Revision
from ffr_dist.shards.settle import SETTLE_COLUMNS, settle
from ffr_dist.shards.sidecar import load_sidecar

NAMES = GROUPS.names


@st.composite
def outputs(draw):
    """Intervals of candidates, k rising within a group along (interval, slot), some rejected, some repeating others."""
    next_k = dict.fromkeys(NAMES, 0)
    earlier: list[tuple[str, int]] = []
    intervals = []
    for _ in range(draw(st.integers(1, 4))):
        candidates = []
        for name in draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=6)):
            reason = draw(st.sampled_from([None, None, None, "blank", "nan"]))
            twin = draw(st.sampled_from(earlier)) if earlier and draw(st.integers(0, 3)) == 0 else None
            std = draw(st.sampled_from([1.0, 2.5, 4.1]))
            look = draw(st.integers(0, 7)).to_bytes(32, "big")  # two of these differ in 0 to 3 bits
            candidates.append(Candidate(name, next_k[name], reason, twin, std, look))
            earlier.append(twin or (name, next_k[name]))
            next_k[name] += 1
        intervals.append(candidates)
    return intervals


def by_hand(intervals, revision):
    """The same decisions, one image at a time."""
    seen, left, selected = set(), dict(revision.quota), {}
    looks = {name: [] for name in NAMES}
    rejected = {name: {} for name in NAMES}
    for interval, candidates in enumerate(intervals):
        if not revision.considers(interval):
            continue
        for slot, (name, k, said, twin, std, look) in enumerate(candidates):
            pixels, reason = twin or (name, k), said
            if reason is None and float(np.float32(std)) < revision.tightened.get("blank_std", 0):
                reason = "blank"
            elif reason is None:
                near = any(distance(look, other) <= (revision.near or -1) for other in looks[name])
                if pixels in seen:
                    reason = "duplicate"
                elif near:
                    reason = "near_duplicate"
                elif synthetic_key(name, k) in revision.excluded:
                    reason = "excluded"
                seen.add(pixels)
                looks[name].append(look)
            if reason is not None:
                rejected[name][reason] = rejected[name].get(reason, 0) + 1
            elif revision.kind == "survivors" or left.get(name, 0):
                left[name] = left.get(name, 0) - 1
                selected.setdefault(interval, []).append(slot)
    shortfall = {name: count for name, count in left.items() if count > 0} if revision.kind == "exact" else {}
    return selected, rejected, shortfall


def settled_of(store, revision):
    log = CommitLog(store)
    log.refresh()
    return settle(log.commits, functools.partial(load_sidecar, store, columns=SETTLE_COLUMNS), revision, GROUPS)


@settings(max_examples=60, deadline=None)
@given(outputs(), st.data())
def test_settle_decides_as_one_would_by_hand(intervals, data):
    quota = {name: data.draw(st.integers(0, 6)) for name in NAMES}
    keys = [synthetic_key(name, k) for candidates in intervals for name, k, *_ in candidates]
    excluded = tuple(data.draw(st.lists(st.sampled_from([*keys, "other-1", "land_bird-x", ""]), max_size=3)))
    considered = data.draw(st.none() | st.just(((0, 1), (2, 9))))
    kind = data.draw(st.sampled_from(["exact", "survivors"]))
    tightened = data.draw(st.sampled_from([{}, {"blank_std": 2.0}, {"blank_std": 4.1}]))
    near = data.draw(st.sampled_from([None, 1, 2]))
    revision = Revision(0, kind, quota, excluded, considered, tightened, near)
    store = fresh_store()
    for interval, candidates in data.draw(st.permutations(list(enumerate(intervals)))):
        write_interval(store, interval, candidates)
    settled = settled_of(store, revision)
    selected, rejected, shortfall = by_hand(intervals, revision)
    assert {interval: slots.tolist() for interval, slots in settled.selected.items()} == selected
    assert list(settled.selected) == sorted(settled.selected)
    assert settled.rejected == {name: dict(sorted(reasons.items())) for name, reasons in rejected.items()}
    assert settled.shortfall == shortfall
    assert sum(settled.counts.values()) == sum(map(len, selected.values()))
    accepted = {n: [slot for slot, c in enumerate(cs) if c.reason is None] for n, cs in enumerate(intervals)}
    for interval, slots in accepted.items():
        out = settled.dropped.get(interval, (np.empty(0),))[0].tolist()
        told = sorted([*selected.get(interval, []), *out])
        assert told == (slots if revision.considers(interval) else [])
    again = settled_of(store, revision)
    assert str(again) == str(settled)


def test_more_work_never_takes_an_image_away(store):
    revision = Revision(0, "exact", {"land_bird": 3})
    write_interval(store, 0, [Candidate("land_bird", 0), Candidate("land_bird", 1, "blank")])
    first = settled_of(store, revision)
    assert first.shortfall == {"land_bird": 2}
    write_interval(store, 1, [Candidate("land_bird", k) for k in (2, 3, 4)])
    second = settled_of(store, revision)
    assert second.shortfall == {}
    assert second.selected[0].tolist() == first.selected[0].tolist() == [0]
    assert second.selected[1].tolist() == [0, 1]
    assert second.surplus["land_bird"] == 1


def test_abandoned_intervals_count_nothing(store):
    publish(store, abandon(0, "a", "three failures"))
    write_interval(store, 1, [Candidate("land_bird", 7)])
    settled = settled_of(store, Revision(0, "exact", {"land_bird": 1}))
    assert {interval: slots.tolist() for interval, slots in settled.selected.items()} == {1: [0]}


def test_nothing_decided_is_all_missing(store):
    settled = settled_of(store, Revision(0, "exact", {"land_bird": 2}))
    assert settled.selected == {}
    assert settled.shortfall == {"land_bird": 2}


def test_a_k_in_two_intervals_is_damage(store):
    write_interval(store, 0, [Candidate("land_bird", 0)])
    write_interval(store, 5, [Candidate("land_bird", 0, twin=("water_bird", 9))])
    with pytest.raises(BrokenError, match="intervals 0 and 5"):
        settled_of(store, Revision(0, "exact", {"land_bird": 2}))


def test_a_quota_for_an_undeclared_group_is_refused(store):
    with pytest.raises(ConflictError, match="fish"):
        settled_of(store, Revision(0, "exact", {"fish": 2}))


def test_a_sidecar_that_is_gone_or_changed_is_damage(store):
    commit = write_interval(store, 0, [Candidate("land_bird", 0)])
    revision = Revision(0, "exact", {"land_bird": 1})
    body = store.get(commit.sidecar.key)
    store.put(commit.sidecar.key, body[:-1] + bytes([body[-1] ^ 1]))
    with pytest.raises(BrokenError, match="sha256"):
        settled_of(store, revision)
    store.delete(commit.sidecar.key)
    with pytest.raises(BrokenError, match="missing"):
        settled_of(store, revision)


def test_a_score_that_a_sidecar_lacks_is_told(store):
    write_interval(store, 0, [Candidate("land_bird", 0)])
    with pytest.raises(BrokenError, match="'grey'"):
        settled_of(store, Revision(0, "exact", {"land_bird": 1}, tightened={"grey_levels": 1.0}))


def test_looks_that_a_sidecar_lacks_are_told(store):
    write_interval(store, 0, [Candidate("land_bird", 0)])
    with pytest.raises(BrokenError, match="no perceptual hash"):
        settled_of(store, Revision(0, "exact", {"land_bird": 1}, near=3))


def test_slots_are_small_columns(store):
    write_interval(store, 0, [Candidate("land_bird", 0)])
    assert settled_of(store, Revision(0, "exact", {"land_bird": 1})).selected[0].dtype == np.int32
