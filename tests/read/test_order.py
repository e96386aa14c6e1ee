from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ffr_dist.read.order import Shuffle, balanced_order, batch_slice, natural_order, steps_per_epoch

SEEDS = st.integers(0, 2**63 - 1)
SHUFFLES = st.builds(Shuffle, block=st.integers(1, 50), window=st.integers(1, 9))


@given(st.integers(1, 500), SHUFFLES, SEEDS)
def test_every_epoch_is_a_permutation(count, shuffle, seed):
    assert np.array_equal(np.sort(natural_order(count, shuffle, seed)), np.arange(count))


@given(st.integers(1, 500), SHUFFLES, SEEDS)
def test_a_stretch_of_an_epoch_touches_few_blocks(count, shuffle, seed):
    blocks = natural_order(count, shuffle, seed) // shuffle.block
    first, last = {}, {}
    for place, block in enumerate(blocks.tolist()):
        first.setdefault(block, place)
        last[block] = place
    longest = shuffle.block * shuffle.window
    assert all(last[block] - first[block] < longest for block in first)


def test_the_order_is_fixed_for_all_time():
    # A resumed run must find the order of its start, whatever was updated in between.
    assert natural_order(10, Shuffle(block=2, window=3), seed=7).tolist() == NATURAL
    assert balanced_order(np.array([0, 0, 0, 0, 1, 2, 2]), seed=7).tolist() == BALANCED


NATURAL = [3, 9, 6, 2, 8, 7, 1, 5, 4, 0]
BALANCED = [2, 3, 2, 4, 3, 0, 1]


def test_epochs_differ():
    shuffle = Shuffle(block=4, window=4)
    assert not np.array_equal(natural_order(100, shuffle, 1), natural_order(100, shuffle, 2))


@given(st.lists(st.integers(0, 5), min_size=1, max_size=300), SEEDS)
def test_balanced_draws_come_from_the_set(ids, seed):
    groups = np.array(ids)
    drawn = balanced_order(groups, seed)
    assert len(drawn) == len(groups)
    assert drawn.min() >= 0
    assert drawn.max() < len(groups)


@given(SEEDS)
def test_balanced_draws_give_every_group_and_every_member_its_share(seed):
    groups = np.repeat([0, 1, 2, 3], [3000, 900, 96, 4])
    drawn = balanced_order(groups, seed)
    shares = np.bincount(groups[drawn], minlength=4) / len(drawn)
    # 1/4 each of 4,000 draws: six standard deviations are 0.041, and one seed in 10**8 would exceed that.
    assert np.abs(shares - 0.25).max() < 0.042
    members = np.bincount(drawn[groups[drawn] == 3], minlength=4000)[-4:]
    assert members.min() > 150  # of 250 expected


@given(st.integers(1, 300), st.integers(1, 40), st.integers(1, 9))
def test_ranks_share_a_batch_without_gap_or_overlap(count, batch, world):
    for step in range(steps_per_epoch(count, batch)):
        whole = list(batch_slice(count, batch, step))
        parts = [place for rank in range(world) for place in batch_slice(count, batch, step, rank, world)]
        assert parts == whole
    assert whole[-1] == count - 1
