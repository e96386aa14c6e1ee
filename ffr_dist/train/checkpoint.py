"""Checkpoints as safetensors and JSON, whole or absent.

A checkpoint is one tensors object, put first, and a small ``COMPLETE`` object that names its sha256, put last. A crash
in between leaves tensors without a marker, which nobody reads. Nothing here is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as bytes_from_tensors

from ffr_dist.errors import BrokenError, MissingError
from ffr_dist.store import Store

_MARKER = "COMPLETE"
_FOLDER = re.compile(rf"(\d{{8}})/{_MARKER}\Z", re.ASCII)
_TENSORS = re.compile(r"state-[0-9a-f]{12}\.safetensors\Z")


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
        advice = f"delete {folder}/ to go on from an older one"
        marker = _parse(self.store.get(f"{folder}/{_MARKER}"))
        if marker is None or marker["step"] != steps[-1]:
            raise BrokenError(f"checkpoint marker {folder}/{_MARKER} is damaged; {advice}")
        key = f"{folder}/{marker['tensors']}"
        try:
            body = self.store.get(key)
        except MissingError as error:
            raise BrokenError(f"checkpoint {key} is gone; {advice}") from error
        if hashlib.sha256(body).hexdigest() != marker["sha256"]:
            raise BrokenError(f"checkpoint {key} is damaged (sha256 differs); {advice}")
        try:
            tensors = tensors_from_bytes(body)
        except SafetensorError as error:
            raise BrokenError(f"checkpoint {key} is not a safetensors file; {advice}") from error
        return Checkpoint(step=marker["step"], tensors=tensors, meta=marker["meta"])

    def _steps(self) -> list[int]:
        found = [_FOLDER.match(info.key.removeprefix(f"{self.prefix}/")) for info in self.store.list(self.prefix)]
        return sorted(int(match[1]) for match in found if match is not None)

    def _drop(self, step: int) -> None:
        # The marker goes first: a checkpoint is never complete without its tensors.
        folder = f"{self.prefix}/{step:08d}"
        self.store.delete(f"{folder}/{_MARKER}")
        for info in self.store.list(folder):
            self.store.delete(info.key)


def _parse(body: bytes) -> dict[str, Any] | None:
    """A marker, or None for anything else: its names are used as keys, so that they are held to their form."""
    try:
        marker = json.loads(body)
    except ValueError:
        return None
    kinds = {"step": int, "tensors": str, "sha256": str, "meta": dict}
    if not isinstance(marker, dict) or not all(isinstance(marker.get(name), kind) for name, kind in kinds.items()):
        return None
    return marker if _TENSORS.match(marker["tensors"]) else None
