"""A training process dies by SIGKILL at a chosen write of a checkpoint; the next one goes on as if nothing had been."""

from __future__ import annotations

import json
import random
import subprocess
import sys

import pytest
import runs
from runs import COUNTS, Checkpoints, train, train_to_files
from small_sets import fresh_store, write_set

from ffr_dist.errors import BrokenError, ConflictError, StoppedError
from ffr_dist.store import open_store

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
    command = [sys.executable, runs.__file__, "killed", data, str(tmp_path), mitigation, ending, str(number), when]
    assert subprocess.run(command, check=False).returncode == -9
    checkpoints = Checkpoints(open_store(str(tmp_path / "checkpoints")), "fit")
    latest = checkpoints.latest()
    whole = number if (ending, when) == ("COMPLETE", "after") else number - 1
    assert (0 if latest is None else latest.step) == 3 * whole
    train_to_files(data, tmp_path, mitigation, checkpoints.store)
    assert (tmp_path / "weights").read_bytes() == (undisturbed[mitigation] / "weights").read_bytes()
    histories = [json.loads((out / "history").read_text()) for out in (tmp_path, undisturbed[mitigation])]
    assert histories[0] == histories[1]


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


@pytest.mark.parametrize("change", [{"steps": 30}, {"lr": 0.5}, {"seed": 1}])
def test_a_checkpoint_of_other_settings_is_refused(data, checkpoints, change):
    config = runs.RESUMED.model_copy(update=change)
    with pytest.raises(ConflictError, match="other settings"):
        train(open_store(data), "erm", config, checkpoints=checkpoints)


def test_a_checkpoint_of_another_loss_is_refused(data, checkpoints):
    with pytest.raises(ConflictError, match="another task"):
        train(open_store(data), "groupdro", runs.RESUMED, checkpoints=checkpoints)


def test_a_loss_that_is_not_a_number_stops_and_leaves_no_such_checkpoint(data):
    checkpoints = Checkpoints(fresh_store(), "fit")
    config = runs.RESUMED.model_copy(update={"lr": 1e30, "log_every": 100, "warmup_steps": 0})
    with pytest.raises(StoppedError, match=r"loss is nan .* lower the learning rate"):
        train(open_store(data), "erm", config, checkpoints=checkpoints)
    assert checkpoints.latest() is None
