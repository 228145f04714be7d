"""The only reader of weights files: from a file to named tensors, checked, with what was done.

It reads `.safetensors` files and what `torch.save` writes, never runs code from a file, and answers
everything else with one line that says what the file is and what to do.
"""

import errno
import hashlib
import json
import os
import re
import stat
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from io import BufferedReader
from typing import Any

import torch

from vizkit.errors import UsageError, did_you_mean
from vizkit.fingerprint import digest
from vizkit.zoo.pickles import CODE, HARMLESS, scan, scan_file
from vizkit.zoo.refusals import AGAIN, WANTED, Problem, about, foreign_text, quoted, short, tar_text, zip_text

Tensors = dict[str, torch.Tensor]
"""Tensors by their names in the state dict."""

WRAPPERS: tuple[str, ...] = ("state_dict", "model", "model_state", "model_state_dict", "ema", "model_ema")
WRAPPERS += ("state_dict_ema", "net", "network", "params", "weights")
DIGEST_KEY = "vizkit.sha256"
"""The key of a safetensors file's metadata that may hold the `digest` of its tensors."""


@dataclass(frozen=True)
class Loaded:
    """What a weights file holds: contiguous CPU tensors by name, what was done, and its metadata."""

    tensors: Tensors
    notes: tuple[str, ...]
    metadata: dict[str, str]


def read_weights(path: str | os.PathLike[str]) -> Loaded:
    """The tensors of the state dict in the file, unwrapped, checked to be dense and finite, not cast.

    Raises UsageError for a missing file or a folder and WeightsError for everything unreadable.
    """
    file = os.fspath(path)
    with about(file), _open(file) as stream, torch.inference_mode(False), torch.no_grad():
        notes = _sidecar_notes(stream)
        with warnings.catch_warnings(action="ignore"):
            found, metadata = _read(stream)
        tensors, more = _unwrap(found)
        _refuse_bloat(tensors.values(), os.fstat(stream.fileno()).st_size)
        tensors = {name: _checked(name, tensor) for name, tensor in tensors.items()}
        return Loaded(tensors, (*notes, *more, *_digest_notes(tensors, metadata)), metadata)


def _open(file: str) -> BufferedReader:
    """The regular file, opened; what is looked at first cannot block, as opening a FIFO would."""
    try:
        mode = os.stat(file).st_mode
    except (OSError, ValueError) as error:
        if getattr(error, "errno", 0) in (0, errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
            hint = did_you_mean(os.path.basename(file), _neighbours(os.path.dirname(file)))
            raise UsageError(f"{file}: no such file{hint}") from error
        raise
    if stat.S_ISDIR(mode):
        inside = [n for n in _neighbours(file) if n.endswith((".safetensors", ".pt", ".pth"))]
        example = f", such as {inside[0]!r} in it" if inside else ""
        raise UsageError(f"{file}: is a folder; name a weights file{example}")
    if not stat.S_ISREG(mode):
        raise Problem("is no regular file (a pipe, socket or device): write the weights to a file first")
    return open(file, "rb")


def _neighbours(folder: str) -> list[str]:
    """The sorted names in the folder; none where it cannot be listed."""
    try:
        return sorted(os.listdir(folder or "."))
    except (OSError, ValueError):
        return []


def _sidecar_notes(stream: BufferedReader) -> list[str]:
    """Compare the file with `FILE.sha256`, if there is one (as sha256sum writes it, or the bare hex)."""
    side = stream.name + ".sha256"
    if not os.path.isfile(side):
        return []
    with open(side, encoding="utf-8", errors="surrogateescape") as text:
        lines = text.read(1 << 20).splitlines()
    mine = [line for line in lines if os.path.basename(stream.name) in line] or lines
    expected = re.findall(r"\b[0-9a-f]{64}\b", "\n".join(mine).lower())
    if not expected:
        raise Problem("has a .sha256 file beside it that holds no SHA-256: correct or remove that file")
    actual = hashlib.file_digest(stream, "sha256").hexdigest()
    stream.seek(0)
    if actual not in expected:
        raise Problem(f"does not match its .sha256 file (is {actual}, not {expected[0]}): {AGAIN}")
    return ["verified the SHA-256 of the file"]


def _digest_notes(tensors: Tensors, metadata: Mapping[str, str]) -> list[str]:
    """Compare the tensors with the digest that the file itself carries, if it does."""
    if DIGEST_KEY not in metadata:
        return []
    if digest(tensors) != metadata[DIGEST_KEY]:
        raise Problem(f"is damaged: its tensors do not match the SHA-256 stored with them; {AGAIN}")
    return ["verified the SHA-256 of the tensors"]


def _read(stream: BufferedReader) -> tuple[Any, dict[str, str]]:
    """What the file holds and its metadata, by its first bytes; the extension does not matter."""
    head = stream.read(4096)
    stream.seek(0)
    if not head:
        raise Problem(f"is empty (0 bytes): {AGAIN}")
    if head.startswith((b"PK\3\4", b"PK\5\6")):
        _check_zip(stream)
        return _torch_load(stream), {}
    if head[257:262] == b"ustar":
        raise Problem(tar_text(stream))
    if head[4:8] == b"\0\0\0\0" and head[8:9] in (b"{", b""):
        return _read_safetensors(stream)
    # The oldest pickles have no mark: they are told from text and noise by parsing them.
    if head.startswith(b"\x80") or scan(head, 1).complete:
        return _torch_load(stream), {}
    raise Problem(foreign_text(head))


def _check_zip(stream: BufferedReader) -> None:
    """Raise unless the zip archive is one of torch.save's and its checksums, which torch ignores, agree."""
    try:
        with zipfile.ZipFile(stream) as archive:
            entries = archive.infolist()
            if text := zip_text([entry.filename for entry in entries]):
                raise Problem(text)
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise Problem("is a compressed zip archive, not as torch.save wrote it: save it again")
            # torch.serialization.set_crc32_options(False) leaves every checksum at zero.
            damaged = archive.testzip() if any(entry.CRC for entry in entries) else None
    except Problem:
        raise
    except Exception as error:
        raise Problem(f"is a damaged or cut-off zip archive: {AGAIN}") from error
    if damaged:
        raise Problem(f"is damaged: the checksum of its entry {quoted([damaged])} is wrong; {AGAIN}")
    stream.seek(0)


def _read_safetensors(stream: BufferedReader) -> tuple[Tensors, dict[str, str]]:
    """The tensors and the metadata of a safetensors file."""
    from safetensors.torch import load

    raw = stream.read()
    try:
        tensors = load(raw)
        header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
        return tensors, dict(header.get("__metadata__") or {})
    except Exception as error:
        raise Problem(f"is a damaged or cut-off safetensors file: {AGAIN}") from error


def _torch_load(stream: BufferedReader) -> Any:
    """What torch.save wrote, read without running code; torch's own messages advise the opposite."""
    safe = torch.serialization
    # Leaving safe_globals removes what was added, so what the user had added is not added again.
    added = [entry for entry in _numpy_scalars() if entry not in safe.get_safe_globals()]
    try:
        with safe.safe_globals(added):
            return torch.load(stream, map_location="cpu", weights_only=True, mmap=False)
    except Exception as error:
        raise Problem(_refusal(stream, error)) from error


def _numpy_scalars() -> list[Any]:
    """What a pickled numpy number is rebuilt with: torch refuses it, and it runs no code."""
    import numpy as np

    scalar = np.float64(0).__reduce__()[0]
    paths = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    return [*paths, np.dtype, *{type(np.dtype(code)) for code in "?bhilqBHILQefdgSU"}]


def _refusal(stream: BufferedReader, error: Exception) -> str:
    """Why torch did not read the file, from what is in it, and how to get at its tensors."""
    seen = scan_file(stream)
    bad = [name for name in seen.names if not HARMLESS.fullmatch(name)]
    if code := [name for name in bad if CODE.fullmatch(name)]:
        return f"contains code ({short(code[0])}), refused: ask its author for a .safetensors file"
    # Before the names below: newer protocols put them together from parts that may stand anywhere.
    if seen.protocol > 2:
        return f"has pickle protocol {seen.protocol}, not read here: save model.state_dict() with torch.save"
    start = f"if you trust it, run: import torch; x = torch.load({stream.name!r}, weights_only=False)"
    new = os.path.splitext(os.path.basename(stream.name))[0] + ".weights.pt"
    if bad and seen.module:
        return (
            f"holds a whole pickled model ({short(bad[0])}), which cannot be read without running code: "
            f"save model.state_dict() instead; {start}; "
            f"torch.save((x['model'] if isinstance(x, dict) else x).state_dict(), {new!r})"
        )
    if bad:
        what = "numpy.ndarray" if bad[0].endswith("multiarray._reconstruct") else short(bad[0])
        return f"holds a {what} beside tensors, refused: {start}; torch.save(x['state_dict'], {new!r})"
    if any("nested_tensor" in name for name in seen.names):  # newer versions of torch refuse them themselves
        return "holds a nested tensor, not supported: save plain tensors"
    if isinstance(error, MemoryError) or "allocate" in str(error):
        return "needs more memory than there is, or is damaged"
    if not seen.by_torch:
        return f"is no pickle written by torch.save, or is cut off: {WANTED}"
    return f"is damaged or cut off: {AGAIN}"


def _unwrap(found: Any) -> tuple[Tensors, list[str]]:
    """The named tensors of the state dict in what the file held, and which entries led to it."""
    notes = []
    while isinstance(found, dict) and (hits := [w for w in WRAPPERS if _has_tensors(found.get(w), 8)]):
        others = f" (also there: {quoted(hits[1:], 9)})" if hits[1:] else ""
        notes.append(f"took the entry {hits[0]!r}{others}")
        found = found[hits[0]]
    if not isinstance(found, dict):
        raise Problem(f"holds a {type(found).__name__}, not a state dict: save model.state_dict()")
    tensors = {k: v for k, v in found.items() if isinstance(k, str) and isinstance(v, torch.Tensor)}
    rest = [key for key in found if not isinstance(key, str) or key not in tensors]
    if not found:
        raise Problem("holds an empty dict: save model.state_dict()")
    if not tensors:
        raise Problem(f"holds no state dict, but {quoted(rest)}: save model.state_dict()")
    if rest:
        notes.append(f"ignored {len(rest)} entries that are no tensors: {quoted(rest)}")
    return tensors, notes


def _has_tensors(value: Any, depth: int) -> bool:
    """Whether the value is a dict with a tensor in it or in a wrapper in it; a dict may hold itself."""
    if not isinstance(value, dict) or not depth:
        return False
    inside = any(isinstance(v, torch.Tensor) for v in value.values())
    return inside or any(_has_tensors(value.get(w), depth - 1) for w in WRAPPERS)


def _refuse_bloat(tensors: Iterable[torch.Tensor], size: int) -> None:
    """Raise where a small file claims huge tensors: strides of 0 make one value fill the memory."""
    claimed = sum(t.numel() * t.element_size() for t in tensors if t.layout == torch.strided)
    if claimed > 8 * size + (64 << 20):
        raise Problem(f"claims tensors of {claimed} bytes in a file of {size}, refused: {AGAIN}")


def _checked(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """The tensor, contiguous and with a storage of its own size; raises unless dense and finite."""
    if kind := _odd_kind(tensor):
        raise Problem(f"holds {quoted([name])}, a {kind} tensor: save dense tensors of float32 or int64")
    if bad := bad_values(tensor):
        count = f"{bad} of {tensor.numel()} values"
        raise Problem(f"has NaN or infinity in {quoted([name])} ({count}): use an earlier checkpoint")
    tensor = tensor.detach()
    if tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.nbytes:
        return tensor
    return tensor.clone(memory_format=torch.contiguous_format)


def _odd_kind(tensor: torch.Tensor) -> str | None:
    """What makes the tensor unusable as a weight, or None."""
    if tensor.is_quantized or (tensor.dtype.itemsize == 1 and tensor.is_floating_point()):
        return "quantized"
    if tensor.is_nested:
        return "nested"
    if tensor.layout != torch.strided:
        return "sparse"
    if tensor.is_complex():
        return "complex"
    return "meta (empty)" if tensor.is_meta else None


def bad_values(tensor: torch.Tensor) -> int:
    """How many values are NaN or infinite; one sum, which such values spoil, settles nearly all tensors."""
    if not tensor.is_floating_point():
        return 0
    return 0 if tensor.sum().isfinite() else int(tensor.isfinite().logical_not().sum())
