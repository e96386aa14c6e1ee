"""Image classifiers: pooled features and a head, and their weights as bytes.

A classifier takes floating-point images (N, 3, height, width) in 0 … 1, normalises them itself, brings them to its own side
where it has one, and answers logits. ``features(images)`` are (N, width); ``head`` makes logits of them.

Only ``resnet`` keeps statistics of batches; the gradient of any other does not depend on how a batch is spread over
processes. None draws random numbers while it trains.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as bytes_from_tensors
from torch import nn

from ffr_dist.errors import BrokenError
from ffr_dist.models.architectures import NORM_GROUPS, ClassifierConfig, SmallCNNConfig
from ffr_dist.seeds import draw_seed

_MEAN, _STD = 0.45, 0.27
_POOLED = 4


class Classifier(nn.Module):
    """``features``, then ``head``."""

    def __init__(self, features: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.features = features
        self.head = head

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.features(images))
        return logits


def build_classifier(config: ClassifierConfig, classes: int, seed: int) -> Classifier:
    """A classifier whose fresh weights depend on the config and ``seed`` alone; all of them, or those that the config's
    weights lack.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(draw_seed(seed, config.kind, classes, "weights"))
        if isinstance(config, SmallCNNConfig):
            convolutions = SmallCNN(config.width)
            return Classifier(convolutions, nn.Linear(convolutions.width, classes))
        from ffr_dist.models.backbones import build_backbone  # noqa: PLC0415 (transformers is heavy)

        features, head = build_backbone(config, classes)
        if head is None:
            torch.manual_seed(draw_seed(seed, config.kind, classes, "head"))
            head = nn.Linear(features.width, classes)
        return Classifier(features, head)


def batch_norms(model: nn.Module) -> list[nn.Module]:
    """The layers that keep statistics of batches; none but in a ``resnet``.

    To freeze them is to keep these in evaluation mode: they normalise by the statistics that they came with, and no longer
    change them. Their scale and shift are parameters like any other and go on learning.
    """
    return [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]  # noqa: SLF001


def save_weights(module: nn.Module) -> bytes:
    """All parameters and buffers as a safetensors file; equal weights, equal bytes."""
    return bytes_from_tensors({name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()})


def load_weights(body: bytes) -> Mapping[str, torch.Tensor]:
    """The state dict of :func:`save_weights`; BrokenError for anything but a whole safetensors file."""
    try:
        return tensors_from_bytes(body)
    except SafetensorError as error:
        raise BrokenError(f"the weights are not a whole safetensors file ({error}); train them again") from error


class SmallCNN(nn.Sequential):
    """Four convolutions with group normalisation, pooled to a 4x4 grid."""

    def __init__(self, width: int) -> None:
        # Of width 24: 24, 40, 64, 96; of another one in about these proportions, in whole normalisation groups.
        second, third, fourth = (NORM_GROUPS * round(share * width / 24) for share in (5, 8, 12))
        super().__init__(
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
        for module in self:
            if isinstance(module, nn.Conv2d):
                # Convolutions are faster so, on CPUs too.
                module.weight = nn.Parameter(module.weight.detach().contiguous(memory_format=torch.channels_last))
        self.width = fourth * _POOLED**2

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        hidden = ((images - _MEAN) / _STD).contiguous(memory_format=torch.channels_last)
        for layer in self:
            hidden = layer(hidden)
        return hidden.flatten(1)


def _normed(channels: int) -> tuple[nn.Module, nn.Module]:
    return nn.GroupNorm(NORM_GROUPS, channels), nn.ReLU(inplace=True)
