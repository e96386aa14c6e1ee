"""What is minimised: sums and counts of parts, which ``fit`` turns into means over the global batch.

ERM has one part, the mean over all samples. GroupDRO has one part per group, and weights that follow the losses.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn import functional

Images = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""What is done to (images in 0 … 1, positions) before the model sees them."""


def sample_losses(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of each sample, from uint8-scaled floating-point images.

    Of no sample, the model is run on a blank image and the answer is empty but hangs on the parameters: on several
    processes each must take part in every backward pass.
    """
    if len(labels):
        losses: torch.Tensor = functional.cross_entropy(model(images), labels, reduction="none")
        return losses
    blank: torch.Tensor = model(torch.zeros((1, *images.shape[1:]), device=images.device, dtype=images.dtype))
    return blank.flatten()[:0]


def sums_by_group(losses: torch.Tensor, groups: torch.Tensor, count: int) -> torch.Tensor:
    """(count,) summed loss of each group."""
    return torch.zeros(count, device=losses.device, dtype=losses.dtype).index_add(0, groups, losses)


class GroupDRO:
    """Weights of groups that grow with their losses: q ← q · exp(η · mean loss), then made to sum to 1.

    q starts uniform; a group that is absent from a batch counts as having no loss. The loss is Σ q_g · (mean loss of g).
    """

    def __init__(self, group_counts: Sequence[int], *, step_size: float = 0.01, adjustment: float = 0.0) -> None:
        """``adjustment`` C adds C/√n_g to the loss that a group's weight follows: small groups fit too well."""
        self._step_size = step_size
        self._adjustments = adjustment / torch.tensor(list(group_counts), dtype=torch.float64).sqrt()
        groups = len(group_counts)
        self.state = {"q": torch.full((groups,), 1 / groups, dtype=torch.float64)}
        """For ``Task.state``."""

    def weights(self, sums: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        """For ``Task.weights``: updates q and answers it."""
        means = sums / counts.clamp(min=1)
        followed = means + self._adjustments.to(means.device)
        grown = self.state["q"].to(means.device) * torch.exp(self._step_size * followed)
        self.state["q"] = grown / grown.sum()
        return self.state["q"]
