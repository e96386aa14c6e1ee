"""Weights that a classifier starts from: what of a folder is kept, what is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import uuid

import fsspec
import pytest
import torch
from huggingface_hub import constants
from tiny_judges import clip_config, write_clip, write_preprocessor
from transformers import (
    CLIPForImageClassification,
    CLIPModel,
    ResNetConfig,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
)

from ffr_dist.errors import ConfigError, DataError
from ffr_dist.models.architectures import ResNetConfig as OurResNetConfig
from ffr_dist.models.architectures import SmallCNNConfig, VisionTransformerConfig
from ffr_dist.models.classifier import build_classifier
from ffr_dist.models.pretrained import check_classifier, classifier_sha256

VIT = ViTConfig(
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=1,
    num_attention_heads=2,
    image_size=16,
    patch_size=8,
    hidden_dropout_prob=0.5,
    attention_probs_dropout_prob=0.5,
    num_labels=4,
)
IMAGES = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def vit(tmp_path):
    """A vision transformer of four classes, as its library saves it."""
    torch.manual_seed(3)
    folder = tmp_path / "vit"
    ViTForImageClassification(VIT).save_pretrained(folder)
    return folder


def config_of(folder, kind="vit"):
    return VisionTransformerConfig(kind=kind, weights=str(folder))


def built(folder, classes=4, seed=0, kind="vit"):
    return build_classifier(config_of(folder, kind), classes, seed)


def edit(path, **changes):
    value = json.loads(path.read_text())
    path.write_text(json.dumps(value | changes))


def body_of(model):
    return {name: value for name, value in model.state_dict().items() if name.startswith("features.")}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_head_that_fits_is_kept(vit):
    model = built(vit)
    stored = ViTForImageClassification.from_pretrained(vit)
    assert torch.equal(model.head.weight, stored.classifier.weight)
    assert torch.equal(model.head.bias, stored.classifier.bias)


def test_a_head_that_does_not_fit_is_drawn_from_the_seed(vit):
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    one, again, other = (built(vit, classes=2, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.rand(3), expected)
    assert same(one.state_dict(), again.state_dict())
    assert not torch.equal(one.head.weight, other.head.weight)
    assert same(body_of(one), body_of(other))
    assert same(body_of(one), body_of(built(vit)))


def test_weights_without_a_head(tmp_path, vit):
    bare = tmp_path / "bare"
    ViTModel.from_pretrained(vit).save_pretrained(bare)
    one, other = (built(bare, seed=seed) for seed in (0, 1))
    assert same(body_of(one), body_of(built(vit)))
    assert not torch.equal(one.head.weight, other.head.weight)


def test_a_whole_clip_gives_its_image_encoder(tmp_path):
    write_clip(tmp_path / "clip")
    model = built(tmp_path / "clip", classes=2, kind="clip").eval()
    whole = CLIPModel.from_pretrained(tmp_path / "clip").eval()
    mean = torch.tensor([0.48, 0.46, 0.41]).reshape(3, 1, 1)
    std = torch.tensor([0.27, 0.26, 0.28]).reshape(3, 1, 1)
    hidden = whole.vision_model(pixel_values=(IMAGES - mean) / std).last_hidden_state
    torch.testing.assert_close(model.features(IMAGES), hidden[:, 1:].mean(1))
    assert model.features.preparation.resample == "bicubic"
    oracle = CLIPForImageClassification(clip_config())
    oracle.vision_model.load_state_dict(whole.vision_model.state_dict())
    oracle.classifier.load_state_dict(model.head.state_dict())
    torch.testing.assert_close(model(IMAGES), oracle.eval()(pixel_values=(IMAGES - mean) / std).logits)


def test_dropout_does_not_come_along(vit):
    model = built(vit).train()
    assert torch.equal(model(IMAGES), model(IMAGES))
    assert torch.equal(model(IMAGES), model.eval()(IMAGES))


def test_neither_do_other_settings_of_a_config(vit):
    expected = built(vit)(IMAGES)
    edit(vit / "config.json", attn_implementation="eager", quantization_config={"quant_method": "gptq"})
    assert torch.equal(built(vit)(IMAGES), expected)


def test_half_precision_is_opened_as_single(tmp_path):
    torch.manual_seed(0)
    ViTForImageClassification(VIT).half().save_pretrained(tmp_path)
    assert {value.dtype for value in built(tmp_path).state_dict().values()} == {torch.float32}


def test_colours_are_normalised_as_the_preprocessor_says(vit):
    plain = built(vit).features
    assert plain.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    write_preprocessor(vit)
    told = built(vit).features
    assert told.mean.flatten().tolist() == pytest.approx([0.48, 0.46, 0.41])
    assert told.std.flatten().tolist() == pytest.approx([0.27, 0.26, 0.28])
    write_preprocessor(vit, do_normalize=False)
    assert torch.equal(built(vit).features.prepared(IMAGES), IMAGES)


def test_the_hash_is_of_all_that_is_opened(vit):
    assert classifier_sha256(SmallCNNConfig()) is classifier_sha256(OurResNetConfig(depth=18)) is None
    hashes = [classifier_sha256(config_of(vit))]
    write_preprocessor(vit)
    hashes.append(classifier_sha256(config_of(vit)))
    edit(vit / "config.json", layer_norm_eps=1e-5)
    hashes.append(classifier_sha256(config_of(vit)))
    (vit / "README.md").write_text("No part of it.")
    hashes.append(classifier_sha256(config_of(vit)))
    assert hashes[2] == hashes[3]
    assert len(set(hashes)) == 3


def test_weights_in_several_files(tmp_path, vit):
    ViTForImageClassification.from_pretrained(vit).save_pretrained(tmp_path / "split", max_shard_size="4KB")
    assert len(list((tmp_path / "split").glob("model-*.safetensors"))) > 1
    assert same(built(tmp_path / "split").state_dict(), built(vit).state_dict())


def test_weights_at_any_url(vit, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    place = f"/classifier-{uuid.uuid4().hex}"
    files = fsspec.filesystem("memory")
    files.put(str(vit), place, recursive=True)
    try:
        config = VisionTransformerConfig(kind="vit", weights=f"memory:/{place}")
        check_classifier(config)
        assert classifier_sha256(config) == classifier_sha256(config_of(vit))
        assert same(build_classifier(config, 4, 0).state_dict(), built(vit).state_dict())
    finally:
        files.rm(place, recursive=True)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The hub's cache on this disk, and no way to the hub."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_weights_of_the_hub(vit, hub, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    kept = hub / "models--owner--tiny"
    shutil.copytree(vit, kept / "snapshots" / ("0" * 40))
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text("0" * 40)
    config = VisionTransformerConfig(kind="vit", weights="owner/tiny")
    check_classifier(config)
    assert same(build_classifier(config, 4, 0).state_dict(), built(vit).state_dict())


def test_a_hub_that_does_not_answer_is_told(hub):
    with pytest.raises(DataError, match="'owner/none' cannot be fetched from the hub"):
        build_classifier(VisionTransformerConfig(kind="vit", weights="owner/none"), 2, 0)


def cut(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-8])


def pickled(folder):
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (cut, "not a whole safetensors file"),
        (pickled, "pytorch_model.bin is a pickle"),
        (lambda folder: (folder / "model.safetensors").unlink(), "are missing"),
        (lambda folder: (folder / "config.json").unlink(), "cannot be read as JSON"),
        (lambda folder: edit(folder / "config.json", auto_map={"AutoModel": "code.Model"}), "asks for code of its own"),
        (lambda folder: edit(folder / "config.json", attn_implementation="owner/kernel"), "asks for code of its own"),
        (lambda folder: edit(folder / "config.json", model_type="convnext"), "use kind: convnext"),
        (lambda folder: edit(folder / "config.json", model_type="bert"), "is of a 'bert'"),
        (lambda folder: edit(folder / "config.json", num_channels=1), "1 channels"),
        (lambda folder: edit(folder / "config.json", image_size=[16, 24]), "square"),
        (lambda folder: write_preprocessor(folder, rescale_factor=1 / 127.5), "rescale_factor"),
        (lambda folder: write_preprocessor(folder, do_rescale=False), "rescale_factor"),
        (lambda folder: write_preprocessor(folder, rescale_offset=True), "rescale_offset"),
        (lambda folder: write_preprocessor(folder, resample=1), "resample"),
        (lambda folder: write_preprocessor(folder, image_mean=[0.5]), "image_mean"),
        (lambda folder: write_preprocessor(folder, image_std=[0.5, 0.5, 0]), "image_std"),
    ],
)
def test_what_could_not_be_opened_is_refused_before_anything_is_loaded(vit, spoil, told):
    check_classifier(config_of(vit))
    spoil(vit)
    with pytest.raises(ConfigError, match=told):
        check_classifier(config_of(vit))
    with pytest.raises(ConfigError, match=told):
        built(vit)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"num_hidden_layers": 2}, "is missing or of another shape"),
        ({"intermediate_size": 48}, "is missing or of another shape"),
        ({"hidden_act": "no_such"}, "cannot be loaded"),
        ({"hidden_size": "wide"}, "cannot be loaded"),
        ({"num_attention_heads": 3}, "is missing or of another shape|cannot be loaded"),
    ],
    ids=str,
)
def test_a_config_that_the_weights_are_not_of_is_told(vit, changes, told):
    edit(vit / "config.json", **changes)
    with pytest.raises(ConfigError, match=told):
        built(vit)


def test_a_folder_that_is_not_there_is_told(tmp_path):
    with pytest.raises(ConfigError, match="no such folder"):
        check_classifier(config_of(tmp_path / "none"))


def test_another_kind_than_the_folder_says_is_told(tmp_path):
    folder = tmp_path / "resnet"
    ResNetConfig().save_pretrained(folder)
    with pytest.raises(ConfigError, match="kind is 'vit'; use kind: resnet"):
        check_classifier(config_of(folder))


def test_a_check_loads_nothing_heavy(vit):
    code = (
        "import sys; from ffr_dist.models.architectures import VisionTransformerConfig as C;"
        "from ffr_dist.models.pretrained import check_classifier, classifier_sha256;"
        f"config = C(kind='vit', weights={str(vit)!r}); check_classifier(config); classifier_sha256(config);"
        "assert not {'torch', 'transformers', 'huggingface_hub', 'fsspec'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
