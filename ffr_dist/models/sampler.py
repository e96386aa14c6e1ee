"""The one interface between the engine and whatever makes images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from ffr_dist.quota import Request


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcomes:
    """What a sampler made of a batch of requests, in their order, still on its device."""

    images: torch.Tensor
    """uint8, (batch, 3, height, width)."""
    valid: torch.Tensor
    """bool, (batch,): False where the sampler produced no usable pixels (NaN latents)."""
    reasons: Sequence[str | None] = ()
    """Why a request yields nothing, where the host knows it already (no mask, no source); empty means none."""
    rejects: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """bool, (batch,) each, by reason: True where the device has found one, which the host need not wait for here."""
    scores: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """float, (batch,) each: numbers that the keep rules and the sidecar want."""


class Sampler(Protocol):
    """Makes images for requests on one device.

    Both methods are deterministic functions of the requests (and of the sampler's own weights): every random number
    comes from a CPU generator seeded by ``seeds.draw_seed`` with the request's group and k.
    """

    seed: int
    """The run's seed, the first part of every draw."""

    def fetch(self, requests: Sequence[Request]) -> Any:
        """Draw noise and read source images on the CPU. Runs one batch ahead, beside :meth:`sample`."""

    def sample(self, requests: Sequence[Request], fetched: Any) -> Outcomes:
        """Make one batch. Does not wait for the device."""
