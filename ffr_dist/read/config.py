"""How sets are read: nothing here but ``skip_broken`` changes which images a batch holds."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveInt

from ffr_dist.config import Config


class ReadConfig(Config):
    """What reading may use of the machine, and how many broken images it may pass over."""

    decode: Literal["threads", "processes"] = "threads"
    """Who decodes. Threads are the faster choice wherever the training loop does not keep Python busy."""
    workers: PositiveInt | Literal["auto"] = "auto"
    """Decoding threads or processes of each training process; ``auto``: its share of this machine's cores."""
    read_ahead_mb: PositiveInt = 128
    """Image files that wait in memory to be decoded, at most (twice as much where they lie far apart)."""
    cache_mb: int = Field(default=0, ge=0)
    """Disk space on this machine for image files of each set in a bucket, smallest groups first; 0: none."""
    cache: str | None = None
    """The folder of that cache; else FFR_CACHE, else the user's cache folder."""
    skip_broken: int = Field(default=0, ge=0)
    """Images that cannot be decoded and that each training process may replace by the next one of their group."""


def cache_folder(configured: str | None = None) -> Path:
    """Where this machine keeps what it can make again."""
    if configured or (configured := os.environ.get("FFR_CACHE")):
        return Path(configured).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "ffr_dist"


def worker_count(config: ReadConfig) -> int:
    """Decoders of this process: ``auto`` shares the cores among the ranks that torchrun or Accelerate started here."""
    if config.workers != "auto":
        return config.workers
    ranks = os.environ.get("LOCAL_WORLD_SIZE", "1")
    return max(1, cores() // max(1, int(ranks) if ranks.isdigit() else 1))


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
