"""A trained classifier as a folder: others open it and get the same logits."""

from __future__ import annotations

import io
import re
import stat
from contextlib import redirect_stdout

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard as HubCard
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification

from ffr_dist.metrics import Count
from ffr_dist.models.architectures import ConvNextConfig, ResNetConfig, SmallCNNConfig, VisionTransformerConfig
from ffr_dist.models.card import ModelCard
from ffr_dist.models.classifier import batch_norms, build_classifier
from ffr_dist.models.export import write_pretrained
from ffr_dist.models.features import load_judge
from ffr_dist.models.heads import StandardisedHead

LABELS = ("low", "high", "#1 | <b>odd</b>")
CARD = ModelCard(
    name="ffr-demo, ffr × groupdro, seed 0",
    trained_on={"synthetic, balanced": "a" * 64, "real": "b" * 64},
    tested_on="c" * 64,
    counts={"low_temple": Count(90, 100), "low_flowers": Count(3, 4), "high_temple": Count(50, 60)},
    settings={"learning rate": 0.001, "steps": 450, "starts from": None},
)
CONFIGS = {
    "resnet": ResNetConfig(depth=18, width=8),
    "convnext": ConvNextConfig(size="micro"),
    **{kind: VisionTransformerConfig(kind=kind, size="micro", side=32, patch=16) for kind in ("vit", "deit", "clip")},
}


def spread(model):
    """As if it had learned: no two classes alike, statistics of its own."""
    with torch.no_grad():
        model.head.weight.mul_(20)
        for norm in batch_norms(model):
            norm.running_mean.uniform_(-0.1, 0.1)
            norm.running_var.uniform_(0.5, 1.5)
    return model.eval()


@pytest.fixture(params=CONFIGS)
def written(request, tmp_path):
    config = CONFIGS[request.param]
    model = spread(build_classifier(config, 3, 0))
    folder = tmp_path / "written" / "here"
    write_pretrained(model, config, folder, labels=LABELS, side=32, card=CARD)
    return config, model, folder


def picture(side=32):
    """Smooth, so that a rounded resize is near to an exact one."""
    pixels = np.random.default_rng(3).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC)


def as_images(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255


def readme_of(folder):
    return (folder / "README.md").read_text(encoding="utf-8")


def test_transformers_opens_it_and_gives_the_same_logits(written):
    _, model, folder = written
    theirs = AutoModelForImageClassification.from_pretrained(folder, local_files_only=True).eval()
    images = torch.rand(4, 3, 32, 32)
    found = theirs(pixel_values=model.features.prepared(images)).logits
    torch.testing.assert_close(found, model(images), rtol=1e-5, atol=1e-5)
    assert model(images).std() > 0.1
    ours, opened = model.state_dict(), theirs.state_dict()
    assert torch.equal(
        opened[next(name for name in opened if re.match(r"classifier.*weight", name))], ours["head.weight"]
    )
    assert theirs.config.id2label == dict(enumerate(LABELS))
    assert theirs.config.label2id == {label: number for number, label in enumerate(LABELS)}


def test_it_comes_with_its_image_processor(written):
    _, model, folder = written
    processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
    theirs = AutoModelForImageClassification.from_pretrained(folder, local_files_only=True).eval()
    for side, tolerance in ((32, 1e-4), (48, 0.1)):
        image = picture(side)
        logits = theirs(**processor(image, return_tensors="pt")).logits
        expected = model(as_images(image.resize((32, 32), Image.Resampling.BILINEAR)))
        torch.testing.assert_close(logits, expected, rtol=tolerance, atol=tolerance)


def test_we_open_it_again_head_included(written):
    config, model, folder = written
    again = build_classifier(type(config)(kind=config.kind, weights=str(folder)), 3, 1)
    assert again.state_dict().keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


def test_it_judges_images(written):
    _, model, folder = written
    pixels = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    found = load_judge(str(folder), None, 3)(pixels, [0, 1, 2, 0], [""] * 4)
    expected = model(pixels / 255).softmax(-1)[torch.arange(4), torch.tensor([0, 1, 2, 0])]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_everyone_may_read_it(written):
    _, _, folder = written
    names = {"config.json", "model.safetensors", "preprocessor_config.json", "README.md"}
    assert {path.name for path in folder.iterdir()} == names
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o644}


def test_writing_changes_nothing(written):
    config, model, folder = written
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    state = torch.get_rng_state()
    write_pretrained(model, config, folder, labels=LABELS, side=32, card=CARD)
    assert torch.equal(torch.get_rng_state(), state)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model(torch.rand(1, 3, 32, 32)).requires_grad


def test_the_cards_code_runs(written, monkeypatch):
    _, model, folder = written
    check_code(model, folder, monkeypatch)


@pytest.mark.parametrize("head", ["linear", "dfr"])
@pytest.mark.parametrize("config", [SmallCNNConfig(width=8), ResNetConfig(depth=18, width=8)], ids=["small", "resnet"])
def test_what_transformers_does_not_know_opens_as_its_card_says(head, config, tmp_path, monkeypatch):
    model = spread(build_classifier(config, 3, 0))
    if head == "dfr":
        model.head = StandardisedHead(model.head.in_features, 3)
        torch.nn.init.normal_(model.head.weight)
    write_pretrained(model, config, tmp_path, labels=LABELS, side=32, card=CARD)
    ours = head == "dfr" or config.kind == "small_cnn"
    assert HubCard.load(tmp_path / "README.md").data.library_name == ("ffr_dist" if ours else "transformers")
    assert (tmp_path / "preprocessor_config.json").exists() != ours
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o644}
    check_code(model, tmp_path, monkeypatch)


def check_code(model, folder, monkeypatch):
    """Runs what the card shows, for a picture of each class that the model can be brought to answer."""
    code = re.search(r"```python\n(.*?)```", readme_of(folder), re.DOTALL)[1]
    monkeypatch.chdir(folder)
    picture().save("image.jpg", quality=100)
    with redirect_stdout(io.StringIO()) as told:
        exec(compile(code, "README.md", "exec"), {})
    logits = model(as_images(Image.open("image.jpg")))[0]
    assert logits.detach().topk(2).values.diff().abs() > 1e-3
    assert told.getvalue().strip() == LABELS[int(logits.argmax())]


def test_the_card_says_what_the_caller_knows(tmp_path):
    config = SmallCNNConfig(width=8)
    write_pretrained(build_classifier(config, 3, 0), config, tmp_path, labels=LABELS, side=32, card=CARD)
    text = readme_of(tmp_path)
    assert "| worst group (low_flowers) | 0.7500 | 4 |" in text
    assert "| group low_temple | 0.9000 | 100 |" in text
    assert "| synthetic, balanced | `" + "a" * 64 + "` |" in text
    assert "| learning rate | 0.001 |" in text
    assert "\\#1 \\| \\<b\\>odd\\</b\\>" in text
    card = HubCard(text)
    assert card.data.pipeline_tag == "image-classification"
    assert "ffr_dist" in card.data.tags
    assert card.data.fingerprints == {**CARD.trained_on, "test": CARD.tested_on}
    results = {result.metric_name: result for result in card.data.eval_results}
    assert results["accuracy, group low_temple"].metric_value == 0.9
    assert results["accuracy, group low_temple"].metric_args == {"n": 100}
    assert results["accuracy, worst group (low_flowers)"].metric_args == {"n": 4}
    assert {result.dataset_revision for result in results.values()} == {CARD.tested_on}
    assert card.data.model_name == CARD.name
