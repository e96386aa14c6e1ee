"""Memory for file bytes and pixels, used again once nobody looks at it any more.

A page of fresh memory costs the kernel up to two microseconds: for an image's file and pixels together about a tenth of the time
that its decoding takes.
"""

from __future__ import annotations

import math
import os
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.shared_memory import SharedMemory
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ffr_dist.errors import InputError

_LEAST = 16 * 2**10


class Block(Protocol):
    """A piece of memory."""

    address: int
    size: int
    name: str | None
    """What another process finds it by."""

    def let_go(self) -> None:
        """Nobody will ask for it again; who looks at it still may."""

    def close(self) -> None: ...


class Buffers:
    """Arrays whose memory comes back by itself: when an array and all views of it are gone, another may get its block."""

    def __init__(self, *, shared: bool = False) -> None:
        self._make: Callable[[int], Block] = _Shared if shared else _Private
        self._free: deque[Block] = deque()
        self._taken: set[Block] = set()
        self._lock = threading.Lock()
        self._closed = False

    def take(self, *shape: int) -> NDArray[np.uint8]:
        """An array whose values are whatever was there before."""
        with self._lock:
            if self._closed:
                raise RuntimeError("the buffers are closed")
            block = self._fitting(max(1, math.prod(shape)))
            self._taken.add(block)
        return np.asarray(_Lease(block, shape, self))

    def close(self) -> None:
        """Give the memory back: at once what is free, the rest when its last view is gone."""
        with self._lock:
            self._closed = True
            for block in list(self._taken):
                block.let_go()
            self._drop_free()

    def _fitting(self, size: int) -> Block:
        size = _rounded(size)
        others = []
        # The one that came back last may still be in the processor's cache.
        while self._free:
            block = self._free.pop()
            if size <= block.size <= 2 * size:
                break
            others.append(block)
        else:
            block = self._make(size)
            # Others are kept as long as they are no more than what is in use.
            unused = sum(other.size for other in others) - sum(other.size for other in list(self._taken))
            while others and unused > 0:
                unfit = others.pop()
                unused -= unfit.size
                unfit.let_go()
                unfit.close()
        self._free.extendleft(others)
        return block

    def back(self, block: Block) -> None:
        """Only for the lease. It comes wherever the last view is dropped, perhaps while this thread holds the lock: so without."""
        self._taken.discard(block)
        self._free.append(block)
        if self._closed:
            self._drop_free()

    def _drop_free(self) -> None:
        with suppress(IndexError):
            while True:
                block = self._free.pop()
                block.let_go()
                block.close()


def reserve(descriptor: int, size: int) -> None:
    """Give a file that will be mapped its room now, or say that there is none: to write to a page for which a disk (or a
    shared memory) has no room would end the process.
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    else:  # macOS
        os.ftruncate(descriptor, size)


def _rounded(size: int) -> int:
    """Few sizes, so that blocks fit many requests. What is not touched of one takes no memory."""
    return max(_LEAST, 1 << (size - 1).bit_length())


class _Lease:
    """What an array and its views keep alive."""

    def __init__(self, block: Block, shape: tuple[int, ...], home: Buffers) -> None:
        self.__array_interface__ = {
            "data": (block.address, False),
            "shape": shape,
            "typestr": "|u1",
            "version": 3,
        }
        self.block = block
        self._home = home

    def __del__(self) -> None:
        self._home.back(self.block)


class _Private:
    def __init__(self, size: int) -> None:
        self.size = size
        self.name: str | None = None
        self._memory = np.empty(size, np.uint8)
        self.address = self._memory.ctypes.data

    def let_go(self) -> None:
        pass

    def close(self) -> None:
        pass


class _Shared:
    def __init__(self, size: int) -> None:
        self.size = size
        self._memory = SharedMemory(create=True, size=size)
        self._linked = True
        try:
            reserve(self._memory._fd, size)  # type: ignore[attr-defined]  # noqa: SLF001
        except OSError as error:
            self.let_go()
            self.close()
            raise InputError(
                f"shared memory for decoding processes is full ({error.strerror}): enlarge /dev/shm (docker: --shm-size), "
                "lower read.read_ahead_mb, or set read.decode to threads"
            ) from error
        self.name: str | None = self._memory.name
        self.address = array_in(self._memory, 0, size).ctypes.data

    def let_go(self) -> None:
        if self._linked:
            self._linked = False
            self._memory.unlink()

    def close(self) -> None:
        self._memory.close()


def array_in(memory: SharedMemory, offset: int, size: int) -> NDArray[np.uint8]:
    """Bytes of a shared block, which must not be closed while anybody looks at them."""
    return np.ndarray((size,), np.uint8, memory.buf, offset)


def shared_place(array: NDArray[np.uint8]) -> tuple[str, int]:
    """The name of the shared block that an array lies in, and its offset there."""
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    if not isinstance(base, _Lease) or base.block.name is None:
        raise TypeError("the array does not lie in a shared buffer")
    return base.block.name, array.__array_interface__["data"][0] - base.block.address
