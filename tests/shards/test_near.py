import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ffr_dist.shards import near
from ffr_dist.shards.near import near_earlier


def by_hand(looks, most):
    found = np.zeros(len(looks), np.bool_)
    for place in range(1, len(looks)):
        found[place] = (np.bitwise_count(looks[:place] ^ looks[place]).sum(1) <= most).any()
    return found


def flipped(look, bits):
    for bit in bits:
        look[bit // 64] ^= np.uint64(1) << np.uint64(bit % 64)


@settings(max_examples=80)
@given(
    st.integers(0, 2**32), st.integers(0, 150), st.integers(1, 256), st.integers(1, 5), st.sampled_from([4, 64, 9999])
)
def test_it_finds_what_comparing_all_pairs_finds(seed, count, most, originals, block):
    rng = np.random.default_rng(seed)
    looks = rng.integers(0, 2**64, (originals, 4), np.uint64)[rng.integers(0, originals, count)]
    for look in looks:  # around the limit, where a mistake would show
        flipped(look, rng.choice(256, rng.integers(0, min(256, 2 * most) + 1), replace=False))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(near, "_BLOCK", block)
        assert near_earlier(looks, most).tolist() == by_hand(looks, most).tolist()


@pytest.mark.parametrize("most", [1, 7, 8, 15, 16, 31, 64])
def test_both_sides_of_the_limit_in_every_band(most):
    """Each look differs from the first one, and from no other, in exactly ``most`` or one more bits, wherever they lie."""
    rng = np.random.default_rng(most)
    first = rng.integers(0, 2**64, 4, np.uint64)
    for apart in (most, most + 1):
        for start in range(0, 256 - apart, 3):
            other = first.copy()
            flipped(other, range(start, start + apart))
            assert near_earlier(np.stack([first, other]), most).tolist() == [False, apart == most]


def test_many_alike_are_found_at_once():
    """As many as there are, each is compared with the first of them and not with all."""
    looks = np.zeros((200_000, 4), np.uint64)
    assert near_earlier(looks, 10).sum() == len(looks) - 1


def test_nothing_and_one():
    assert near_earlier(np.empty((0, 4), np.uint64), 5).tolist() == []
    assert near_earlier(np.zeros((1, 4), np.uint64), 256).tolist() == [False]
