from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from ffr_dist.train.losses import GroupDRO, GroupDROConfig, sample_losses, sums_by_group


class Reference:
    """GroupDRO as its definition says, in plain Python floats."""

    def __init__(self, sizes, eta, adjustment):
        self.q = [1 / len(sizes)] * len(sizes)
        self.sizes, self.eta, self.adjustment = sizes, eta, adjustment

    def step(self, losses, groups):
        means = []
        for group in range(len(self.q)):
            mine = [loss for loss, at in zip(losses, groups, strict=True) if at == group]
            means.append(sum(mine) / len(mine) if mine else 0.0)
        grown = [
            q * np.exp(self.eta * (mean + self.adjustment / np.sqrt(size)))
            for q, mean, size in zip(self.q, means, self.sizes, strict=True)
        ]
        self.q = [value / sum(grown) for value in grown]
        return sum(q * mean for q, mean in zip(self.q, means, strict=True))


@given(
    st.lists(st.lists(st.tuples(st.floats(0, 20), st.integers(0, 3)), min_size=1, max_size=20), min_size=1, max_size=6),
    st.sampled_from([0.01, 0.5]),
    st.sampled_from([0.0, 2.0]),
)
def test_groupdro_follows_its_definition(batches, eta, adjustment):
    sizes = [100, 10, 5, 1]
    robust = GroupDROConfig(step_size=eta, adjustment=adjustment)
    ours, reference = GroupDRO(sizes, robust), Reference(sizes, eta, adjustment)
    for batch in batches:
        losses = torch.tensor([loss for loss, _ in batch], dtype=torch.float64)
        groups = torch.tensor([group for _, group in batch])
        sums, counts = sums_by_group(losses, groups, 4), groups.bincount(minlength=4).double()
        q = ours.weights(sums, counts)
        total = float((q * sums / counts.clamp(min=1)).sum())
        assert total == pytest.approx(reference.step(losses.tolist(), groups.tolist()), abs=1e-12)
        assert q.tolist() == pytest.approx(reference.q, abs=1e-12)
        assert float(q.sum()) == pytest.approx(1)


def test_one_step_by_hand():
    robust = GroupDRO([3, 1])
    # Mean losses 1 and 3: q goes from (1/2, 1/2) by factors e^.01 and e^.03.
    q = robust.weights(torch.tensor([3.0, 3.0]).double(), torch.tensor([3.0, 1.0]).double())
    assert q.tolist() == pytest.approx([1 / (1 + np.exp(0.02)), 1 / (1 + np.exp(-0.02))])
    assert robust.state["q"] is q


def test_sums_are_differentiable_and_absent_groups_are_zero():
    losses = torch.tensor([1.0, 2.0, 4.0], requires_grad=True)
    sums = sums_by_group(losses, torch.tensor([0, 2, 2]), 4)
    assert sums.tolist() == [1, 0, 6, 0]
    (sums * torch.tensor([1.0, 1.0, 0.5, 1.0])).sum().backward()
    assert losses.grad.tolist() == [1, 0.5, 0.5]


def test_no_sample_still_reaches_every_parameter():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 4 * 4, 2))
    losses = sample_losses(model, torch.zeros(0, 3, 4, 4), torch.zeros(0, dtype=torch.long))
    assert losses.shape == (0,)
    sums_by_group(losses, torch.zeros(0, dtype=torch.long), 3).sum().backward()
    assert all(not parameter.grad.any() for parameter in model.parameters())


def test_no_sample_leaves_statistics_of_batches_alone():
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 4), torch.nn.BatchNorm2d(4), torch.nn.Flatten())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    losses = sample_losses(model, torch.zeros(0, 3, 4, 4), torch.zeros(0, dtype=torch.long))
    losses.sum().backward()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model[1].training
    assert all(not parameter.grad.any() for parameter in model.parameters())


def test_sample_losses_are_cross_entropies():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 4 * 4, 3))
    images, labels = torch.rand(5, 3, 4, 4), torch.tensor([0, 1, 2, 1, 0])
    mean = sample_losses(model, images, labels).mean()
    torch.testing.assert_close(mean, functional.cross_entropy(model(images), labels))


def test_groupdro_is_the_one_of_spuco():
    spuco = pytest.importorskip("spuco.robust_train.group_dro")
    theirs = spuco.GroupWeightedLoss(torch.nn.CrossEntropyLoss(reduction="none"), 4, group_weight_lr=0.3)
    ours = GroupDRO([1, 1, 1, 1], GroupDROConfig(step_size=0.3))
    random = torch.Generator().manual_seed(0)
    for _ in range(8):
        logits = 3 * torch.randn(6, 2, generator=random)
        labels, groups = (torch.randint(0, most, (6,), generator=random) for most in (2, 4))
        losses = functional.cross_entropy(logits, labels, reduction="none")
        sums, counts = sums_by_group(losses, groups, 4), groups.bincount(minlength=4)
        q = ours.weights(sums.double(), counts.double())
        loss = (q * sums / counts.clamp(min=1)).sum()
        torch.testing.assert_close(loss.float(), theirs(logits, labels, groups))
        torch.testing.assert_close(q.float(), theirs.group_weights)
