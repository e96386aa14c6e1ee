from __future__ import annotations

import dataclasses
import pickle

import pytest

from ffr_dist.errors import ConfigError
from ffr_dist.quota import Exact, Request, Survivors


@pytest.mark.parametrize("kind", [Exact, Survivors])
def test_a_negative_quota_names_its_group(kind):
    with pytest.raises(ConfigError, match=r"group blond_male is -3; write 0 or more"):
        kind({"blond_female": 10, "blond_male": -3})


@pytest.mark.parametrize("kind", [Exact, Survivors])
@pytest.mark.parametrize("counts", [{}, {"a": 0, "b": 0}])
def test_nothing_to_generate_is_an_error(kind, counts):
    with pytest.raises(ConfigError, match="nothing to generate"):
        kind(counts)


def test_a_group_may_ask_for_nothing():
    assert Exact({"a": 0, "b": 2}).counts["a"] == 0


def test_both_kinds_tell_their_counts():
    assert Survivors({"a": 5}).counts == {"a": 5}
    assert Exact({"a": 5}) != Survivors({"a": 5})


def test_a_request_travels_and_stays_as_it_is():
    request = Request(group="a", k=3, prompt="a cat", source_key="train-00000001")
    assert pickle.loads(pickle.dumps(request)) == request
    with pytest.raises(dataclasses.FrozenInstanceError):
        request.k = 4
