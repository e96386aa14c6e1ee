"""One, two, three and eight real processes learn the same; they may stop as two and go on as three; none outlives another."""

from __future__ import annotations

import json
import signal

import pytest
import torch
from runs import COUNTS, ELASTIC, EXACT, JOBS, ended, make_task, started, train
from small_sets import write_set

from ffr_dist.models.classifier import load_weights
from ffr_dist.store import open_store
from ffr_dist.train import Checkpoints, fit


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    store = open_store(str(tmp_path_factory.mktemp("data")))
    write_set(store, COUNTS)
    return store


@pytest.mark.parametrize(
    ("processes", "jobs"),
    [
        (2, tuple(JOBS)),
        pytest.param(3, ("groupdro",), marks=pytest.mark.slow),
        pytest.param(8, ("erm", "groupdro"), marks=pytest.mark.slow),
    ],
)
def test_processes_learn_what_one_learns(store, tmp_path, processes, jobs):
    ends = ended(started("together", store.url, tmp_path, processes, *jobs))
    assert [code for code, _ in ends] == [0] * processes, ends
    for job in jobs:
        mitigation, config = JOBS[job]
        model, result = train(store, mitigation, config)
        for rank in range(processes):
            assert_same(tmp_path / f"{job}-{rank}", model)
            history = json.loads((tmp_path / f"{job}-{rank}.json").read_text())
            losses = [row["loss"] for row in history if "loss" in row]
            assert losses == pytest.approx([row["loss"] for row in result.history if "loss" in row], abs=1e-10)


def assert_same(file, model):
    """As after every step's gradient was the same: these weights are sums of gradients."""
    together = load_weights(file.read_bytes())
    for name, value in model.state_dict().items():
        assert value.dtype == torch.float64
        torch.testing.assert_close(together[name], value, rtol=0, atol=1e-10, msg=f"{file} {name}")


@pytest.mark.slow
def test_it_is_said_where_batch_norm_sees_a_part_of_the_batch_only(store, tmp_path):
    (first, words), (second, silence) = ended(started("norm", store.url, tmp_path, 2))
    assert (first, second) == (0, 0), words
    assert "plane: BatchNorm (1 layers) takes the statistics of each process's own part of a batch" in words
    assert "BatchNorm" not in silence


@pytest.mark.parametrize("world", [2, 3, 8, 13])
def test_a_global_batch_and_its_gradient_are_the_same_for_any_number_of_processes(store, world):
    alone = make_task(store, "erm")
    parts = [alone.batches.iterate(0, rank, world) for rank in range(world)]
    for _, whole in zip(range(4), alone.batches.iterate(0, 0, 1), strict=False):
        slices = [next(part) for part in parts]
        assert torch.equal(torch.cat([part.positions for part in slices]), whole.positions)
        assert torch.equal(torch.cat([part.images for part in slices]), whole.images)
        expected = gradient(alone, [whole], len(whole))
        torch.testing.assert_close(gradient(alone, slices, len(whole)), expected, rtol=0, atol=1e-6)
    for part in parts:
        part.close()


def gradient(task, batches, count):
    task.model.zero_grad()
    for batch in batches:
        (task.loss(task.model, batch).sum() / count).backward()
    return torch.cat([parameter.grad.flatten() for parameter in task.model.parameters()])


@pytest.fixture
def stopped_as_two(store, tmp_path):
    """After five of seven steps: an epoch has three."""
    ends = ended(started("until", store.url, tmp_path, 2, "5"))
    assert [code for code, _ in ends] == [3, 3], ends
    return tmp_path


def taken(folder, world):
    """Positions of each step's samples, of all processes together."""
    steps: dict[int, list[int]] = {}
    for rank in range(world):
        for line in (folder / f"steps-{world}-{rank}").read_text().splitlines():
            step, positions, _ = json.loads(line)
            steps[step] = steps.get(step, []) + positions
    return steps


@pytest.mark.slow
def test_three_go_on_with_the_very_next_batch_of_two(store, stopped_as_two):
    assert Checkpoints(open_store(str(stopped_as_two / "checkpoints")), "fit").latest().step == 5
    ends = ended(started("until", store.url, stopped_as_two, 3, "7"))
    assert [code for code, _ in ends] == [0, 0, 0], ends
    alone = make_task(store, "groupdro")
    batches = alone.batches.iterate(0, 0, 1)
    expected = {step: next(batches).positions.tolist() for step in range(EXACT.steps)}
    batches.close()
    assert taken(stopped_as_two, 2) == {step: expected[step] for step in range(5)}
    assert taken(stopped_as_two, 3) == {step: expected[step] for step in (5, 6)}
    fit(alone, ELASTIC)
    for rank in range(3):
        assert_same(stopped_as_two / f"weights-{rank}", alone.model)


@pytest.mark.parametrize(
    "how",
    [
        signal.SIGKILL,
        # Nothing tells of a process that stands still but that it does not answer for a while.
        pytest.param(signal.SIGSTOP, marks=pytest.mark.slow),
    ],
)
def test_when_a_process_is_lost_the_other_ends_and_says_how_to_go_on(store, tmp_path, how):
    running = started("until", store.url, tmp_path, 2, "3", how.name)
    (code, words), *_ = ended(running[:1], 60 + 30)  # a minute, and a start
    ended(running[1:]) if how is signal.SIGKILL else running[1].kill()
    running[1].wait()
    running[1].stderr.close()
    assert code == 3, words
    assert "train: process 0 of 2 lost another one" in words
    assert "the same command goes on from the last checkpoint" in words
