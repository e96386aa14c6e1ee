"""What users bring (images, tables, weights): read from any URL that fsspec knows."""

from __future__ import annotations

from typing import IO, cast

import fsspec

from ffr_dist.errors import DataError


def open_input(url: str) -> IO[bytes]:
    """Open a file for reading; the caller closes it."""
    try:
        return cast("IO[bytes]", fsspec.open(url, "rb").open())
    except FileNotFoundError as error:
        raise DataError(f"{url} is not there; check the path") from error
    except (OSError, ValueError, ImportError) as error:
        raise DataError(f"{url} cannot be read: {error}") from error


def list_inputs(url: str) -> dict[str, int]:
    """Size of every file below a folder, by its path from there."""
    try:
        files, root = fsspec.url_to_fs(url)
        found = files.find(root, detail=True)
    except (OSError, ValueError, ImportError) as error:
        raise DataError(f"{url} cannot be listed: {error}") from error
    if not found:
        raise DataError(f"{url} is not there or holds no files; check the path")
    cut = len(root.rstrip("/")) + 1
    return {path[cut:]: int(info["size"]) for path, info in found.items()}
