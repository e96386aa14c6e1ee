"""The log of events: what lies under ``events/``, whatever the store does meanwhile."""

import json
import typing
import uuid

import pytest

from ffr_dist.errors import StoreError
from ffr_dist.launch import events
from ffr_dist.launch.events import Abandoned, AttemptFailed, Began, Committed, Training, Warned, WorkerUp
from ffr_dist.launch.watch import eventlog
from ffr_dist.launch.watch.eventlog import EventLog, last_lines
from ffr_dist.launch.watch.redact import redact
from ffr_dist.store import open_store
from ffr_dist.train import Progress, Score

COMMITTED = Committed(
    interval=3, worker="w1", mine=True, accepted=7, rejected={"blank": 1}, bytes=1234, seconds={"sample": 1.23456789}
)


@pytest.fixture
def store(tmp_path):
    return open_store(str(tmp_path / "out"))


def lines(store):
    keys = sorted(info.key for info in store.list("events"))
    return [json.loads(line) for key in keys for line in store.get(key).splitlines()]


def test_every_event_is_passed_on_and_logged(store):
    told = []
    failed = AttemptFailed(interval=3, worker="w1", kind="hang", why="no batch for 60 s")
    training = Training(
        "a cell", "pretrain", Progress(task="t", step=1, steps=2, loss=0.5, lr=1e-3, score=Score((0.5,)))
    )
    with EventLog(store, "d1", told.append) as log:
        for event in (
            Began("generate", "4 images"),
            WorkerUp(worker="w1", node="n", device="cpu"),
            COMMITTED,
            failed,
            training,
        ):
            log(event)
    assert [type(event) for event in told] == [Began, WorkerUp, Committed, AttemptFailed, Training]
    assert [info.key for info in store.list("events")] == ["events/d1-0000.jsonl"]
    found = lines(store)
    assert [line["event"] for line in found] == ["began", "worker_up", "committed", "attempt_failed", "training"]
    assert {line["driver"] for line in found} == {"d1"}
    assert all(line["at"].endswith("+00:00") for line in found)
    committed = found[2]
    assert committed.keys() == {
        "at", "driver", "event", "interval", "worker", "mine", "accepted", "rejected", "bytes", "seconds",
    }  # fmt: skip
    assert committed["rejected"] == {"blank": 1}
    assert committed["seconds"] == {"sample": 1.234568}
    assert found[4]["progress"]["score"]["value"] == [0.5]


def test_no_events_field_is_named_like_what_the_log_adds():
    for kind in typing.get_args(events.Event):
        assert not {"at", "driver", "event"} & set(kind.__dataclass_fields__), kind


def test_states_are_logged_now_and_then_facts_always(store):
    state = Training("a cell", "pretrain", Progress(task="t", step=1, steps=2, loss=0.5, lr=1e-3))
    with EventLog(store, "d1", events.silent) as log:
        for _ in range(50):
            log(state)
            log(COMMITTED)
    names = [line["event"] for line in lines(store)]
    assert names.count("training") == 1
    assert names.count("committed") == 50


def test_parts_are_rolled_and_hold_every_line_once(store, monkeypatch):
    monkeypatch.setattr(eventlog, "_PART_BYTES", 1_000)
    with EventLog(store, "d1", events.silent) as log:
        for number in range(100):
            log(Began(str(number)))
            if number % 7 == 0:
                log.write()
    infos = list(store.list("events"))
    assert len(infos) > 5
    assert all(info.size <= 1_000 for info in infos)
    assert [line["what"] for line in lines(store)] == [str(number) for number in range(100)]


class Broken:
    """A store that refuses to write while it is down."""

    def __init__(self, store):
        self.store, self.down = store, True

    def put(self, key, body):
        if self.down:
            raise StoreError("503 SlowDown")
        self.store.put(key, body)


def test_a_store_that_fails_is_a_warning_and_loses_nothing(store, monkeypatch):
    monkeypatch.setattr(eventlog, "_PART_BYTES", 500)
    broken, told = Broken(store), []
    with EventLog(broken, "d1", told.append) as log:
        for number in range(20):
            log(Began(str(number)))
            log.write()
        assert [event for event in told if isinstance(event, Warned)] == [told[1]]  # once, not each time
        assert "503 SlowDown" in told[1].message
        broken.down = False
    assert [line["what"] for line in lines(store)] == [str(number) for number in range(20)]


def test_what_cannot_be_kept_is_dropped_and_counted(store, monkeypatch):
    monkeypatch.setattr(eventlog, "_MOST_BYTES", 1_000)
    broken = Broken(store)
    with EventLog(broken, "d1", events.silent) as log:
        for number in range(200):
            log(Began(str(number)))
        held = sum(len(line) for part in log._parts for line in part)
        assert held <= 1_000
        broken.down = False
        log.write()
        monkeypatch.setattr(eventlog, "_MOST_BYTES", 10_000)
        log(Began("after"))
    found = lines(store)
    kept = [line for line in found if line["event"] == "began"]
    (dropped,) = (line for line in found if line["event"] == "dropped")
    assert len(kept) + dropped["lines"] == 201
    assert kept[-1]["what"] == "after"


def test_a_log_that_never_heals_ends_quietly(store):
    with EventLog(Broken(store), "d1", events.silent) as log:
        log(Began("x"))
    assert not list(store.list("events"))


SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
    "AWS_SESSION_TOKEN": "FwoGZXIvYXdzEBYaDKm-token",
    "AZURE_STORAGE_ACCOUNT_KEY": "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6==",
    "HF_TOKEN": "hf_abcdefghijklmnop",
    "MY_DB_PASSWORD": "correct horse battery",
}


def test_no_secret_gets_into_the_log(store, monkeypatch):
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    signed = "https://host/bucket/key?X-Amz-Signature=0badc0ffee0ddf00d&X-Amz-Date=20260101"
    everything = " ".join(SECRETS.values())
    with EventLog(store, "d1", events.silent) as log:
        log(AttemptFailed(interval=1, worker="w1", kind="store", why=f"PUT {signed} failed with {everything}"))
        log(Abandoned(interval=1, why=f"s3://user:hunter2hunter2@host/x {everything}"))
        log(
            Warned(
                f"headers {{'Authorization': 'AWS4-HMAC-SHA256 Credential=AKIA/x, Signature=0badc0ffee0ddf00d'}} {everything}"
            )
        )
        log(WorkerUp(worker=everything, node="n", device="cpu"))
    (info,) = store.list("events")
    text = store.get(info.key).decode()
    for secret in (*SECRETS.values(), "hunter2hunter2", "0badc0ffee0ddf00d"):
        assert secret not in text
        assert json.dumps(secret)[1:-1] not in text
    assert "https://host/bucket/key" in text  # what helps stays
    assert "X-Amz-Date=20260101" in text


@pytest.mark.parametrize(
    "text", ["interval 3 failed (RuntimeError('CUDA out of memory')) and is made again", "s3://bucket/key", "lr 1e-3"]
)
def test_ordinary_text_is_left_alone(text, monkeypatch):
    monkeypatch.setenv("SOME_KEY_PATH", "/home/me/key")
    monkeypatch.setenv("USE_TOKEN", "1")
    assert redact(text) == text
    assert redact("open /home/me/key") == "open /home/me/key"


def test_the_latest_lines_of_all_drivers_are_found(store):
    for driver in ("d1", "d2"):
        with EventLog(store, driver, events.silent) as log:
            for number in range(300):
                log(Began(f"{driver} {number}", "x" * 50))
    store.put("events/foreign.jsonl", b"not ours\n{}\n[1]\n")
    assert [line["what"] for line in last_lines(store, 3)] == ["d2 297", "d2 298", "d2 299"]
    assert last_lines(open_store(f"{store.url}-other"), 3) == []


@pytest.mark.parametrize("body", [b"", b"[" * 8_000, b"\xff\n"])
def test_a_part_that_holds_no_line_hides_no_other(body):
    store = open_store(f"memory://{uuid.uuid4().hex}")
    with EventLog(store, "d1", events.silent) as log:
        log(Began("x"))
    store.put("events/foreign.jsonl", body)
    assert [line["what"] for line in last_lines(store, 3)] == ["x"]


def test_a_part_that_goes_while_it_is_read_hides_no_other(store):
    with EventLog(store, "d1", events.silent) as log:
        log(Began("x"))
    store.put("events/gone-0000.jsonl", b"{}\n" * 9)
    listed = list(store.list("events"))
    store.list = lambda folder: listed
    store.put("events/gone-0000.jsonl", b"{}\n")  # shorter than it was listed
    assert [line["what"] for line in last_lines(store, 3)] == ["x"]
    store.delete("events/gone-0000.jsonl")
    assert [line["what"] for line in last_lines(store, 3)] == ["x"]


def test_the_environment_is_searched_once_an_event(store, monkeypatch):
    """A fleet tells a thousand events a second, of a dozen words each."""
    searched = []
    monkeypatch.setattr(eventlog, "secrets", lambda: searched.append(1) or [])
    with EventLog(store, "d1", events.silent) as log:
        log(COMMITTED)
        log(COMMITTED)
    assert len(searched) == 2
