"""Mitigations against references of one process, and what a stage may train and must refuse."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_sample_weight
from small_sets import GROUPS, fresh_store, small_set
from torch.nn import functional

from ffr_dist.errors import ConflictError, DataError, InputError
from ffr_dist.models.architectures import ResNetConfig, SmallCNNConfig
from ffr_dist.models.classifier import build_classifier
from ffr_dist.read.batches import ImageBatches
from ffr_dist.train import Checkpoints, FitConfig, Score, fit
from ffr_dist.train.augment import AugmentConfig
from ffr_dist.train.classify import classification_task
from ffr_dist.train.losses import (
    GroupDROConfig,
    LogitAdjustmentConfig,
    balancing_weights,
    log_class_shares_beside,
    sample_losses,
)
from ffr_dist.train.stage import JTTConfig, Source, Stage

SMALL = SmallCNNConfig(width=8)
TINY_RESNET = ResNetConfig(depth=18, width=8)
COUNTS = {"land_land": 30, "land_sea": 3, "sea_land": 2, "sea_sea": 30}
REAL = small_set(COUNTS)


def generated(dataset):
    """The same images, as a set says that was generated."""
    columns = replace(dataset.whole.columns, source=np.ones(len(dataset), np.int8))
    return replace(dataset, whole=replace(dataset.whole, columns=columns), fingerprint="of its own")


POOL = generated(small_set(dict.fromkeys(GROUPS.names, 12), seed=9, split="pool"))
SETS = {"real": REAL, "synthetic": POOL}
ALL = (Source(set="real"), Source(set="synthetic"))
CONFIG = FitConfig(steps=9, lr=0.01, optimizer="sgd", momentum=0.0, weight_decay=0.0)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def stage(mitigation="erm", sources=ALL[:1], **options) -> Stage:
    return Stage(name="train", sources=sources, mitigation=mitigation, batch=16, fits=(), **options)


def learned(model, wanted: Stage, config=CONFIG, sets=None, **options):
    fit(classification_task(wanted, model, sets or SETS, GROUPS, 4, **options), config)
    return model


def by_hand(model, batches, weigh=lambda batch: 1, add=lambda batch: 0, config=CONFIG):
    """Plain gradient descent on (sum of weighted losses of offset logits) / (samples of the batch)."""
    source = batches.iterate(0, 0, 1)
    for _ in range(config.steps):
        batch = next(source)
        logits = model(batch.images.double() / 255) + add(batch)
        losses = functional.cross_entropy(logits, batch.labels, reduction="none")
        loss = (losses * weigh(batch)).sum() / len(batch)
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                parameter.sub_(config.lr * gradient)
    source.close()
    return model


def weights_of(values) -> dict[int, float]:
    """scikit-learn's balanced weight of each value that occurs."""
    values = np.asarray(values)
    return dict(zip(values.tolist(), compute_sample_weight("balanced", values).tolist(), strict=True))


def same(ours, theirs, atol=1e-9):
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=atol)


@pytest.mark.parametrize("mitigation", ["reweight", "reweight_label"])
@pytest.mark.parametrize("by_source", [False, True])
def test_reweighting_is_weighted_cross_entropy_over_the_samples_of_the_batch(mitigation, by_source):
    model = build_classifier(SMALL, 2, 0).double()
    batches = ImageBatches([REAL, POOL], GROUPS, by_source=by_source, batch=16, seed=4)
    groups = np.concatenate([REAL.group_ids, POOL.group_ids]).astype(int)
    if mitigation == "reweight":
        # All eight pairs of group and source occur, so that the batches number them as here.
        cells = groups * 2 + np.concatenate([REAL.sources, POOL.sources]) if by_source else groups
        table = weights_of(cells)

        def weigh(batch):
            return torch.tensor([table[cell] for cell in batch.groups.tolist()], dtype=torch.float64)

    else:
        table = weights_of(np.concatenate([REAL.labels, POOL.labels]))

        def weigh(batch):
            return torch.tensor([table[label] for label in batch.labels.tolist()], dtype=torch.float64)

    expected = by_hand(copy.deepcopy(model), batches, weigh)
    same(learned(model, stage(mitigation, ALL, by_source=by_source)), expected)


@pytest.mark.parametrize("by_source", [False, True])
def test_balanced_softmax_adds_the_logarithm_of_each_classs_count(by_source):
    model = build_classifier(SMALL, 2, 0).double()
    uneven = {"real": small_set({"land_land": 30, "land_sea": 3, "sea_land": 2, "sea_sea": 4}), "synthetic": POOL}
    counts = np.bincount(np.concatenate([dataset.labels for dataset in uneven.values()]))
    assert counts.tolist() == [57, 30]
    batches = ImageBatches(list(uneven.values()), GROUPS, by_source=by_source, batch=16, seed=4)
    expected = by_hand(copy.deepcopy(model), batches, add=lambda batch: torch.tensor(np.log(counts)))
    same(learned(model, stage("balanced_softmax", ALL, by_source=by_source), sets=uneven), expected)


@pytest.mark.parametrize("by_source", [False, True])
def test_logit_adjustment_adds_how_often_a_class_occurs_beside_the_bias(by_source):
    model = build_classifier(SMALL, 2, 0).double()
    columns = [np.concatenate([getattr(dataset, name) for dataset in SETS.values()]) for name in ("biases", "sources")]
    labels = np.concatenate([dataset.labels for dataset in SETS.values()])
    beside = columns if by_source else columns[:1]
    shares = pd.crosstab(beside, labels) + 1  # no class is impossible beside any bias
    table = np.log(shares.div(shares.sum(axis=1), axis=0))
    biases = {group.name: group.bias for group in GROUPS}
    batches = ImageBatches([REAL, POOL], GROUPS, by_source=by_source, batch=16, seed=4)
    keys = [
        (biases[name.partition("/")[0]], int(name.endswith("synthetic"))) if by_source else biases[name]
        for name in batches.group_names
    ]
    added = torch.tensor(np.stack([table.loc[key].to_numpy() for key in keys]))
    expected = by_hand(copy.deepcopy(model), batches, add=lambda batch: 0.7 * added[batch.groups])
    wanted = stage("logit_adjustment", ALL, by_source=by_source, logit_adjustment=LogitAdjustmentConfig(tau=0.7))
    same(learned(model, wanted), expected)


def test_logit_adjustment_knows_classes_that_never_occur_beside_a_bias():
    """Groups that are no cross product, as of classes with biases of their own."""
    table = log_class_shares_beside([0, 1, 2, 2], [8, 2, 5, 1], [0, 0, 1, 2]).exp()
    assert table.numpy() == pytest.approx(
        np.array([[9, 3, 1], [9, 3, 1], [1, 1, 6], [1, 1, 2]]) / [[13], [13], [8], [4]]
    )


def test_offsets_are_not_rounded_to_the_logits_precision():
    offsets = torch.tensor([[9.3, 2.1]], dtype=torch.float64)
    images = torch.zeros(1, 2, dtype=torch.bfloat16)
    found = sample_losses(torch.nn.Identity(), images, torch.tensor([1]), offsets)
    assert found.item() == pytest.approx(functional.cross_entropy(offsets, torch.tensor([1])).item(), rel=1e-6)


def test_what_offsets_logits_while_training_leaves_the_model_as_it_is():
    images = torch.rand(5, 3, 8, 8)
    model = build_classifier(SMALL, 2, 0)
    answer = model(images)
    classification_task(stage("balanced_softmax"), model, SETS, GROUPS, 4)
    assert torch.equal(model(images), answer)


@given(st.lists(st.lists(st.floats(0, 9), min_size=1, max_size=7), min_size=1, max_size=5))
def test_so_weighted_the_mean_over_samples_is_the_mean_of_the_cells_means(cells):
    weights = balancing_weights([len(cell) for cell in cells]).tolist()
    samples = sum(len(cell) for cell in cells)
    weighted = sum(weight * loss for weight, cell in zip(weights, cells, strict=True) for loss in cell) / samples
    assert weighted == pytest.approx(np.mean([np.mean(cell) for cell in cells]))


def test_the_recipe_sets_how_groupdro_moves():
    model = build_classifier(SMALL, 2, 0).double()
    config = GroupDROConfig(step_size=0.5, adjustment=2.0)
    task = classification_task(stage("groupdro", groupdro=config), model, SETS, GROUPS, 4)
    sums = torch.tensor([4.0, 1.0, 0.0, 6.0], dtype=torch.float64)
    counts = torch.tensor([4.0, 1.0, 0.0, 3.0], dtype=torch.float64)
    adjusted = np.array([1, 1, 0, 2]) + 2 / np.sqrt([30, 3, 2, 30])
    assert task.weights(sums, counts).tolist() == pytest.approx(np.exp(0.5 * adjusted) / np.exp(0.5 * adjusted).sum())


MISSING = small_set({"land_land": 5, "land_sea": 5, "sea_sea": 5})


@pytest.mark.parametrize("mitigation", ["reweight", "resample", "subsample", "groupdro", "logit_adjustment"])
def test_a_group_that_no_epoch_holds_is_refused_by_what_would_balance_it(mitigation):
    with pytest.raises(DataError, match=f"no sample of group sea_land, which {mitigation}"):
        learned(build_classifier(SMALL, 2, 0), stage(mitigation), sets={"real": MISSING})
    learned(build_classifier(SMALL, 2, 0), stage(), sets={"real": MISSING})


@pytest.mark.parametrize("mitigation", ["dfr", "upsample"])
def test_what_takes_no_steps_is_refused(mitigation):
    with pytest.raises(InputError, match=f"'{mitigation}' is no mitigation of a stage that takes steps"):
        learned(build_classifier(SMALL, 2, 0), stage(mitigation))


@pytest.mark.parametrize("mitigation", ["reweight_label", "balanced_softmax"])
def test_a_class_that_no_epoch_holds_is_refused_by_what_would_weigh_it(mitigation):
    some = small_set({"land_land": 5, "land_sea": 5})
    with pytest.raises(DataError, match=f"no sample of class 1, which {mitigation}"):
        learned(build_classifier(SMALL, 2, 0), stage(mitigation), sets={"real": some})
    learned(build_classifier(SMALL, 2, 0), stage(mitigation), sets={"real": MISSING})


def test_a_group_may_come_from_one_source_alone():
    task = classification_task(
        stage("groupdro", ALL, by_source=True), build_classifier(SMALL, 2, 0), {**SETS, "real": MISSING}, GROUPS, 0
    )
    assert "sea_land/real" not in task.batches.group_names
    assert "sea_land/synthetic" in task.batches.group_names


def test_a_task_is_told_from_one_of_other_data_or_another_stage():
    def fingerprint(wanted, sets=SETS, seed=0, augment=AugmentConfig()):  # noqa: B008
        return classification_task(
            wanted, build_classifier(SMALL, 2, 0), sets, GROUPS, seed, augment=augment
        ).fingerprint

    assert fingerprint(stage()) == fingerprint(stage())
    others = [
        fingerprint(stage("reweight")),
        fingerprint(stage(sources=ALL)),
        fingerprint(stage(sources=(Source(set="real", counts=dict.fromkeys(GROUPS.names, 2)),))),
        fingerprint(stage(freeze_bn=True)),
        fingerprint(stage(), {"real": MISSING}),
        fingerprint(stage(), seed=1),
        fingerprint(stage(), augment=AugmentConfig(flip=0.5)),
    ]
    assert len({fingerprint(stage()), *others}) == 1 + len(others)


def test_a_checkpoint_of_other_data_is_refused():
    checkpoints = Checkpoints(fresh_store(), "fit")
    config = CONFIG.model_copy(update={"checkpoint_every": 3})
    fit(classification_task(stage(), build_classifier(SMALL, 2, 0), SETS, GROUPS, 0), config, checkpoints=checkpoints)
    other = classification_task(stage(), build_classifier(SMALL, 2, 0), {"real": MISSING}, GROUPS, 0)
    with pytest.raises(ConflictError, match="its data are others"):
        fit(other, config, checkpoints=checkpoints)
    wider = classification_task(stage(), build_classifier(SmallCNNConfig(width=16), 2, 0), SETS, GROUPS, 0)
    with pytest.raises(ConflictError, match="its model has"):
        fit(wider, config, checkpoints=checkpoints)


def test_labels_outside_the_models_classes_are_refused():
    with pytest.raises(DataError, match=r"knows 1 classes.*sea_land \(1\), sea_sea \(1\)"):
        classification_task(stage(), build_classifier(SMALL, 1, 0), SETS, GROUPS, 0)


def changed(before, model):
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


@pytest.fixture
def resnet():
    model = build_classifier(TINY_RESNET, 2, 0)
    return model, copy.deepcopy(model.state_dict())


ADAM = FitConfig(steps=3, lr=0.01)


@pytest.mark.parametrize("mitigation", ["erm", "resample", "groupdro", "balanced_softmax", "jtt"])
def test_the_head_alone_learns(resnet, mitigation):
    model, before = resnet
    jtt = {"jtt": JTTConfig()} if mitigation == "jtt" else {}
    mistakes = {"mistakes": np.arange(5)} if jtt else {}
    learned(model, stage(mitigation, trainable="head", **jtt), ADAM, **mistakes)
    assert changed(before, model) == {"head.weight", "head.bias"}


def test_frozen_batch_norm_keeps_its_statistics_and_learns_its_scale(resnet):
    model, before = resnet
    learned(model, stage(freeze_bn=True), ADAM)
    found = changed(before, model)
    assert not [name for name in found if "running" in name or "num_batches" in name]
    norms = {name for name in before if "normalization.weight" in name}
    assert norms
    assert norms <= found


def test_else_everything_learns(resnet):
    model, before = resnet
    learned(model, stage(), ADAM)
    assert changed(before, model) == set(before)


@pytest.mark.parametrize("options", [{}, {"trainable": "head"}, {"freeze_bn": True}])
def test_before_its_first_step_a_second_stage_answers_as_the_first_bit_for_bit(resnet, options):
    model, _ = resnet
    images = torch.rand(5, 3, 8, 8)
    learned(model, stage(sources=ALL[1:]), ADAM)
    logits = model(images).detach()
    second = build_classifier(TINY_RESNET, 2, 1)
    second.load_state_dict(model.state_dict())
    seen = []

    def validate(module):
        seen.append(module(images).clone())
        return Score((float(len(seen)),))

    learned(second, stage(**options), ADAM, validate=validate)
    assert torch.equal(seen[0], logits)
    assert not torch.equal(seen[1], logits)
