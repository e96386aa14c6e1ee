"""Rows of coming steps to decoded batches, in order.

Reading and decoding run in threads ahead of whoever takes the batches. Several steps are read together (a *gulp*): their
images that lie near each other in one range, and images of the next gulp that lie in between are kept for it. The first gulp
is a single step, so that training begins early; each further one may be twice as large, up to a share of ``read_ahead_mb``.
What is in memory does not depend on how large the sets are.
"""

from __future__ import annotations

import contextlib
import itertools
import warnings
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from ffr_dist.errors import BrokenError, DataError
from ffr_dist.read.cache import open_cache
from ffr_dist.read.config import ReadConfig, worker_count
from ffr_dist.read.dataset import MOST_BYTES, Dataset, UnreadableError
from ffr_dist.read.decoding import Chunk, Decoder, InProcesses, InThreads
from ffr_dist.read.ranges import OFFSET_BITS, Bytes, Read, plan_reads

Ints = NDArray[np.int64]
Images = NDArray[np.uint8]

_READERS = 8
_GULPS, _LATER_GULPS = 8, 4
"""Gulps that share ``read_ahead_mb``; so many of them are images that were found between others. The order of samples is random
within windows of some size: where those fit in here, each is read once, and from end to end.
"""
_MOST_STEPS = 1024
"""Read ahead, however small they are."""
_DECODED_BYTES = 8 * 2**20
_DECODED_STEPS = range(2, 9)
"""Decoded ahead: as many as have so many bytes, within these bounds."""
_LEAST_PIXELS = 2**16
"""Of a task: to hand it to a thread takes as long as to decode some thousands."""
_GRACE_S = 5.0


class Loader:
    """Decoded images of several sets, whose rows are counted one set after the other."""

    def __init__(self, datasets: Sequence[Dataset], config: ReadConfig | None = None) -> None:
        self._datasets = tuple(datasets)
        self._config = config or ReadConfig()
        self._broken: dict[tuple[int, int], str] = {}

    @property
    def skipped(self) -> tuple[str, ...]:
        """What was wrong with each image that another one stands for, by name: see ``ReadConfig.skip_broken``."""
        return tuple(self._broken.values())

    def stream(self, rows: Iterable[Ints]) -> Generator[Images, None, None]:
        """The pixels of each step's rows: (rows, height, width, 3), in the order given; of no row, an empty array.

        A batch's memory is used again once the batch, and every view of it, is gone. Closing the generator ends its
        threads and processes.
        """
        with _Stream(self._datasets, self._config, self._broken, rows) as stream:
            yield from stream


@dataclass(slots=True, eq=False, kw_only=True)
class _Step:
    """A batch on its way."""

    rows: Ints
    """As asked for."""
    owner: Ints
    """Which set each is of."""
    own: Ints
    """Its row in the index of that set."""
    known: NDArray[np.bool_]
    """Its pixels are in memory."""
    at: Ints
    """Of each image that is to be read: its place in the batch."""
    places: Ints
    sizes: Ints
    read: Ints
    """The number of the read that brings it; -1: not yet planned."""
    starts: Ints
    """Where it begins in what that read brings."""
    weight: int
    """Its file bytes, or more where they are few."""
    bodies: dict[int, Future[Bytes]] = field(default_factory=dict)
    """What its reads bring, by number."""
    pixels: Images = field(default_factory=lambda: np.empty((0, 1, 1, 3), np.uint8))
    work: list[Future[list[int]]] = field(default_factory=list)


class _Stream:
    """One pass over steps. All but reading and decoding happens in the thread that takes the batches."""

    def __init__(
        self,
        datasets: Sequence[Dataset],
        config: ReadConfig,
        broken: dict[tuple[int, int], str],
        rows: Iterable[Ints],
    ) -> None:
        self._datasets = datasets
        self._sets = [dataset.whole for dataset in datasets]
        self._broken, self._most_broken = broken, config.skip_broken
        self._rows = iter(rows)
        self._first_row = np.cumsum([0, *map(len, datasets)])
        self._first_shard = np.cumsum([0, *(len(one.shards) for one in self._sets)])
        self._near = np.array([one.near for one in self._sets], np.int64)
        self._in_bucket = np.array([one.in_bucket for one in self._sets], np.bool_)
        self._shape = _shape(datasets)
        self._coming: deque[_Step] = deque()
        self._reading: deque[_Step] = deque()
        self._decoding: deque[_Step] = deque()
        self._coming_weight = self._reading_weight = self._gulp = 0
        self._most_gulp = config.read_ahead_mb * 2**20 // _GULPS
        self._step_bytes = 1
        self._numbers = itertools.count()
        self._pinned = bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]
        self._workers = worker_count(config)
        with contextlib.ExitStack() as stack:
            self._caches = [stack.enter_context(open_cache(one, config)) for one in self._sets]
            self._decoder: Decoder = stack.enter_context(
                contextlib.closing(InProcesses(self._workers) if config.decode == "processes" else InThreads())
            )
            self._decoders = ThreadPoolExecutor(self._workers, "ffr-decode")
            self._readers = ThreadPoolExecutor(_READERS, "ffr-read")
            stack.callback(self._end_threads)
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __iter__(self) -> Iterator[Images]:
        while True:
            self._go_on()
            if not self._decoding:
                return
            yield self._finish(self._decoding.popleft())

    def _end_threads(self) -> None:
        for pool in (self._readers, self._decoders):
            pool.shutdown(wait=False, cancel_futures=True)
        steps = (*self._coming, *self._reading, *self._decoding)
        tasks: list[Future[Any]] = []
        for step in steps:
            tasks += [*step.bodies.values(), *step.work]
        if not wait([task for task in tasks if not task.cancelled()], _GRACE_S).not_done:
            self._readers.shutdown()
            self._decoders.shutdown()
        # Else one waits for storage, and cannot be called back: it ends by itself.

    def _go_on(self) -> None:
        """Begin whatever may begin; of reading one gulp, since the first batch waits for this."""
        if self._reading_weight < 2 * self._most_gulp:
            self._begin_gulp()
        while True:
            most = min(max(_DECODED_BYTES // self._step_bytes, _DECODED_STEPS.start), _DECODED_STEPS.stop - 1)
            if not self._reading or len(self._decoding) >= most:
                return
            step = self._reading.popleft()
            self._reading_weight -= step.weight
            self._begin_decoding(step)
            self._decoding.append(step)
            self._step_bytes = max(self._step_bytes, len(step.rows) * int(np.prod(self._shape)))

    def _begin_gulp(self) -> None:
        """Begin to read the next steps."""
        later = _LATER_GULPS * self._most_gulp if self._gulp else 0
        while self._coming_weight <= self._gulp + later:
            rows = next(self._rows, None)
            if rows is None:
                break
            step = self._step(np.asarray(rows, np.int64))
            self._coming.append(step)
            self._coming_weight += step.weight
        gulp: list[_Step] = []
        weight = 0
        while self._coming and (not gulp or weight < self._gulp):
            gulp.append(self._coming.popleft())
            weight += gulp[-1].weight
        self._coming_weight -= weight
        self._reading.extend(gulp)
        self._reading_weight += weight
        self._read(gulp, list(self._coming))
        self._gulp = min(max(2 * self._gulp, weight), self._most_gulp)

    def _step(self, rows: Ints) -> _Step:
        if len(rows) and not 0 <= rows.min() <= rows.max() < self._first_row[-1]:
            raise IndexError(f"rows {rows.min()} to {rows.max()} are asked for of {self._first_row[-1]}")
        owner = np.searchsorted(self._first_row, rows, side="right") - 1
        own, places, sizes = np.empty_like(rows), np.empty_like(rows), np.empty_like(rows)
        known = np.zeros(len(rows), np.bool_)
        for number, (dataset, whole) in enumerate(zip(self._datasets, self._sets, strict=True)):
            here = owner == number
            if not here.any():
                continue
            of_set = dataset.absolute(rows[here] - self._first_row[number])
            own[here] = of_set
            sizes[here] = whole.columns.size[of_set]
            place = whole.places(of_set) + (self._first_shard[number] << OFFSET_BITS)
            # A shard's cached images lie in the cache's file as they do in the shard: it is one more set of shards.
            place[self._caches[number].has(of_set)] += self._first_shard[-1] << OFFSET_BITS
            places[here] = place
            if whole.pixels is not None:
                known[here] = whole.pixels.known[of_set]
        at = np.flatnonzero(~known)
        return _Step(
            rows=rows,
            owner=owner,
            own=own,
            known=known,
            at=at,
            places=places[at],
            sizes=sizes[at],
            read=np.full(len(at), -1),
            starts=np.zeros(len(at), np.int64),
            weight=max(int(sizes[at].sum()), _GULPS * self._most_gulp // _MOST_STEPS),
        )

    def _read(self, gulp: Sequence[_Step], later: Sequence[_Step]) -> None:
        """Begin to read what the steps of a gulp lack, and what later ones lack of the same ranges."""
        steps = [*gulp, *later]
        lacking = [np.flatnonzero(step.read < 0) for step in steps]
        counts = [len(some) for some in lacking]
        if not any(counts[: len(gulp)]):
            return
        pairs = list(zip(steps, lacking, strict=True))
        places = np.concatenate([step.places[some] for step, some in pairs])
        own = np.concatenate([step.own[step.at[some]] for step, some in pairs])
        owner = np.concatenate([step.owner[step.at[some]] for step, some in pairs])
        reads = plan_reads(
            places,
            np.concatenate([step.sizes[some] for step, some in pairs]),
            np.arange(len(places)) < sum(counts[: len(gulp)]),
            self._near[owner],
            self._in_bucket[owner],
            MOST_BYTES,
        )
        number_of, start_of = np.full(len(places), -1), np.zeros(len(places), np.int64)
        bodies: dict[int, Future[Bytes]] = {}
        for read in reads:
            number = next(self._numbers)
            number_of[read.wanted], start_of[read.wanted] = number, read.starts
            bodies[number] = self._readers.submit(self._fetch, read, own[read.wanted])
        ends = np.cumsum(counts)
        for (step, some), count, end in zip(pairs, counts, ends.tolist(), strict=True):
            step.read[some] = number_of[end - count : end]
            step.starts[some] = start_of[end - count : end]
            for number in {*number_of[end - count : end].tolist()} - {-1}:
                step.bodies[number] = bodies[number]

    def _fetch(self, read: Read, own: Ints) -> Bytes:
        """In a thread of its own."""
        cached, number = divmod(read.number, int(self._first_shard[-1]))
        place = int(np.searchsorted(self._first_shard, number, side="right")) - 1
        whole, cache, shard = self._sets[place], self._caches[place], number - int(self._first_shard[place])
        body = read.run(partial(cache.read if cached else whole.read, shard), self._decoder.files.take)
        if not cached:
            cache.keep(own, body, read.starts, read.sizes)
        return body

    def _begin_decoding(self, step: _Step) -> None:
        shape = (len(step.rows), *self._shape)
        # Torch's own pool of pinned memory knows of copies that still run.
        room = torch.empty(shape, dtype=torch.uint8, pin_memory=True).numpy if self._pinned else None
        step.pixels = room() if room else self._decoder.pixels.take(*shape)
        each = int(np.prod(self._shape[:2]))
        parts = min(self._workers, max(1, len(step.at) * each // _LEAST_PIXELS))
        for low, high in itertools.pairwise(len(step.at) * part // parts for part in range(parts + 1)):
            if low < high:
                step.work.append(self._decoders.submit(self._decode, step, low, high))
        if step.known.any():
            step.work.append(self._decoders.submit(self._remember, step))

    def _decode(self, step: _Step, low: int, high: int) -> list[int]:
        """In a thread of its own."""
        body, starts = step.read[low:high].tolist(), step.starts[low:high]
        return self._decoder(
            Chunk(
                bodies={number: step.bodies[number].result() for number in {*body}},
                body=body,
                starts=starts.tolist(),
                ends=(starts + step.sizes[low:high]).tolist(),
                pixels=step.pixels,
                at=step.at[low:high].tolist(),
            )
        )

    def _remember(self, step: _Step) -> list[int]:
        """In a thread of its own."""
        for number, one in enumerate(self._sets):
            if one.pixels is None:
                continue
            at = np.flatnonzero(step.known & (step.owner == number))
            if len(at) == len(step.rows):
                # Other modes than "clip" take a detour through a copy.
                np.take(one.pixels.values, step.own, axis=0, out=step.pixels, mode="clip")
            elif len(at):
                step.pixels[at] = one.pixels.values[step.own[at]]
        return []

    def _finish(self, step: _Step) -> Images:
        for place in sorted(itertools.chain.from_iterable(work.result() for work in step.work)):
            self._try_again(step, place, step.pixels[place])
        for number, one in enumerate(self._sets):
            if one.pixels is not None and len(new := step.at[step.owner[step.at] == number]):
                one.pixels.values[step.own[new]] = step.pixels[new]
                one.pixels.known[step.own[new]] = True
        return step.pixels

    def _try_again(self, step: _Step, place: int, pixels: Images) -> None:
        """For an image that could not be decoded: what the cache holds may be damaged, or a read have gone wrong."""
        number, own = int(step.owner[place]), int(step.own[place])
        self._caches[number].forget(own)
        try:
            self._sets[number].decode_again(own, pixels)
        except UnreadableError as error:
            self._count_broken(number, own, error)
            self._replace(number, int(step.rows[place] - self._first_row[number]), pixels, error)

    def _replace(self, number: int, row: int, pixels: Images, error: UnreadableError) -> None:
        """The next image of the same group, by key, that can be decoded: the same one in every process."""
        dataset, whole = self._datasets[number], self._sets[number]
        group = dataset.rows_of(int(dataset.group_ids[row]))
        at = int(np.flatnonzero(group == row)[0])
        for other in dataset.absolute(np.roll(group, -at)[1:]).tolist():
            try:
                whole.decode_again(other, pixels)
            except UnreadableError as another:
                self._count_broken(number, other, another)
            else:
                return
        raise BrokenError(f"{error} No other image of its group can be decoded either") from error

    def _count_broken(self, number: int, own: int, error: UnreadableError) -> None:
        if (number, own) in self._broken:
            return
        if not self._most_broken:
            raise error
        if len(self._broken) >= self._most_broken:
            raise BrokenError(
                f"{error}. That is one more broken image than read.skip_broken ({self._most_broken}) allows"
            ) from error
        self._broken[number, own] = str(error)
        warnings.warn(
            f"{error}. Another image of its group stands for it ({len(self._broken)} of {self._most_broken} allowed)",
            stacklevel=2,
        )


def _shape(datasets: Sequence[Dataset]) -> tuple[int, int, int]:
    shapes = {dataset.whole.shape(int(dataset.absolute([0])[0])) for dataset in datasets if len(dataset)}
    if len(shapes) > 1:
        raise DataError(
            f"the sets hold images of sizes {', '.join(sorted(f'{width}×{height}' for height, width, _ in shapes))}, which do "
            "not fit one batch; import at one size"
        )
    return shapes.pop() if shapes else (1, 1, 3)
