import pytest
from hypothesis import given
from hypothesis import strategies as st

from ffr_dist.shards import layout

hashes = st.from_regex(r"[0-9a-f]{64}", fullmatch=True)
intervals = st.integers(0, layout.LAST_INTERVAL)


@given(intervals, hashes, st.integers(0, 9999))
def test_every_numbered_key_reads_back(interval, sha256, revision):
    assert layout.interval_of_commit(layout.commit_key(interval)) == interval
    assert layout.interval_of_shard(layout.tar_key(interval, sha256), sha256, "tar") == interval
    assert layout.interval_of_shard(layout.sidecar_key(interval, sha256), sha256, "parquet") == interval
    assert layout.revision_of_selection(layout.selection_key(revision)) == revision
    assert layout.revision_of_manifest(layout.manifest_key(revision)) == revision
    assert layout.revision_of_index(layout.index_key(revision, sha256), sha256) == revision
    assert layout.number_of_round(layout.round_key(revision % 1000)) == revision % 1000


@given(st.tuples(intervals, intervals))
def test_sorted_keys_are_sorted_intervals(pair):
    assert sorted(map(layout.commit_key, pair)) == [layout.commit_key(interval) for interval in sorted(pair)]


@given(st.text(max_size=60))
def test_foreign_keys_are_none_of_ours(key):
    assert layout.interval_of_commit(key) is None
    assert layout.interval_of_shard(key, "0" * 64, "tar") is None
    assert layout.revision_of_manifest(key) is None


def test_a_key_that_disagrees_with_its_hash_or_kind_is_none():
    key = layout.tar_key(3, "a" * 64)
    assert layout.interval_of_shard(key, "b" * 64, "tar") is None
    assert layout.interval_of_shard(key, "a" * 64, "parquet") is None
    assert layout.interval_of_shard(f"{key}\n", "a" * 64, "tar") is None
    assert layout.interval_of_commit("commits/0000000१.json") is None


def test_names_that_would_escape_and_numbers_that_would_not_sort_are_refused():
    with pytest.raises(ValueError, match="not fit"):
        layout.failure_key(0, "../../recipe")
    with pytest.raises(ValueError, match="outside"):
        layout.commit_key(layout.LAST_INTERVAL + 1)
