import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ffr_dist.errors import BrokenError
from ffr_dist.records import SIDECAR
from ffr_dist.shards.sidecar import Decision, read_sidecar, write_sidecar

int63 = st.integers(0, 2**63 - 1)


@st.composite
def decisions(draw):
    rows = []
    for slot in range(draw(st.integers(0, 6))):
        accepted = draw(st.booleans())
        rows.append(
            Decision(
                slot=slot,
                group=draw(st.sampled_from(["a", "b_c"])),
                k=draw(st.integers(0, 10**8 - 1)),
                seed=draw(int63),
                prompt=draw(st.text(max_size=9)),
                source_key=draw(st.none() | st.just("train-00000001")),
                accepted=accepted,
                reason=None if accepted else draw(st.sampled_from(["blank", "nan"])),
                scores=draw(st.dictionaries(st.sampled_from("xyz"), st.floats(width=32, allow_nan=False))),
                pixels_blake2b=draw(st.binary(min_size=16, max_size=16)) if accepted else None,
                sha256=draw(st.binary(min_size=32, max_size=32)) if accepted else None,
                offset=draw(int63) if accepted else None,
                size=draw(int63) if accepted else None,
                thumbnail=None if accepted else draw(st.none() | st.binary(max_size=5)),
            )
        )
    return rows


@settings(max_examples=50)
@given(decisions())
def test_what_is_written_reads_back_with_equal_bytes(rows):
    body = write_sidecar(rows)
    assert write_sidecar(list(rows)) == body
    found = [Decision(**{**row, "scores": dict(row["scores"] or [])}) for row in read_sidecar(body).to_pylist()]
    assert found == rows
    assert read_sidecar(body, columns=["k", "slot"]).column_names == ["k", "slot"]


ROW = Decision(
    slot=0,
    group="a",
    k=1,
    seed=2,
    prompt="",
    accepted=True,
    pixels_blake2b=b"p" * 16,
    sha256=b"s" * 32,
    offset=512,
    size=9,
)


@pytest.mark.parametrize(
    "change",
    [
        {"slot": 1},
        {"k": -1},
        {"k": 10**8},
        {"sha256": None},
        {"offset": None},
        {"pixels_blake2b": None},
        {"reason": "blank"},
        {"accepted": False},
        {"accepted": False, "pixels_blake2b": None, "sha256": None, "offset": None, "size": None},
    ],
)
def test_rows_that_contradict_themselves_are_damage(change):
    row = {name: getattr(ROW, name) for name in SIDECAR.names} | change
    with pytest.raises(BrokenError, match=r"s\.parquet"):
        read_sidecar(write_sidecar([Decision(**row)]), "s.parquet")


def test_other_columns_are_damage():
    out = io.BytesIO()
    pq.write_table(pa.table({"slot": [1]}), out)
    with pytest.raises(BrokenError, match="columns"):
        read_sidecar(out.getvalue())


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_flipped_and_cut_files_are_read_or_refused(data):
    body = bytearray(write_sidecar([ROW]))
    for place in data.draw(st.lists(st.integers(0, len(body) - 1), max_size=3)):
        body[place] ^= data.draw(st.integers(1, 255))
    body = bytes(body[: data.draw(st.sampled_from([len(body), len(body) // 2, 3, 0]))])
    try:
        table = read_sidecar(body)
    except BrokenError:
        return
    assert table.schema.equals(SIDECAR)
