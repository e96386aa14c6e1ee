"""The head that DFR gives a classifier, in place of its linear one."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional


class StandardisedHead(nn.Module):
    """Logits from features that are brought to unit length, then standardised.

    The unit length cannot be folded into a linear head, as it is not linear. Mean and scale could be; they stay, as a
    difference of large products would lose digits that the fits were made with.
    """

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(classes, features))
        self.bias = nn.Parameter(torch.zeros(classes))
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        unit = functional.normalize(features, dim=1)
        return functional.linear((unit - self.mean) / self.scale, self.weight, self.bias)


def take_head(model: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Give ``model`` the kind of head that ``weights`` are of, before they are loaded into it."""
    if "head.scale" in weights:
        classes, features = weights["head.weight"].shape
        model.head = StandardisedHead(features, classes)
