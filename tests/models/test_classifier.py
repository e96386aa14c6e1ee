from __future__ import annotations

import pytest
import torch

from ffr_dist.config import from_data
from ffr_dist.errors import BrokenError, ConfigError
from ffr_dist.models.classifier import ClassifierConfig, build_classifier, load_weights, save_weights


def test_size_and_layers():
    model = build_classifier(ClassifierConfig(), 2, 0)
    assert sum(parameter.numel() for parameter in model.parameters()) == 92_298
    assert not dict(model.named_buffers())


@pytest.mark.parametrize("side", [1, 8, 17, 32, 64, 224])
@pytest.mark.parametrize("classes", [2, 5])
def test_any_size_of_image(side, classes):
    assert build_classifier(ClassifierConfig(width=8), classes, 0)(torch.rand(2, 3, side, side)).shape == (2, classes)


def test_weights_are_a_function_of_the_seed_and_touch_no_other_randomness():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    bodies = [save_weights(build_classifier(ClassifierConfig(), 2, seed)) for seed in (0, 0, 1)]
    assert torch.equal(torch.rand(3), expected)
    assert bodies[0] == bodies[1] != bodies[2]


def test_weights_there_and_back():
    model = build_classifier(ClassifierConfig(), 2, 0)
    other = build_classifier(ClassifierConfig(), 2, 1)
    other.load_state_dict(load_weights(save_weights(model)))
    images = torch.rand(4, 3, 32, 32)
    assert torch.equal(model(images), other(images))
    assert save_weights(other) == save_weights(model)


def test_a_sample_does_not_see_its_batch():
    model = build_classifier(ClassifierConfig(width=8), 2, 0).double()
    images = torch.rand(9, 3, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(model(images)[4:5], model(images[4:5]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("body", [b"", b"\x80\x04N.", b"\xff" * 100])
def test_anything_else_is_not_weights(body):
    with pytest.raises(BrokenError, match="safetensors"):
        load_weights(body)


def test_cut_weights():
    with pytest.raises(BrokenError, match="safetensors"):
        load_weights(save_weights(build_classifier(ClassifierConfig(), 2, 0))[:-1])


def test_config():
    assert from_data(ClassifierConfig, {"kind": "small_cnn", "width": 16}, "x").width == 16
    for data in ({"width": 12}, {"width": 0}, {"kind": "resnet"}):
        with pytest.raises(ConfigError):
            from_data(ClassifierConfig, data, "x")
