"""Checkpoints as safetensors and JSON, whole or absent.

A checkpoint is one tensors object, put first, and a small ``COMPLETE`` object that names its sha256, put last. A crash
in between leaves tensors without a marker, which nobody reads. Nothing here is ever unpickled.

Training goes on while a checkpoint is written: :func:`snapshot` copies what it holds, and a thread does the rest.
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
_WHOLE = re.compile(rf"(\d{{8}})/{_MARKER}\Z", re.ASCII)
_ANY = re.compile(r"(\d{8})/", re.ASCII)
_TENSORS = re.compile(r"state-[0-9a-f]{12}\.safetensors\Z")


@dataclass(frozen=True, slots=True)
class Marker:
    """What names a whole checkpoint; small enough to be told from process to process."""

    step: int
    key: str
    sha256: str
    meta: dict[str, Any]


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
        folder = self._folder(step)
        name = f"state-{digest[:12]}.safetensors"
        self.store.put(f"{folder}/{name}", body)
        marker = {"step": step, "tensors": name, "sha256": digest, "meta": dict(meta)}
        self.store.put(f"{folder}/{_MARKER}", json.dumps(marker, sort_keys=True).encode())
        newest = self._steps()[-self.keep :]
        for old in self._steps(_ANY):
            if newest and old < newest[0]:  # what a crash left incomplete goes too
                self._drop(old)

    def latest(self) -> Checkpoint | None:
        """The newest complete checkpoint; BrokenError if its tensors are not the ones its marker names."""
        found = self.find()
        return None if found is None else self.load(found)

    def find(self) -> Marker | None:
        """What names the newest complete checkpoint."""
        steps = self._steps()
        if not steps:
            return None
        folder = self._folder(steps[-1])
        marker = _parse(self.store.get(f"{folder}/{_MARKER}"))
        if marker is None or marker["step"] != steps[-1]:
            raise BrokenError(f"checkpoint marker {folder}/{_MARKER} is damaged; {_advice(folder)}")
        return Marker(marker["step"], f"{folder}/{marker['tensors']}", marker["sha256"], marker["meta"])

    def load(self, found: Marker) -> Checkpoint:
        """The checkpoint of a marker; BrokenError if its tensors are not the ones it names."""
        advice = _advice(self._folder(found.step))
        try:
            body = self.store.get(found.key)
        except MissingError as error:
            raise BrokenError(f"checkpoint {found.key} is gone; {advice}") from error
        if hashlib.sha256(body).hexdigest() != found.sha256:
            raise BrokenError(f"checkpoint {found.key} is damaged (sha256 differs); {advice}")
        try:
            tensors = tensors_from_bytes(body)
        except SafetensorError as error:
            raise BrokenError(f"checkpoint {found.key} is not a safetensors file; {advice}") from error
        return Checkpoint(step=found.step, tensors=tensors, meta=found.meta)

    def drop(self) -> None:
        """Delete all checkpoints; what else lies below the prefix stays."""
        for step in self._steps(_ANY):
            self._drop(step)

    def _folder(self, step: int) -> str:
        return f"{self.prefix}/{step:08d}"

    def _steps(self, form: re.Pattern[str] = _WHOLE) -> list[int]:
        found = (form.match(info.key.removeprefix(f"{self.prefix}/")) for info in self.store.list(self.prefix))
        return sorted({int(match[1]) for match in found if match is not None})

    def _drop(self, step: int) -> None:
        # The marker goes first: a checkpoint is never complete without its tensors.
        folder = self._folder(step)
        self.store.delete(f"{folder}/{_MARKER}")
        for info in self.store.list(folder):
            self.store.delete(info.key)


def snapshot(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copies in memory of the CPU, which training does not touch any more."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}


def _advice(folder: str) -> str:
    return f"delete {folder}/ to go on from an older one"


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
