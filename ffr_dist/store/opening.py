"""From a URL to the store behind it. Nothing is connected here, and no client is built: the first call does both."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ffr_dist.errors import InputError
from ffr_dist.store.config import StoreConfig
from ffr_dist.store.folder import Folder
from ffr_dist.store.objects import Store

if TYPE_CHECKING:
    from ffr_dist.store.bucket import Bucket

_BUCKETS = ("s3", "gs", "az")
_ENDPOINTS = {
    "s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"),
    "gs": ("GOOGLE_BASE_URL",),
    "az": ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"),
}
_ALLOW_HTTP = {"s3": "AWS_ALLOW_HTTP", "gs": "GOOGLE_ALLOW_HTTP", "az": "AZURE_ALLOW_HTTP"}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,221}")


def open_store(url: str, *, create: bool = True, config: StoreConfig | None = None) -> Store:
    """The store at a folder path, ``file://…``, ``s3://bucket/prefix``, ``gs://…``, ``az://container/prefix`` or
    ``memory://name`` (shared by name within this process).

    With ``create=False`` a folder that is not there is an error, for those who only read. ``config`` says how a bucket
    is reached; its credentials come from the environment alone, never from the URL.
    """
    scheme, separator, rest = url.partition("://")
    config = config or StoreConfig()
    if not separator or scheme == "file":
        return _open_folder(rest if separator else url, create=create, config=config)
    if "@" in rest.partition("/")[0] or "?" in rest or "#" in rest:
        raise InputError(
            f"the {scheme}:// URL of the store holds a user, password, signature or fragment; write scheme://name/folder "
            "alone and give the credentials in the environment"
        )
    name, _, prefix = rest.partition("/")
    prefix = prefix.strip("/")
    if scheme == "memory":
        backend = _memory(name)
    elif scheme in _BUCKETS:
        if not _NAME.fullmatch(name):
            raise InputError(f"{url}: {name!r} is no name of a bucket; write {scheme}://bucket/folder")
        backend = _bucket(scheme, name, config)
    else:
        raise InputError(
            f"{url}: stores of kind {scheme}:// are not built in; use a folder, s3://, gs://, az:// or memory://name"
        )
    whole = Store(f"{scheme}://{name}", backend, backend, "", config)
    return whole.below(prefix) if prefix else whole


def _open_folder(path: str, *, create: bool, config: StoreConfig) -> Store:
    if not path:
        raise InputError("the output is an empty name; give a folder or the URL of a bucket")
    root = Path(path).expanduser().absolute()
    if not create and not root.is_dir():
        raise InputError(f"there is no output at {root}; check the path")
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"the output {root} is not writable: {error}; choose another folder") from error
    folder = Folder(root)
    return Store(str(root), folder, folder, "", config)


_memories: dict[str, Bucket] = {}


def _memory(name: str) -> Bucket:
    from ffr_dist.store.bucket import Bucket  # noqa: PLC0415 - a folder needs no obstore

    return _memories.setdefault(name, Bucket("memory", name, StoreConfig()))


def _bucket(scheme: str, name: str, config: StoreConfig) -> Bucket:
    from ffr_dist.store.bucket import Bucket  # noqa: PLC0415 - a folder needs no obstore

    given = next((value for variable in _ENDPOINTS[scheme] if (value := os.environ.get(variable))), "")
    allowed = os.environ.get(_ALLOW_HTTP[scheme], "").lower() in {"1", "true"}
    plain = config.endpoint.startswith("http://") if config.endpoint else allowed
    if not config.endpoint and urlsplit(given).scheme == "http" and not allowed:
        raise InputError(
            f"the endpoint in the environment is plain http, so that anybody on the way can read along; set "
            f"{_ALLOW_HTTP[scheme]}=true if you mean it"
        )
    return Bucket(scheme, name, config, allow_http=plain)
