"""What there is to learn, as a value: everything that ``fit`` must know, and nothing of how it loops."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import nn


class Batches(Protocol):
    """Batches by global step: which samples make up step n never depends on how many processes there are."""

    def iterate(self, start: int, rank: int, world: int) -> Iterator[Any]:
        """This rank's part of global batches ``start``, ``start + 1``, … without end.

        Each has ``.to(device)`` and, as ``len``, the number of its samples, which may be 0.
        """


@dataclass(frozen=True, slots=True)
class Score:
    """A validation result. Larger ``value`` is better; ``detail`` is a JSON value for the history."""

    value: tuple[float, ...]
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A model, its batches and its loss.

    The loss is a weighted sum of parts, each a mean over its own samples:
    ``Σ_p w_p · (sum of part p over the global batch) / (count of part p in the global batch)``.
    The counts are summed over all processes and the whole accumulation window before the forward pass, so that the
    gradient equals that of one process with the whole batch, however unevenly the samples are spread.
    """

    name: str
    model: nn.Module
    batches: Batches
    counts: Callable[[Any], torch.Tensor]
    """(parts,) samples of each part in a batch; told before the forward pass, of the batch as it was read."""
    loss: Callable[[nn.Module, Any], torch.Tensor]
    """(parts,) summed loss of each part. Calls the module that it is given, which may be a wrapper of ``model``."""
    part_weights: Sequence[float] = (1.0,)
    weights: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None
    """Weights from the detached global (sums, counts) of this step, in place of ``part_weights`` (GroupDRO)."""
    fingerprint: str = ""
    """Of the data: a checkpoint of other data is refused."""
    parameters: Sequence[nn.Parameter] | None = None
    """What to train; None for every parameter that requires a gradient."""
    frozen: Sequence[nn.Module] = ()
    """Modules of the model that stay in evaluation mode while the others train (BatchNorm whose statistics are kept)."""
    state: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """Tensors beside the model that change while training (GroupDRO's q, a moving average); kept in checkpoints and
    written in place on resume."""
    after_step: Callable[[int], None] | None = None
    """Called after each optimiser step with the number of steps done."""
    validate: Callable[[nn.Module], Score] | None = None
    """Scores the model; ``fit`` ends with the weights of the strictly best score."""
