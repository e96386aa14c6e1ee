"""A trained classifier as a folder for others: weights, config, preprocessor and card.

A network of transformers with a linear head is written as ``save_pretrained`` does, so that
``AutoModelForImageClassification.from_pretrained(folder)`` opens it and, for images that its image processor has
prepared, gives the same logits. Any other (the small network, the head that DFR fits) is written as safetensors with our
own config; the card says how it is opened.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from ffr_dist.models.architectures import ClassifierConfig
from ffr_dist.models.card import ModelCard, render_card
from ffr_dist.models.classifier import Classifier, save_weights

_MODE = 0o644
"""Libraries write weights for their owner alone."""
_PILLOW = {"bilinear": 2, "bicubic": 3}

_WITH_TRANSFORMERS = """
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification

processor = AutoImageProcessor.from_pretrained(folder)
model = AutoModelForImageClassification.from_pretrained(folder).eval()
with torch.inference_mode():
    logits = model(**processor(Image.open(image).convert("RGB"), return_tensors="pt")).logits
print(model.config.id2label[int(logits.argmax())])
"""
_WITH_US = """
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ffr_dist.models.architectures import classifier_config
from ffr_dist.models.classifier import build_classifier, load_weights
from ffr_dist.models.heads import take_head

settings = json.loads((Path(folder) / "config.json").read_text())
weights = load_weights((Path(folder) / "model.safetensors").read_bytes())
model = build_classifier(classifier_config(settings["model"]), len(settings["labels"]), 0).eval()
take_head(model, weights)
model.load_state_dict(weights)
pixels = np.asarray(Image.open(image).convert("RGB").resize((settings["side"], settings["side"]), Image.Resampling.BILINEAR))
with torch.inference_mode():
    logits = model(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None] / 255)
print(settings["labels"][int(logits.argmax())])
"""


def write_pretrained(
    model: Classifier, config: ClassifierConfig, folder: Path, *, labels: Sequence[str], side: int, card: ModelCard
) -> None:
    """Write it into ``folder``. ``labels`` are the classes' names; ``side`` is what it was trained at, in pixels."""
    from ffr_dist.models.backbones import Backbone  # noqa: PLC0415 (transformers is heavy)

    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(model.features, Backbone) and isinstance(model.head, nn.Linear):
        _write_transformers(model.features, model.head, folder, labels, side)
        library, opening = "transformers", _WITH_TRANSFORMERS
    else:
        _write_ours(model, config, folder, labels, side)
        library, opening = "ffr_dist", _WITH_US
    opening = 'folder, image = ".", "image.jpg"\n' + opening
    text = render_card(card, library=library, labels=labels, opening=opening)
    (folder / "README.md").write_text(text, encoding="utf-8")
    for path in folder.iterdir():
        path.chmod(_MODE)


def _write_transformers(backbone: Any, head: nn.Linear, folder: Path, labels: Sequence[str], side: int) -> None:
    from ffr_dist.models.backbones import as_transformers  # noqa: PLC0415 (heavy)
    from ffr_dist.models.quiet import quiet  # noqa: PLC0415 (heavy)

    with quiet():
        as_transformers(backbone, head, labels).save_pretrained(folder)
    wanted = backbone.preparation
    _write_json(
        folder / "preprocessor_config.json",
        {
            "image_processor_type": "ViTImageProcessor",  # resizes, scales and normalises, and nothing else
            "do_resize": True,
            "size": {"height": backbone.side or side, "width": backbone.side or side},
            "resample": _PILLOW[wanted.resample],
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": list(wanted.mean),
            "image_std": list(wanted.std),
        },
    )


def _write_ours(model: Classifier, config: ClassifierConfig, folder: Path, labels: Sequence[str], side: int) -> None:
    (folder / "model.safetensors").write_bytes(save_weights(model))
    settings = {"model": config.model_dump(mode="json"), "labels": list(labels), "side": side}
    _write_json(folder / "config.json", settings)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
