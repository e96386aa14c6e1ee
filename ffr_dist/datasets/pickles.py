"""Publishers' pickles, read without running them.

A pickle is a program that may call whatever it names. Here it can name four things, and gets stand-ins for them: numpy's
own code is not asked to rebuild an array from parts that nobody has checked.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from ffr_dist.errors import DataError

_NUMBER = re.compile(r"[iuf][1248]\Z", re.ASCII)
_OBJECT = ("O", "O4", "O8")


class Array:
    """An array of a pickle: ``value`` has its numbers, or ``items`` its objects."""

    __slots__ = ("items", "value")

    def __init__(self, *_: object) -> None:
        self.value: NDArray[Any] = np.zeros(0)
        self.items: list[Any] = []

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        shape, dtype, by_column, body = state[-4:]
        if not isinstance(shape, tuple) or not all(isinstance(side, int) and side >= 0 for side in shape):
            raise pickle.UnpicklingError("an array has no proper shape")
        if not isinstance(dtype, _Dtype):
            raise pickle.UnpicklingError("an array has no proper type")
        if isinstance(body, str):  # Python 2 knew no bytes
            body = body.encode("latin1")
        if dtype.code in _OBJECT:
            if not isinstance(body, list) or len(body) != math.prod(shape):
                raise pickle.UnpicklingError("an array has another number of objects than its shape says")
            self.items = body
        else:
            numbers = np.frombuffer(body, np.dtype(dtype.order + dtype.code))
            self.value = numbers.reshape(shape, order="F" if by_column else "C")


class _Dtype:
    __slots__ = ("code", "order")

    def __init__(self, code: str, *_: object) -> None:
        if code not in _OBJECT and not _NUMBER.match(code):
            raise pickle.UnpicklingError(f"an array is of type {code!r}, which is not a number's")
        self.code, self.order = code, "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, order, *fields = state
        if order not in {"<", ">", "|", "="} or any(field is not None for field in fields[:3]):
            raise pickle.UnpicklingError("an array is of a compound type")
        self.order = order


class _Closed:
    """Takes no state: a pickle may not set attributes of what it made, nor of a class that it named."""

    __slots__ = ()

    def __setstate__(self, _: object) -> None:
        raise pickle.UnpicklingError("it changes a plain value")


class _Scalar(_Closed, int):
    def __new__(cls, dtype: _Dtype, body: bytes | str) -> Self:
        raw = body.encode("latin1") if isinstance(body, str) else body
        (value,) = np.frombuffer(raw, np.dtype(dtype.order + dtype.code)).tolist()
        return super().__new__(cls, value)


class _Bytes(_Closed, bytes):
    """Bytes as Python 3 writes them for Python 2: a text and its encoding."""

    def __new__(cls, text: str, *_: object) -> Self:
        return super().__new__(cls, text.encode("latin1"))


_ADMITTED: dict[tuple[str, str], type] = {
    **{
        (f"{numpy}.multiarray", name): stand_in
        for numpy in ("numpy.core", "numpy._core")
        for name, stand_in in (("_reconstruct", Array), ("scalar", _Scalar))
    },
    ("numpy", "ndarray"): Array,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _Bytes,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> type:
        try:
            return _ADMITTED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no published file does") from None


def read_pickle(body: bytes, name: str) -> Any:
    """The value of a pickle of plain values and arrays (each an :class:`Array`); DataError for any other.

    Texts of Python 2 come as ``str``, byte by byte.
    """
    try:
        _refuse_high_numbers(body)
        return _Unpickler(io.BytesIO(body), encoding="latin1").load()
    except Exception as error:  # a broken program may fail in any way
        raise DataError(
            f"{name} is not a pickle of plain values and arrays ({error}); take the file as its publisher offers it"
        ) from error


def _refuse_high_numbers(body: bytes) -> None:
    # Unpickling makes room for as many values as the highest number that it is told to remember one under.
    if any(
        opcode.name.endswith("PUT") and isinstance(argument, int) and argument > len(body)
        for opcode, argument, _ in pickletools.genops(body)
    ):
        raise pickle.UnpicklingError("it remembers more values than it has bytes")


def read_object(body: bytes, name: str) -> Any:
    """The only object of a ``.npy`` file that holds one, as ``numpy.save`` writes a dict."""
    file = io.BytesIO(body)
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
    except ValueError as error:
        raise DataError(f"{name} is not a .npy file ({error}); take the file as its publisher offers it") from error
    found = read_pickle(file.read(), name) if dtype.hasobject else None
    if shape != () or not isinstance(found, Array) or len(found.items) != 1:
        raise DataError(f"{name} does not hold one object; take the file as its publisher offers it")
    return found.items[0]
