"""From Fake to Real, distributed: balanced synthetic images, generated, streamed, trained on and measured.

The names below are the public interface; everything else may move between versions.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ffr_dist.launch.local import generate_dataset
    from ffr_dist.metrics import group_metrics
    from ffr_dist.read.dataset import open_dataset
    from ffr_dist.shards.index import read_index
    from ffr_dist.train.fit import fit

__version__ = "0.1.0"

__all__ = ["fit", "generate_dataset", "group_metrics", "open_dataset", "read_index"]

_HOMES = {
    "fit": "ffr_dist.train.fit",
    "generate_dataset": "ffr_dist.launch.local",
    "group_metrics": "ffr_dist.metrics",
    "open_dataset": "ffr_dist.read.dataset",
    "read_index": "ffr_dist.shards.index",
}


def __getattr__(name: str) -> Any:
    # On first use: `import ffr_dist` and `ffr --help` must not wait for torch, ray and diffusers.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
