from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from small_sets import GROUPS, PNG, fresh_store, picture, small_set
from torch.nn import functional

from ffr_dist.errors import ConfigError, DataError, InputError
from ffr_dist.evaluate.score import count_correct
from ffr_dist.groups import Group
from ffr_dist.metrics import group_metrics
from ffr_dist.models.architectures import SmallCNNConfig
from ffr_dist.models.classifier import build_classifier
from ffr_dist.read.batches import ImageBatches
from ffr_dist.read.dataset import open_dataset
from ffr_dist.shards.codec import encode
from ffr_dist.shards.imported import write_imported
from ffr_dist.train import FitConfig, Score, fit, learning_rate
from ffr_dist.train.augment import AugmentConfig
from ffr_dist.train.classify import classification_task, mean_task
from ffr_dist.train.stage import Source, Stage

SMALL = SmallCNNConfig(width=8)
REAL = small_set({"land_land": 30, "land_sea": 3, "sea_land": 2, "sea_sea": 30})
POOL = small_set(dict.fromkeys(GROUPS.names, 12), seed=9, split="pool")
SETS = {"real": REAL, "synthetic": POOL}


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def stage(*sources: Source, mitigation="erm", batch=16, by_source=False) -> Stage:
    return Stage(name="train", sources=sources, mitigation=mitigation, batch=batch, by_source=by_source, fits=())


def by_hand(model, batches, config, groups=None):
    """The same training as anyone would write it, for one process."""
    optimizer = torch.optim.AdamW(model.parameters(), config.lr, weight_decay=config.weight_decay)
    q = torch.full((4,), 0.25, dtype=torch.float64)
    source = batches.iterate(0, 0, 1)
    for step in range(config.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, step)
        batch = next(source)
        losses = functional.cross_entropy(model(batch.images.double() / 255), batch.labels, reduction="none")
        if groups is None:
            loss = losses.mean()
        else:
            masks = [batch.groups == group for group in range(groups)]
            means = torch.stack([losses[mask].mean() if mask.any() else torch.zeros(()).double() for mask in masks])
            q = q * torch.exp(0.01 * means.detach())
            q = q / q.sum()
            loss = (q * means).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    source.close()
    return model


@pytest.mark.parametrize("mitigation", ["erm", "resample", "groupdro"])
def test_a_stage_is_what_its_definition_says(mitigation):
    config = FitConfig(steps=9, lr=0.003, schedule="cosine", warmup_steps=2)
    model = build_classifier(SMALL, 2, 0).double()
    sampling = "balanced" if mitigation == "resample" else "natural"
    batches = ImageBatches([REAL], GROUPS, sampling=sampling, batch=16, seed=4)
    expected = by_hand(copy.deepcopy(model), batches, config, 4 if mitigation == "groupdro" else None)
    fit(classification_task(stage(Source(set="real"), mitigation=mitigation), model, SETS, GROUPS, 4), config)
    for ours, theirs in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


def test_the_first_validation_of_a_second_stage_sees_the_first_stages_model_bit_for_bit():
    model = build_classifier(SMALL, 2, 0)
    fit(classification_task(stage(Source(set="synthetic")), model, SETS, GROUPS, 0), FitConfig(steps=5, lr=0.01))
    images = torch.rand(6, 3, 8, 8)
    logits = model(images).detach()
    seen = []

    def validate(module):
        seen.append(module(images).clone())
        return Score((float(len(seen)),))

    second = build_classifier(SMALL, 2, 1)
    second.load_state_dict(model.state_dict())
    task = classification_task(stage(Source(set="real")), second, SETS, GROUPS, 0, validate=validate)
    fit(task, FitConfig(steps=5, lr=0.01))
    assert torch.equal(seen[0], logits)
    assert not torch.equal(seen[1], logits)


def test_sources_take_the_lowest_of_each_group():
    sources = (Source(set="real"), Source(set="synthetic", counts=dict.fromkeys(GROUPS.names, 5)))
    task = classification_task(stage(*sources), build_classifier(SMALL, 2, 0), SETS, GROUPS, 0)
    assert len(task.batches) == 65 + 20
    too_many = Source(set="synthetic", counts={"sea_sea": 13})
    with pytest.raises(DataError, match="13 asked, 12 there"):
        classification_task(stage(too_many), build_classifier(SMALL, 2, 0), SETS, GROUPS, 0)
    with pytest.raises(InputError, match="the set generator"):
        classification_task(stage(Source(set="generator")), build_classifier(SMALL, 2, 0), SETS, GROUPS, 0)


def test_a_source_of_no_images_is_left_out():
    sources = (Source(set="real"), Source(set="synthetic", counts=dict.fromkeys(GROUPS.names, 0)))
    task = classification_task(stage(*sources, by_source=True), build_classifier(SMALL, 2, 0), SETS, GROUPS, 0)
    assert task.batches.group_names == tuple(f"{name}/real" for name in GROUPS.names)


def test_the_best_weights_are_kept_and_what_never_trained_is_not_a_candidate():
    scores = iter([9.0, 1.0, 3.0, 3.0, 2.0])
    kept = []
    model = build_classifier(SMALL, 2, 0)

    def validate(module):
        kept.append([value.clone() for value in module.state_dict().values()])
        return Score((next(scores),))

    task = classification_task(stage(Source(set="real")), model, SETS, GROUPS, 0, validate=validate)
    result = fit(task, FitConfig(steps=8, lr=0.01, validate_every=2))
    assert (result.best_step, result.best.value) == (4, (3.0,))
    assert all(torch.equal(one, other) for one, other in zip(model.state_dict().values(), kept[2], strict=True))
    assert [row["step"] for row in result.history if "score" in row] == [0, 2, 4, 6, 8]
    assert not model.training


def test_progress_is_told():
    told = []
    task = classification_task(stage(Source(set="real")), build_classifier(SMALL, 2, 0), SETS, GROUPS, 0)
    result = fit(task, FitConfig(steps=7, lr=0.01, log_every=3), progress=told.append)
    assert [progress.step for progress in told] == [3, 6, 7]
    assert [row["loss"] for row in result.history] == [progress.loss for progress in told]


def test_weights_that_follow_the_loss_refuse_accumulation():
    task = classification_task(
        stage(Source(set="real"), mitigation="groupdro"), build_classifier(SMALL, 2, 0), SETS, GROUPS, 0
    )
    with pytest.raises(ConfigError, match="accumulation"):
        fit(task, FitConfig(steps=7, lr=0.01, accumulation=2))


def test_targets_stand_in_for_labels():
    model = build_classifier(SMALL, 2, 0)
    batches = ImageBatches([POOL], GROUPS, batch=16, seed=0)
    targets = [GROUPS.by_name(name).bias for name in batches.group_names]
    fit(mean_task("bias", model, batches, seed=0, targets=targets), FitConfig(steps=80, lr=0.01))
    with torch.inference_mode():
        images = torch.from_numpy(POOL.pixels(range(len(POOL)))).permute(0, 3, 1, 2).float() / 255
        right = model(images).argmax(1).numpy() == POOL.biases
    assert right.mean() > 0.95


def faint(counts: dict[str, int], seed: int = 0):
    """Images whose tint is the label, and whose bar, which catches the eye, is the bias."""
    store = fresh_store()
    samples = [
        (group, encode(picture(Group("shown", group.bias, group.label), number, 16, seed), PNG), str(number))
        for group in GROUPS
        for number in range(counts[group.name])
    ]
    write_imported(store, "faint", GROUPS, samples, codec=PNG, size=16, images_per_shard=50)
    return open_dataset(store)


def test_balancing_undoes_a_shortcut():
    real = faint({"land_land": 60, "land_sea": 3, "sea_land": 3, "sea_sea": 60})
    test = faint(dict.fromkeys(GROUPS.names, 40), seed=3)
    worst = {}
    for mitigation in ("erm", "resample"):
        model = build_classifier(SMALL, 2, 0)
        task = classification_task(
            stage(Source(set="real"), mitigation=mitigation),
            model,
            {"real": real},
            GROUPS,
            0,
            augment=AugmentConfig(shift=2),
        )
        fit(task, FitConfig(steps=60, lr=0.002))
        worst[mitigation] = group_metrics(count_correct(model, test)).worst_group
    assert worst["erm"] < 0.4
    assert worst["resample"] > 0.6


def test_learning_rate():
    constant = FitConfig(steps=10, lr=2.0)
    assert [learning_rate(constant, step) for step in range(10)] == [2.0] * 10
    config = FitConfig(steps=10, lr=1.0, schedule="cosine", warmup_steps=4, final_lr=0.1)
    rates = [learning_rate(config, step) for step in range(10)]
    assert rates[0] == pytest.approx(0.25)
    assert np.argmax(rates) == 3
    assert rates[9] == pytest.approx(0.1 + 0.9 * 0.5 * (1 + np.cos(0.9 * np.pi)))
