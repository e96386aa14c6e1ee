import json
from collections.abc import Mapping
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ffr_dist.errors import BrokenError, ConflictError, FFRError
from ffr_dist.shards import documents
from ffr_dist.shards.documents import CLOSED, Count


@dataclass(frozen=True)
class Inner:
    size: Count


@dataclass(frozen=True)
class Note:
    name: str
    sizes: tuple[Count, ...]
    by_name: Mapping[str, float]
    inner: Inner | None = None

    __pydantic_config__ = CLOSED


notes = st.builds(
    Note,
    st.text(),
    st.lists(st.integers(0, 2**62), max_size=3).map(tuple),
    st.dictionaries(st.text(max_size=3), st.floats(allow_nan=False, allow_infinity=False), max_size=3),
    st.none() | st.builds(Inner, st.integers(0, 9)),
)


@given(notes)
def test_a_document_reads_back_and_equal_ones_have_equal_bytes(note):
    body = documents.to_bytes(note)
    assert documents.from_bytes(Note, body, "x.json") == note
    turned = Note(note.name, note.sizes, dict(reversed(note.by_name.items())), note.inner)
    assert documents.to_bytes(turned) == body


@pytest.mark.parametrize("protocol", [0, 2, "1", None, True, 1.5])
def test_another_protocol_is_refused_by_name(protocol):
    body = json.dumps({"protocol": protocol, "whatever": []}).encode()
    with pytest.raises(ConflictError, match=r"x\.json was written by protocol"):
        documents.from_bytes(Note, body, "x.json")


@pytest.mark.parametrize(
    "change",
    [
        {"name": 3},
        {"sizes": [-1]},
        {"sizes": ["1"]},
        {"sizes": [True]},
        {"by_name": {"a": "1"}},
        {"extra": 1},
        {"inner": {"size": 1, "extra": 2}},
    ],
)
def test_a_wrong_or_unknown_field_is_damage(change):
    data = {"protocol": 1, "name": "a", "sizes": [1], "by_name": {}, "inner": None} | change
    with pytest.raises(BrokenError, match=r"x\.json is damaged"):
        documents.from_bytes(Note, json.dumps(data).encode(), "x.json")


@given(st.binary(max_size=100) | st.sampled_from([b"[" * 100_000, b'{"protocol":1,"name":' + b'{"a":' * 50_000]))
def test_noise_is_refused(body):
    with pytest.raises(FFRError, match=r"x\.json"):
        documents.from_bytes(Note, body, "x.json")
