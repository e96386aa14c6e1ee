"""Checkpoints as safetensors and JSON, whole or absent.

A checkpoint is one tensors object, put first, and a small ``COMPLETE`` object that names its sha256, put last. A crash
in between leaves tensors without a marker, which nobody reads. Nothing here is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as bytes_from_tensors

from ffr_dist.errors import BrokenError, MissingError
from ffr_dist.store import Store

_MARKER = "COMPLETE"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    step: int
    tensors: dict[str, torch.Tensor]
    meta: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """The checkpoints below a prefix of a store."""

    store: Store
    prefix: str
    keep: int = 2

    def save(self, step: int, tensors: Mapping[str, torch.Tensor], meta: Mapping[str, Any]) -> None:
        """Publish a checkpoint, then drop all but the newest ``keep``."""
        body = bytes_from_tensors({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
        digest = hashlib.sha256(body).hexdigest()
        folder = f"{self.prefix}/{step:08d}"
        name = f"state-{digest[:12]}.safetensors"
        self.store.put(f"{folder}/{name}", body)
        marker = {"step": step, "tensors": name, "sha256": digest, "meta": dict(meta)}
        self.store.put(f"{folder}/{_MARKER}", json.dumps(marker, sort_keys=True).encode())
        for old in self._steps()[: -self.keep]:
            self._drop(old)

    def latest(self) -> Checkpoint | None:
        """The newest complete checkpoint; BrokenError if its tensors are not the ones its marker names."""
        steps = self._steps()
        if not steps:
            return None
        folder = f"{self.prefix}/{steps[-1]:08d}"
        marker = json.loads(self.store.get(f"{folder}/{_MARKER}"))
        key = f"{folder}/{marker['tensors']}"
        try:
            body = self.store.get(key)
        except MissingError as error:
            raise BrokenError(f"checkpoint {key} is gone; delete {folder}/ to go on from an older one") from error
        if hashlib.sha256(body).hexdigest() != marker["sha256"]:
            raise BrokenError(
                f"checkpoint {key} is damaged (sha256 differs); delete {folder}/ to go on from an older one"
            )
        return Checkpoint(step=marker["step"], tensors=tensors_from_bytes(body), meta=marker["meta"])

    def _steps(self) -> list[int]:
        keys = [info.key for info in self.store.list(self.prefix)]
        return sorted(int(key.split("/")[-2]) for key in keys if key.endswith(f"/{_MARKER}"))

    def _drop(self, step: int) -> None:
        # The marker goes first: a checkpoint is never complete without its tensors.
        folder = f"{self.prefix}/{step:08d}"
        self.store.delete(f"{folder}/{_MARKER}")
        for info in self.store.list(folder):
            self.store.delete(info.key)
