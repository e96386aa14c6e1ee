"""A moving average of the weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


class Ema:
    """The average of all floating-point tensors of a model that training moves, statistics of batches among them.

    Early on it follows faster than ``decay`` says, because the first weights are far from anything.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        still = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
        self._decay = decay
        self._live = {
            name: value for name, value in model.state_dict().items() if name not in still and value.is_floating_point()
        }
        self.tensors = {name: value.clone() for name, value in self._live.items()}
        """The average, by the names of the model's state."""

    def follow(self, step: int) -> None:
        """Move towards the weights after ``step`` steps."""
        share = 1 - min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.tensors.values()), list(self._live.values()), share)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within, the model holds the average."""
        kept = {name: value.clone() for name, value in self._live.items()}
        self.put()
        try:
            yield
        finally:
            _copy(kept, self._live)

    def put(self) -> None:
        """Give the average to the model for good."""
        _copy(self.tensors, self._live)

    def restore(self, tensors: dict[str, torch.Tensor]) -> None:
        _copy(tensors, self.tensors)


@torch.no_grad()
def _copy(source: dict[str, torch.Tensor], to: dict[str, torch.Tensor]) -> None:
    for name, value in to.items():
        value.copy_(source[name])
