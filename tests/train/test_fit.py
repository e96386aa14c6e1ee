"""What the settings of ``fit`` do, each against the same written by hand."""

from __future__ import annotations

import copy
import shutil

import pytest
import torch
from points import Plane, net, plane_task
from small_sets import fresh_store
from torch import nn

from ffr_dist.config import parse
from ffr_dist.errors import ConfigError, StoppedError
from ffr_dist.train import Checkpoints, FitConfig, Score, fit, learning_rate
from ffr_dist.train.device import Feed
from ffr_dist.train.ema import Ema


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([value.detach().flatten().clone() for value in model.state_dict().values()])


def losses(result):
    return [row["loss"] for row in result.history if "loss" in row]


def test_the_rate_follows_its_schedule_as_a_function_of_the_step():
    step = FitConfig(steps=100, lr=2.0, schedule="step", warmup_steps=4, milestones=(0.5, 0.9), gamma=0.1)
    rates = [learning_rate(step, number) for number in (0, 3, 49, 50, 89, 90, 99)]
    assert rates == pytest.approx([0.5, 2.0, 2.0, 0.2, 0.2, 0.02, 0.02])
    cosine = FitConfig(steps=100, lr=2.0, schedule="cosine", final_lr=0.5)
    assert [learning_rate(cosine, number) for number in (0, 50, 100)] == pytest.approx([2.0, 1.5, 1.0])
    assert learning_rate(FitConfig(steps=9, lr=2.0), 8) == 2.0


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_training_is_what_anyone_would_write(optimizer):
    config = FitConfig(steps=9, lr=0.01, optimizer=optimizer, schedule="cosine", warmup_steps=2, clip_norm=0.5, ema=0.7)
    task = plane_task()
    model = copy.deepcopy(task.model)
    kinds = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    more = {"momentum": 0.9} if optimizer == "sgd" else {}
    chosen = kinds[optimizer](model.parameters(), lr=1.0, weight_decay=0.01, **more)
    average = weights(model)
    for number, points in zip(range(config.steps), Plane().iterate(0, 0, 1), strict=False):
        for group in chosen.param_groups:
            group["lr"] = learning_rate(config, number)
        loss = (model(points.x).flatten() - points.y).square().mean()
        chosen.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        chosen.step()
        decay = min(0.7, (2 + number) / (11 + number))
        average = decay * average + (1 - decay) * weights(model)
    fit(task, config)
    torch.testing.assert_close(weights(task.model), average, rtol=0, atol=1e-5)


def test_accumulated_batches_are_one_batch_however_large_each_is():
    class Uneven(Plane):
        """The points of a step, as two batches of 9 and 3."""

        def iterate(self, start, rank, world):
            for half in range(start, start + 1000):
                points = next(Plane(dtype=torch.float64).iterate(half // 2, rank, world))
                cut = slice(0, 9) if half % 2 == 0 else slice(9, 12)
                yield type(points)(points.x[cut], points.y[cut])

    one = plane_task(net().double(), batches=Plane(dtype=torch.float64))
    two = plane_task(net().double(), batches=Uneven())
    whole = fit(one, FitConfig(steps=5, lr=0.01, log_every=1))
    halves = fit(two, FitConfig(steps=5, lr=0.01, log_every=1, accumulation=2))
    torch.testing.assert_close(weights(two.model), weights(one.model), rtol=0, atol=1e-12)
    assert losses(halves) == pytest.approx(losses(whole), abs=1e-12)


def test_the_moving_average_validates_and_is_what_training_ends_with():
    seen = []

    def validate(module):
        seen.append(weights(module))
        return Score((float(len(seen)),))

    task = plane_task(validate=validate)
    averaged = fit(task, FitConfig(steps=8, lr=0.05, validate_every=4, ema=0.9))
    assert averaged.best_step == 8
    assert torch.equal(weights(task.model), seen[-1])
    alone = plane_task()
    fit(alone, FitConfig(steps=8, lr=0.05, ema=0.9))
    assert torch.equal(weights(alone.model), seen[-1])
    last = plane_task()
    fit(last, FitConfig(steps=8, lr=0.05))
    assert not torch.allclose(weights(last.model), seen[-1], atol=1e-3)


def test_the_average_leaves_out_what_does_not_move():
    model = net(norm=True)
    model[0].requires_grad_(False)
    average = Ema(model, 0.5)
    assert {name.partition(".")[0] for name in average.tensors} == {"1", "6"}
    assert "1.num_batches_tracked" not in average.tensors
    assert "1.running_mean" in average.tensors


def test_training_ends_when_validation_has_not_bettered_for_a_while():
    scores = [0.0, 1.0, 3.0, 2.0, 3.0, 9.0]
    store = fresh_store()
    config = FitConfig(steps=1000, lr=0.01, validate_every=2, patience=2, checkpoint_every=100)

    def run():
        left = iter(scores)
        task = plane_task(validate=lambda _: Score((next(left),)))
        return fit(task, config, checkpoints=Checkpoints(store, "fit"))

    result = run()
    assert (result.best_step, result.best.value) == (4, (3.0,))
    assert [row["step"] for row in result.history if "score" in row] == [0, 2, 4, 6, 8]
    assert Checkpoints(store, "fit").latest().step == 8
    assert run() == result


def test_patience_without_validations_is_refused():
    with pytest.raises(ConfigError, match="set validate_every"):
        parse(FitConfig, "{steps: 9, lr: 0.1, patience: 3}", "recipe")


def test_mixed_precision_keeps_whole_weights_and_learns():
    task = plane_task()
    whole = fit(plane_task(), FitConfig(steps=40, lr=0.02, log_every=20))
    mixed = fit(task, FitConfig(steps=40, lr=0.02, log_every=20, precision="bf16"))
    assert all(value.dtype == torch.float32 for value in task.model.parameters())
    assert losses(mixed) == pytest.approx(losses(whole), rel=0.05)
    assert losses(mixed) != losses(whole)


def test_half_precision_skips_what_overflows_and_goes_on_from_its_checkpoint():
    config = FitConfig(
        steps=30, lr=0.01, log_every=5, precision="fp16", checkpoint_every=7, clip_norm=1.0, weight_decay=0.0
    )

    def run(store, stop=None):
        def after(step):
            if step == stop:
                raise ZeroDivisionError

        task = plane_task(after_step=after)
        return task, fit(task, config, checkpoints=Checkpoints(store, "fit"))

    store = fresh_store()
    task, result = run(store)
    whole = fit(plane_task(), config.model_copy(update={"precision": "no"}))
    # The first steps are skipped until the scale is small enough; their losses are those of weights that stay.
    assert Checkpoints(store, "fit").latest().meta["scaler"]["scale"] < 2.0**16
    assert losses(result) == pytest.approx(losses(whole), rel=0.1)
    broken = fresh_store()
    with pytest.raises(ZeroDivisionError):
        run(broken, stop=18)
    again, resumed = run(broken)
    assert resumed.history == result.history
    assert torch.equal(weights(again.model), weights(task.model))


def test_half_precision_gives_up_where_no_scale_helps():
    class Loud(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.ones(48))

        def forward(self, x):
            return (x.flatten(1) * self.w).sum(1).half().mul(60000).mul(60000)

    config = FitConfig(steps=60, lr=0.01, log_every=30, precision="fp16")
    with pytest.raises(StoppedError, match=r"beyond fp16 after step 30, .* set precision to bf16"):
        fit(plane_task(Loud()), config)


class Unhalved(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.ones(1))

    def forward(self, x):
        raise RuntimeError("\"polygamma\" not implemented for 'Half'")


def test_an_operation_without_half_precision_is_named():
    with pytest.raises(ConfigError, match=r"polygamma.*set precision to bf16 or no"):
        fit(plane_task(Unhalved()), FitConfig(steps=1, lr=0.1, precision="fp16"))


@pytest.mark.gpu
def test_a_batch_stays_as_it_is_until_its_step_is_over():
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    feed, slow = Feed(torch.device("cuda")), torch.randn(4096, 4096, device="cuda")
    sums = []
    for step in range(100):
        (x,) = feed.put([torch.full((1 << 20,), float(step))])
        slow = torch.tanh(slow @ slow)  # the copies run ahead of it
        sums.append(x.sum() + 0 * slow[0, 0])
        del x
    assert [float(value) / 2**20 for value in sums] == list(range(100))


@pytest.mark.slow
def test_a_compiled_model_learns_the_same():
    if shutil.which("g++") is None:
        pytest.skip("no C++ compiler")
    config = FitConfig(steps=6, lr=0.02)
    plain, compiled = plane_task(), plane_task()
    fit(plain, config)
    fit(compiled, config.model_copy(update={"compile": True}))
    assert list(compiled.model.state_dict()) == list(plain.model.state_dict())
    torch.testing.assert_close(weights(compiled.model), weights(plain.model), rtol=0, atol=1e-4)


def test_compiling_without_a_compiler_is_refused(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CXX", raising=False)
    if torch.cuda.is_available():
        pytest.skip("a GPU needs none")
    with pytest.raises(ConfigError, match=r"C\+\+ compiler .* set compile to false"):
        fit(plane_task(), FitConfig(steps=1, lr=0.1, compile=True))


class Scattering(nn.Module):
    """Writes through indices that may meet, in any order."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.ones(1))

    def forward(self, x):
        x.detach().clone().put_(torch.zeros(2, dtype=torch.long), torch.ones(2))
        return x.sum((1, 2, 3))[:, None] * self.w


def test_a_deterministic_run_refuses_what_is_not_and_leaves_torch_as_it_was():
    with pytest.raises(ConfigError, match=r"plane: put_ does not have .*; set deterministic to false"):
        fit(plane_task(Scattering()), FitConfig(steps=1, lr=0.1, deterministic=True))
    assert not torch.are_deterministic_algorithms_enabled()
    first, second = plane_task(net(dropout=0.5)), plane_task(net(dropout=0.5))
    for task in (first, second):
        fit(task, FitConfig(steps=5, lr=0.02, deterministic=True))
    assert torch.equal(weights(first.model), weights(second.model))
    assert not torch.are_deterministic_algorithms_enabled()
    assert not torch.backends.cudnn.benchmark


def test_channels_last_is_another_layout_of_the_same_model():
    plain, other = plane_task(), plane_task()
    fit(plain, FitConfig(steps=5, lr=0.02))
    fit(other, FitConfig(steps=5, lr=0.02, channels_last=True))
    assert other.model[0].weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(weights(other.model), weights(plain.model), rtol=0, atol=1e-5)


def test_frozen_modules_stay_in_evaluation():
    model = net(norm=True)
    before = model[1].running_mean.clone()
    fit(plane_task(model, frozen=[model[1]], validate=lambda _: Score((0.0,))), FitConfig(steps=4, lr=0.01))
    assert torch.equal(model[1].running_mean, before)
    other = net(norm=True)
    fit(plane_task(other), FitConfig(steps=4, lr=0.01))
    assert not torch.equal(other[1].running_mean, before)


def test_progress_tells_the_pace():
    told = []
    fit(plane_task(), FitConfig(steps=6, lr=0.01, log_every=2), progress=told.append)
    assert [progress.step for progress in told] == [2, 4, 6]
    assert all(progress.images_per_second > 0 for progress in told)
    assert told[0].eta_s > told[-1].eta_s == 0


def test_readers_ahead_are_stopped_also_where_the_run_ends_by_an_error():
    closed = []

    class Reading(Plane):
        def iterate(self, start, rank, world):
            try:
                yield from super().iterate(start, rank, world)
            finally:
                closed.append(True)

    def refuse(step):
        raise ZeroDivisionError

    fit(plane_task(batches=Reading()), FitConfig(steps=1, lr=0.1))
    with pytest.raises(ZeroDivisionError):
        fit(plane_task(batches=Reading(), after_step=refuse), FitConfig(steps=1, lr=0.1))
    assert closed == [True, True]
