"""Data sets in files of their own formats: IDX (MNIST and its family) and CIFAR, also packed."""

import contextlib
import gzip
import io
import lzma
import math
import operator
import os
import pickle
import pickletools
import re
import struct
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vizkit.errors import UsageError
from vizkit.folders import read_small

Part = tuple[Tensor, Tensor]
"""Pictures (N, C, H, W) uint8 and labels (N,) int64."""

FASHION = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

_IDX = re.compile(r"(?P<part>train|t10k|test)[-_.](?P<what>images|labels)[-_.]idx\d[-_.]ubyte(\.gz)?")
_BATCH = re.compile(r"(?P<train>data_batch(_\d)?|train)(\.bin)?|(?P<test>test_batch|test)(\.bin)?")

_LARGEST = 1 << 32
"""Bytes of a file, unpacked: all of them are held in memory."""
_MOST_CLASSES = 1 << 14

_DAMAGE = (OSError, EOFError, zlib.error, lzma.LZMAError, tarfile.TarError)
"""What unpacking raises."""
_MISPICKLED = (
    *(pickle.UnpicklingError, LookupError, ValueError, TypeError, EOFError, AttributeError, ArithmeticError),
    *(MemoryError, RuntimeError, ImportError),
)
"""What reading a pickle raises, which is a program."""


@dataclass(frozen=True)
class Parts:
    """`train`, and `test` where it is there."""

    parts: Mapping[str, Part]
    classes: tuple[str, ...]


def read(path: str) -> Parts | None:
    """The parts of a data set; None where `path` holds neither IDX nor CIFAR files.

    Raises `UsageError` for files that are damaged or do not fit together.
    """
    if os.path.isdir(path):
        below = [p for p in sorted(Path(path).rglob("*")) if p.is_file()]
        idx = {(m["part"], m["what"]): p for p in below if (m := _IDX.fullmatch(p.name))}
        if idx:
            return _idx_parts(path, idx)
        with _unpacking(path):
            files = {p.name: read_small(p, _LARGEST) for p in below if _BATCH.fullmatch(p.name)}
        return _cifar_parts(files) if files else None
    with _unpacking(path):
        packed = os.path.isfile(path) and tarfile.is_tarfile(path)  # a pipe would be waited for
        members = dict(_members(path)) if packed else {}
    if packed:
        return _cifar_parts(members)
    raise UsageError(f"{path!r} is neither a folder nor an archive of CIFAR; name the data set's folder")


# --- IDX (LeCun, Cortes & Burges 1998) ---


def _idx_parts(path: str, files: Mapping[tuple[str, str], Path]) -> Parts:
    parts: dict[str, Part] = {}
    for part, said in (("train", "train"), ("t10k", "test"), ("test", "test")):
        images, labels = files.get((part, "images")), files.get((part, "labels"))
        if images is None and labels is None:
            continue
        if images is None or labels is None:
            raise UsageError(f"{path!r} has {part} images or labels, but not both")
        pixels, numbers = read_idx(images), read_idx(labels)
        if pixels.ndim != 3 or numbers.ndim != 1 or len(pixels) != len(numbers):
            sizes = f"{tuple(pixels.shape)} and {tuple(numbers.shape)}"
            raise UsageError(f"{images.name} and {labels.name} in {path!r} do not fit together: {sizes}")
        parts[said] = pixels[:, None], numbers.long()
    if "train" not in parts:
        raise UsageError(f"{path!r} holds no training pictures (train-images-idx3-ubyte)")
    count = int(max(int(labels.max()) for _, labels in parts.values())) + 1
    fashion = count == len(FASHION) and "fashion" in os.path.abspath(path).lower()
    return Parts(parts, FASHION if fashion else tuple(str(k) for k in range(count)))


def read_idx(path: str | os.PathLike[str]) -> Tensor:
    """The array of uint8 in an IDX file, packed by gzip or not. Raises `UsageError`."""
    name = os.fspath(path)
    with _unpacking(name):
        if name.endswith(".gz"):
            with gzip.open(name) as file:
                data = file.read(_LARGEST + 1)
        else:
            data = read_small(name, _LARGEST)
    if len(data) > _LARGEST:
        raise UsageError(f"{name!r} is larger than {_LARGEST:,} bytes, unpacked")
    if len(data) < 4 or data[:3] != b"\0\0\x08" or not 0 < data[3] < 9 or len(data) < 4 + 4 * data[3]:
        raise UsageError(f"{name!r} is no IDX file of bytes")
    shape = struct.unpack(f">{data[3]}I", data[4 : 4 + 4 * data[3]])
    values = np.frombuffer(data, np.uint8, offset=4 + 4 * data[3])
    if not values.size or values.size != math.prod(shape):
        raise UsageError(f"{name!r} is damaged: {values.size} bytes for {' x '.join(map(str, shape))}")
    return torch.from_numpy(values.reshape(shape).copy())


@contextlib.contextmanager
def _unpacking(name: str) -> Iterator[None]:
    """Turn what reading and unpacking raise into a `UsageError`."""
    try:
        yield
    except _DAMAGE as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise UsageError(f"cannot read {name!r}: {reason}") from None


# --- CIFAR (Krizhevsky 2009) ---


def _members(path: str) -> Iterator[tuple[str, bytes]]:
    total = 0
    with tarfile.open(path) as archive:
        for member in archive:
            name = os.path.basename(member.name)
            file = archive.extractfile(member) if member.isfile() and _BATCH.fullmatch(name) else None
            if file is not None:
                total += member.size
                if total > _LARGEST:
                    raise tarfile.TarError(f"it holds more than {_LARGEST:,} bytes")
                yield name, file.read()


def _cifar_parts(files: Mapping[str, bytes]) -> Parts | None:
    kept: dict[str, list[Part]] = {"train": [], "test": []}
    for name in sorted(files):
        match = _BATCH.fullmatch(name)
        if match is not None:
            kept["train" if match["train"] else "test"].append(_batch(name, files[name]))
    if not kept["train"]:
        return None
    parts = {
        part: (torch.cat([images for images, _ in found]), torch.cat([labels for _, labels in found]))
        for part, found in kept.items()
        if found
    }
    count = max(int(labels.max()) for _, labels in parts.values()) + 1
    return Parts(parts, CIFAR if count == len(CIFAR) else tuple(str(k) for k in range(count)))


def _batch(name: str, data: bytes) -> Part:
    """One file: rows of label and 3,072 bytes, or a pickled dictionary of arrays."""
    if name.endswith(".bin"):
        width = 3074 if name in ("train.bin", "test.bin") else 3073
        if not data or len(data) % width:
            raise UsageError(f"{name} is damaged: {len(data)} bytes are no whole number of pictures")
        rows = torch.from_numpy(np.frombuffer(data, np.uint8).reshape(-1, width).copy())
        return rows[:, -3072:].reshape(-1, 3, 32, 32), rows[:, width - 3073].long()
    try:
        return _pickled(data)
    except _MISPICKLED as error:
        raise UsageError(f"{name} is no batch of CIFAR: {error}") from None


def _pickled(data: bytes) -> Part:
    """What is in it is believed no further than it fits: names, types, sizes. Raises one of `_MISPICKLED`."""
    _refuse_large_memo(data)
    held = _Arrays(io.BytesIO(data), encoding="bytes").load()
    images, labels = held[b"data"], held.get(b"labels", held.get(b"fine_labels"))
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.nbytes > len(data):
        raise ValueError("its data are no array of bytes")
    if not isinstance(labels, list | np.ndarray) or not 0 < len(labels) == len(images):
        raise ValueError("it has no label for each picture")
    numbers = [operator.index(label) for label in labels]
    if min(numbers) < 0 or max(numbers) >= _MOST_CLASSES:
        raise ValueError("its labels are no numbers of classes")
    return torch.from_numpy(images.reshape(-1, 3, 32, 32).copy()), torch.tensor(numbers)


class _Arrays(pickle.Unpickler):
    """Unpickles arrays and nothing else: a pickle may run code."""

    def find_class(self, module: str, name: str) -> Any:
        """The few functions that numpy's arrays need."""
        if (module, name) == ("_codecs", "encode"):
            return _latin
        allowed = {("numpy", "ndarray"), ("numpy", "dtype")}
        if (module, name) in allowed or (name == "_reconstruct" and module.startswith("numpy.")):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it would call {module}.{name}")


def _latin(text: str, encoding: str) -> bytes:
    """Bytes as Python 3 pickles them for Python 2; other encodings make much out of little."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it would encode to {encoding}")
    return text.encode("latin1")


def _refuse_large_memo(data: bytes) -> None:
    """Numbers of what is remembered count up; one large number alone makes the unpickler take gigabytes."""
    for code, value, _ in pickletools.genops(data):
        if code.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(value or 0) > len(data):
            raise pickle.UnpicklingError("it remembers more than there is")
