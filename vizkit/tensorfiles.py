"""Arrays in safetensors files: read by mapping them into memory, written in pieces, with our mark.

The format (https://github.com/huggingface/safetensors): eight bytes with the length of a JSON header, the
header (name -> dtype, shape, begin and end of the data), the data. Any safetensors library reads them.
"""

import errno
import json
import math
import mmap
import os
import stat
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vizkit import atomic
from vizkit.errors import UsageError

_DTYPES: dict[str, np.dtype[Any]] = {
    "U8": np.dtype("u1"),
    "U16": np.dtype("<u2"),
    "I32": np.dtype("<i4"),
    "I64": np.dtype("<i8"),
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}
_LONGEST_HEADER = 100_000_000  # what safetensors itself allows

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Piecewise:
    """An array given in pieces along its first axis, so that it never has to be in memory as a whole."""

    dtype: str
    shape: tuple[int, ...]
    pieces: Iterable[Array]


def write(
    path: str | os.PathLike[str], arrays: Mapping[str, Array | Piecewise], metadata: Mapping[str, str]
) -> None:
    """Write the arrays in one step; what stood there before is replaced only if it is ours.

    Raises what `atomic.write` raises, `ValueError` for pieces that do not add up to the shape.
    """
    from vizkit import __version__

    header: dict[str, Any] = {"__metadata__": {atomic.MARK: __version__, **metadata}}
    start = 0
    for name, array in arrays.items():
        dtype = np.dtype(array.dtype).newbyteorder("<")
        size = math.prod(array.shape) * dtype.itemsize
        code = _CODES[dtype if dtype.itemsize > 1 else np.dtype("u1")]
        header[name] = {"dtype": code, "shape": list(array.shape), "data_offsets": [start, start + size]}
        start += size
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data begin at a multiple of eight bytes
    atomic.write_pieces(path, _pieces(struct.pack("<Q", len(text)) + text, arrays))


def _pieces(head: bytes, arrays: Mapping[str, Array | Piecewise]) -> Iterator[bytes]:
    yield head
    for name, array in arrays.items():
        given = array.pieces if isinstance(array, Piecewise) else [array]
        dtype = np.dtype(array.dtype).newbyteorder("<")
        missing = math.prod(array.shape)
        for piece in given:
            missing -= piece.size
            yield np.ascontiguousarray(piece, dtype).tobytes()
        if missing:
            raise ValueError(f"the pieces of {name!r} do not add up to its shape")


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Array], dict[str, str]]:
    """The arrays of a file, mapped into memory and read-only, and its metadata.

    Nothing in the file is trusted: offsets and shapes are checked against its size. Raises `UsageError`,
    `MemoryError` where there is no room to map it.
    """
    name = os.fspath(path)
    try:
        known = os.stat(path)
        if not stat.S_ISREG(known.st_mode):
            raise OSError(errno.EINVAL, "it is no file")  # a pipe would be waited for
        size = known.st_size
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(size - 8, _LONGEST_HEADER):
                raise ValueError("its header is longer than the file")
            header = json.loads(file.read(length))
            metadata = {str(k): str(v) for k, v in header.pop("__metadata__", {}).items()}
            places = {str(k): _place(entry, size - 8 - length) for k, entry in header.items()}
        whole = np.memmap(path, np.uint8, "r", offset=0) if size else np.zeros(0, np.uint8)
    except OSError as error:
        if error.errno == errno.ENOMEM:  # which says nothing of the file
            raise MemoryError(f"cannot map {name!r}") from error
        raise UsageError(f"cannot read {name!r}: {error.strerror or error}") from error
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        OverflowError,
        RecursionError,
        struct.error,
    ) as error:
        raise UsageError(f"{name!r} is damaged: {error}; make it again") from error
    data = whole[8 + length :]
    return {k: data[a:b].view(dtype).reshape(shape) for k, (dtype, shape, a, b) in places.items()}, metadata


def release(arrays: Iterable[Array]) -> None:
    """Let go of the memory behind mapped arrays: what is asked for again is read from the file again."""
    for array in arrays:
        mapped = getattr(array, "_mmap", None)
        if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
            mapped.madvise(mmap.MADV_DONTNEED)


def _place(entry: Any, size: int) -> tuple[np.dtype[Any], tuple[int, ...], int, int]:
    dtype, shape = _DTYPES[entry["dtype"]], tuple(int(n) for n in entry["shape"])
    begin, end = (int(n) for n in entry["data_offsets"])
    if min(shape, default=0) < 0 or not 0 <= begin <= end <= size:
        raise ValueError("its data lie outside the file")
    if end - begin != math.prod(shape) * dtype.itemsize:
        raise ValueError("shapes and data do not agree")
    return dtype, shape, begin, end
