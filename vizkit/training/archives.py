"""Data sets in files of their own formats: IDX (MNIST and its family) and CIFAR, also packed."""

import gzip
import io
import os
import pickle
import re
import struct
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vizkit.errors import UsageError

Part = tuple[Tensor, Tensor]
"""Pictures (N, C, H, W) uint8 and labels (N,) int64."""

FASHION = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

_IDX = re.compile(r"(?P<part>train|t10k|test)[-_.](?P<what>images|labels)[-_.]idx\d[-_.]ubyte(\.gz)?")
_BATCH = re.compile(r"(?P<train>data_batch(_\d)?|train)(\.bin)?|(?P<test>test_batch|test)(\.bin)?")


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
        files = {p.name: p.read_bytes() for p in below if _BATCH.fullmatch(p.name)}
        return _cifar_parts(files) if files else None
    if tarfile.is_tarfile(path):
        return _cifar_parts(dict(_members(path)))
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
    try:
        with gzip.open(name) if name.endswith(".gz") else open(name, "rb") as file:
            data = file.read()
    except (OSError, EOFError) as error:
        raise UsageError(f"cannot read {name!r}: {error}") from None
    if len(data) < 4 or data[:3] != b"\0\0\x08" or len(data) < 4 + 4 * data[3]:
        raise UsageError(f"{name!r} is no IDX file of bytes")
    shape = struct.unpack(f">{data[3]}I", data[4 : 4 + 4 * data[3]])
    values = np.frombuffer(data, np.uint8, offset=4 + 4 * data[3])
    if values.size != int(np.prod(shape)):
        raise UsageError(f"{name!r} is damaged: {values.size} bytes for {' x '.join(map(str, shape))}")
    return torch.from_numpy(values.reshape(shape).copy())


# --- CIFAR (Krizhevsky 2009) ---


def _members(path: str) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(path) as archive:
        for member in archive:
            name = os.path.basename(member.name)
            file = archive.extractfile(member) if member.isfile() and _BATCH.fullmatch(name) else None
            if file is not None:
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
        if len(data) % width:
            raise UsageError(f"{name} is damaged: {len(data)} bytes are no whole number of pictures")
        rows = torch.from_numpy(np.frombuffer(data, np.uint8).reshape(-1, width).copy())
        return rows[:, -3072:].reshape(-1, 3, 32, 32), rows[:, width - 3073].long()
    try:
        held = _Arrays(io.BytesIO(data), encoding="bytes").load()
        labels = held.get(b"labels", held.get(b"fine_labels"))
        images = torch.from_numpy(np.asarray(held[b"data"], np.uint8).reshape(-1, 3, 32, 32).copy())
        return images, torch.tensor(list(labels))
    except (pickle.UnpicklingError, KeyError, ValueError, TypeError, EOFError, AttributeError) as error:
        raise UsageError(f"{name} is no batch of CIFAR: {error}") from None


class _Arrays(pickle.Unpickler):
    """Unpickles arrays and nothing else: a pickle may run code."""

    def find_class(self, module: str, name: str) -> Any:
        """The few functions that numpy's arrays need."""
        allowed = {("_codecs", "encode"), ("numpy", "ndarray"), ("numpy", "dtype")}
        if (module, name) in allowed or (name == "_reconstruct" and module.startswith("numpy.")):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it would call {module}.{name}")
