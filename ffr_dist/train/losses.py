"""What is minimised: sums and counts of parts, which ``fit`` turns into means over the global batch.

ERM has one part, the mean over all samples. Reweighting has one too, whose samples weigh n / (k · n_c), and so have the
losses of offset logits. GroupDRO has one part per group, and weights that follow the losses.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from pydantic import Field, PositiveFloat
from torch import nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from ffr_dist.config import Config


def sample_losses(
    model: nn.Module, images: torch.Tensor, labels: torch.Tensor, offsets: torch.Tensor | None = None
) -> torch.Tensor:
    """Cross-entropy of each sample, from uint8-scaled floating-point images; ``offsets`` (n, classes) are added to logits.

    Of no sample, the model is run on a blank image and the answer is empty but hangs on the parameters: on several
    processes each must take part in every backward pass.
    """
    if len(labels):
        logits = model(images)
        if offsets is not None:
            # Not in half precision, which knows the logarithm of a count to a twentieth.
            logits = logits + offsets.to(torch.promote_types(logits.dtype, torch.float32))
        losses: torch.Tensor = functional.cross_entropy(logits, labels, reduction="none")
        return losses
    # The blank image must not enter the statistics of a process of its own; shared ones need every process.
    local = [
        part for part in model.modules() if isinstance(part, _BatchNorm) and not isinstance(part, nn.SyncBatchNorm)
    ]
    moving = [part for part in local if part.training]
    for part in moving:
        part.eval()
    blank: torch.Tensor = model(torch.zeros((1, *images.shape[1:]), device=images.device, dtype=images.dtype))
    for part in moving:
        part.train()
    return blank.flatten()[:0]


def sums_by_group(losses: torch.Tensor, groups: torch.Tensor, count: int) -> torch.Tensor:
    """(count,) summed loss of each group."""
    return torch.zeros(count, device=losses.device, dtype=losses.dtype).index_add(0, groups, losses)


def balancing_weights(counts: Sequence[int]) -> torch.Tensor:
    """(k,) float64, n / (k · n_c): so weighted, the mean over n samples in k cells is the mean of the cells' means.

    The weighted losses of a batch are divided by its number of samples, not by the sum of its weights: the gradient of a
    batch is then an unbiased estimate of the gradient of that mean of means, whichever cells the batch happens to hold.
    """
    sizes = torch.tensor(list(counts), dtype=torch.float64)
    return sizes.sum() / (len(sizes) * sizes)


def log_class_shares(labels: Sequence[int], counts: Sequence[int]) -> torch.Tensor:
    """(cells, classes) float64, for cells of samples: log of each class's share of all samples, the same for each cell."""
    of_class = torch.zeros(max(labels) + 1, dtype=torch.float64)
    of_class.index_add_(0, torch.tensor(list(labels)), torch.tensor(list(counts), dtype=torch.float64))
    return (of_class / of_class.sum()).log().expand(len(labels), -1)


def log_class_shares_beside(labels: Sequence[int], counts: Sequence[int], beside: Sequence[Hashable]) -> torch.Tensor:
    """(cells, classes) float64: log of each class's share of the samples that share what stands beside the label.

    One sample is added to each class, so that none is impossible where it does not occur.
    """
    table = torch.empty((len(labels), max(labels) + 1), dtype=torch.float64)
    for value in set(beside):
        here = [place for place, other in enumerate(beside) if other == value]
        of_class = torch.ones(table.shape[1], dtype=torch.float64)
        for place in here:
            of_class[labels[place]] += counts[place]
        table[here] = (of_class / of_class.sum()).log()
    return table


class GroupDROConfig(Config):
    """How fast GroupDRO's weights move, and towards whom."""

    step_size: PositiveFloat = 0.01
    """η: a group's weight grows by exp(η · its loss) a step."""
    adjustment: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """C: adds C/√n_g to the loss that a group's weight follows, as small groups fit too well."""


class LogitAdjustmentConfig(Config):
    """How far training offsets the logits."""

    tau: PositiveFloat = 1.0
    """τ: the offset is τ · log P(class | bias)."""


class GroupDRO:
    """Weights of groups that grow with their losses: q ← q · exp(η · mean loss), then made to sum to 1.

    q starts uniform; a group that is absent from a batch counts as having no loss. The loss is Σ q_g · (mean loss of g).
    """

    def __init__(self, group_counts: Sequence[int], config: GroupDROConfig | None = None) -> None:
        config = config or GroupDROConfig()
        self._step_size = config.step_size
        self._adjustments = config.adjustment / torch.tensor(list(group_counts), dtype=torch.float64).sqrt()
        groups = len(group_counts)
        self.state = {"q": torch.full((groups,), 1 / groups, dtype=torch.float64)}
        """For ``Task.state``."""

    def weights(self, sums: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
        """For ``Task.weights``: updates q and answers it."""
        means = sums / counts.clamp(min=1)
        self._adjustments = self._adjustments.to(means.device)  # once
        followed = means + self._adjustments
        grown = self.state["q"].to(means.device) * torch.exp(self._step_size * followed)
        self.state["q"] = grown / grown.sum()
        return self.state["q"]
