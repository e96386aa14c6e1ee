"""A training process dies by SIGKILL, at a chosen write of a checkpoint or at any moment; the next goes on as if nothing
had been."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from dataclasses import replace

import pytest
import runs
import torch
from runs import COUNTS, Checkpoints, make_task, train, train_to_files
from small_sets import fresh_store, write_set

from ffr_dist.errors import BrokenError, ConflictError, StoppedError, StoreError
from ffr_dist.store import Store, open_store
from ffr_dist.train import fit

ENDINGS = (".safetensors", "COMPLETE")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    url = str(tmp_path_factory.mktemp("data"))
    write_set(open_store(url), COUNTS)
    return url


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
    found = {}
    for mitigation in ("erm", "groupdro"):
        out = tmp_path_factory.mktemp("undisturbed")
        train_to_files(data, out, mitigation, fresh_store())
        found[mitigation] = out
    return found


def cases():
    chosen = random.Random(0)
    for number, (ending, when) in enumerate((ending, when) for ending in ENDINGS for when in ("before", "after")):
        yield ("erm", "groupdro")[number % 2], ending, chosen.randint(1, 6), when


@pytest.mark.parametrize(("mitigation", "ending", "number", "when"), list(cases()))
def test_killed_within_a_checkpoint(data, undisturbed, tmp_path, mitigation, ending, number, when):
    assert (
        subprocess.run(command("killed", data, tmp_path, mitigation, ending, str(number), when), check=False).returncode
        == -9
    )
    checkpoints = Checkpoints(open_store(str(tmp_path / "checkpoints")), "fit")
    latest = checkpoints.latest()
    whole = number if (ending, when) == ("COMPLETE", "after") else number - 1
    assert (0 if latest is None else latest.step) == 3 * whole
    train_to_files(data, tmp_path, mitigation, checkpoints.store)
    assert (tmp_path / "weights").read_bytes() == (undisturbed[mitigation] / "weights").read_bytes()
    histories = [json.loads((out / "history").read_text()) for out in (tmp_path, undisturbed[mitigation])]
    assert histories[0] == histories[1]


def command(how, data, out, *arguments):
    return [sys.executable, runs.__file__, how, data, str(out), *arguments]


@pytest.mark.slow
def test_killed_at_any_moment(data, tmp_path):
    """Twenty times, on a store that takes its time, so that many moments lie within an upload."""
    subprocess.run(command("any moment", data, tmp_path, "20"), check=True)
    seen = json.loads((tmp_path / "seen").read_text())
    assert seen["killed"] == 20
    assert seen["within an upload"] >= 1
    train_to_files(data, tmp_path, "erm", fresh_store(), runs.LONG)
    for run in range(seen["whole"]):
        for name in ("weights", "history"):
            assert (tmp_path / f"{name}-{run}").read_bytes() == (tmp_path / name).read_bytes()
    assert seen["whole"] >= 1


def test_a_finished_run_is_not_trained_again(data):
    store = fresh_store()
    checkpoints = Checkpoints(store, "fit")
    first, result = train(open_store(data), "erm", runs.RESUMED, checkpoints=checkpoints)
    keys = [(info.key, info.modified) for info in store.list()]
    second, again = train(open_store(data), "erm", runs.RESUMED, checkpoints=checkpoints)
    assert again == result
    assert all(one.equal(other) for one, other in zip(first.parameters(), second.parameters(), strict=True))
    assert [(info.key, info.modified) for info in store.list()] == keys


@pytest.fixture
def checkpoints(data):
    checkpoints = Checkpoints(fresh_store(), "fit")
    train(open_store(data), "erm", runs.RESUMED, checkpoints=checkpoints)
    return checkpoints


def keys_of(checkpoints: Checkpoints, ending: str) -> list[str]:
    return [info.key for info in checkpoints.store.list("fit") if info.key.endswith(ending)]


def test_all_but_the_newest_are_dropped(checkpoints):
    assert keys_of(checkpoints, "COMPLETE") == ["fit/00000018/COMPLETE", "fit/00000020/COMPLETE"]
    assert len(keys_of(checkpoints, ".safetensors")) == 2


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("how", ["flipped", "cut", "empty", "gone"])
def test_damage_is_told_with_the_key_and_the_way_out(data, checkpoints, ending, how):
    key = keys_of(checkpoints, ending)[-1]
    body = checkpoints.store.get(key)
    if how == "gone":
        checkpoints.store.delete(key)
    else:
        middle = len(body) // 2
        damaged = {"flipped": body[:middle] + b"\xff" + body[middle + 1 :], "cut": body[:middle], "empty": b""}[how]
        checkpoints.store.put(key, damaged)
    if (ending, how) == ("COMPLETE", "gone"):
        assert checkpoints.latest().step == 18
        return
    with pytest.raises(BrokenError, match=r"fit/00000020/.*delete fit/00000020/"):
        train(open_store(data), "erm", runs.RESUMED, checkpoints=checkpoints)


def test_a_marker_cannot_lead_out_of_its_folder(checkpoints):
    key = keys_of(checkpoints, "COMPLETE")[-1]
    body = checkpoints.store.get(key)
    name = keys_of(checkpoints, ".safetensors")[-1].rpartition("/")[2].encode()
    checkpoints.store.put(key, body.replace(name, b"../../" + name))
    with pytest.raises(BrokenError, match="marker"):
        checkpoints.latest()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"steps": 30}, "steps was 20, and is 30"),
        ({"lr": 0.5}, "lr was 0.01, and is 0.5"),
        ({"seed": 1}, "seed was 0, and is 1"),
    ],
)
def test_a_checkpoint_of_other_settings_is_refused(data, checkpoints, change, told):
    config = runs.RESUMED.model_copy(update=change)
    with pytest.raises(ConflictError, match=rf"another run than this one of train: {told}\. Delete it"):
        train(open_store(data), "erm", config, checkpoints=checkpoints)


def another_head(task):
    task.model.head = torch.nn.Linear(task.model.head.in_features, 3)
    return task


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda task: replace(task, name="finetune"), "it is of the task train"),
        (lambda task: replace(task, fingerprint="0123456789abcdef"), "its data are others .*here 0123456789ab"),
        (another_head, r"its model has head\.\w+ of shape \(2"),
        (lambda task: replace(task, state={"q": torch.ones(4)}), "its state is another one .lacks q"),
    ],
)
def test_a_checkpoint_of_another_task_data_or_model_is_refused(data, checkpoints, change, told):
    task = change(make_task(open_store(data), "erm", batch=11, double=False))
    with pytest.raises(ConflictError, match=told):
        fit(task, runs.RESUMED, checkpoints=checkpoints)


def test_a_marker_that_does_not_say_of_what_it_is_is_refused(data):
    checkpoints = Checkpoints(fresh_store(), "fit")
    checkpoints.save(3, {"model.weight": torch.ones(1)}, {"identity": "a digest"})
    with pytest.raises(ConflictError, match="does not say of what it is"):
        train(open_store(data), "erm", runs.RESUMED, checkpoints=checkpoints)


def test_a_loss_that_is_not_a_number_stops_and_leaves_no_such_checkpoint(data):
    checkpoints = Checkpoints(fresh_store(), "fit")
    config = runs.RESUMED.model_copy(update={"lr": 1e30, "log_every": 100, "warmup_steps": 0})
    with pytest.raises(StoppedError, match=r"loss is nan after step 3; lower the learning rate \(now 9.*e\+29"):
        train(open_store(data), "erm", config, checkpoints=checkpoints)
    assert checkpoints.latest() is None


def test_what_a_crash_left_of_older_checkpoints_goes_with_them():
    checkpoints = Checkpoints(fresh_store(), "fit")
    checkpoints.store.put("fit/00000002/state-000000000000.safetensors", b"half")
    checkpoints.store.put("fit/log.jsonl", b"")
    for step in (3, 6, 9):
        checkpoints.save(step, {"x": torch.full((2,), float(step))}, {})
    assert {info.key.split("/")[1] for info in checkpoints.store.list("fit")} == {"00000006", "00000009", "log.jsonl"}
    checkpoints.drop()
    assert [info.key for info in checkpoints.store.list("fit")] == ["fit/log.jsonl"]


class Refusing(Store):
    """A store that takes no tensors."""

    def __init__(self):
        inner = fresh_store()
        super().__init__(inner.url, inner._backend, inner._writer)

    def put(self, key, body):
        if key.endswith(".safetensors"):
            raise StoreError("no tensors here")
        super().put(key, body)


def test_a_checkpoint_that_cannot_be_written_stops_the_run(data):
    with pytest.raises(StoreError, match="no tensors here"):
        train(open_store(data), "erm", runs.RESUMED, checkpoints=Checkpoints(Refusing(), "fit"))
