"""Who decodes: the threads that ask for it, or a process for each of them.

Both are called from threads and answer when the pixels are in place. Threads need no copy and no other process, and the
decoder leaves Python's lock alone while it works. Processes are for a training loop that keeps that lock to itself.
"""

from __future__ import annotations

import math
import multiprocessing
import queue
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.shared_memory import SharedMemory
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ffr_dist.errors import DataError, StoppedError
from ffr_dist.read.buffers import Buffers, array_in, shared_place
from ffr_dist.shards.codec import decode_into

_Worker = tuple["subprocess.Popen[bytes]", Connection]

_MOST_MAPPED = 256
_GRACE_S = 5.0


@dataclass(frozen=True, slots=True, eq=False)
class Chunk:
    """Some images of a batch: where their files lie, and where their pixels go."""

    bodies: Mapping[int, NDArray[np.uint8]]
    body: Sequence[int]
    """Of each image: in which of ``bodies`` its file is, from ``starts`` to ``ends``."""
    starts: Sequence[int]
    ends: Sequence[int]
    pixels: NDArray[np.uint8]
    """Of the batch."""
    at: Sequence[int]
    """Of each image: its place in ``pixels``."""


class Decoder(Protocol):
    """May be called from several threads at a time. It sees what lies in its buffers."""

    files: Buffers
    pixels: Buffers

    def __call__(self, chunk: Chunk) -> list[int]:
        """Decode, and tell the places of the images that could not be."""

    def close(self) -> None: ...


def decode_chunk(chunk: Chunk) -> list[int]:
    views = {number: body.data for number, body in chunk.bodies.items()}
    pixels = chunk.pixels
    broken = []
    for body, start, end, place in zip(chunk.body, chunk.starts, chunk.ends, chunk.at, strict=True):
        try:
            decode_into(views[body][start:end], pixels[place])
        except DataError:
            broken.append(place)
    return broken


class InThreads:
    def __init__(self) -> None:
        self.files, self.pixels = Buffers(), Buffers()

    def __call__(self, chunk: Chunk) -> list[int]:
        return decode_chunk(chunk)

    def close(self) -> None:
        self.files.close()
        self.pixels.close()


class InProcesses:
    """A process for each thread that may call at a time. Files and pixels go through shared memory.

    Each is a Python of its own, which imports this module and not the program that it works for.
    """

    def __init__(self, count: int) -> None:
        self.files, self.pixels = Buffers(shared=True), Buffers(shared=True)
        self._workers = [_start() for _ in range(count)]
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)

    def __call__(self, chunk: Chunk) -> list[int]:
        bodies = {number: (*shared_place(body), len(body)) for number, body in chunk.bodies.items()}
        name, offset = shared_place(chunk.pixels)
        worker = process, connection = self._idle.get()
        try:
            connection.send((bodies, chunk.body, chunk.starts, chunk.ends, name, offset, chunk.pixels.shape, chunk.at))
            broken: list[int] = connection.recv()
        except (EOFError, OSError) as error:
            with suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE_S)
            raise StoppedError(
                f"a decoding process ended (exit code {process.returncode}); where memory is short lower read.workers or set "
                "read.decode to threads. Then run the same command again"
            ) from error
        finally:
            self._idle.put(worker)
        return broken

    def close(self) -> None:
        for _, connection in self._workers:
            connection.close()
        for process, _ in self._workers:
            try:
                process.wait(_GRACE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.files.close()
        self.pixels.close()


def _start() -> _Worker:
    mine, theirs = multiprocessing.Pipe()
    end = theirs.fileno()
    program = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import serve; serve({end})"
    with theirs:
        process = subprocess.Popen(  # noqa: S603 - of ourselves
            [sys.executable, "-c", program], stdin=subprocess.DEVNULL, pass_fds=[end]
        )
    return process, mine


def serve(end: int) -> None:
    """A decoding process, whose end of a pipe is ``end``."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started it ends it
    # Who makes a block removes it; else this process would remove all that it has seen.
    resource_tracker.register = lambda *_: None
    with Connection(end) as connection:
        answer_all(connection)


def answer_all(connection: Connection) -> None:
    """Decode what is asked for, until the other end is closed."""
    mapped: dict[str, SharedMemory] = {}

    def bytes_at(name: str, offset: int, size: int) -> NDArray[np.uint8]:
        if name not in mapped:
            mapped[name] = SharedMemory(name)
        return array_in(mapped[name], offset, size)

    def answer() -> list[int]:
        files, file, starts, ends, name, offset, shape, at = connection.recv()
        pixels = bytes_at(name, offset, math.prod(shape)).reshape(shape)
        found = {number: bytes_at(*place) for number, place in files.items()}
        return decode_chunk(Chunk(found, file, starts, ends, pixels, at))

    def forget() -> None:
        # Numpy does not hold a map open: between two answers nobody looks at one.
        while mapped:
            mapped.popitem()[1].close()

    with suppress(EOFError, OSError):
        while True:
            connection.send(answer())
            if len(mapped) > _MOST_MAPPED:
                forget()
    forget()
