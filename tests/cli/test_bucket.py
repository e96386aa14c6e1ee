"""The verbs on a real bucket: what they say, and that no credential gets into it."""

import json
import os

import pytest
from small_run import recipe_text, write_data

from ffr_dist.store import open_store

pytestmark = [pytest.mark.store, pytest.mark.slow]


def test_plan_generate_and_status_of_a_bucket(ffr, s3, tmp_path):
    write_data(tmp_path / "data")
    out = f"{s3.url}/run"
    file = tmp_path / "small.yaml"
    priced = (
        "generate: {batch: 4, images_per_shard: 8}",
        "generate: {batch: 4, images_per_shard: 8, price_per_gpu_hour: 2.5}",
    )
    file.write_text(recipe_text(tmp_path / "data", output=out, priced=priced))

    code, told, err = ffr("plan", file, "--json")
    assert code == 0, err
    assert json.loads(told)["measured"] == {"acceptance": False, "rate": False}
    assert not list(open_store(s3.url).list())  # a look writes nothing

    code, _, err = ffr("generate", file, "--inline", "--stop-after", "pilot")
    assert code == 0, err
    code, told, _ = ffr("plan", file, "--json")
    assert json.loads(told)["measured"] == {"acceptance": True, "rate": True}
    before = {info.key: info.modified for info in open_store(out).list()}
    code, told, err = ffr("status", out, "--json")
    assert code == 0, err
    status = json.loads(told)
    assert status["output"] == out
    assert status["groups"]["low_flowers"]["accepted"] == 16
    assert status["drivers"][0]["state"] == "ended"
    assert status["spent"]["cost"] > 0
    assert {event["event"] for event in status["events"]} >= {"began", "ended"}
    assert {info.key: info.modified for info in open_store(out).list()} == before

    code, told, _ = ffr("doctor", out, "--json")
    assert json.loads(told)[-1]["ok"] is True
    code, told, err = ffr("generate", file, "--inline")
    assert code == 0, err
    assert ffr("status", out, "--watch")[0] == 0
    secrets = [
        value.encode() for name, value in os.environ.items() if name in {"AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"}
    ]
    assert len(secrets) == 2
    store = open_store(s3.url)
    for info in store.list():
        body = store.get(info.key)
        assert not any(secret in body for secret in secrets), info.key
