"""Image classifiers: what they are made of, and their weights as bytes.

A classifier takes floating-point images (N, 3, height, width) in 0 … 1, normalises them itself and answers logits. None
keeps statistics of batches, so that a gradient does not depend on how a batch is spread over processes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as bytes_from_tensors
from torch import nn

from ffr_dist.config import Config
from ffr_dist.errors import BrokenError
from ffr_dist.seeds import draw_seed

_MEAN, _STD = 0.45, 0.27
_NORM_GROUPS = 8
_POOLED = 4


class ClassifierConfig(Config):
    """A small convolutional network for images of any size."""

    kind: Literal["small_cnn"] = "small_cnn"
    width: int = Field(default=24, ge=_NORM_GROUPS, multiple_of=_NORM_GROUPS)
    """Channels of the first layer; 24 makes 92,298 parameters with two classes."""


def build_classifier(config: ClassifierConfig, classes: int, seed: int) -> nn.Module:
    """A classifier with fresh weights, which depend on the config and ``seed`` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(draw_seed(seed, config.kind, classes, "weights"))
        return SmallCNN(config.width, classes)


def save_weights(module: nn.Module) -> bytes:
    """All parameters and buffers as a safetensors file; equal weights, equal bytes."""
    return bytes_from_tensors({name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()})


def load_weights(body: bytes) -> Mapping[str, torch.Tensor]:
    """The state dict of :func:`save_weights`; BrokenError for anything but a whole safetensors file."""
    try:
        return tensors_from_bytes(body)
    except SafetensorError as error:
        raise BrokenError(f"the weights are not a whole safetensors file ({error}); train them again") from error


class SmallCNN(nn.Module):
    """Four convolutions with group normalisation, and a linear head over a 4x4 grid."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        # Of width 24: 24, 40, 64, 96; of another one in about these proportions, in whole normalisation groups.
        second, third, fourth = (_NORM_GROUPS * round(share * width / 24) for share in (5, 8, 12))
        self.features = nn.Sequential(
            nn.Conv2d(3, width, 5, stride=2, padding=2, bias=False),
            *_normed(width),
            nn.Conv2d(width, second, 3, padding=1, bias=False),
            nn.MaxPool2d(2, ceil_mode=True),
            *_normed(second),
            nn.Conv2d(second, third, 3, padding=1, bias=False),
            nn.MaxPool2d(2, ceil_mode=True),
            *_normed(third),
            nn.Conv2d(third, fourth, 3, padding=1, bias=False),
            *_normed(fourth),
            # Does nothing at 32x32, where the grid is 4x4 already.
            nn.AdaptiveAvgPool2d(_POOLED),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                # Convolutions are faster so, on CPUs too.
                module.weight = nn.Parameter(module.weight.detach().contiguous(memory_format=torch.channels_last))
        self.head = nn.Linear(fourth * _POOLED**2, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        normed = ((images - _MEAN) / _STD).contiguous(memory_format=torch.channels_last)
        logits: torch.Tensor = self.head(self.features(normed).flatten(1))
        return logits


def _normed(channels: int) -> tuple[nn.Module, nn.Module]:
    return nn.GroupNorm(_NORM_GROUPS, channels), nn.ReLU(inplace=True)
