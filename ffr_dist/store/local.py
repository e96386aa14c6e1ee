"""Durable writes to a local folder, by hand.

obstore's folder store does not fsync, so that its objects survive SIGKILL but not power loss. Here a body is written to
a temporary file, fsynced, and moved into place by one atomic call: ``rename`` for "last writer wins", ``link`` for "only
the first". Then the folder itself is fsynced. The temporary name starts with a dot and ends in ``#1``, the form that
obstore's listing leaves out, so that nobody takes it for an object.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from pathlib import Path


def replace_file(path: Path, body: bytes) -> None:
    """Write ``body`` at ``path``, whole or not at all, over an older file."""
    _publish(path, body, os.replace)


def create_file(path: Path, body: bytes) -> None:
    """Write ``body`` at ``path`` unless a file is there; FileExistsError if one is."""
    _publish(path, body, os.link)


def _publish(path: Path, body: bytes, move: Callable[[Path, Path], None]) -> None:
    _make_folder(path.parent)
    temporary = path.parent / f".{uuid.uuid4().hex}#1"
    try:
        with temporary.open("xb") as file:
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        move(temporary, path)
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _make_folder(folder: Path) -> None:
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
