from __future__ import annotations

import hashlib

import pytest
import torch
from torch import nn
from torch.nn import functional

from ffr_dist.config import Config, from_data
from ffr_dist.errors import BrokenError, ConfigError
from ffr_dist.models.architectures import (
    ClassifierConfig,
    ConvNextConfig,
    ResNetConfig,
    SmallCNNConfig,
    VisionTransformerConfig,
    classifier_config,
)
from ffr_dist.models.classifier import build_classifier, load_weights, save_weights


class Holder(Config):
    model: ClassifierConfig = SmallCNNConfig()


def test_size_and_layers():
    model = build_classifier(SmallCNNConfig(), 2, 0)
    assert sum(parameter.numel() for parameter in model.parameters()) == 92_298
    assert not dict(model.named_buffers())


@pytest.mark.parametrize(
    ("width", "classes", "seed", "sha256"),
    [
        (24, 2, 0, "7febe82075e98c4e"),
        (8, 5, 3, "7e3928b9161d0763"),
        (24, 3, 1, "0a9eb3572b58fb7b"),
    ],
)
def test_the_small_network_starts_from_the_weights_that_it_always_has(width, classes, seed, sha256):
    body = save_weights(build_classifier(SmallCNNConfig(width=width), classes, seed))
    assert hashlib.sha256(body).hexdigest()[:16] == sha256


def test_the_small_network_computes_what_it_always_has():
    model = build_classifier(SmallCNNConfig(width=8), 3, 0)
    images = torch.rand(2, 3, 19, 19, generator=torch.Generator().manual_seed(0))
    weights = model.state_dict()
    hidden = ((images - 0.45) / 0.27).contiguous(memory_format=torch.channels_last)
    for conv, norm, stride, pool in ((0, 1, 2, False), (3, 5, 1, True), (7, 9, 1, True), (11, 12, 1, False)):
        kernel = weights[f"features.{conv}.weight"]
        hidden = functional.conv2d(hidden, kernel, stride=stride, padding=kernel.shape[2] // 2)
        hidden = functional.max_pool2d(hidden, 2, ceil_mode=True) if pool else hidden
        scale, shift = weights[f"features.{norm}.weight"], weights[f"features.{norm}.bias"]
        hidden = functional.relu(functional.group_norm(hidden, 8, scale, shift))
    features = functional.adaptive_avg_pool2d(hidden, 4).flatten(1)
    assert torch.equal(model.features(images), features)
    assert torch.equal(model(images), functional.linear(features, weights["head.weight"], weights["head.bias"]))


@pytest.mark.parametrize("side", [1, 8, 17, 32, 64, 224])
@pytest.mark.parametrize("classes", [2, 5])
def test_any_size_of_image(side, classes):
    model = build_classifier(SmallCNNConfig(width=8), classes, 0)
    assert model(torch.rand(2, 3, side, side)).shape == (2, classes)
    assert model.features(torch.rand(2, 3, side, side)).shape == (2, model.head.in_features)
    assert model(torch.rand(0, 3, side, side)).shape == (0, classes)


def test_weights_are_a_function_of_the_seed_and_touch_no_other_randomness():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    bodies = [save_weights(build_classifier(SmallCNNConfig(), 2, seed)) for seed in (0, 0, 1)]
    assert torch.equal(torch.rand(3), expected)
    assert bodies[0] == bodies[1] != bodies[2]


def test_weights_there_and_back():
    model = build_classifier(SmallCNNConfig(), 2, 0)
    other = build_classifier(SmallCNNConfig(), 2, 1)
    other.load_state_dict(load_weights(save_weights(model)))
    images = torch.rand(4, 3, 32, 32)
    assert torch.equal(model(images), other(images))
    assert save_weights(other) == save_weights(model)


def test_a_sample_does_not_see_its_batch():
    model = build_classifier(SmallCNNConfig(width=8), 2, 0).double()
    images = torch.rand(9, 3, 16, 16, dtype=torch.float64)
    torch.testing.assert_close(model(images)[4:5], model(images[4:5]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("body", [b"", b"\x80\x04N.", b"\xff" * 100])
def test_anything_else_is_not_weights(body):
    with pytest.raises(BrokenError, match="safetensors"):
        load_weights(body)


def test_cut_weights():
    with pytest.raises(BrokenError, match="safetensors"):
        load_weights(save_weights(build_classifier(SmallCNNConfig(), 2, 0))[:-1])


@pytest.mark.parametrize(
    ("data", "config"),
    [
        ({"kind": "small_cnn", "width": 16}, SmallCNNConfig(width=16)),
        ({"kind": "resnet"}, ResNetConfig()),
        ({"kind": "resnet", "depth": 18, "width": 16}, ResNetConfig(depth=18, width=16)),
        ({"kind": "convnext", "weights": "facebook/convnext-tiny-224"}, ConvNextConfig(weights="facebook/convnext-tiny-224")),
        ({"kind": "clip", "weights": "s3://bucket/clip"}, VisionTransformerConfig(kind="clip", weights="s3://bucket/clip")),
        ({"kind": "vit", "size": "tiny", "side": 64, "patch": 8}, VisionTransformerConfig(kind="vit", size="tiny", side=64, patch=8)),
    ],
    ids=str,
)  # fmt: skip
def test_configs_are_told_apart_by_kind(data, config):
    assert from_data(Holder, {"model": data}, "x").model == config
    assert classifier_config(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({"kind": "small_cnn", "width": 12}, "model.width"),
        ({"kind": "small_cnn", "width": 0}, "model.width"),
        ({"kind": "small_cnn", "weights": "a/b"}, "model.weights: unknown key"),
        ({"kind": "resnet", "depth": 101}, "model.depth"),
        ({"kind": "resnet", "dept": 18}, "did you mean 'depth'"),
        ({"kind": "resnet", "depth": 18, "weights": "a/b"}, "weights bring their own sizes: leave out depth"),
        ({"kind": "vit", "side": 60}, "side 60 is not a multiple of patch 16"),
        ({"kind": "vit", "patch": 48}, "side 224 is not a multiple of patch 48"),
        ({"kind": "alexnet"}, "small_cnn"),
        ({"width": 16}, "kind"),
    ],
    ids=str,
)
def test_what_cannot_be_built_is_refused(data, told):
    with pytest.raises(ConfigError, match=told):
        from_data(Holder, {"model": data}, "x")


def test_the_small_config_is_the_one_that_stages_on_record_were_made_with():
    assert SmallCNNConfig().model_dump(mode="json") == {"kind": "small_cnn", "width": 24}


def test_a_head_is_a_linear_layer():
    assert isinstance(build_classifier(SmallCNNConfig(), 2, 0).head, nn.Linear)
