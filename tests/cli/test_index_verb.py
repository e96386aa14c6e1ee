"""``ffr index``: a set of tars that others wrote."""

from __future__ import annotations

import json

import numpy as np
import pytest
import webdataset

from ffr_dist.read.dataset import open_dataset
from ffr_dist.shards.codec import CodecConfig, encode


@pytest.fixture
def tars(tmp_path):
    with webdataset.ShardWriter(f"{tmp_path}/t-%02d.tar", maxcount=6, verbose=0) as writer:
        for number in range(20):
            pixels = np.full((8, 8, 3), number, np.uint8)
            note = {"species": number % 2, "water": number % 4 < 2}
            writer.write(
                {
                    "__key__": f"x{number}",
                    "png": encode(pixels, CodecConfig(format="png")),
                    "cls": number % 5,
                    "json": note,
                }
            )
    return tmp_path


def test_a_set_of_foreign_tars_is_read_and_verified(ffr, tars):
    out = tars / "out"
    code, told, _ = ffr(
        "index", f"{tars}/t-{{00..03}}.tar", "--out", out, "--label", "species", "--bias", "water", "--json"
    )
    assert code == 0
    found = json.loads(told)
    assert found["base"] == str(tars)
    assert (found["images"], found["shards"], found["size"]) == (20, 4, 8)
    assert found["groups"] == {f"label_{label}_bias_{bias}": 5 for label in (0, 1) for bias in (0, 1)}
    data = open_dataset(str(out))
    assert data.labels.tolist() == [number % 2 for number in range(20)]
    assert data.biases.tolist() == [int(number % 4 < 2) for number in range(20)]
    assert data.pixels(range(20))[:, 0, 0, 0].tolist() == list(range(20))
    assert ffr("verify", out)[0] == 0
    (tars / "t-02.tar").write_bytes(b"something else")
    code, told, _ = ffr("verify", out)
    assert code == 4
    assert "t-02.tar" in told


def test_groups_can_be_named(ffr, tars):
    named = ("--group", "land=0,-1", "--group", "sea=1,-1")
    code, told, _ = ffr("index", f"{tars}/*.tar", "--out", tars / "out", "--label", "species", *named)
    assert code == 0
    assert "20 images (land 10, sea 10) in 4 tars" in told


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--group", "land"), "--group 'land' is not name=label,bias"),
        (("--group", "land=0,-1", "--group", "land=1,-1"), "two groups share the name"),
        (("--group", "land=0,-1"), "which no --group declares"),
        (("--label", "specie"), "no 'specie' in its .json, which has 'species', 'water'"),
    ],
)
def test_what_is_wrong_is_told_and_nothing_is_made(ffr, tars, arguments, message):
    code, _, told = ffr("index", f"{tars}/t-*.tar", "--out", tars / "out", *arguments)
    assert code == 2
    assert message in told
    assert not (tars / "out" / "manifests").exists()


def test_a_web_server_is_refused_by_name(ffr, tmp_path):
    code, _, told = ffr("index", "https://example.org/t-{00..03}.tar", "--out", tmp_path / "out")
    assert code == 2
    assert "https://" in told


@pytest.mark.store
@pytest.mark.slow
def test_tars_in_a_bucket(ffr, tars, s3):
    from ffr_dist.store import open_store

    bucket = open_store(f"{s3.url}/theirs")
    for path in sorted(tars.glob("*.tar")):
        bucket.put_file(path.name, path)
    out = f"{s3.url}/ours"
    assert ffr("index", f"{s3.url}/theirs/t-*.tar", "--out", out, "--label", "species")[0] == 0
    data = open_dataset(out)
    assert data.counts() == {"label_0": 10, "label_1": 10}
    assert data.pixels(range(20))[:, 0, 0, 0].tolist() == list(range(20))
    assert ffr("verify", out)[0] == 0
