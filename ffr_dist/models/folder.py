"""Folders of weights that users bring: where they are, whether they may be opened, and what they hash to.

Nothing here imports torch. A folder is checked before anything of it is loaded: weights are whole safetensors files, no
config asks for code of its own. So neither code nor a pickle of a folder is ever run.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ffr_dist.errors import ConfigError

_PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
_URL = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+\Z")


def is_url(weights: str) -> bool:
    """Whether ``weights`` must be fetched before it can be looked into."""
    return _URL.match(weights) is not None


def is_hub_id(weights: str) -> bool:
    """Whether ``weights``, where no such folder is here, can name a model of the hub."""
    return _HUB_ID.match(weights) is not None


def fetched_folder(url: str) -> Path:
    """A local copy of the folder at any URL that fsspec knows; made once for each content and machine."""
    from ffr_dist.store.inputs import local_copy  # noqa: PLC0415 - fsspec is heavy, and most weights are folders

    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
    return local_copy(url, cache / "ffr_dist" / "weights")


def hash_files(folder: Path, names: Iterable[str]) -> str:
    """A sha256 over names and contents of files, in sorted order."""
    total = hashlib.sha256()
    for name in sorted(names):
        with (folder / name).open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        total.update(f"{name} {content}\n".encode())
    return total.hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; ConfigError for anything else, and for one that asks for code of its own."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path} must hold a JSON object")
    code = _asks_for_code(value)
    if code:
        raise ConfigError(f"{path} asks for code of its own ({code}), which is never run; use a model without it")
    return value


def _asks_for_code(value: Any) -> str | None:
    """The key, at any depth, that would have a library fetch code: a class, or an attention kernel of a hub."""
    if not isinstance(value, dict):
        return None
    for key, inner in value.items():
        kernel = key.endswith("attn_implementation") and "/" in json.dumps(inner)
        if kernel or key == "auto_map":
            return str(key)
        if found := _asks_for_code(inner):
            return found
    return None


def weight_files(folder: Path, stem: str) -> list[str]:
    """The safetensors files that ``stem`` stands for, one or many, each checked to be whole; ConfigError if there are none."""
    whole, sharded = folder / f"{stem}.safetensors", folder / f"{stem}.safetensors.index.json"
    if whole.is_file():
        _check_safetensors(whole)
        return [whole.name]
    if sharded.is_file():
        names = sorted(set(read_json(sharded).get("weight_map", {}).values()))
        for name in names:
            if Path(name).name != name or not (folder / name).is_file():
                raise ConfigError(f"{folder / name} is missing; copy the whole folder")
            _check_safetensors(folder / name)
        return [*names, sharded.name]
    pickles = sorted(path.name for path in folder.glob("*") if path.suffix in _PICKLES)
    if pickles:
        raise ConfigError(
            f"{folder / pickles[0]} is a pickle, which could run code and is never opened; convert it to {whole.name}"
        )
    raise ConfigError(f"the weights {whole} are missing; copy the whole folder")


def _check_safetensors(path: Path) -> None:
    """The header says how long the file must be: a pointer or half a download is told apart from weights."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        size = path.stat().st_size
        try:
            header = json.loads(file.read(length)) if 0 < length <= size - 8 else {}
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, TypeError, KeyError, IndexError, AttributeError):
            ends = []
    if not ends or 8 + length + max(ends) != size:
        raise ConfigError(f"the weights {path} are not a whole safetensors file; fetch them again")
