from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_sets import GROUPS, small_set

from ffr_dist.errors import BrokenError, DataError
from ffr_dist.evaluate.score import count_correct, predictions
from ffr_dist.metrics import Count, group_metrics
from ffr_dist.models.architectures import SmallCNNConfig
from ffr_dist.models.classifier import build_classifier
from ffr_dist.read.config import ReadConfig

COUNTS = {"land_land": 13, "land_sea": 4, "sea_land": 0, "sea_sea": 11}
DATA = small_set(COUNTS)


class SeesTheBias(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        assert images.max() <= 1
        sea = images[:, 2].mean((1, 2)) - images[:, 0].mean((1, 2))
        return torch.stack([-sea, sea], 1) * self.scale


@given(st.integers(1, 40))
def test_counts_by_group_for_any_batch_size(batch):
    # It calls all that is at sea a sea thing.
    assert count_correct(SeesTheBias(), DATA, batch) == {
        "land_land": Count(13, 13),
        "land_sea": Count(0, 4),
        "sea_land": Count(0, 0),
        "sea_sea": Count(11, 11),
    }


def test_an_empty_declared_group_is_counted_and_then_refused():
    counts = count_correct(SeesTheBias(), DATA)
    assert tuple(counts) == GROUPS.names
    with pytest.raises(DataError, match="sea_land"):
        group_metrics(counts)


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_of_the_model_is_left_as_it_was(training):
    model = build_classifier(SmallCNNConfig(width=8), 2, 0).train(training)
    assert predictions(model, DATA).shape == (28,)
    assert model.training == training


def test_in_the_models_own_precision():
    model = build_classifier(SmallCNNConfig(width=8), 2, 0)
    assert (predictions(model, DATA) == predictions(model.double(), DATA)).all()


def test_a_broken_image_is_never_passed_over():
    data = small_set(COUNTS)
    whole, key = data.whole, data.whole.shards[0].key
    body = bytearray(whole.store.get(key))
    start = int(whole.columns.offset[3])
    body[start : start + 100] = bytes(100)
    whole.store.put(key, bytes(body))
    with pytest.raises(BrokenError, match="00000003"):
        count_correct(SeesTheBias(), data, read=ReadConfig(skip_broken=9))
