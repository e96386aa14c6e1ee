"""What users bring (images, tables, weights): read from any URL that fsspec knows."""

from __future__ import annotations

import re
import shutil
import uuid
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any, NoReturn, cast

from ffr_dist.config import digest
from ffr_dist.errors import DataError

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

_VERSION_FIELDS = ("ETag", "etag", "LastModified", "last_modified", "mtime", "updated", "created")


def open_input(url: str) -> IO[bytes]:
    """Open a file for reading; the caller closes it."""
    import fsspec  # noqa: PLC0415 (a recipe is read without it)

    try:
        return cast("IO[bytes]", fsspec.open(url, "rb").open())
    except Exception as error:  # noqa: BLE001 - each kind of file system raises its own
        _refuse(url, "cannot be read", error)


def list_inputs(url: str) -> dict[str, int]:
    """Size of every file below a folder, by its path from there."""
    return {name: int(info["size"]) for name, info in _find(url)[2].items()}


def local_copy(url: str, cache: Path) -> Path:
    """A folder of files (weights, say) on a local disk: itself if it is there already, else a copy below ``cache``.

    A copy is made once for each content that the folder had, whole or not at all, and shared by all processes of the
    machine. A name that would leave the folder is refused.
    """
    files, root, found = _find(url)
    if "file" in ([files.protocol] if isinstance(files.protocol, str) else files.protocol):
        return Path(root)
    for name in found:
        if (
            not name.isprintable()
            or "\\" in name
            or {"..", "."} & set(name.split("/"))
            or PurePosixPath(name).is_absolute()
        ):
            raise DataError(f"{_shown(url)} holds a file {name!r}, whose name leaves the folder; remove it")
    version = {name: [info["size"], *(str(info.get(key)) for key in _VERSION_FIELDS)] for name, info in found.items()}
    sizes = {name: int(info["size"]) for name, info in found.items()}
    target = cache / f"{re.sub(r'[^A-Za-z0-9._-]', '-', PurePosixPath(root).name)}-{digest(version, 12)}"
    if _sizes(target) == sizes:
        return target
    part = cache / f".{target.name}.{uuid.uuid4().hex}"
    try:
        for name in found:
            (part / name).parent.mkdir(parents=True, exist_ok=True)
            files.get_file(f"{root.rstrip('/')}/{name}", str(part / name))
        copied = _sizes(part)
        if copied == sizes:
            _move(part, target, sizes)
    except Exception as error:  # noqa: BLE001 - as above
        _refuse(url, f"cannot be copied to {cache}", error)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    if copied != sizes:
        raise DataError(f"{_shown(url)} changed while it was copied; run the same command again")
    return target


def _find(url: str) -> tuple[AbstractFileSystem, str, dict[str, dict[str, Any]]]:
    import fsspec  # noqa: PLC0415 (a recipe is read without it)

    try:
        files, root = fsspec.url_to_fs(url)
        found = files.find(root, detail=True)
    except Exception as error:  # noqa: BLE001 - as above
        _refuse(url, "cannot be listed", error)
    if not found:
        raise DataError(f"{_shown(url)} is not there or holds no files; check the path")
    cut = len(root.rstrip("/")) + 1
    return files, root, {path[cut:]: info for path, info in found.items()}


def _move(part: Path, target: Path, sizes: dict[str, int]) -> None:
    try:
        part.rename(target)
    except OSError:
        if _sizes(target) == sizes:  # another process was first
            return
        shutil.rmtree(target)  # what a crash of the machine has left of an older copy
        part.rename(target)


def _sizes(folder: Path) -> dict[str, int]:
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}


def _shown(url: str) -> str:
    """The URL without what may be secret in it."""
    return re.sub(r"(://)[^/@]*@", r"\1", url).partition("?")[0] if "://" in url else url


def _refuse(url: str, what: str, error: Exception) -> NoReturn:
    shown = _shown(url)
    if isinstance(error, FileNotFoundError):
        raise DataError(f"{shown} is not there; check the path") from (error if shown == url else None)
    said = str(error) or type(error).__name__
    if shown != url:  # nor in what a library says about it
        raise DataError(f"{shown} {what}: {type(error).__name__}") from None
    raise DataError(f"{shown} {what}: {said}") from error
