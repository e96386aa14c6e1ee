"""Buckets (S3, Google, Azure) and memory, through ``obstore``.

* ``create`` is one single conditional request: many services ignore the condition on a multipart upload or a copy.
* A client is built at the first use, in the process that uses it: one that was carried over a fork would hang.
* The client itself repeats what it knows to be harmless, a few times: one page of a listing, one part of an upload. All
  that still fails is repeated here, for as long as ``retry_s`` says (but ``create``: its caller reads back first).
* An error is told without the request's query, where signatures stand, and without its chain.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, NoReturn, TypedDict, TypeVar

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    InvalidPathError,
    NotSupportedError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
    UnknownConfigurationKeyError,
)
from obstore.store import AzureStore, GCSStore, MemoryStore, S3Store

from ffr_dist.errors import AccessError, BrokenError, InputError, MissingError, StoreError
from ffr_dist.store.config import StoreConfig
from ffr_dist.store.parts import ExistsError, ObjectInfo, Unavailable
from ffr_dist.store.retry import Patience

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import AzureConfig, ClientConfig, GCSConfig, ObjectStore, RetryConfig, S3Config

_PART = 8 << 20
_MOST_PARTS = 9_000
_PARTS_AT_ONCE = 4
_NEAR = 1 << 20
"""Ranges with less than this between them are read as one."""
_PAGE = 1_000
_REFUSED = (PermissionDeniedError, UnauthenticatedError)
_NEVER = (InvalidPathError, NotSupportedError, PreconditionError, UnknownConfigurationKeyError)
_NO_BUCKET = re.compile(r"NoSuchBucket|ContainerNotFound|specified bucket does not exist")
_UNLISTABLE = "object with invalid path"
_NO_CREDENTIALS = ("/latest/api/token", "169.254.169.254", "metadata.google.internal")
_STATUS = re.compile(r"status code: (\d{3})")
_TRANSIENT_STATUS = {408, 409, 425, 429}
_T = TypeVar("_T")


@dataclass(slots=True)
class Bucket:
    """The objects of one bucket."""

    scheme: str
    name: str
    config: StoreConfig
    allow_http: bool = False
    _built: ObjectStore | None = field(default=None, repr=False)
    _building: Lock = field(default_factory=Lock, repr=False)

    def put(self, key: str, body: bytes) -> None:
        self._repeated(key, lambda: obstore.put(self._client(), key, body, **_upload(len(body))))

    def put_file(self, key: str, path: Path) -> None:
        if self.scheme == "memory":
            return self.put(key, path.read_bytes())
        size = path.stat().st_size
        self._repeated(key, lambda: obstore.put(self._client(), key, path, **_upload(size)))
        return None

    def create(self, key: str, body: bytes) -> None:
        try:
            obstore.put(self._client(), key, body, mode="create", use_multipart=False)
        except (BaseError, OSError) as error:
            self._raise(key, error)

    def get(self, key: str) -> bytes:
        return self._repeated(key, lambda: bytes(obstore.get(self._client(), key).bytes()))

    def get_ranges(self, key: str, starts: Sequence[int], lengths: Sequence[int]) -> list[bytes]:
        if not any(lengths):
            self.head(key)
            return [b""] * len(starts)
        return [bytes(part) for part in self._ranges(key, starts, lengths)]

    def read_into(self, key: str, starts: Sequence[int], parts: Sequence[memoryview]) -> None:
        for part, found in zip(parts, self._ranges(key, starts, [len(part) for part in parts]), strict=True):
            part[:] = found

    def _ranges(self, key: str, starts: Sequence[int], lengths: Sequence[int]) -> Iterator[memoryview]:
        # Joined here and not by the library, which panics where a joined range is answered short.
        joined = _join(starts, lengths)
        try:
            parts = self._repeated(
                key,
                lambda: obstore.get_ranges(
                    self._client(), key, starts=[a for a, _ in joined], lengths=[n for _, n in joined], coalesce=0
                ),
            )
        except MissingError:
            raise
        except StoreError:
            self._refuse_short(key, joined)
            raise
        if any(len(part) != length for part, (_, length) in zip(parts, joined, strict=True)):
            self._refuse_short(key, joined)
            raise StoreError(f"{self.where(key)}: the answer to a ranged read was short")
        begins = [start for start, _ in joined]
        for start, length in zip(starts, lengths, strict=True):
            place = bisect_right(begins, start) - 1
            offset = start - begins[place]
            yield memoryview(parts[place])[offset : offset + length]

    def head(self, key: str) -> ObjectInfo:
        meta = self._repeated(key, lambda: obstore.head(self._client(), key))
        return self._info(key, meta)

    def _info(self, key: str, meta: ObjectMeta) -> ObjectInfo:
        # Services tell whole seconds of a single object, and some of them fractions in a listing.
        modified = meta["last_modified"]
        return ObjectInfo(key, meta["size"], modified if self.scheme == "memory" else modified.replace(microsecond=0))

    def list(self, folder: str, behind: str | None) -> Iterator[ObjectInfo]:
        """A page at a time, in the order of the service; sorted in memory where there is none."""
        if self.scheme == "memory":
            yield from sorted(self._pages(folder, behind), key=lambda info: info.key)
            return
        patience, last = Patience(self.config.retry_s), behind
        while True:
            try:
                for info in self._pages(folder, last):
                    if last is not None and info.key <= last:
                        raise InputError(
                            f"{self.where(folder)} lists its keys in no order ({info.key} after {last}): S3 directory "
                            "buckets and hierarchical namespaces do so. Choose a general purpose bucket"
                        )
                    last = info.key
                    yield info
            except Unavailable:
                if not patience.wait():
                    raise
            else:
                return

    def delete(self, key: str) -> None:
        try:
            self._repeated(key, lambda: obstore.delete(self._client(), key))
        except MissingError:
            return

    def copy(self, key: str, to: object, to_key: str) -> bool:
        """Copy within one bucket, on the server; False for another."""
        if not isinstance(to, Bucket) or self.place != to.place:
            return False
        self._repeated(key, lambda: obstore.copy(self._client(), key, to_key))
        return True

    @property
    def place(self) -> tuple[str, str, str | None]:
        return self.scheme, self.name, self.config.endpoint

    def where(self, key: str) -> str:
        return f"{self.scheme}://{self.name}/{key}"

    def _pages(self, folder: str, behind: str | None) -> Iterator[ObjectInfo]:
        try:
            for page in obstore.list(self._client(), folder or None, offset=behind, chunk_size=_PAGE):
                for meta in page:
                    yield self._info(meta["path"], meta)
        except (BaseError, OSError) as error:
            self._raise(folder, error)

    def _repeated(self, key: str, call: Callable[[], _T]) -> _T:
        """Only for calls that may take effect twice."""
        patience = Patience(self.config.retry_s)
        while True:
            try:
                return call()
            except (BaseError, OSError) as error:
                try:
                    self._raise(key, error)
                except Unavailable:
                    if not patience.wait():
                        raise

    def _refuse_short(self, key: str, ranges: Sequence[tuple[int, int]]) -> None:
        size, end = self.head(key).size, max(start + length for start, length in ranges)
        if end > size:
            raise BrokenError(f"{self.where(key)} has {size} bytes, but bytes up to {end} are meant")

    def _raise(self, key: str, error: BaseException) -> NoReturn:
        """The only place where an error of the library becomes one of ours."""
        where, text = self.where(key), str(error)
        said = _said(text)
        if _NO_BUCKET.search(text):
            raise InputError(f"there is no bucket {self.scheme}://{self.name}; create it, or correct the URL") from None
        if isinstance(error, FileNotFoundError):
            raise MissingError(f"{where} is not there") from None
        if isinstance(error, AlreadyExistsError):
            raise ExistsError(f"{where} exists already") from None
        status = _STATUS.search(text)
        code = int(status.group(1)) if status else 0
        if any(sign in text for sign in _NO_CREDENTIALS):
            raise AccessError(
                f"{where}: no credentials were found, neither in the environment nor from the machine's role; "
                "docs/storage.md lists where they are looked for"
            ) from None
        if isinstance(error, _REFUSED) or code in {401, 403}:
            raise AccessError(f"{where}: access was refused ({said}); check the credentials and their rights") from None
        if _UNLISTABLE in text:
            raise StoreError(
                f"{where} holds a foreign object whose name cannot be listed ({said}); remove it and run the same command again"
            ) from None
        final = isinstance(error, _NEVER) or self.scheme == "memory"
        if final or (300 <= code < 500 and code not in _TRANSIENT_STATUS):
            raise StoreError(f"{where}: {said}") from None
        raise Unavailable(f"{where}: {said}") from None

    def _client(self) -> ObjectStore:
        with self._building:
            if self._built is None:
                try:
                    self._built = self._build()
                except (BaseError, OSError, ValueError) as error:
                    raise InputError(f"{self.scheme}://{self.name} cannot be opened: {_said(str(error))}") from None
            return self._built

    def _build(self) -> ObjectStore:
        config = self.config
        client: ClientConfig = {
            "allow_http": self.allow_http,
            "connect_timeout": timedelta(seconds=config.connect_timeout_s),
            "read_timeout": timedelta(seconds=config.timeout_s),
            # Of a whole request, however long its body: only against a service that sends a byte now and then.
            "timeout": timedelta(seconds=20 * config.timeout_s),
        }
        retry: RetryConfig = {
            "max_retries": 3,
            "retry_timeout": timedelta(seconds=config.retry_s),
            "backoff": {
                "init_backoff": timedelta(seconds=0.1),
                "max_backoff": timedelta(seconds=2),
                "base": 2,
            },
        }
        if self.scheme == "s3":
            s3: S3Config = {"conditional_put": "etag"}
            if config.endpoint:
                # Both names: the second one's variable would win over a configured endpoint.
                s3["endpoint"] = s3["aws_endpoint_url_s3"] = config.endpoint
            if config.region:
                s3["region"] = config.region
            return S3Store(self.name, config=s3, client_options=client, retry_config=retry)
        if self.scheme == "gs":
            gs: GCSConfig = {"base_url": config.endpoint} if config.endpoint else {}
            return GCSStore(self.name, config=gs, client_options=client, retry_config=retry)
        if self.scheme == "az":
            az: AzureConfig = {"endpoint": config.endpoint} if config.endpoint else {}
            return AzureStore(self.name, config=az, client_options=client, retry_config=retry)
        return MemoryStore()


class _Upload(TypedDict):
    chunk_size: int
    max_concurrency: int


def _upload(size: int) -> _Upload:
    return {"chunk_size": max(_PART, -(-size // _MOST_PARTS)), "max_concurrency": _PARTS_AT_ONCE}


def _join(starts: Sequence[int], lengths: Sequence[int]) -> list[tuple[int, int]]:
    """Without empty ranges: no service answers those."""
    joined: list[tuple[int, int]] = []
    for start, length in sorted((start, length) for start, length in zip(starts, lengths, strict=True) if length):
        end = joined[-1][0] + joined[-1][1] if joined else 0
        if joined and start - end < _NEAR:
            joined[-1] = (joined[-1][0], max(end, start + length) - joined[-1][0])
        else:
            joined.append((start, length))
    return joined


def _said(text: str) -> str:
    """What a service said, on one line and without what may be secret: a URL's query, and long bodies."""
    code = re.search(r"<Code>(\w+)</Code>", text)
    line = re.sub(
        r"(https?://[^\s?]*)\?\S*", r"\1", text.partition("\n")[0].partition("<?xml")[0].partition("<Error")[0]
    )
    return f"{line.strip().rstrip(':')}{f': {code.group(1)}' if code else ''}"[:400]
