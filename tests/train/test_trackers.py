"""What a run leaves of its figures: a log, and event files that TensorBoard reads."""

from __future__ import annotations

import importlib.util
import json
import struct

import pytest
import torch
from points import plane_task
from small_sets import fresh_store

from ffr_dist.errors import ConfigError, StoreError
from ffr_dist.train import Checkpoints, FitConfig, Score, fit, tfevents
from ffr_dist.train.background import Background

CONFIG = FitConfig(steps=8, lr=0.01, log_every=2, validate_every=4, checkpoint_every=3)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def run(store, config=CONFIG, stop=None):
    def after(step):
        if step == stop:
            raise ZeroDivisionError

    task = plane_task(
        validate=lambda _: Score((0.5, 0.75), {"val_worst": "land_sea", "val_n_worst": 7}), after_step=after
    )
    return fit(task, config, checkpoints=Checkpoints(store, "train/x/fit-0"))


def log(store):
    return [json.loads(line) for line in store.get("train/x/fit-0/log.jsonl").decode().splitlines()]


def event_files(store):
    return [info.key for info in store.list("train/x/fit-0") if "tfevents" in info.key]


def test_the_log_holds_the_history_and_the_pace():
    store = fresh_store()
    result = run(store)
    rows = log(store)
    assert [
        {name: row[name] for name in past} for row, past in zip(rows, result.history, strict=True)
    ] == result.history
    assert all(row["images_per_second"] > 0 and row["eta_s"] >= 0 for row in rows if "loss" in row)
    assert all(row["at"].endswith("+00:00") for row in rows)


def test_a_run_without_checkpoints_leaves_its_log():
    store = fresh_store()
    run(store, CONFIG.model_copy(update={"checkpoint_every": None}))
    assert {info.key.rpartition("/")[2] for info in store.list()} == {"log.jsonl", "events.out.tfevents.000000.ffr"}


def test_a_run_that_goes_on_tells_each_step_once():
    store = fresh_store()
    with pytest.raises(ZeroDivisionError):
        run(store, stop=7)
    # It told step 6, and goes on from its checkpoint of step 6; what an earlier try told of later steps is dropped.
    store.put("train/x/fit-0/log.jsonl", store.get("train/x/fit-0/log.jsonl") + b'{"step": 7, "loss": 1.0}\nnot JSON')
    result = run(store)
    assert [row["step"] for row in log(store)] == [row["step"] for row in result.history] == [0, 2, 4, 4, 6, 8, 8]


def records(body):
    """The messages of an event file, its checksums held against the polynomial by long division."""
    while body:
        (length,) = struct.unpack("<Q", body[:8])
        assert body[8:12] == masked(body[:8])
        message, body = body[12 : 12 + length], body[12 + length :]
        assert body[:4] == masked(message)
        body = body[4:]
        yield message


def masked(data):
    crc = 0xFFFFFFFF
    for byte in data:
        for bit in range(8):
            low = (crc ^ byte >> bit) & 1
            crc = crc >> 1 ^ (0x82F63B78 if low else 0)
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32)


def test_the_checksum_is_crc_32c():
    assert tfevents._checksum(b"123456789") == masked(b"123456789")
    # The check value of the Castagnoli polynomial, E3069283, in the format's disguise.
    assert masked(b"123456789") == struct.pack("<I", ((0xE3069283 >> 15 | 0xE3069283 << 17) + 0xA282EAD8) % 2**32)


def test_an_event_is_written_as_its_messages_say():
    body = tfevents.event_file([tfevents.scalars(1.5, 300, {"loss": 0.25}), tfevents.restart(2.0, 7)])
    first, event, again = records(body)
    assert first == b"\x1a\x0dbrain.Event:2"
    value = b"\x0a\x04loss" + b"\x15" + struct.pack("<f", 0.25)
    summary = b"\x0a" + bytes([len(value)]) + value
    assert event == b"\x09" + struct.pack("<d", 1.5) + b"\x10\xac\x02" + b"\x2a" + bytes([len(summary)]) + summary
    assert again == b"\x09" + struct.pack("<d", 2.0) + b"\x10\x07" + b"\x3a\x02\x08\x01"


def test_tensorboard_reads_the_files(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    store = fresh_store()
    with pytest.raises(ZeroDivisionError):
        run(store, stop=7)
    result = run(store)
    assert len(event_files(store)) > 1
    for key in event_files(store):
        (tmp_path / key.rpartition("/")[2]).write_bytes(store.get(key))
    events = accumulator.EventAccumulator(str(tmp_path))
    events.Reload()
    expected = {row["step"]: row["loss"] for row in result.history if "loss" in row}
    assert {event.step: event.value for event in events.Scalars("loss")} == pytest.approx(expected)
    assert len(events.Scalars("loss")) == len(expected)
    assert [event.step for event in events.Scalars("score/0")] == [0, 4, 8]
    assert {event.value for event in events.Scalars("val_n_worst")} == {7.0}


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_service_that_is_not_installed_is_named(name):
    if importlib.util.find_spec(name) is not None:
        pytest.skip(f"{name} is installed")
    with pytest.raises(ConfigError, match=f"tracker {name} is not installed; pip install {name}"):
        fit(plane_task(), CONFIG, checkpoints=Checkpoints(fresh_store(), "fit"), trackers=[name])


def test_mlflow_is_told_the_same(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.chdir(tmp_path)
    result = fit(plane_task(), CONFIG, checkpoints=Checkpoints(fresh_store(), "train/x/fit-0"), trackers=["mlflow"])
    (found,) = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert found.info.run_name == "train/x/fit-0"
    assert found.data.params["lr"] == "0.01"
    assert found.data.metrics["loss"] == pytest.approx(result.history[-1]["loss"])


def test_wandb_is_told_the_same(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.chdir(tmp_path)
    fit(plane_task(), CONFIG, checkpoints=Checkpoints(fresh_store(), "train/x/fit-0"), trackers=["wandb"])
    assert list(tmp_path.glob("wandb/offline-run-*train-x-fit-0*"))


def test_an_error_in_the_background_comes_out_once():
    def fail():
        raise StoreError("no room")

    done = []
    with Background() as background:
        background.start(fail)
        with pytest.raises(StoreError, match="no room"):
            background.start(lambda: done.append(1))
        background.start(lambda: done.append(2))
    assert done == [2]
    with pytest.raises(StoreError, match="no room"), Background() as background:
        background.start(fail)


def test_a_block_that_ends_by_an_error_tells_that_one():
    def fail():
        raise StoreError("no room")

    def ended():
        with Background() as background:
            background.start(fail)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        ended()
