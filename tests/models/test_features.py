"""A judge scores each image for itself, as its library would, and runs nothing that a folder brings along."""

import json
import subprocess
import sys
import uuid

import fsspec
import numpy as np
import pytest
import torch
from PIL import Image
from tiny_judges import SHIPPED, write_classifier, write_clip, write_preprocessor, write_stage
from transformers import AutoModelForImageClassification, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from ffr_dist.errors import ConfigError, DataError
from ffr_dist.models.architectures import ResNetConfig, SmallCNNConfig
from ffr_dist.models.classifier import build_classifier
from ffr_dist.models.features import check_features, judge_sha256, load_features, load_judge, preprocess
from ffr_dist.models.generator import DiffusersSampler, GeneratorConfig, check_generator, weights_sha256
from ffr_dist.models.heads import StandardisedHead
from ffr_dist.quota import Request

LABELS = [0, 1, 1, 0, 1, 0]
PROMPTS = [f"a photo of the digit {name}" for name in ("one", "two", "one", "six", "nine", "two")]
WRITERS = {"classifier": write_classifier, "clip": write_clip, "stage": write_stage}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=WRITERS)
def folder(request, tmp_path):
    return WRITERS[request.param](tmp_path / request.param)


def images(side=32, count=6):
    return torch.randint(0, 256, (count, 3, side, side), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def judge(folder, made=None, labels=LABELS, prompts=PROMPTS):
    model = load_judge(str(folder), None, 2)
    return model.to(torch.device("cpu"))(images() if made is None else made, labels, prompts)


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_score_belongs_to_its_own_image_label_and_prompt(folder):
    scores = judge(folder)
    assert scores.dtype == torch.float32
    assert scores.shape == (6,)
    assert len(set(scores.tolist())) > 3
    order = [5, 2, 0, 4, 1, 3]
    turned = judge(folder, images()[order], [LABELS[n] for n in order], [PROMPTS[n] for n in order])
    assert torch.equal(turned, scores[order])
    padded = torch.cat([images()[:2], images()[1:2].expand(4, -1, -1, -1)])
    assert torch.equal(judge(folder, padded, [0, 1, 1, 1, 1, 1], [*PROMPTS[:2], *PROMPTS[1:2] * 4])[:2], scores[:2])


def test_a_classifiers_score_is_the_probability_of_the_label(tmp_path):
    folder = write_classifier(tmp_path / "vit")
    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    processor = CLIPImageProcessorPil.from_pretrained(folder)
    given = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images()]
    with torch.no_grad():
        wanted = model(**processor(given, return_tensors="pt")).logits.softmax(-1)[range(6), LABELS]
    # Pillow rounds the resized image to whole levels, which the device does not.
    assert torch.allclose(judge(folder), wanted, atol=0.03)
    opposite = judge(folder, labels=[1 - label for label in LABELS])
    assert torch.allclose(judge(folder) + opposite, torch.ones(6))


def test_a_clips_score_is_the_cosine_of_image_and_prompt(tmp_path):
    folder = write_clip(tmp_path / "clip")
    model, tokenizer = CLIPModel.from_pretrained(folder).eval(), CLIPTokenizer.from_pretrained(folder)
    tokens = tokenizer(PROMPTS, padding="max_length", max_length=12, return_tensors="pt")
    pixels = preprocess(json.loads((folder / "preprocessor_config.json").read_text()))(images())
    with torch.no_grad():
        out = model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask, pixel_values=pixels)
    assert torch.allclose(judge(folder), (out.image_embeds * out.text_embeds).sum(1), atol=1e-5)


def test_a_trained_stage_is_judged_by_the_network_that_it_holds(tmp_path):
    folder = write_stage(tmp_path / "stage", seed=4)
    model = build_classifier(SmallCNNConfig(width=8), 2, 4).eval()
    with torch.no_grad():
        wanted = model(images().float() / 255).softmax(-1)[range(6), LABELS]
    assert torch.equal(judge(folder), wanted)


@pytest.mark.parametrize("config", [SmallCNNConfig(width=8), ResNetConfig(depth=18, width=8)], ids=["small", "resnet"])
@pytest.mark.parametrize("dfr", [False, True])
def test_a_stage_of_any_kind_with_any_head_is_a_judge(config, dfr, tmp_path):
    model = build_classifier(config, 2, 4).eval()
    if dfr:
        model.head = StandardisedHead(model.head.in_features, 2)
        torch.nn.init.normal_(model.head.weight)
    folder = write_stage(tmp_path / "stage", seed=4, config=config, head=model.head)
    with torch.no_grad():
        wanted = model(images(32).float() / 255).softmax(-1)[range(6), LABELS]
    torch.testing.assert_close(judge(folder, images(32)), wanted)


@pytest.mark.parametrize("side", [16, 20, 24, 32, 64])
def test_preprocessing_is_the_librarys_up_to_its_rounding(tmp_path, side):
    folder = write_preprocessor(tmp_path / "p")
    made = images(side) // 2 + 64  # Pillow clips between its two passes, which only noise at the limits shows
    mine = preprocess(json.loads((folder / "preprocessor_config.json").read_text()))(made)
    given = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in made]
    theirs = CLIPImageProcessorPil.from_pretrained(folder)(given, return_tensors="pt").pixel_values
    assert mine.shape == theirs.shape == (6, 3, 16, 16)
    assert np.abs((mine - theirs).numpy()).max() < 1.5 / 255 / 0.26


def test_the_hash_pins_every_file_that_is_loaded(folder):
    first = judge_sha256(str(folder))
    load_judge(str(folder), first, 2)
    (folder / "README.md").write_text("not loaded")
    assert judge_sha256(str(folder)) == first
    settings = folder / ("stage.json" if (folder / "stage.json").exists() else "preprocessor_config.json")
    edit(settings, note=1)
    assert judge_sha256(str(folder)) != first
    with pytest.raises(ConfigError, match=first):
        load_judge(str(folder), first, 2)


@pytest.mark.parametrize("kind", ["classifier", "stage"])
def test_a_classifier_of_too_few_classes_is_refused(tmp_path, kind):
    with pytest.raises(ConfigError, match="knows 2 classes, the groups have 3"):
        load_judge(str(WRITERS[kind](tmp_path / kind)), None, 3)


def pickled(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def truncated(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-8])


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (pickled, "pytorch_model.bin is a pickle"),
        (truncated, "not a whole safetensors file"),
        (lambda folder: edit(folder / "config.json", auto_map={"AutoModel": "m.M"}), "auto_map"),
        (lambda folder: edit(folder / "config.json", vision_config={"attn_implementation": "hub/kernel"}), "attn_impl"),
        (lambda folder: edit(folder / "config.json", architectures=["BertModel"]), "BertModel"),
        (lambda folder: (folder / "preprocessor_config.json").unlink(), "preprocessor_config.json is missing"),
        (lambda folder: edit(folder / "preprocessor_config.json", size={"height": 8, "width": 9}), "square"),
        (lambda folder: edit(folder / "preprocessor_config.json", resample=1), "resample 1"),
        (lambda folder: edit(folder / "preprocessor_config.json", crop_pct=0.875), "crop_pct is not known"),
        (lambda folder: (folder / "config.json").unlink(), "neither config.json"),
    ],
)
def test_what_cannot_or_must_not_be_loaded_is_refused_by_name(tmp_path, spoil, told):
    folder = write_classifier(tmp_path / "vit")
    spoil(folder)
    with pytest.raises(ConfigError, match=told):
        load_judge(str(folder), None, 2)


def test_a_stage_without_its_weights_or_with_others_is_refused(tmp_path):
    folder = write_stage(tmp_path / "one")
    edit(folder / "stage.json", model={"kind": "small_cnn", "width": 16})
    with pytest.raises(ConfigError, match="not a trained classifier"):
        load_judge(str(folder), None, 2)
    edit(folder / "stage.json", weights="../../elsewhere.bin")
    with pytest.raises(ConfigError, match="names no safetensors file"):
        load_judge(str(folder), None, 2)


def test_a_folder_that_is_not_there_is_told(tmp_path):
    with pytest.raises(ConfigError, match="no such folder"):
        load_judge(str(tmp_path / "none"), None, 2)


@pytest.fixture
def uploaded(tmp_path, monkeypatch):
    """Puts a folder where only fsspec finds it; its URL."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    made = []

    def upload(folder):
        made.append(f"/weights-{uuid.uuid4().hex}")
        fsspec.filesystem("memory").put(str(folder), made[-1], recursive=True)
        return f"memory:/{made[-1]}"

    yield upload
    for place in made:
        fsspec.filesystem("memory").rm(place, recursive=True)


def test_a_judge_comes_from_any_url(tmp_path, uploaded):
    folder = write_classifier(tmp_path / "vit")
    url = uploaded(folder)
    assert judge_sha256(url) == judge_sha256(str(folder))
    assert torch.equal(judge(url), judge(folder))
    assert list((tmp_path / "cache" / "ffr_dist" / "weights").iterdir())


def test_a_generator_comes_from_any_url(uploaded):
    shipped = GeneratorConfig(weights="embedded", steps=1, guidance=1.0, size=32)
    config = shipped.model_copy(update={"weights": uploaded(SHIPPED)})
    check_generator(config)
    assert weights_sha256(config) == weights_sha256(shipped)
    asked = [Request(group="low_temple", k=0, prompt=PROMPTS[0])]
    one, other = (DiffusersSampler(each, seed=0) for each in (config, shipped))
    assert torch.equal(one.sample(asked, one.fetch(asked)).images, other.sample(asked, other.fetch(asked)).images)


def test_a_url_with_nothing_at_it_is_told(uploaded):
    with pytest.raises(DataError, match="not there"):
        judge_sha256("memory://none-there")


def test_hashing_a_judge_loads_nothing_heavy(tmp_path):
    folder = write_clip(tmp_path / "clip")
    code = (
        "import sys; from ffr_dist.models.features import judge_sha256; judge_sha256(sys.argv[1]); "
        "sys.exit(bool({'torch', 'transformers', 'diffusers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code, str(folder)], check=False).returncode == 0


def test_features_are_what_the_last_layer_sees(folder):
    """As the library computes them; of each image for itself, with the hash of the judge's files."""
    extract = load_features(str(folder), torch.device("cpu"))
    given = np.ascontiguousarray(images().permute(0, 2, 3, 1).numpy())
    found = extract(given)
    assert found.dtype == np.float32
    assert extract.sha256 == judge_sha256(str(folder))
    np.testing.assert_allclose(found[2:3], extract(given[2:3]), atol=1e-5)
    assert len({row.tobytes() for row in found}) == 6
    if folder.name == "classifier":
        model = AutoModelForImageClassification.from_pretrained(folder).eval()
        logits = (
            load_judge(str(folder), None, 2)
            ._model(pixel_values=preprocess(json.loads((folder / "preprocessor_config.json").read_text()))(images()))
            .logits
        )
        ours = model.classifier(torch.from_numpy(found))
        torch.testing.assert_close(ours, logits, atol=1e-4, rtol=1e-4)
    if folder.name == "clip":
        model = CLIPModel.from_pretrained(folder)
        assert found.shape[1] == model.config.projection_dim


def test_features_of_other_files_are_refused(folder):
    with pytest.raises(ConfigError, match="restore them"):
        load_features(str(folder), torch.device("cpu"), "0" * 64)
    check_features(str(folder))
    with pytest.raises(ConfigError, match=r"audit\.features .* no such folder"):
        check_features(str(folder / "none"))
