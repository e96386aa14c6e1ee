"""JTT: which samples are mistakes, how often they are drawn, and what is learned from them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_sets import GROUPS, as_synthetic, small_set
from torch.nn import functional

from ffr_dist.errors import InputError
from ffr_dist.models.architectures import SmallCNNConfig
from ffr_dist.models.classifier import build_classifier
from ffr_dist.read.batches import ImageBatches
from ffr_dist.read.sampling import Repeated
from ffr_dist.train import FitConfig, fit
from ffr_dist.train.classify import classification_task
from ffr_dist.train.jtt import find_mistakes
from ffr_dist.train.stage import JTTConfig, Source, Stage
from ffr_dist.train.world import world

REAL = small_set({"land_land": 30, "land_sea": 3, "sea_land": 2, "sea_sea": 30})
POOL = as_synthetic(small_set(dict.fromkeys(GROUPS.names, 4), seed=9))
SETS = {"real": REAL, "synthetic": POOL}
SOURCES = (Source(set="real"), Source(set="synthetic"))
CONFIG = FitConfig(steps=9, lr=0.01, optimizer="sgd", momentum=0.0, weight_decay=0.0)


def net():
    torch.set_num_threads(1)
    return build_classifier(SmallCNNConfig(width=8), 2, 0).double()


def stage(**options) -> Stage:
    return Stage(name="train", sources=SOURCES, batch=16, fits=(), **options)


@pytest.fixture(scope="module")
def finder():
    """A little trained, so that it is wrong here and there."""
    model = net()
    fit(classification_task(stage(mitigation="erm"), model, SETS, GROUPS, 4), CONFIG)
    return model.eval()


def test_mistakes_are_what_gets_another_label_in_every_set(finder):
    expected = []
    for start, dataset in ((0, REAL), (len(REAL), POOL)):
        for row, label in enumerate(dataset.labels.tolist()):
            image = torch.from_numpy(dataset.pixels([row])).permute(0, 3, 1, 2).double() / 255
            if int(finder(image).argmax()) != label:
                expected.append(start + row)
    assert 0 < len(expected) < len(REAL) + len(POOL)
    assert find_mistakes(finder, [REAL, POOL], world()).tolist() == expected


def test_the_second_training_is_plain_descent_on_what_is_drawn(finder):
    mistakes = find_mistakes(finder, [REAL, POOL], world())
    expected = net()
    batches = ImageBatches([REAL, POOL], GROUPS, sampling=Repeated(mistakes, 6), batch=16, seed=4)
    source = batches.iterate(0, 0, 1)
    for _ in range(CONFIG.steps):
        batch = next(source)
        loss = functional.cross_entropy(expected(batch.images.double() / 255), batch.labels)
        gradients = torch.autograd.grad(loss, list(expected.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(expected.parameters(), gradients, strict=True):
                parameter.sub_(CONFIG.lr * gradient)
    source.close()
    model = net()
    wanted = stage(mitigation="jtt", jtt=JTTConfig(weight=6))
    fit(classification_task(wanted, model, SETS, GROUPS, 4, mistakes=mistakes), CONFIG)
    for one, other in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)


@given(st.sets(st.integers(0, 64), min_size=1, max_size=64), st.integers(1, 50), st.integers(0, 5))
def test_mistakes_are_drawn_so_many_times_as_often_as_the_others(rows, times, seed):
    rows = np.array(sorted(rows))
    batches = ImageBatches([REAL], GROUPS, sampling=Repeated(rows, times), batch=4096, seed=seed)
    assert (
        batches.shuffle.block * batches.shuffle.window == 4096
    )  # a batch is a window: within one the shares are exact
    drawn = np.bincount(np.concatenate([batches.rows(step)[0] for step in range(3)]), minlength=65)
    others = np.delete(drawn, rows)
    assert np.ptp(drawn[rows]) <= 1
    assert np.ptp(others) <= 1
    share = times * len(rows) / (times * len(rows) + len(others))
    assert abs(drawn[rows].sum() - 3 * 4096 * share) < 2


@pytest.mark.parametrize("rows", [range(0), range(65)])
def test_where_none_or_all_are_mistakes_every_sample_is_seen_once_an_epoch(rows):
    batches = ImageBatches([REAL], GROUPS, sampling=Repeated(np.array(rows, np.int64), 9), batch=65, seed=0)
    assert sorted(batches.rows(0)[0].tolist()) == list(range(65))


def test_other_mistakes_are_another_task_and_none_are_refused():
    def fingerprint(rows, weight=6):
        wanted = stage(mitigation="jtt", jtt=JTTConfig(weight=weight))
        rows = None if rows is None else np.array(rows, np.int64)
        return classification_task(wanted, net(), SETS, GROUPS, 4, mistakes=rows).fingerprint

    assert fingerprint([1, 2]) == fingerprint([1, 2])
    assert len({fingerprint([1, 2]), fingerprint([1, 3]), fingerprint([]), fingerprint([1, 2], weight=7)}) == 4
    with pytest.raises(InputError, match="what the stage before it gets wrong"):
        fingerprint(None)
