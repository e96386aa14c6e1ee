"""One device's worker: an interval of candidates to committed objects, in plain Python.

``fetch`` (a thread, one batch ahead) → ``sample`` and agreement (the one thread that owns the device) → keep rules → encode
(a pool) → pack → hash → put the tar → put the sidecar → publish the commit. At most two sampled batches are in memory at
any time, the one on the device among them: it waits where the encoders fall behind.

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
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from importlib import metadata
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from ffr_dist.config import from_data
from ffr_dist.errors import ConfigError, InputError, StoppedError
from ffr_dist.generate.keep import SCORES, KeepConfig, judge, load_agreement, with_agreement
from ffr_dist.generate.shard import ImageFile, Made, image_file, pack_interval, tallies, thumbnail
from ffr_dist.generate.work import BatchDone, Receipt, Work
from ffr_dist.groups import Groups
from ffr_dist.models.sampler import Outcomes, Sampler
from ffr_dist.plan.document import Pinned, read_pinned, refuse_other
from ffr_dist.quota import Request
from ffr_dist.seeds import draw_seed
from ffr_dist.shards import layout
from ffr_dist.shards.codec import CodecConfig, codec_environment
from ffr_dist.shards.commit import Commit, ObjectRef, publish
from ffr_dist.store import Store

STAGES = ("fetch", "sample", "encode", "pack", "upload", "commit")

_THUMBNAILS_PER_REASON = 2
_SAMPLED = 2
"""Batches in memory: one on the device, one at the encoders."""
_AT_A_TIME = 8
"""Images that an encoder takes at most: to hand over each alone would wake a thread for each."""
_NOTICE_S = 0.1
"""How soon a thread that waits for its turn sees that the worker was stopped."""

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


@dataclass(frozen=True, slots=True)
class _Moment:
    """A point in time on the host's clock, and on the device's where it has one."""

    host: float
    event: torch.cuda.Event | None

    def until(self, later: _Moment) -> float:
        """Seconds from here; the device must have reached ``later``."""
        if self.event is None or later.event is None:
            return later.host - self.host
        return float(self.event.elapsed_time(later.event)) / 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sampled:
    """A batch on its way to the host; ``wait`` before reading."""

    outcomes: Outcomes
    fetch_s: float
    before: _Moment | None
    """The end of the batch before."""
    began: _Moment
    ended: _Moment

    def wait(self) -> tuple[float, float]:
        """Until the batch has arrived; for how long the device was busy with it, and idle before it."""
        if self.ended.event is not None:
            self.ended.event.synchronize()
        idle = 0.0 if self.before is None else max(0.0, self.before.until(self.began))
        return self.began.until(self.ended), idle


@dataclass(slots=True)
class _Laps:
    """Where the time of one interval went."""

    fetch: float = 0.0
    sample: float = 0.0
    encode: float = 0.0
    device: float = 0.0
    """From its first batch to its last: with the waits between them, without what came before."""


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
        self._agreement = load_agreement(self._keep, spec.groups)
        self._judges_on = torch.device("cpu")
        self._store = store
        self._sampler = sampler
        self._requests = requests
        self._on_batch = on_batch
        self._device = ThreadPoolExecutor(1, "device", initializer=_pin_numerics, initargs=(spec.pinned.threads,))
        self._fetcher = ThreadPoolExecutor(1, "fetch")
        self._encoders = ThreadPoolExecutor(spec.encoders, "encode")
        self._turn = threading.Lock()
        self._room = threading.Semaphore(_SAMPLED)
        self._stopped = threading.Event()
        self._made_on = torch.device("cpu")
        self._last: _Moment | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        for pool in (self._fetcher, self._device, self._encoders):
            pool.shutdown(cancel_futures=True)

    def stop(self) -> None:
        """Make nothing more: what is being made ends with StoppedError after the batch on the device, and leaves no commit."""
        self._stopped.set()

    def make(self, work: Work) -> Receipt:
        """Make one interval and commit it; safe to repeat, and safe beside any other attempt at it."""
        requests = self._ask(work)
        size = self._spec.pinned.batch
        batches = [requests[start : start + size] for start in range(0, len(requests), size)]
        made: list[Made] = []
        laps = _Laps()
        shown: Counter[str] = Counter()
        with closing(self._sampled(batches)) as stream:
            for batch in batches:
                made += self._finish(work.interval, batch, stream, laps, shown)
        return self._commit(work.interval, made, laps)

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
        try:
            with self._turn:
                for number, batch in enumerate(full):
                    self._refuse_if_stopped()
                    running.append(self._device.submit(self._sample, batch, fetched))
                    if number + 1 < len(full):
                        fetched = self._fetcher.submit(self._fetch, full[number + 1])
                    if len(running) > 1:
                        yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            for future in running:  # of a make that failed
                if not future.cancel():
                    future.add_done_callback(self._forget)

    def _forget(self, future: Future[_Sampled]) -> None:
        """A batch that nobody will read gives its room back; one that failed took none."""
        if future.exception() is None:
            self._room.release()

    def _refuse_if_stopped(self) -> None:
        if self._stopped.is_set():
            raise StoppedError("the worker was stopped before its commit; the same command goes on")

    def _fetch(self, batch: list[Request]) -> tuple[Any, float]:
        begun = time.perf_counter()
        return self._sampler.fetch(batch), time.perf_counter() - begun

    def _sample(self, batch: list[Request], fetched: Future[tuple[Any, float]]) -> _Sampled:
        """In the device's thread: launch the batch and its way to the host, without waiting for either."""
        inputs, fetch_s = fetched.result()
        while not self._room.acquire(timeout=_NOTICE_S):
            self._refuse_if_stopped()
        try:
            return self._launch(batch, inputs, fetch_s)
        except BaseException:
            self._room.release()
            raise

    def _launch(self, batch: list[Request], inputs: Any, fetch_s: float) -> _Sampled:
        before, began = self._last, _now(self._made_on)
        outcomes = self._outcomes(batch, inputs)
        self._made_on = outcomes.images.device
        host = Outcomes(
            images=_to_host(outcomes.images),
            valid=_to_host(outcomes.valid),
            reasons=outcomes.reasons,
            rejects={reason: _to_host(where) for reason, where in outcomes.rejects.items()},
            scores={name: _to_host(score.detach()) for name, score in outcomes.scores.items()},
        )
        self._last = _now(self._made_on)
        return _Sampled(outcomes=host, fetch_s=fetch_s, before=before, began=began, ended=self._last)

    def _outcomes(self, batch: list[Request], inputs: Any) -> Outcomes:
        """What the sampler makes of a batch, with its agreement. A device out of memory is tried twice."""
        try:
            return self._judged(batch, inputs)
        except torch.OutOfMemoryError:
            pass  # the retry must not stand in the handler, where the error's frames keep the batch's tensors alive
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        try:
            return self._judged(batch, inputs)
        except torch.OutOfMemoryError as error:
            first = batch[0]
            raise StoppedError(
                f"the device has no memory for the batch of {len(batch)} from {first.group} {first.k} on ({error}); free "
                "the device, or use another output with a smaller generate.batch"
            ) from None

    def _judged(self, batch: list[Request], inputs: Any) -> Outcomes:
        outcomes = self._sampler.sample(batch, inputs)
        _refuse_other_shapes(outcomes, len(batch), self._spec.size)
        if self._agreement is not None and outcomes.images.device != self._judges_on:
            self._judges_on = outcomes.images.device
            self._agreement.to(self._judges_on)
        return with_agreement(outcomes, self._agreement, self._spec.groups, batch)

    def _finish(
        self, interval: int, batch: list[Request], stream: Iterator[_Sampled], laps: _Laps, shown: Counter[str]
    ) -> list[Made]:
        """The next batch of ``stream`` to image files, and its room given back once its pixels are forgotten."""
        sampled = next(stream)
        try:
            return self._made(interval, batch, sampled, laps, shown)
        finally:
            del sampled
            self._room.release()

    def _made(
        self, interval: int, batch: list[Request], sampled: _Sampled, laps: _Laps, shown: Counter[str]
    ) -> list[Made]:
        """Apply the keep rules and encode what they leave. What was padded falls away here."""
        busy_s, idle_s = sampled.wait()
        laps.fetch += sampled.fetch_s
        laps.device += busy_s + (idle_s if laps.sample else 0.0)
        laps.sample += busy_s
        images: NDArray[np.uint8] = sampled.outcomes.images.numpy()
        verdicts = judge(sampled.outcomes, self._keep)
        reasons = verdicts.reasons[: len(batch)]
        kept = [row for row, why in enumerate(reasons) if why is None]
        share = min(_AT_A_TIME, -(-len(kept) // self._spec.encoders)) or 1
        parts = [
            self._encoders.submit(self._encode, images, kept[start : start + share])
            for start in range(0, len(kept), share)
        ]
        rejected = Counter(why for why in reasons if why is not None)
        thumbnails = {}
        for row, why in enumerate(reasons):
            if why is not None and shown[why] < _THUMBNAILS_PER_REASON:
                shown[why] += 1
                thumbnails[row] = thumbnail(images[row])
        if self._on_batch is not None:
            self._on_batch(
                BatchDone(interval, len(batch), len(batch) - rejected.total(), dict(rejected), busy_s, idle_s)
            )
        files: dict[int, ImageFile] = {}
        for part in parts:
            encoded, seconds = part.result()
            files.update(encoded)
            laps.encode += seconds
        scores = {name: score.tolist() for name, score in verdicts.scores.items()}
        return [
            Made(
                request=request,
                seed=draw_seed(self._sampler.seed, request.group, request.k, "latents"),
                reason=reasons[row],
                scores={name: score[row] for name, score in scores.items()},
                file=files.get(row),
                thumbnail=thumbnails.get(row),
            )
            for row, request in enumerate(batch)
        ]

    def _encode(self, images: NDArray[np.uint8], rows: Sequence[int]) -> tuple[dict[int, ImageFile], float]:
        begun = time.perf_counter()
        looks = self._keep.near_duplicates is not None
        files = {row: image_file(images[row], self._spec.codec, looks=looks) for row in rows}
        return files, time.perf_counter() - begun

    def _commit(self, interval: int, made: list[Made], laps: _Laps) -> Receipt:
        """Pack, upload, and publish last."""
        self._refuse_if_stopped()
        times = [time.perf_counter()]
        shard = pack_interval(made, self._spec.groups, self._spec.codec)
        times.append(time.perf_counter())
        tar = None if shard.tar is None else self._put(layout.tar_key, interval, shard.tar)
        sidecar = self._put(layout.sidecar_key, interval, shard.sidecar)
        times.append(time.perf_counter())
        commit = Commit(
            interval=interval,
            attempt=uuid.uuid4().hex,
            tar=tar,
            sidecar=sidecar,
            groups=tallies(made),
            environment=environment(self._made_on),
            seconds=laps.device,
        )
        winner = publish(self._store, commit)
        times.append(time.perf_counter())
        after = dict(zip(("pack", "upload", "commit"), np.diff(times).tolist(), strict=True))
        before = {"fetch": laps.fetch, "sample": laps.sample, "encode": laps.encode}
        return Receipt(winner, winner.attempt == commit.attempt, before | after)

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


def _now(device: torch.device) -> _Moment:
    event = None
    if device.type == "cuda":
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(device))
    return _Moment(time.perf_counter(), event)


def _to_host(tensor: torch.Tensor) -> torch.Tensor:
    if not tensor.is_cuda:
        return tensor
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)


def _refuse_other_shapes(outcomes: Outcomes, count: int, size: int) -> None:
    """ConfigError for a sampler that answers in another form than the engine's."""
    images = outcomes.images
    expected = (count, 3, size, size)
    if images.shape != expected or images.dtype != torch.uint8:
        raise ConfigError(
            f"the sampler made {images.dtype} {tuple(images.shape)}, wanted are uint8 {expected}; "
            "set the recipe's size and the generator's to the same"
        )
    flags = {"valid": outcomes.valid, **outcomes.rejects}
    columns = {**flags, **outcomes.scores}
    wrong = [name for name, values in columns.items() if values.shape != (count,)]
    wrong += [name for name, values in flags.items() if values.dtype != torch.bool]
    wrong += [name for name in outcomes.scores if name in SCORES]
    wrong += ["reasons"] if len(outcomes.reasons) not in {0, count} else []
    if wrong:
        raise ConfigError(
            f"the sampler's {wrong[0]} is not what the engine takes: {count} values, true or false for valid and "
            f"rejects, and scores of other names than {', '.join(SCORES)}"
        )
