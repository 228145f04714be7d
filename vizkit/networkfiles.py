"""Networks of ours in safetensors files, with what they are in the metadata."""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from vizkit import __version__, atomic, tensorfiles
from vizkit.errors import UsageError, VizkitError

Net = TypeVar("Net", bound=nn.Module)

VERSION = 2
"""Of the format: raised when older files can no longer be read as they are."""


@dataclass(frozen=True)
class Saved:
    """What a file holds: its kind, its configuration, tensors by name."""

    kind: str
    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]


def save(path: str, kind: str, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write tensors with their kind and configuration, in one step. Raises what `atomic.write` raises."""
    arrays = {name: t.detach().cpu().contiguous().numpy() for name, t in tensors.items()}
    config = json.loads(json.dumps(config))
    about = {"kind": kind, "format": VERSION, "config": config, "sha256": _digest(arrays, config)}
    tensorfiles.write(path, arrays, {atomic.MARK: __version__, "network": json.dumps(about, sort_keys=True)})


def load(path: str | os.PathLike[str], kind: str) -> Saved:
    """Read a file of this kind. Raises `UsageError` for anything else, and for formats that are too new."""
    name = os.fspath(path)
    arrays, metadata = tensorfiles.read(name)
    try:
        about = json.loads(metadata["network"])
        said, number, config = about["kind"], int(about["format"]), dict(about["config"])
    except (KeyError, ValueError, TypeError, OverflowError, RecursionError):
        raise UsageError(f"{name!r} holds no network that vizkit trained") from None
    if said != kind:
        raise UsageError(f"{name!r} is a {said}, not a {kind}")
    if number > VERSION:
        raise UsageError(f"{name!r} was written by a newer vizkit (format {number}); update vizkit")
    # files of the first format have a hash of the tensors alone, or none
    digest = _digest(arrays, config if number > 1 else None)
    if about.get("sha256", digest if number < 2 else "") != digest:
        raise UsageError(f"{name!r} is damaged: its numbers are not those that were written; train it anew")
    return Saved(said, config, {key: torch.from_numpy(array.copy()) for key, array in arrays.items()})


def _digest(arrays: Mapping[str, np.ndarray[Any, Any]], config: Mapping[str, Any] | None) -> str:
    """SHA-256 of the configuration, and of names and numbers in the order of the names."""
    digest = hashlib.sha256(b"" if config is None else json.dumps(config, sort_keys=True).encode())
    for key in sorted(arrays):
        digest.update(key.encode())
        digest.update(np.ascontiguousarray(arrays[key]).tobytes())
    return digest.hexdigest()


@contextlib.contextmanager
def believed(name: str) -> Iterator[None]:
    """Turn what a wrong configuration leads to into a `UsageError`: it is somebody's text, like any file."""
    try:
        yield
    except VizkitError:
        raise
    except _MISLED as error:
        raise UsageError(f"{name!r} does not say what its network is: {error!r:.200}") from None


_MISLED = (TypeError, ValueError, KeyError, AttributeError, ArithmeticError, RuntimeError, IndexError)


def count_in(saved: Saved, key: str) -> int:
    """A number of layers, channels or pixels from the configuration. Raises `ValueError`, `KeyError`.

    None is larger than the file's tensors have numbers, so that no loop runs for ever.
    """
    number = saved.config[key]
    most = sum(tensor.numel() for tensor in saved.tensors.values())
    if isinstance(number, bool) or not isinstance(number, int) or not 0 < number <= most:
        raise ValueError(f"{key} = {number!r:.50}")
    return number


def names_in(saved: Saved, key: str) -> tuple[str, ...]:
    """Names of classes or styles from the configuration; at least one. Raises `ValueError`, `KeyError`."""
    names = saved.config[key]
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{key} are no names")
    return tuple(names)


def restore(make: Callable[[], Net], saved: Saved, name: str, *, measured: bool = True) -> Net:
    """The module that `make` gives, with the file's tensors; more of them than it has may be in the file.

    measured: make it without memory first, so that a wrong number asks for no more than the file holds.
    Raises `UsageError` where they do not fit.
    """
    with believed(name):
        if measured:
            with torch.device("meta"):
                _check(make(), saved, name)
        module = make()
    fill(module, saved, name)
    return module


def fill(module: nn.Module, saved: Saved, name: str) -> None:
    """Put a file's tensors into the module. Raises `UsageError` where they do not fit."""
    own = _check(module, saved, name)
    module.load_state_dict({k: saved.tensors[k] for k in own})


def _check(module: nn.Module, saved: Saved, name: str) -> Mapping[str, Tensor]:
    own = module.state_dict()
    wrong = [k for k, v in own.items() if k not in saved.tensors or saved.tensors[k].shape != v.shape]
    if wrong:
        raise UsageError(f"{name!r} does not hold {wrong[0]!r} as its configuration says; train it anew")
    return own
