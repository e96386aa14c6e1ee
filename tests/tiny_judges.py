"""Tiny real models, saved as their libraries save them: a classifier, a CLIP, a safety checker, a trained stage of ours."""

import hashlib
import json
import shutil
from pathlib import Path

import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig, ViTConfig, ViTForImageClassification

from ffr_dist.models.architectures import SmallCNNConfig
from ffr_dist.models.classifier import build_classifier, save_weights

SHIPPED = Path(__file__).parents[1] / "ffr_dist" / "weights" / "demo"
_TINY = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
_STAGE_CONFIG = SmallCNNConfig(width=8)
_PREPROCESSOR = {
    "do_resize": True,
    "size": {"shortest_edge": 24},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": 16, "width": 16},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.48, 0.46, 0.41],
    "image_std": [0.27, 0.26, 0.28],
}


def write_preprocessor(folder, kind="CLIPImageProcessor", **changes):
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"image_processor_type": kind, **_PREPROCESSOR, **changes}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


def write_classifier(folder, classes=2, seed=0):
    """A vision transformer with spread logits."""
    torch.manual_seed(seed)
    model = ViTForImageClassification(ViTConfig(**_TINY, image_size=16, patch_size=8, num_labels=classes))
    with torch.no_grad():
        model.classifier.weight.mul_(40)
    model.save_pretrained(folder)
    return write_preprocessor(folder, "ViTImageProcessor")


def clip_config():
    text = CLIPTextConfig(**_TINY, vocab_size=116, max_position_embeddings=12, eos_token_id=115, bos_token_id=114)
    vision = CLIPVisionConfig(**_TINY, image_size=16, patch_size=8)
    return CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=8)


def write_clip(folder, seed=0):
    torch.manual_seed(seed)
    CLIPModel(clip_config()).save_pretrained(folder)
    for path in (SHIPPED / "tokenizer").iterdir():
        shutil.copy(path, folder)
    return write_preprocessor(folder)


def add_safety_checker(pipe, seed=0):
    """Give a copy of a pipeline's folder a checker that refuses about half of all images."""
    torch.manual_seed(seed)
    checker = StableDiffusionSafetyChecker(clip_config())
    with torch.no_grad():
        for name in ("concept_embeds", "special_care_embeds"):
            getattr(checker, name).normal_()
        checker.concept_embeds_weights.fill_(2.0)
        checker.concept_embeds_weights[:3] = 0.35
        checker.special_care_embeds_weights.fill_(0.3)
    checker.save_pretrained(pipe / "safety_checker")
    write_preprocessor(pipe / "feature_extractor")
    index = pipe / "model_index.json"
    parts = {
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        "feature_extractor": ["transformers", "CLIPImageProcessor"],
    }
    index.write_text(json.dumps(json.loads(index.read_text()) | parts))
    return checker.eval()


def write_stage(folder, classes=2, seed=0, config=_STAGE_CONFIG, head=None):
    """As ``launch`` leaves a trained stage; ``head`` takes the place of its own."""
    folder.mkdir(parents=True)
    model = build_classifier(config, classes, seed)
    model.head = head or model.head
    body = save_weights(model)
    name = f"weights-{hashlib.sha256(body).hexdigest()[:12]}.safetensors"
    (folder / name).write_bytes(body)
    stage = {"weights": f"train/0123456789abcdef/{name}", "model": config.model_dump(mode="json")}
    (folder / "stage.json").write_text(json.dumps(stage))
    return folder
