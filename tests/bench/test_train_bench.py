"""The benches of training run to their end, at a size at which their figures say nothing."""

from __future__ import annotations

import pytest
import torch

from bench import train_gpu, train_step


@pytest.mark.slow
def test_the_loop_is_held_against_a_bare_one():
    lines = list(train_step.lines(steps=2, trials=1))
    assert [line.name for line in lines] == ["train_step", "train_step_cpu", "groupdro", "groupdro_cpu"]
    assert all(line.ours > 0 and line.peer > 0 for line in lines)


def test_both_loops_learn_the_same():
    data, ours, theirs = train_step.batches(), train_step.small_net(), train_step.small_net()
    train_step.fit(train_step.erm(ours, data), train_step.config(3))
    train_step.bare(theirs, data, 3)
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


def test_without_a_gpu_it_is_said_that_nothing_was_measured():
    if torch.cuda.is_available():
        pytest.skip("there is one")
    (row,) = train_gpu.run(quick=True)
    assert row.side == "not measured: torch finds no CUDA device here"
