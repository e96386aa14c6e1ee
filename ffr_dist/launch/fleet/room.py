"""How many workers a cluster has room for, and on which nodes. Takes nodes as Ray describes them; knows no Ray."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ffr_dist.recipe import GenerateConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What an actor takes of a node, and which nodes it may be on."""

    gpus: float
    """0: CPU cores instead."""
    cpus: int
    place: Mapping[str, str]
    wanted: int | None
    """None: as many as there is room for."""

    def room(self, node: Mapping[str, Any]) -> int:
        """Actors that fit on a node."""
        resource, share = ("GPU", self.gpus) if self.gpus else ("CPU", float(self.cpus))
        # 0.1 of a GPU goes ten times into one, whatever floating point says.
        there: float = node["Resources"].get(resource, 0.0)
        return math.floor(there / share + 1e-6)

    def admits(self, node: Mapping[str, Any]) -> bool:
        """Whether the node has the labels. The forms are Ray's: ``a``, ``!a``, ``in(a, b)``, ``!in(a, b)``."""
        return all(_matches(node.get("Labels", {}).get(name), wanted) for name, wanted in self.place.items())

    def shortage(self, nodes: Sequence[Mapping[str, Any]]) -> str:
        """Why there may be no room, in words; empty where there is some."""
        if not nodes:
            return "the cluster has no node left"
        if not any(self.admits(node) for node in nodes):
            labels = ", ".join(f"{name}: {value}" for name, value in self.place.items())
            there = sorted({f"{name}: {value}" for node in nodes for name, value in _own_labels(node).items()})
            return f"no node has the label {labels} of generate.place; there are {', '.join(there) or 'no labels'}"
        if not sum(self.room(node) for node in nodes if self.admits(node)):
            what = f"{self.gpus:g} of a GPU" if self.gpus else f"the {self.cpus} CPU cores of generate.threads"
            return f"no node has {what} that a worker takes"
        return ""


def need_of(generate: GenerateConfig, threads: int, resources: Mapping[str, float]) -> Need:
    """What the workers of a recipe need in a cluster of these ``resources``."""
    # A cluster may begin without GPUs and grow them: whoever says how much of one a worker takes wants GPUs.
    gpus = "gpus_per_worker" in generate.model_fields_set or resources.get("GPU", 0) > 0
    return Need(
        gpus=generate.gpus_per_worker if gpus else 0.0,
        cpus=0 if gpus else threads,
        place=dict(generate.place),
        wanted=None if generate.workers == "auto" else generate.workers,
    )


def _matches(value: str | None, wanted: str) -> bool:
    if wanted.startswith("!"):
        return not _matches(value, wanted[1:])
    if wanted.startswith("in(") and wanted.endswith(")"):
        return value is not None and value in {one.strip() for one in wanted[3:-1].split(",")}
    return value == wanted


def _own_labels(node: Mapping[str, Any]) -> dict[str, str]:
    return {name: value for name, value in node.get("Labels", {}).items() if name != "ray.io/node-id"}
