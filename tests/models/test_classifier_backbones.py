"""Networks of transformers as classifiers: their arithmetic against transformers' own and against plain torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional
from transformers import (
    AutoModelForImageClassification,
    CLIPConfig,
    ConvNextConfig,
    DeiTConfig,
    ResNetConfig,
    ViTConfig,
)

from ffr_dist.models import architectures
from ffr_dist.models.architectures import VisionTransformerConfig
from ffr_dist.models.classifier import batch_norms, build_classifier, load_weights, save_weights

SMALL = {
    "resnet": architectures.ResNetConfig(depth=18, width=8),
    "resnet50": architectures.ResNetConfig(depth=50, width=4),
    "convnext": architectures.ConvNextConfig(size="micro"),
    **{kind: VisionTransformerConfig(kind=kind, size="micro", side=32, patch=16) for kind in ("vit", "deit", "clip")},
}
WITHOUT_BATCH = [name for name in SMALL if not name.startswith("resnet")]

_BODY = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
_PATCHES = {**_BODY, "image_size": 32, "patch_size": 16}
THEIRS = {
    "resnet": ResNetConfig(embedding_size=4, hidden_sizes=[4, 8, 16, 32], depths=[2, 2, 2, 2], layer_type="basic"),
    "resnet50": ResNetConfig(embedding_size=4, hidden_sizes=[16, 32, 64, 128], depths=[3, 4, 6, 3]),
    "convnext": ConvNextConfig(hidden_sizes=[8, 16, 32, 64], depths=[1, 1, 2, 1], layer_scale_init_value=0.5),
    "vit": ViTConfig(**_PATCHES),
    "deit": DeiTConfig(**_PATCHES),
    "clip": CLIPConfig(vision_config=_PATCHES, text_config=_BODY),
}


def classifier(name, classes=3, seed=0):
    return build_classifier(SMALL[name], classes, seed)


def images_of(count, side, seed=0):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def theirs(name, folder, classes=3):
    """A model of transformers with spread weights and statistics, and the folder that it was saved in."""
    config = THEIRS[name]
    config.num_labels = classes
    config.architectures = [f"{type(config).__name__.removesuffix('Config')}ForImageClassification"]
    torch.manual_seed(0)
    model = AutoModelForImageClassification.from_config(config)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor in (module.running_mean, module.running_var, module.weight, module.bias):
                    tensor.uniform_(0.5, 1.5)
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("name", THEIRS)
@pytest.mark.parametrize("train", [False, True])
def test_logits_are_those_of_transformers(name, train, tmp_path):
    model = theirs(name, tmp_path).double().train(train)
    kind = name.removesuffix("50")
    ours = build_classifier(
        architectures.classifier_config({"kind": kind, "weights": str(tmp_path)}), model.num_labels, 0
    ).double()
    images = images_of(5, 32).double()
    mean = torch.tensor([0.485, 0.456, 0.406]).reshape(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).reshape(3, 1, 1)
    expected = model(pixel_values=(images - mean) / std).logits
    assert expected.std() > 1e-3
    assert torch.equal(ours.train(train)(images), expected)
    expected.square().sum().backward()
    ours(images).square().sum().backward()
    assert torch.equal(
        ours.head.weight.grad, (model.classifier[1] if kind == "resnet" else model.classifier).weight.grad
    )


@pytest.mark.parametrize("name", ["resnet", "resnet50"])
def test_a_resnet_is_the_one_of_the_paper(name):
    """Its arithmetic in plain torch: stem, four stages, projections where the shape changes, the stride in the 3x3."""
    model = classifier(name).double()
    with torch.no_grad():
        for norm in batch_norms(model):
            for tensor in (norm.running_mean, norm.running_var, norm.weight, norm.bias):
                tensor.uniform_(0.5, 1.5)
    model.eval()
    weights = model.state_dict()

    def layer(hidden, at, stride):
        kernel = weights[f"{at}.convolution.weight"]
        out = functional.conv2d(hidden, kernel, stride=stride, padding=kernel.shape[2] // 2)
        names = ("running_mean", "running_var", "weight", "bias")
        mean, var, scale, shift = (weights[f"{at}.normalization.{each}"].reshape(-1, 1, 1) for each in names)
        return (out - mean) / (var + 1e-5).sqrt() * scale + shift

    def block(hidden, at, stride):
        strides = (1, stride, 1) if name == "resnet50" else (stride, 1)
        out = hidden
        for number, step in enumerate(strides):
            out = layer(out, f"{at}.layer.{number}", step)
            out = functional.relu(out) if number < len(strides) - 1 else out
        if f"{at}.shortcut.convolution.weight" in weights:
            hidden = layer(hidden, f"{at}.shortcut", stride)
        return functional.relu(out + hidden)

    images = images_of(3, 64).double()
    mean = torch.tensor([0.485, 0.456, 0.406]).double().reshape(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).double().reshape(3, 1, 1)
    hidden = functional.relu(layer((images - mean) / std, "features.encoder.embedder.embedder", 2))
    hidden = functional.max_pool2d(hidden, 3, stride=2, padding=1)
    for stage, blocks in enumerate((3, 4, 6, 3) if name == "resnet50" else (2, 2, 2, 2)):
        for number in range(blocks):
            at = f"features.encoder.encoder.stages.{stage}.layers.{number}"
            hidden = block(hidden, at, 2 if number == 0 and stage else 1)
    features = hidden.mean((2, 3))
    torch.testing.assert_close(model.features(images), features, rtol=1e-6, atol=1e-6)
    logits = features @ weights["head.weight"].T + weights["head.bias"]
    torch.testing.assert_close(model(images), logits, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("config", "parameters", "width"),
    [
        (architectures.ResNetConfig(depth=18), 11_689_512, 512),
        (architectures.ResNetConfig(depth=34), 21_797_672, 512),
        (architectures.ResNetConfig(), 25_557_032, 2048),
        (architectures.ConvNextConfig(), 28_589_128, 768),
        (VisionTransformerConfig(kind="vit", size="small"), 22_050_664, 384),
        (VisionTransformerConfig(kind="vit"), 86_567_656, 768),
        (VisionTransformerConfig(kind="deit", size="tiny"), 5_717_416 + 2 * 192, 192),
    ],
    ids=str,
)
def test_published_sizes(config, parameters, width):
    """Of ImageNet's thousand classes, as torchvision and timm count them; here a DeiT has a distillation token."""
    with torch.device("meta"):
        from ffr_dist.models.backbones import build_backbone

        features, _ = build_backbone(config, 1000)
    counted = sum(parameter.numel() for parameter in features.parameters()) + 1000 * (width + 1)
    assert (features.width, counted) == (width, parameters)


@pytest.mark.parametrize("name", SMALL)
def test_features_then_head(name):
    model = classifier(name).eval()
    images = images_of(4, 32)
    features = model.features(images)
    assert isinstance(model.head, nn.Linear)
    assert features.shape == (4, model.head.in_features)
    assert torch.equal(model.head(features), model(images))
    assert {name.partition(".")[0] for name in model.state_dict()} == {"features", "head"}


@pytest.mark.parametrize("name", SMALL)
def test_fresh_weights_are_a_function_of_the_seed_and_touch_no_other_randomness(name):
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    bodies = [save_weights(classifier(name, seed=seed)) for seed in (0, 0, 1)]
    assert torch.equal(torch.rand(3), expected)
    assert bodies[0] == bodies[1] != bodies[2]
    other = classifier(name, seed=1)
    other.load_state_dict(load_weights(bodies[0]))
    assert save_weights(other) == bodies[0]


@pytest.mark.parametrize("name", SMALL)
def test_every_parameter_that_learns_has_a_gradient(name):
    """DDP waits for one from each."""
    model = classifier(name).train()
    model(images_of(4, 32)).square().sum().backward()
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert learning == {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert sum(not parameter.requires_grad for parameter in model.parameters()) == (2 if name == "clip" else 0)


@pytest.mark.parametrize("name", SMALL)
def test_nothing_is_drawn_while_it_trains(name):
    model = classifier(name).train()
    images = images_of(4, 32)
    state = torch.get_rng_state()
    assert torch.equal(model(images), model(images))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", WITHOUT_BATCH)
def test_a_sample_does_not_see_its_batch(name):
    model = classifier(name).double().train()
    images = images_of(9, 32).double()
    assert not batch_norms(model)
    torch.testing.assert_close(model(images)[4:5], model(images[4:5]), rtol=0, atol=1e-12)


def test_a_resnet_sees_its_batch_unless_its_statistics_are_frozen():
    model = classifier("resnet").double().train()
    images = images_of(9, 64).double()
    assert not torch.allclose(model(images)[4:5], model(images[4:5]))
    norms = batch_norms(model)
    assert len(norms) == 20
    for norm in norms:
        norm.eval()
    before = {name: value.clone() for name, value in model.named_buffers()}
    torch.testing.assert_close(model(images)[4:5], model(images[4:5]), rtol=0, atol=1e-12)
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())
    assert all(norm.weight.requires_grad for norm in norms)


@pytest.mark.parametrize("name", SMALL)
def test_channels_last_changes_nothing_but_the_layout(name):
    model = classifier(name).eval()
    images = images_of(4, 32)
    expected = model(images)
    model.to(memory_format=torch.channels_last)
    found = model(images.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet", "resnet50", "convnext"])
@pytest.mark.parametrize("side", [32, 45, 64])
def test_convolutions_take_any_size(name, side):
    assert classifier(name).eval()(images_of(2, side)).shape == (2, 3)


@pytest.mark.parametrize("kind", ["vit", "deit", "clip"])
@pytest.mark.parametrize(("height", "width"), [(80, 80), (20, 20), (48, 33)])
@pytest.mark.parametrize("resample", ["bilinear", "bicubic"])
def test_a_transformer_sees_what_pillow_resizes(kind, height, width, resample):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    # Smooth, or rounding to levels would be all there is to see.
    picture = Image.fromarray(pixels).resize((6, 6)).resize((width, height), Image.Resampling.BICUBIC)
    features = classifier(kind).features
    features.preparation = type(features.preparation)(resample=resample)
    images = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 255
    wanted = picture.resize((32, 32), Image.Resampling[resample.upper()])
    found = features.prepared(images) * features.std + features.mean
    expected = torch.from_numpy(np.array(wanted)).permute(2, 0, 1)[None] / 255
    torch.testing.assert_close(found, expected, rtol=0, atol=2 / 255)
    assert (found - expected).abs().mean() < 0.5 / 255


@pytest.mark.parametrize("name", SMALL)
def test_it_can_learn(name):
    model = classifier(name, classes=2).train()
    images, labels = images_of(16, 32), torch.arange(16) % 2
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(12):
        loss = functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
