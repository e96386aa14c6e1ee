"""Networks of transformers as features and head: fresh, or from weights that users bring."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from ffr_dist.errors import ConfigError
from ffr_dist.models.architectures import (
    DEFAULT_PATCH,
    DEFAULT_SIDE,
    ConvNextConfig,
    ResNetConfig,
    VisionTransformerConfig,
)
from ffr_dist.models.pretrained import Preparation, read_preparation, read_sizes, weights_folder
from ffr_dist.models.quiet import quiet

_CLASSES: Mapping[str, tuple[str, str, str]] = {
    "resnet": ("ResNetConfig", "ResNetForImageClassification", "resnet"),
    "convnext": ("ConvNextConfig", "ConvNextForImageClassification", "convnext"),
    "vit": ("ViTConfig", "ViTForImageClassification", "vit"),
    "deit": ("DeiTConfig", "DeiTForImageClassification", "deit"),
    "clip": ("CLIPConfig", "CLIPForImageClassification", "vision_model"),
}
"""Kind → config, model, and the attribute of the model that is all but its head."""

_RESNETS = {18: ((2, 2, 2, 2), "basic"), 34: ((3, 4, 6, 3), "basic"), 50: ((3, 4, 6, 3), "bottleneck")}
_CONVNEXTS = {
    "micro": ((1, 1, 2, 1), 16),
    "tiny": ((3, 3, 9, 3), 96),
    "small": ((3, 3, 27, 3), 96),
    "base": ((3, 3, 27, 3), 128),
    "large": ((3, 3, 27, 3), 192),
}
"""Layers of each stage, width of the first."""
_TRANSFORMERS = {
    "micro": (64, 4, 2),
    "tiny": (192, 12, 3),
    "small": (384, 12, 6),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
}
"""Width, layers, heads."""


class Backbone(nn.Module):
    """Images (N, 3, height, width) in 0 … 1 → pooled features (N, width), as transformers pools them for its head."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, kind: str, model: Any, preparation: Preparation) -> None:
        super().__init__()
        self.kind = kind
        self.preparation = preparation
        self.config = model.config
        head = model.classifier[1] if kind == "resnet" else model.classifier
        self.width = int(head.in_features)
        self.encoder = getattr(model, _CLASSES[kind][2])
        self.side: int | None = self.encoder.config.image_size if kind in {"vit", "deit", "clip"} else None
        for name, value in (("mean", preparation.mean), ("std", preparation.std)):
            # Not among the weights: they come with the config.
            self.register_buffer(name, torch.tensor(value).reshape(3, 1, 1), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        out = self.encoder(pixel_values=self.prepared(images))
        pooled: torch.Tensor
        if self.kind in {"vit", "deit"}:
            pooled = out.last_hidden_state[:, 0]
        elif self.kind == "clip":
            pooled = out.last_hidden_state[:, 1:].mean(1)
        else:
            pooled = out.pooler_output.flatten(1)
        return pooled

    def prepared(self, images: torch.Tensor) -> torch.Tensor:
        """Normalised, and of the side that the network wants where it wants one."""
        if self.side is not None and images.shape[2:] != (self.side, self.side):
            mode = self.preparation.resample
            images = functional.interpolate(images, (self.side, self.side), mode=mode, antialias=True)
            if mode == "bicubic":
                images = images.clamp(0, 1)
        return (images - self.mean) / self.std


def build_backbone(
    config: ResNetConfig | ConvNextConfig | VisionTransformerConfig, classes: int
) -> tuple[Backbone, nn.Linear | None]:
    """Features, and the head where the weights bring one for as many classes. What is drawn comes from torch's generator."""
    if config.weights is not None:
        return _opened(weights_folder(config.weights, config.kind), config.kind, classes)
    model = _model_class(config.kind)(_library_config(config.kind, _sizes(config), classes))
    return _backbone(config.kind, model, Preparation()), None


def as_transformers(backbone: Backbone, head: nn.Linear, labels: Sequence[str]) -> Any:
    """The model of transformers that gives the same logits for prepared images. Shares its tensors."""
    config = copy.deepcopy(backbone.config)
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: number for number, label in enumerate(labels)}
    config.problem_type = "single_label_classification"
    with torch.device("meta"):
        model = _model_class(backbone.kind)(config)
    setattr(model, _CLASSES[backbone.kind][2], backbone.encoder)
    model.classifier = nn.Sequential(nn.Flatten(), head) if backbone.kind == "resnet" else head
    return model


def _opened(folder: Path, kind: str, classes: int) -> tuple[Backbone, nn.Linear | None]:
    try:
        with quiet():
            model, told = _model_class(kind).from_pretrained(
                str(folder),
                config=_library_config(kind, read_sizes(folder, kind), classes),
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
    except Exception as error:  # the library raises what it likes about a folder
        raise ConfigError(f"classifier weights {folder} cannot be loaded: {error}") from error
    # Of another shape: names, or since release 5 names with both shapes.
    unlike = {entry if isinstance(entry, str) else entry[0] for entry in told["mismatched_keys"]}
    lacking = {*told["missing_keys"], *unlike}
    body = sorted(name for name in lacking if not name.startswith("classifier."))
    if body:
        raise ConfigError(
            f"classifier weights {folder}: {body[0]} is missing or of another shape than config.json says"
        )
    head = model.classifier[1] if kind == "resnet" else model.classifier
    return _backbone(kind, model, read_preparation(folder)), None if lacking else head


def _backbone(kind: str, model: Any, preparation: Preparation) -> Backbone:
    if kind == "clip":
        # Only the pooled output passes it, which the head does not see; a parameter without a gradient stops DDP.
        model.vision_model.post_layernorm.requires_grad_(False)
    return Backbone(kind, model.train(), preparation)


def _model_class(kind: str) -> Any:
    import transformers  # noqa: PLC0415 (heavy)

    return getattr(transformers, _CLASSES[kind][1])


def _library_config(kind: str, sizes: Mapping[str, Any], classes: int) -> Any:
    import transformers  # noqa: PLC0415 (heavy)

    made = getattr(transformers, _CLASSES[kind][0])
    return made(**({"vision_config": dict(sizes)} if kind == "clip" else sizes), num_labels=classes)


def _sizes(config: ResNetConfig | ConvNextConfig | VisionTransformerConfig) -> dict[str, Any]:
    """What :data:`SIZES` names, of a network with fresh weights."""
    if isinstance(config, ResNetConfig):
        depths, layer = _RESNETS[config.depth or 50]
        width = config.width or 64
        first = 4 * width if layer == "bottleneck" else width
        widths = [first, 2 * first, 4 * first, 8 * first]
        return {"embedding_size": width, "hidden_sizes": widths, "depths": list(depths), "layer_type": layer}
    if isinstance(config, ConvNextConfig):
        depths, first = _CONVNEXTS[config.size or "tiny"]
        return {"hidden_sizes": [first, 2 * first, 4 * first, 8 * first], "depths": list(depths)}
    width, layers, heads = _TRANSFORMERS[config.size or "base"]
    return {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "image_size": config.side or DEFAULT_SIDE,
        "patch_size": config.patch or DEFAULT_PATCH,
    }
