"""One device's worker: an interval of candidates to committed objects, in plain Python.

``fetch`` (a thread, one batch ahead) → ``sample`` (the one thread that owns the device) → keep rules → encode (a pool) →
pack → hash → put the tar → put the sidecar → publish the commit. At most two sampled batches wait at any time.

``make`` may run in two threads at once: then one interval is encoded and uploaded while the device samples the next.
Bytes depend on neither that nor on the number of encoders, only on candidates, sampler and pinned values.
"""

from __future__ import annotations

import functools
import hashlib
import platform
import threading
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from importlib import metadata
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ffr_dist.config import from_data
from ffr_dist.errors import ConfigError, InputError, StoppedError
from ffr_dist.generate.keep import KeepConfig, reasons
from ffr_dist.generate.work import BatchDone, Receipt, Work
from ffr_dist.groups import Groups
from ffr_dist.models.sampler import Sampler
from ffr_dist.plan.document import Pinned, read_pinned, refuse_other
from ffr_dist.quota import Request
from ffr_dist.records import sample_json, synthetic_key
from ffr_dist.seeds import draw_seed
from ffr_dist.shards import layout
from ffr_dist.shards.codec import CodecConfig, blake2b16, codec_environment, decode, encode
from ffr_dist.shards.commit import Commit, GroupTally, ObjectRef, publish
from ffr_dist.shards.pack import Member, pack
from ffr_dist.shards.sidecar import Decision, write_sidecar
from ffr_dist.store import Store

STAGES = ("fetch", "sample", "encode", "pack", "upload", "commit")

_THUMBNAIL = 64
_THUMBNAIL_CODEC = CodecConfig(format="jpg", quality=80)
_THUMBNAILS_PER_REASON = 2

Requests = Callable[[str, Sequence[int]], list[Request]]
"""(group, ks) to the requests of those candidates; a pure function."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkSpec:
    """What a worker must know beside its store and its sampler; picklable."""

    groups: Groups
    codec: CodecConfig
    size: int
    """Height and width of the images."""
    pinned: Pinned
    encoders: int = 4
    """Threads that encode; they change no byte."""


class _File(NamedTuple):
    """An accepted image as it will lie in the tar."""

    body: bytes
    sha256: bytes
    pixels_blake2b: bytes
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sampled:
    """A batch on its way to the host; ``wait`` before reading."""

    images: torch.Tensor
    """uint8, (batch, 3, height, width)."""
    valid: torch.Tensor
    reasons: Sequence[str | None]
    scores: Mapping[str, torch.Tensor]
    fetch_s: float
    sample_s: float
    """By the host's clock, which on a CUDA device sees the launch only."""
    began: torch.cuda.Event | None
    ended: torch.cuda.Event | None

    def wait(self) -> float:
        """Until the batch has arrived; how long the device was busy with it."""
        if self.ended is None:
            return self.sample_s
        self.ended.synchronize()
        return self.sample_s if self.began is None else float(self.began.elapsed_time(self.ended)) / 1000


@dataclass(frozen=True, slots=True)
class _Judged:
    """A candidate after the keep rules."""

    request: Request
    reason: str | None
    scores: dict[str, float]
    file: Future[_File] | None
    thumbnail: bytes | None


class Worker:
    """Makes intervals for one output on one device. Refuses to start where its pinned values are not the output's.

    ``on_batch`` is called in the threads that call ``make``.
    """

    def __init__(
        self,
        spec: WorkSpec,
        store: Store,
        sampler: Sampler,
        requests: Requests,
        on_batch: Callable[[BatchDone], None] | None = None,
    ) -> None:
        there = read_pinned(store)
        if there is None:
            raise InputError(f"{store.url} has no {layout.round_key(0)} yet; a driver plans before workers start")
        refuse_other(there, spec.pinned)
        self._spec = spec
        self._keep = from_data(KeepConfig, dict(spec.pinned.keep), "the pinned keep rules")
        self._store = store
        self._sampler = sampler
        self._requests = requests
        self._on_batch = on_batch
        self._device = ThreadPoolExecutor(1, "device", initializer=_pin_numerics, initargs=(spec.pinned.threads,))
        self._fetcher = ThreadPoolExecutor(1, "fetch")
        self._encoders = ThreadPoolExecutor(spec.encoders, "encode")
        self._turn = threading.Lock()
        self._stopped = threading.Event()
        self._made_on = torch.device("cpu")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        for pool in (self._fetcher, self._device, self._encoders):
            pool.shutdown(cancel_futures=True)

    def stop(self) -> None:
        """Make nothing more: what is being made ends with StoppedError at its next batch, and leaves no commit."""
        self._stopped.set()

    def make(self, work: Work) -> Receipt:
        """Make one interval and commit it; safe to repeat, and safe beside any other attempt at it."""
        begun = time.perf_counter()
        seconds = dict.fromkeys(STAGES, 0.0)
        requests = self._ask(work)
        size = self._spec.pinned.batch
        batches = [requests[start : start + size] for start in range(0, len(requests), size)]
        judged: list[_Judged] = []
        shown: Counter[str] = Counter()
        with closing(self._sampled(batches)) as stream:
            for batch, sampled in zip(batches, stream, strict=True):
                _drain(judged[-size:])  # no more than two batches of pixels wait for the encoders
                sample_s = sampled.wait()
                seconds["fetch"] += sampled.fetch_s
                seconds["sample"] += sample_s
                new = self._judge(batch, sampled, shown)
                judged += new
                self._tell(work.interval, new, sample_s)
        _drain(judged)
        if self._stopped.is_set():
            raise StoppedError(
                f"interval {work.interval} was stopped before its commit; the same command makes it again"
            )
        return self._commit(work.interval, judged, seconds, begun)

    def _ask(self, work: Work) -> list[Request]:
        """The requests of an interval in the order of its slots."""
        candidates = work.candidates
        ks: dict[str, list[int]] = {}
        for group, k in candidates:
            ks.setdefault(group, []).append(k)
        found = {(request.group, request.k): request for group in ks for request in self._requests(group, ks[group])}
        missing = [candidate for candidate in candidates if candidate not in found]
        if missing:
            raise ConfigError(f"the method gives no request for candidate {missing[0]}; it must answer for each k")
        return [found[candidate] for candidate in candidates]

    def _sampled(self, batches: Sequence[list[Request]]) -> Generator[_Sampled, None, None]:
        """Batches as the device makes them. The device's turn ends with the last batch handed to it, not with its reading."""
        full = [batch + batch[-1:] * (self._spec.pinned.batch - len(batch)) for batch in batches]
        fetched = self._fetcher.submit(self._fetch, full[0])
        running: deque[Future[_Sampled]] = deque()
        with self._turn:
            for number, batch in enumerate(full):
                if self._stopped.is_set():
                    raise StoppedError("the worker was stopped; the same command goes on")
                running.append(self._device.submit(self._sample, batch, fetched))
                if number + 1 < len(full):
                    fetched = self._fetcher.submit(self._fetch, full[number + 1])
                if len(running) > 1:
                    yield running.popleft().result()
        while running:
            yield running.popleft().result()

    def _fetch(self, batch: list[Request]) -> tuple[Any, float]:
        begun = time.perf_counter()
        return self._sampler.fetch(batch), time.perf_counter() - begun

    def _sample(self, batch: list[Request], fetched: Future[tuple[Any, float]]) -> _Sampled:
        """In the device's thread: launch the batch and its way to the host, without waiting for either."""
        inputs, fetch_s = fetched.result()
        begun = time.perf_counter()
        began = _mark(self._made_on)
        outcomes = self._sampler.sample(batch, inputs)
        expected = (len(batch), 3, self._spec.size, self._spec.size)
        if outcomes.images.shape != expected or outcomes.images.dtype != torch.uint8:
            raise ConfigError(
                f"the sampler made {outcomes.images.dtype} {tuple(outcomes.images.shape)}, wanted are uint8 {expected}; "
                "set the recipe's size and the generator's to the same"
            )
        self._made_on = outcomes.images.device
        images, valid = _to_host(outcomes.images), _to_host(outcomes.valid)
        scores = {name: _to_host(score.detach()) for name, score in outcomes.scores.items()}
        ended = _mark(self._made_on)
        return _Sampled(
            images=images,
            valid=valid,
            reasons=outcomes.reasons,
            scores=scores,
            fetch_s=fetch_s,
            sample_s=time.perf_counter() - begun,
            began=began,
            ended=ended,
        )

    def _judge(self, batch: list[Request], sampled: _Sampled, shown: Counter[str]) -> list[_Judged]:
        """Apply the keep rules and start to encode what they leave. What was padded falls away here."""
        images: NDArray[np.uint8] = sampled.images.numpy()
        why = reasons(images, sampled.valid.numpy(), sampled.reasons, self._keep)
        judged = []
        for row, request in enumerate(batch):
            reason = why[row]
            thumbnail = None
            if reason is not None:
                shown[reason] += 1
                thumbnail = _thumbnail(images[row]) if shown[reason] <= _THUMBNAILS_PER_REASON else None
            judged.append(
                _Judged(
                    request=request,
                    reason=reason,
                    scores={name: float(score[row]) for name, score in sampled.scores.items()},
                    file=self._encoders.submit(_encode, images[row], self._spec.codec) if reason is None else None,
                    thumbnail=thumbnail,
                )
            )
        return judged

    def _tell(self, interval: int, judged: list[_Judged], sample_s: float) -> None:
        if self._on_batch is not None:
            rejected = Counter(candidate.reason for candidate in judged if candidate.reason is not None)
            self._on_batch(BatchDone(interval, len(judged), len(judged) - rejected.total(), rejected, sample_s))

    def _commit(self, interval: int, judged: list[_Judged], seconds: dict[str, float], begun: float) -> Receipt:
        """Pack, upload, and publish last."""
        laps = [time.perf_counter()]
        files = [None if one.file is None else one.file.result() for one in judged]
        tar, sidecar = self._packed(judged, files)
        laps.append(time.perf_counter())
        tar_ref = None if tar is None else self._put(layout.tar_key, interval, tar)
        sidecar_ref = self._put(layout.sidecar_key, interval, sidecar)
        laps.append(time.perf_counter())
        commit = Commit(
            interval=interval,
            attempt=uuid.uuid4().hex,
            tar=tar_ref,
            sidecar=sidecar_ref,
            groups=_tallies(judged),
            environment=environment(self._made_on),
            seconds=laps[-1] - begun,
        )
        winner = publish(self._store, commit)
        laps.append(time.perf_counter())
        seconds["encode"] = sum(file.seconds for file in files if file is not None)
        seconds.update({stage: laps[n + 1] - laps[n] for n, stage in enumerate(("pack", "upload", "commit"))})
        return Receipt(winner, winner.attempt == commit.attempt, seconds)

    def _packed(self, judged: list[_Judged], files: list[_File | None]) -> tuple[bytes | None, bytes]:
        """The tar of what was accepted (None for nothing), and the sidecar of everything."""
        seeds = [draw_seed(self._sampler.seed, one.request.group, one.request.k, "latents") for one in judged]
        members: list[Member] = []
        for one, file, seed in zip(judged, files, seeds, strict=True):
            if file is not None:
                members += self._members(one.request, file, seed)
        packed = pack(members) if members else None
        offsets = iter(packed.offsets[::2] if packed is not None else ())
        rows = [
            _decision(slot, one, file, seed, None if file is None else next(offsets))
            for slot, (one, file, seed) in enumerate(zip(judged, files, seeds, strict=True))
        ]
        return None if packed is None else packed.tar, write_sidecar(rows)

    def _members(self, request: Request, file: _File, seed: int) -> tuple[Member, Member]:
        key = synthetic_key(request.group, request.k)
        note = sample_json(
            key,
            self._spec.groups.by_name(request.group),
            "synthetic",
            seed=seed,
            prompt=request.prompt,
            source_key=request.source_key,
        )
        return Member(f"{key}.{self._spec.codec.format}", file.body), Member(f"{key}.json", note)

    def _put(self, key_of: Callable[[int, str], str], interval: int, body: bytes) -> ObjectRef:
        digest = hashlib.sha256(body).hexdigest()
        key = key_of(interval, digest)
        self._store.put(key, body)
        return ObjectRef(key, digest, len(body))


@functools.cache
def environment(device: torch.device) -> Mapping[str, str]:
    """What equal bytes rest on, beside the pinned values."""
    found = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diffusers": metadata.version("diffusers"),
        "codec": codec_environment(),
    }
    if device.type == "cuda":
        return found | {"device": torch.cuda.get_device_name(device), "cudnn": str(torch.backends.cudnn.version())}  # type: ignore[no-untyped-call]
    return found | {"device": f"{device.type} {platform.machine()} {torch.backends.cpu.get_cpu_capability()}"}


def _pin_numerics(threads: int) -> None:
    """No choice by timing and no silent lower precision: the device's thread starts with this."""
    torch.set_num_threads(threads)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def _mark(device: torch.device) -> torch.cuda.Event | None:
    """Now, on the clock of a CUDA device; None for any other."""
    if device.type != "cuda":
        return None
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(device))
    return event


def _to_host(tensor: torch.Tensor) -> torch.Tensor:
    if not tensor.is_cuda:
        return tensor
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)


def _encode(pixels: NDArray[np.uint8], codec: CodecConfig) -> _File:
    begun = time.perf_counter()
    body = encode(pixels.transpose(1, 2, 0), codec)
    # The stored pixels, not the sampled ones: whoever reads the set can check this hash.
    pixels_blake2b = blake2b16(decode(body))
    return _File(body, hashlib.sha256(body).digest(), pixels_blake2b, time.perf_counter() - begun)


def _thumbnail(pixels: NDArray[np.uint8]) -> bytes:
    image = Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    image.thumbnail((_THUMBNAIL, _THUMBNAIL))
    return encode(np.asarray(image), _THUMBNAIL_CODEC)


def _drain(judged: list[_Judged]) -> None:
    """Wait for these candidates' files."""
    for one in judged:
        if one.file is not None:
            one.file.result()


def _decision(slot: int, one: _Judged, file: _File | None, seed: int, offset: int | None) -> Decision:
    return Decision(
        slot=slot,
        group=one.request.group,
        k=one.request.k,
        seed=seed,
        prompt=one.request.prompt,
        source_key=one.request.source_key,
        accepted=file is not None,
        reason=one.reason,
        scores=one.scores,
        pixels_blake2b=None if file is None else file.pixels_blake2b,
        sha256=None if file is None else file.sha256,
        offset=offset,
        size=None if file is None else len(file.body),
        thumbnail=one.thumbnail,
    )


def _tallies(judged: list[_Judged]) -> dict[str, GroupTally]:
    groups: dict[str, list[str | None]] = {}
    for one in judged:
        groups.setdefault(one.request.group, []).append(one.reason)
    return {
        group: GroupTally(
            tried=len(found),
            accepted=found.count(None),
            rejected=dict(sorted(Counter(reason for reason in found if reason is not None).items())),
        )
        for group, found in sorted(groups.items())
    }
