"""A pipeline makes the same image for the same candidate, and runs nothing that a folder brings along."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file
from tiny_judges import add_safety_checker

from ffr_dist.datasets.embedded import prompts
from ffr_dist.errors import ConfigError
from ffr_dist.models.features import preprocess
from ffr_dist.models.generator import DiffusersSampler, GeneratorConfig, check_generator, weights_sha256
from ffr_dist.quota import Request

SHIPPED = Path(__file__).parents[2] / "ffr_dist" / "weights" / "demo"
EMBEDDED = GeneratorConfig(weights="embedded", steps=3, guidance=2.0, size=32)
REQUESTS = [Request(group=group, k=k, prompt=texts[k]) for k in range(2) for group, texts in sorted(prompts().items())]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def sampler():
    return DiffusersSampler(EMBEDDED, seed=0)


@pytest.fixture
def folder(tmp_path):
    return Path(shutil.copytree(SHIPPED, tmp_path / "pipe"))


def config_of(folder):
    return EMBEDDED.model_copy(update={"weights": str(folder)})


def make(sampler, requests):
    return sampler.sample(requests, sampler.fetch(requests))


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_diffusers_opens_the_shipped_folder_without_a_network(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    pipe = StableDiffusionPipeline.from_pretrained(str(SHIPPED), local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    text = "a photo of the digit seven over flowers"
    images = pipe(text, num_inference_steps=2, height=32, width=32, output_type="np").images
    assert images.shape == (1, 32, 32, 3)
    # Each word is a token, between a start and an end.
    assert len(pipe.tokenizer(text).input_ids) == len(text.split()) + 2


def test_the_shipped_folder_is_small_and_everybody_may_read_it():
    paths = [path for path in SHIPPED.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in paths) < 10_000_000
    assert {path.stat().st_mode & 0o777 for path in paths} == {0o644}
    assert {"vocab.json", "merges.txt"} <= {path.name for path in paths}


def test_a_batch_has_the_shape_that_was_asked_for_and_is_not_blank(sampler):
    made = make(sampler, REQUESTS)
    assert made.images.shape == (8, 3, 32, 32)
    assert made.images.dtype == torch.uint8
    assert made.valid.dtype == torch.bool
    assert made.valid.all()
    assert (made.images.float().flatten(1).std(1) > 5).all()


def test_the_same_candidates_have_the_same_bytes_in_another_sampler(sampler):
    again = DiffusersSampler(EMBEDDED, seed=0)
    assert torch.equal(make(sampler, REQUESTS).images, make(again, REQUESTS).images)


def test_an_image_depends_on_its_own_request_and_not_on_those_beside_it(sampler):
    images = make(sampler, REQUESTS).images
    order = [5, 2, 7, 0, 1, 6, 3, 4]
    assert torch.equal(make(sampler, [REQUESTS[place] for place in order]).images, images[order])
    beside = [REQUESTS[0], *(Request(group="other", k=k, prompt="a photo") for k in range(7))]
    assert torch.equal(make(sampler, beside).images[0], images[0])


def test_group_k_seed_and_prompt_each_make_another_image(sampler):
    first = Request(group="low_temple", k=0, prompt="a photo of the digit one over temple")
    others = [
        Request(group="low_flowers", k=0, prompt=first.prompt),
        Request(group="low_temple", k=1, prompt=first.prompt),
        Request(group="low_temple", k=0, prompt="a photo of the digit eight over flowers"),
    ]
    images = make(sampler, [first, *others]).images
    moved = make(DiffusersSampler(EMBEDDED, seed=1), [first, *others]).images
    assert len({image.numpy().tobytes() for image in [*images, moved[0]]}) == 5


def test_an_image_that_is_not_finite_is_told_and_does_not_touch_the_others(sampler):
    latents = sampler.fetch(REQUESTS)
    clean = sampler.sample(REQUESTS, latents.clone())
    latents[3], latents[6] = float("nan"), float("inf")
    made = sampler.sample(REQUESTS, latents)
    assert made.valid.tolist() == [True, True, True, False, True, True, False, True]
    assert torch.equal(made.images[made.valid], clean.images[made.valid])


def test_checking_a_generator_loads_nothing_heavy():
    code = (
        "import sys; from ffr_dist.models.generator import GeneratorConfig, check_generator; "
        "check_generator(GeneratorConfig(weights='embedded', steps=1, guidance=1.0, size=32)); "
        "sys.exit(bool({'torch', 'diffusers', 'transformers', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_hash_pins_every_byte_and_name_that_is_loaded(folder):
    first = weights_sha256(EMBEDDED)
    assert weights_sha256(config_of(folder)) == first
    (folder / "README.md").write_text("not a part of the pipeline")
    assert weights_sha256(config_of(folder)) == first
    tensors = load_file(folder / "vae/diffusion_pytorch_model.safetensors")
    name = min(tensors)
    tensors[name] = tensors[name] + 1
    save_file(tensors, folder / "vae/diffusion_pytorch_model.safetensors")
    assert weights_sha256(config_of(folder)) != first


def remove(name):
    return lambda folder: (folder / name).unlink()


def pickled(folder):
    tensors = load_file(folder / "unet/diffusion_pytorch_model.safetensors")
    (folder / "unet/diffusion_pytorch_model.safetensors").unlink()
    torch.save(tensors, folder / "unet/diffusion_pytorch_model.bin")


def truncated(folder):
    path = folder / "unet/diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def pointer(folder):
    (folder / "vae/diffusion_pytorch_model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")


def custom_pipeline(folder):
    edit(folder / "model_index.json", _class_name=["pipeline", "MyPipeline"])


def unknown_pipeline(folder):
    edit(folder / "model_index.json", _class_name="MyPipeline")


def custom_part(folder):
    edit(folder / "model_index.json", unet=["my_unet", "UNet2DConditionModel"])


def remote_code(folder):
    edit(folder / "text_encoder/config.json", auto_map={"AutoModel": "model.Model"})


def ancestral(folder):
    edit(folder / "model_index.json", scheduler=["diffusers", "EulerAncestralDiscreteScheduler"])


def sde(folder):
    edit(folder / "scheduler/scheduler_config.json", algorithm_type="sde-dpmsolver++")


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (remove("model_index.json"), "model_index.json is missing"),
        (
            remove("unet/diffusion_pytorch_model.safetensors"),
            "the weights .*unet/diffusion_pytorch_model.safetensors are missing",
        ),
        (remove("text_encoder/config.json"), "text_encoder/config.json is missing"),
        (pickled, "unet/diffusion_pytorch_model.bin is a pickle"),
        (truncated, "not a whole safetensors file"),
        (pointer, "not a whole safetensors file"),
        (custom_pipeline, "custom pipelines are refused"),
        (unknown_pipeline, "custom pipelines are refused"),
        (custom_part, "only UNet2DConditionModel of diffusers"),
        (remote_code, "auto_map"),
        (ancestral, "EulerAncestralDiscreteScheduler draws noise.*DDIMScheduler.*UniPCMultistepScheduler"),
        (sde, r"sde-dpmsolver\+\+' draws noise"),
    ],
)
def test_a_folder_that_cannot_or_must_not_be_run_is_refused_by_name(folder, spoil, told):
    spoil(folder)
    for refusing in (check_generator, weights_sha256, lambda config: DiffusersSampler(config, seed=0)):
        with pytest.raises(ConfigError, match=told) as raised:
            refusing(config_of(folder))
        assert str(folder) in str(raised.value)


def test_a_folder_that_is_not_there_is_not_taken_for_a_hub_id(tmp_path):
    for weights in (str(tmp_path / "none"), "./none", "none"):
        with pytest.raises(ConfigError, match="no such folder"):
            check_generator(EMBEDDED.model_copy(update={"weights": weights}))
    check_generator(EMBEDDED.model_copy(update={"weights": "owner/name"}))


def test_a_size_that_the_pipeline_cannot_make_is_refused():
    with pytest.raises(ConfigError, match=r"size 36 does not suit.*multiple of 8"):
        check_generator(EMBEDDED.model_copy(update={"size": 36}))


@pytest.fixture
def guarded(folder):
    """The shipped pipeline with a safety checker that refuses about half of all images, and the checker."""
    return folder, add_safety_checker(folder)


def test_the_safety_checkers_verdict_is_a_reason_and_no_image_is_blacked_out(guarded, sampler):
    folder, checker = guarded
    made = make(DiffusersSampler(config_of(folder), seed=0), REQUESTS)
    assert torch.equal(made.images, make(sampler, REQUESTS).images)
    settings = json.loads((folder / "feature_extractor" / "preprocessor_config.json").read_text())
    _, wanted = checker(preprocess(settings)(made.images), torch.zeros(8, 3, 4, 4))
    assert made.rejects["nsfw"].tolist() == wanted
    assert 0 < sum(wanted) < 8


def test_a_pipeline_without_a_checker_rejects_nothing(sampler, folder):
    assert make(sampler, REQUESTS).rejects == {}
    edit(folder / "model_index.json", safety_checker=[None, None], feature_extractor=[None, None])
    assert make(DiffusersSampler(config_of(folder), seed=0), REQUESTS).rejects == {}


def test_the_checker_belongs_to_the_weights(guarded):
    folder, _ = guarded
    first = weights_sha256(config_of(folder))
    assert first != weights_sha256(EMBEDDED)
    edit(folder / "feature_extractor" / "preprocessor_config.json", resample=2)
    assert weights_sha256(config_of(folder)) != first


def checker_pickled(folder):
    (folder / "safety_checker/model.safetensors").rename(folder / "safety_checker/pytorch_model.bin")


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (checker_pickled, "safety_checker/pytorch_model.bin is a pickle"),
        (remove("feature_extractor/preprocessor_config.json"), "feature_extractor/preprocessor_config.json is missing"),
        (lambda folder: edit(folder / "model_index.json", safety_checker=["mine", "Checker"]), "safety_checker to be"),
        (lambda folder: edit(folder / "model_index.json", feature_extractor=[None, None]), "feature_extractor to be"),
    ],
)
def test_a_checker_that_cannot_be_loaded_is_refused_by_name(guarded, spoil, told):
    folder, _ = guarded
    spoil(folder)
    with pytest.raises(ConfigError, match=told):
        check_generator(config_of(folder))
