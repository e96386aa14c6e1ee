"""What a classifier can be made of: one config for each family of networks.

Nothing here imports torch: a recipe is read without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PositiveInt, TypeAdapter, model_validator

from ffr_dist.config import Config

NORM_GROUPS = 8
"""Channels of the small network come in groups that are normalised together."""


class SmallCNNConfig(Config):
    """A small convolutional network for images of any size, without statistics of batches."""

    kind: Literal["small_cnn"] = "small_cnn"
    width: int = Field(default=24, ge=NORM_GROUPS, multiple_of=NORM_GROUPS)
    """Channels of the first layer; 24 makes 92,298 parameters with two classes."""


class BackboneConfig(Config):
    """What networks of transformers have in common: given weights bring their sizes, fresh ones are told theirs."""

    weights: str | None = Field(default=None, min_length=1)
    """A folder as ``save_pretrained`` leaves it, the URL of one, or a hub id such as ``owner/name``; safetensors only. Its
    head is kept where it has as many classes as there are here. Without weights they are drawn."""

    @model_validator(mode="after")
    def _sizes_once(self) -> Self:
        names = [name for name in type(self).model_fields if name not in {"kind", "weights"}]
        given = [name for name in names if getattr(self, name) is not None]
        if self.weights is not None and given:
            raise ValueError(f"weights bring their own sizes: leave out {', '.join(given)}")
        return self


class ResNetConfig(BackboneConfig):
    """A residual network for images of any size. Its batch normalisation sees the batch."""

    kind: Literal["resnet"] = "resnet"
    depth: Literal[18, 34, 50] | None = None
    """50 where nothing is said."""
    width: PositiveInt | None = None
    """Channels of the first layer: 64, as published, where nothing is said."""


class ConvNextConfig(BackboneConfig):
    """A convolutional network with layer normalisation, for images of any size from 32 pixels."""

    kind: Literal["convnext"] = "convnext"
    size: Literal["micro", "tiny", "small", "base", "large"] | None = None
    """``tiny`` where nothing is said; ``micro`` is ours, for tests and laptops."""


class VisionTransformerConfig(BackboneConfig):
    """A transformer over patches; images are brought to its own side. ``clip`` is the image encoder of a CLIP."""

    kind: Literal["vit", "deit", "clip"]
    size: Literal["micro", "tiny", "small", "base", "large"] | None = None
    """``base`` where nothing is said; ``micro`` is ours, for tests and laptops."""
    side: PositiveInt | None = None
    """Pixels: 224 where nothing is said."""
    patch: PositiveInt | None = None
    """Pixels: 16 where nothing is said."""

    @model_validator(mode="after")
    def _whole_patches(self) -> Self:
        side, patch = self.side or DEFAULT_SIDE, self.patch or DEFAULT_PATCH
        if side % patch:
            raise ValueError(f"side {side} is not a multiple of patch {patch}")
        return self


DEFAULT_SIDE, DEFAULT_PATCH = 224, 16

ClassifierConfig = Annotated[
    SmallCNNConfig | ResNetConfig | ConvNextConfig | VisionTransformerConfig, Field(discriminator="kind")
]
"""Any of them, told apart by ``kind``."""


def classifier_config(data: Mapping[str, Any]) -> ClassifierConfig:
    """The config that was dumped into a stage's or a folder's JSON; pydantic's ValidationError for anything else."""
    adapter: TypeAdapter[ClassifierConfig] = TypeAdapter(ClassifierConfig)
    return adapter.validate_python(data)
