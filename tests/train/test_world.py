from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ffr_dist.errors import DataError
from ffr_dist.train.world import World, world


@given(st.integers(0, 50), st.integers(1, 9))
def test_shares_are_parts_of_the_whole_that_differ_by_at_most_one(count, size):
    shares = [World(rank, size, torch.device("cpu")).share(count) for rank in range(size)]
    assert [place for share in shares for place in share] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_process_alone_is_a_world_of_one():
    here = world()
    assert (here.rank, here.size, here.is_main) == (0, 1, True)
    values = torch.arange(3)
    assert torch.equal(here.sum(values), values)
    assert here.by_main(lambda: 7) == here.main_first(lambda: 7) == 7
    here.meet()
    with pytest.raises(DataError, match="as it is"):
        here.main_first(lambda: (_ for _ in ()).throw(DataError("as it is")))
