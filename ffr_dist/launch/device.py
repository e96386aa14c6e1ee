"""Which device a process works on."""

from __future__ import annotations

import torch


def local_device() -> str:
    """The GPU that this process was given, or the CPU."""
    return "cuda" if torch.cuda.is_available() else "cpu"
