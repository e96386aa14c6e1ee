import dataclasses
import json

import pytest

from ffr_dist.errors import BrokenError, ConflictError
from ffr_dist.plan.document import Pinned, Planned, publish_round, read_pinned, read_rounds, refuse_other
from ffr_dist.plan.rounds import Round
from ffr_dist.store import open_store

PINNED = Pinned(
    batch=8,
    images_per_shard=20,
    threads=1,
    weights_sha256="ab" * 32,
    prepared={"classifier": "cd" * 32},
    keep={"blank_std": 2.0, "grey_levels": None},
)
FIRST = Planned(Round(0, 0, 3, {"a": 30, "b": 10}, {"a": 0, "b": 0}), PINNED)
SECOND = Planned(Round(1, 3, 1, {"a": 5, "b": 1}, {"a": 30, "b": 10}))


def test_what_is_put_is_what_is_read():
    store = open_store("memory://plan-round-trip")
    assert read_pinned(store) is None
    assert read_rounds(store) == []
    assert publish_round(store, FIRST) == FIRST
    assert publish_round(store, SECOND) == SECOND
    assert read_rounds(store) == [FIRST, SECOND]
    assert read_rounds(store, 1) == [SECOND]
    assert read_pinned(store) == PINNED
    body = json.loads(store.get("plan/round-000.json"))
    assert body["protocol"] == 1
    assert body["pinned"]["batch"] == 8


def test_the_first_plan_stands():
    store = open_store("memory://plan-race")
    publish_round(store, FIRST)
    other = Planned(Round(0, 0, 1, {"a": 4}, {"a": 0}), PINNED)
    assert publish_round(store, other) == FIRST


def test_other_pinned_values_are_refused_by_name():
    other = dataclasses.replace(PINNED, batch=16, keep={"blank_std": 3.0, "grey_levels": None})
    with pytest.raises(ConflictError) as caught:
        refuse_other(PINNED, other)
    message = str(caught.value)
    assert "batch (8 there, 16 here)" in message
    assert "keep.blank_std (2.0 there, 3.0 here)" in message
    assert "threads" not in message
    refuse_other(PINNED, dataclasses.replace(PINNED))


def test_another_protocol_is_refused():
    store = open_store("memory://plan-protocol")
    publish_round(store, FIRST)
    body = json.loads(store.get("plan/round-000.json"))
    store.put("plan/round-000.json", json.dumps(body | {"protocol": 2}).encode())
    with pytest.raises(ConflictError, match="protocol 2"):
        read_rounds(store)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("number", {"round": {"number": 1}}),
        ("negative", {"round": {"totals": {"a": -1}}}),
        ("text", {"round": {"intervals": "3"}}),
        ("extra", {"surprise": 1}),
        ("unpinned", {"pinned": None}),
    ],
)
def test_damage_is_told(name, change):
    store = open_store(f"memory://plan-damage-{name}")
    publish_round(store, FIRST)
    body = json.loads(store.get("plan/round-000.json"))
    for key, value in change.items():
        body[key] = body[key] | value if isinstance(value, dict) else value
    store.put("plan/round-000.json", json.dumps(body).encode())
    with pytest.raises(BrokenError, match=r"plan/round-000\.json"):
        read_rounds(store)


def test_a_gap_between_rounds_is_told():
    store = open_store("memory://plan-gap")
    publish_round(store, FIRST)
    publish_round(store, Planned(dataclasses.replace(SECOND.round, first_interval=4)))
    with pytest.raises(BrokenError, match="does not begin where"):
        read_rounds(store)


@pytest.mark.parametrize(("batch", "images", "size"), [(8, 20, 16), (10, 256, 250), (64, 10, 64), (1, 1, 1)])
def test_an_interval_is_whole_batches(batch, images, size):
    assert dataclasses.replace(PINNED, batch=batch, images_per_shard=images).interval_size == size
