"""The only reader of weights files.

`read_weights` turns a file into named tensors and says what it did; `load_weights` also fits them to
a module, all of them or none. Both read `.safetensors` files and what `torch.save` writes, never run
code from a file, and answer everything else with one line that says what the file is and what to do.
"""

import errno
import hashlib
import json
import os
import pickletools
import re
import stat
import struct
import tarfile
import warnings
import zipfile
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BufferedReader, BytesIO
from typing import Any

import torch

from vizkit.errors import UsageError, WeightsError, did_you_mean

Tensors = dict[str, torch.Tensor]
Known = Callable[[], Mapping[str, Collection[str]]]

WRAPPERS: tuple[str, ...] = ("state_dict", "model", "model_state", "model_state_dict", "ema", "model_ema")
WRAPPERS += ("state_dict_ema", "net", "network", "params", "weights")
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "backbone.", "encoder.")
DIGEST_KEY = "vizkit.sha256"
AGAIN = "copy or download it again"
WANTED = "wanted is a state dict saved with torch.save or as .safetensors"

FOREIGN = (
    (0, b"version https://git-lfs", "is a git-LFS pointer, not the weights: run `git lfs pull`"),
    (0, b"\x89HDF", f"is an HDF5 file (Keras?): {WANTED}"),
    (0, b"\x93NUMPY", f"is a numpy array (.npy): {WANTED}"),
    (0, b"GGUF", f"is a GGUF file (quantized): {WANTED}"),
    (4, b"TFL3", f"is a TensorFlow Lite model: {WANTED}"),
    (0, b"\x1f\x8b", "is packed with gzip: unpack it first"),
    (0, b"BZh", "is packed with bzip2: unpack it first"),
    (0, b"\xfd7zXZ", "is packed with xz: unpack it first"),
    (0, b"\x28\xb5\x2f\xfd", "is packed with zstd: unpack it first"),
    (0, b"\x89PNG", f"is a PNG picture: {WANTED}"),
    (0, b"\xff\xd8\xff", f"is a JPEG picture: {WANTED}"),
    (0, b"%PDF", f"is a PDF document: {WANTED}"),
)

SCANNED = 64 << 20
TORCH_MAGIC = 0x1950A86A20F9469CFC6C
HARMLESS = re.compile(
    r"torch\.(\w+Storage|\w*Tensor|Size|device|(q?u?int|float|bfloat|complex|bool|per_)\w*)"
    r"|torch\.(storage|_utils|nn\.parameter|sparse)\.\w+|torch\._tensor\._rebuild_from_type_v2"
    r"|torch\.serialization\._get_layout|collections\.(OrderedDict|Counter)|_codecs\.encode"
    r"|builtins\.(set|bytearray|complex|object)|copy_?reg\._reconstructor"
    r"|numpy\.(_?core\.multiarray\.scalar|dtype|dtypes\.\w+)"
)
RENAMED = {"posix": "os", "nt": "os", "__builtin__": "builtins", "commands": "subprocess"}
CODE = re.compile(
    r"(os|sys|subprocess|pty|io|runpy|importlib|imp|shutil|socket|webbrowser|ctypes|code|codeop|pdb"
    r"|bdb|timeit|pickle|_pickle|marshal|urllib\w*|asyncio|multiprocessing|operator|types|signal|threading"
    r"|tempfile|pydoc|cProfile|profile|trace|platform|torch\.hub|torch\.jit)\..*"
    r"|builtins\.(?!(frozenset|slice|range|list|dict|tuple|int|float|str|bytes|bool|type)$).*"
)


class _Problem(Exception):  # noqa: N818 - never leaves this file; `_about` turns it into a WeightsError
    """What is wrong with a file, without its name."""


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
    with _about(file), _open(file) as stream, torch.inference_mode(False), torch.no_grad():
        notes = _sidecar_notes(stream)
        with warnings.catch_warnings(action="ignore"):
            found, metadata = _read(stream)
        tensors, more = _unwrap(found)
        _refuse_bloat(tensors.values(), os.fstat(stream.fileno()).st_size)
        tensors = {name: _checked(name, tensor) for name, tensor in tensors.items()}
        return Loaded(tensors, (*notes, *more, *_digest_notes(tensors, metadata)), metadata)


def load_weights(
    module: torch.nn.Module,
    path: str | os.PathLike[str],
    *,
    name: str = "the model",
    known: Known | None = None,
) -> tuple[str, ...]:
    """Load the file into the module, completely or not at all, and return what was done.

    A module on the meta device gets the tensors of the file instead of copies. Raises what
    `read_weights` raises, and WeightsError where names, shapes or types do not fit.
    """
    loaded = read_weights(path)
    with _about(os.fspath(path)), torch.no_grad():
        own = _own_tensors(module, name)
        tensors, notes = _strip_prefixes(loaded.tensors, own)
        counters = _fill_counters(tensors, own)
        _check_names(tensors, own, name, known)
        _check_shapes(tensors, own, name)
        tensors, casts = _cast(tensors, own)
        _put(module, tensors, own)
    return (*loaded.notes, *notes, *counters, *casts, f"{len(own)} of {len(own)} tensors")


def digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """The SHA-256 of names, types, shapes and values; a safetensors file may carry it as DIGEST_KEY."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        total.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode("utf-8", "surrogatepass"))
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


@contextmanager
def _about(file: str) -> Iterator[None]:
    """Put the file's name before each problem found inside."""
    try:
        yield
    except _Problem as problem:
        raise WeightsError(f"{file}: {problem}") from problem.__cause__
    except OSError as error:
        raise WeightsError(f"{file}: cannot be read ({error.strerror or error})") from error


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
        raise _Problem("is no regular file (a pipe, socket or device): write the weights to a file first")
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
        raise _Problem("has a .sha256 file beside it that holds no SHA-256: correct or remove that file")
    actual = hashlib.file_digest(stream, "sha256").hexdigest()
    stream.seek(0)
    if actual not in expected:
        raise _Problem(f"does not match its .sha256 file (is {actual}, not {expected[0]}): {AGAIN}")
    return ["verified the SHA-256 of the file"]


def _digest_notes(tensors: Tensors, metadata: Mapping[str, str]) -> list[str]:
    """Compare the tensors with the digest that the file itself carries, if it does."""
    if DIGEST_KEY not in metadata:
        return []
    if digest(tensors) != metadata[DIGEST_KEY]:
        raise _Problem(f"is damaged: its tensors do not match the SHA-256 stored with them; {AGAIN}")
    return ["verified the SHA-256 of the tensors"]


def _read(stream: BufferedReader) -> tuple[Any, dict[str, str]]:
    """What the file holds and its metadata, by its first bytes; the extension does not matter."""
    head = stream.read(4096)
    stream.seek(0)
    if not head:
        raise _Problem(f"is empty (0 bytes): {AGAIN}")
    if head.startswith((b"PK\3\4", b"PK\5\6")):
        _check_zip(stream)
        return _torch_load(stream), {}
    if head[257:262] == b"ustar":
        raise _Problem(_tar_text(stream))
    if head[4:8] == b"\0\0\0\0" and head[8:9] in (b"{", b""):
        return _read_safetensors(stream)
    # The oldest pickles have no mark: they are told from text and noise by parsing them.
    if head.startswith(b"\x80") or _scan(head, 1).complete:
        return _torch_load(stream), {}
    raise _Problem(_foreign_text(head))


def _is_text(head: bytes) -> bool:
    """Whether the bytes hold no control characters but white space."""
    return not any(byte < 32 and byte not in b"\t\n\r\f" for byte in head)


def _foreign_text(head: bytes) -> str:
    """What a file with this beginning is, and what to do."""
    for offset, magic, text in FOREIGN:
        if head.startswith(magic, offset):
            return text
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    if _is_text(head) and start == b"<":
        return f"looks like HTML or XML (a web page instead of the file?): {AGAIN}"
    if _is_text(head) and start in (b"{", b"["):
        return f"is JSON (a configuration or an index), not weights: {WANTED}"
    if _is_text(head):
        return f"is text, not weights: {WANTED}"
    if head[0] == 8 and head[2:3] in (b"\x12", b"\x1a", b":"):
        return f"looks like an ONNX model: {WANTED}"
    return f"is no known kind of weights file (it starts with the bytes {head[:8].hex(' ')}): {WANTED}"


def _tar_text(stream: BufferedReader) -> str:
    """What to say about a tar archive."""
    try:
        with tarfile.open(fileobj=stream, mode="r:") as archive:
            names = set(archive.getnames())
    except (tarfile.TarError, ValueError, EOFError):
        names = set()
    if {"storages", "tensors", "pickle"} <= names:
        return "is a tar archive of an ancient torch, not read here: save it again with a newer one"
    return "is a tar archive: unpack it and name the weights file in it"


def _check_zip(stream: BufferedReader) -> None:
    """Raise unless the zip archive is one of torch.save's and its checksums, which torch ignores, agree."""
    try:
        with zipfile.ZipFile(stream) as archive:
            entries = archive.infolist()
            if text := _zip_text([entry.filename for entry in entries]):
                raise _Problem(text)
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise _Problem("is a compressed zip archive, not as torch.save wrote it: save it again")
            # torch.serialization.set_crc32_options(False) leaves every checksum at zero.
            damaged = archive.testzip() if any(entry.CRC for entry in entries) else None
    except _Problem:
        raise
    except Exception as error:
        raise _Problem(f"is a damaged or cut-off zip archive: {AGAIN}") from error
    if damaged:
        raise _Problem(f"is damaged: the checksum of its entry {_quoted([damaged])} is wrong; {AGAIN}")
    stream.seek(0)


def _zip_text(names: list[str]) -> str | None:
    """Why a zip archive with these entries is refused; None where torch.save may have written it."""
    leaves = {name.rpartition("/")[2] for name in names}
    inner = [name for name in names if name.endswith((".pt", ".pth", ".safetensors", ".ckpt", ".bin"))]
    if leaves & {"archive_format", "serialized_exported_program.json"}:
        return "is a torch.export archive (.pt2), a program: save the model's state_dict() instead"
    if "constants.pkl" in leaves:
        return "is a TorchScript archive, a program: save torch.jit.load(FILE).state_dict() with torch.save"
    if "data.pkl" in leaves:
        return None
    if names and all(name.endswith(".npy") for name in names):
        return f"holds numpy arrays (.npz): {WANTED}"
    if "model.weights.h5" in leaves:
        return f"is a Keras model: {WANTED}"
    if inner:
        return f"is a zip archive: unpack it and name the weights file in it, such as {_quoted(inner[:1])}"
    return f"is a zip archive without weights: {WANTED}"


def _read_safetensors(stream: BufferedReader) -> tuple[Tensors, dict[str, str]]:
    """The tensors and the metadata of a safetensors file."""
    from safetensors.torch import load

    raw = stream.read()
    try:
        tensors = load(raw)
        header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
        return tensors, dict(header.get("__metadata__") or {})
    except Exception as error:
        raise _Problem(f"is a damaged or cut-off safetensors file: {AGAIN}") from error


def _torch_load(stream: BufferedReader) -> Any:
    """What torch.save wrote, read without running code; torch's own messages advise the opposite."""
    safe = torch.serialization
    # Leaving safe_globals removes what was added, so what the user had added is not added again.
    added = [entry for entry in _numpy_scalars() if entry not in safe.get_safe_globals()]
    try:
        with safe.safe_globals(added):
            return torch.load(stream, map_location="cpu", weights_only=True, mmap=False)
    except Exception as error:
        raise _Problem(_refusal(stream, error)) from error


def _numpy_scalars() -> list[Any]:
    """What a pickled numpy number is rebuilt with: torch refuses it, and it runs no code."""
    import numpy as np

    scalar = np.float64(0).__reduce__()[0]
    paths = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    return [*paths, np.dtype, *{type(np.dtype(code)) for code in "?bhilqBHILQefdgSU"}]


@dataclass(frozen=True)
class _Scan:
    """What a pickle would import, its protocol, and whether torch.save's, a module, whole."""

    names: tuple[str, ...]
    protocol: int
    by_torch: bool
    module: bool
    complete: bool


def _scan(data: bytes, count: int) -> _Scan:
    """Parse up to `count` pickles one after another, as far as they go, without running them."""
    names: list[str] = []
    words: list[str] = ["", ""]
    protocol, numbers, module, complete = 0, set(), False, False
    stream = BytesIO(data)
    try:
        for _ in range(count):
            for code, value, _at in pickletools.genops(stream):
                if code.name in ("GLOBAL", "INST"):
                    names.append(_renamed(*str(value).split(" ", 1)))
                elif code.name == "STACK_GLOBAL":
                    names.append(_renamed(*words))
                elif code.name == "PROTO":
                    protocol = max(protocol, int(value or 0))
                elif code.name == "LONG1":
                    numbers.add(value)
                elif isinstance(value, str):
                    words = [words[1], value]
                    module = module or value == "_parameters"
        complete = bool(names)
    except (ValueError, IndexError, OverflowError, EOFError, struct.error):
        pass
    return _Scan(tuple(names), protocol, TORCH_MAGIC in numbers, module, complete)


def _renamed(module: str, name: str) -> str:
    """The full name as people write it: pickle keeps that of the system and of Python 2."""
    return f"{RENAMED.get(module, module)}.{name}"


def _scan_file(stream: BufferedReader) -> _Scan:
    """The scan of a file by torch.save: of its data.pkl, or of the four pickles an old file starts with."""
    stream.seek(0)
    if stream.read(2) != b"PK":
        stream.seek(0)
        return _scan(stream.read(SCANNED), 4)
    with zipfile.ZipFile(stream) as archive:
        entry = next(e for e in archive.infolist() if e.filename.rpartition("/")[2] == "data.pkl")
    return replace(_scan(_stored(stream, entry), 1), by_torch=True)


def _stored(stream: BufferedReader, entry: zipfile.ZipInfo) -> bytes:
    """The bytes of an entry stored as it is; unlike ZipFile.open, also where the checksum is not set."""
    try:
        stream.seek(entry.header_offset + 26)
        stream.seek(sum(struct.unpack("<HH", stream.read(4))), os.SEEK_CUR)
        return stream.read(min(entry.file_size, SCANNED))
    except (struct.error, ValueError, OverflowError, OSError):
        return b""


def _refusal(stream: BufferedReader, error: Exception) -> str:
    """Why torch did not read the file, from what is in it, and how to get at its tensors."""
    scan = _scan_file(stream)
    bad = [name for name in scan.names if not HARMLESS.fullmatch(name)]
    if code := [name for name in bad if CODE.fullmatch(name)]:
        return f"contains code ({_short(code[0])}), refused: ask its author for a .safetensors file"
    # Before the names below: newer protocols put them together from parts that may stand anywhere.
    if scan.protocol > 2:
        return f"has pickle protocol {scan.protocol}, not read here: save model.state_dict() with torch.save"
    start = f"if you trust it, run: import torch; x = torch.load({stream.name!r}, weights_only=False)"
    new = os.path.splitext(os.path.basename(stream.name))[0] + ".weights.pt"
    if bad and scan.module:
        return (
            f"holds a whole pickled model ({_short(bad[0])}), which cannot be read without running code: "
            f"save model.state_dict() instead; {start}; "
            f"torch.save((x['model'] if isinstance(x, dict) else x).state_dict(), {new!r})"
        )
    if bad:
        what = "numpy.ndarray" if bad[0].endswith("multiarray._reconstruct") else _short(bad[0])
        return f"holds a {what} beside tensors, refused: {start}; torch.save(x['state_dict'], {new!r})"
    if isinstance(error, MemoryError) or "allocate" in str(error):
        return "needs more memory than there is, or is damaged"
    if not scan.by_torch:
        return f"is no pickle written by torch.save, or is cut off: {WANTED}"
    return f"is damaged or cut off: {AGAIN}"


def _unwrap(found: Any) -> tuple[Tensors, list[str]]:
    """The named tensors of the state dict in what the file held, and which entries led to it."""
    notes = []
    while isinstance(found, dict) and (hits := [w for w in WRAPPERS if _has_tensors(found.get(w), 8)]):
        others = f" (also there: {_quoted(hits[1:], 9)})" if hits[1:] else ""
        notes.append(f"took the entry {hits[0]!r}{others}")
        found = found[hits[0]]
    if not isinstance(found, dict):
        raise _Problem(f"holds a {type(found).__name__}, not a state dict: save model.state_dict()")
    tensors = {k: v for k, v in found.items() if isinstance(k, str) and isinstance(v, torch.Tensor)}
    rest = [key for key in found if not isinstance(key, str) or key not in tensors]
    if not found:
        raise _Problem("holds an empty dict: save model.state_dict()")
    if not tensors:
        raise _Problem(f"holds no state dict, but {_quoted(rest)}: save model.state_dict()")
    if rest:
        notes.append(f"ignored {len(rest)} entries that are no tensors: {_quoted(rest)}")
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
        raise _Problem(f"claims tensors of {claimed} bytes in a file of {size}, refused: {AGAIN}")


def _checked(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """The tensor, contiguous and with a storage of its own size; raises unless dense and finite."""
    if kind := _odd_kind(tensor):
        raise _Problem(f"holds {_quoted([name])}, a {kind} tensor: save dense tensors of float32 or int64")
    if bad := _bad_values(tensor):
        count = f"{bad} of {tensor.numel()} values"
        raise _Problem(f"has NaN or infinity in {_quoted([name])} ({count}): use an earlier checkpoint")
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


def _bad_values(tensor: torch.Tensor) -> int:
    """How many values are NaN or infinite; one sum, which such values spoil, settles nearly all tensors."""
    if not tensor.is_floating_point():
        return 0
    return 0 if tensor.sum().isfinite() else int(tensor.isfinite().logical_not().sum())


def _own_tensors(module: torch.nn.Module, name: str) -> Tensors:
    """The module's state dict; raises where weights from a file could not complete it."""
    own: Tensors = module.state_dict(keep_vars=True)
    if odd := [key for key, value in own.items() if not isinstance(value, torch.Tensor)]:
        raise _Problem(f"cannot be loaded: {name} keeps more than tensors in its state ({_quoted(odd)})")
    if lazy := [key for key, value in own.items() if torch.nn.parameter.is_lazy(value)]:
        raise _Problem(f"cannot be loaded: {name} has lazy layers ({_quoted(lazy)}): run it once before")
    if stuck := [key for key, b in module.named_buffers() if b.is_meta and key not in own]:
        raise _Problem(f"cannot be loaded: weights do not carry the meta buffers {_quoted(stuck)} of {name}")
    return own


def _strip_prefixes(tensors: Tensors, wanted: Collection[str]) -> tuple[Tensors, list[str]]:
    """The tensors under the names, less leading wrapper prefixes, that fit `wanted` best, and notes."""
    prefix, names = _fitting(tensors, wanted)
    if not prefix:
        return dict(tensors), []
    if twice := [n for n, count in Counter(names).items() if count > 1]:
        raise _Problem(f"has {_quoted(twice)} both with and without the prefix {prefix!r}: keep one")
    changed = sum(a != b for a, b in zip(names, tensors, strict=True))
    notes = [f"stripped the prefix {prefix!r} from {changed} names"]
    fitted = dict(zip(names, tensors.values(), strict=True))
    if "n_averaged" not in wanted and fitted.pop("n_averaged", None) is not None:
        notes.append("ignored the counter 'n_averaged' of averaged weights")
    return fitted, notes


def _fitting(names: Collection[str], wanted: Collection[str]) -> tuple[str, list[str]]:
    """The prefix without which most names are wanted ones, and the names without it."""
    wanted, bare, prefix = set(wanted), list(names), ""
    best = prefix, bare
    while hit := next((p for p in PREFIXES if 2 * sum(n.startswith(p) for n in bare) > len(bare)), ""):
        bare, prefix = [n.removeprefix(hit) for n in bare], prefix + hit
        if len(wanted.intersection(bare)) > len(wanted.intersection(best[1])):
            best = prefix, bare
    return best


def _fill_counters(tensors: Tensors, own: Mapping[str, torch.Tensor]) -> list[str]:
    """Add the batch-norm counters that torch before 0.4.1 did not save."""
    missing = [key for key in own if key not in tensors and key.endswith("num_batches_tracked")]
    tensors |= {key: torch.zeros(own[key].shape, dtype=own[key].dtype, device="cpu") for key in missing}
    return [f"created {len(missing)} missing num_batches_tracked"] if missing else []


def _check_names(tensors: Tensors, own: Collection[str], name: str, known: Known | None) -> None:
    """Raise unless the names are the module's, with what is missing, what is left over and what fits."""
    missing = [key for key in own if key not in tensors]
    extra = [key for key in tensors if key not in own]
    if not missing and not extra:
        return
    parts = [f"{len(missing)} of its {len(own)} tensors are missing ({_quoted(missing)})"] if missing else []
    parts += [f"{len(extra)} unexpected ({_quoted(extra)})"] if extra else []
    closest = _closest(tensors, own, known() if known else {})
    raise _Problem(f"does not fit {name}: {', '.join(parts)}{closest}")


def _closest(tensors: Tensors, own: Collection[str], known: Mapping[str, Collection[str]]) -> str:
    """The architectures whose names overlap most with the file's, if more than the model's own do."""
    scores = {arch: _overlap(tensors, keys) for arch, keys in known.items()}
    best = max(scores.values(), default=0.0)
    if best <= max(_overlap(tensors, own), 0.3):
        return ""
    likely = sorted(arch for arch, score in scores.items() if score == best)[:3]
    return f"; closest architecture: {' or '.join(likely)} ({best:.0%} of the names)"


def _overlap(names: Collection[str], keys: Collection[str]) -> float:
    """The share of names that both have among those that either has."""
    bare = set(_fitting(names, keys)[1])
    return len(bare.intersection(keys)) / max(len(bare.union(keys)), 1)


def _check_shapes(tensors: Tensors, own: Mapping[str, torch.Tensor], name: str) -> None:
    """Raise where shapes differ; a different number of classes is told apart."""
    differ = [key for key, value in own.items() if tensors[key].shape != value.shape]
    if not differ:
        return
    counts = {(tensors[key].shape[:1], own[key].shape[:1]) for key in differ}
    rest = all(tensors[key].shape[1:] == own[key].shape[1:] for key in differ)
    last = [key for key, value in own.items() if value.ndim > 1][-1:]
    if rest and len(counts) == 1 and set(last) & set(differ):
        file, model = counts.pop()
        raise _Problem(f"has {file[0]} classes, {name} {model[0]}: pass --classes {file[0]}")
    shown = [f"{_quoted([k])} is {tuple(tensors[k].shape)}, not {tuple(own[k].shape)}" for k in differ[:3]]
    raise _Problem(f"does not fit {name}: {len(differ)} of {len(own)} shapes differ ({'; '.join(shown)})")


def _cast(tensors: Tensors, own: Mapping[str, torch.Tensor]) -> tuple[Tensors, list[str]]:
    """The tensors in the module's order and types, and what was cast; raises where values are lost."""
    done, casts = {}, Counter[tuple[torch.dtype, torch.dtype]]()
    for key, value in own.items():
        done[key] = tensor = tensors[key].to(value.dtype)
        if tensors[key].is_floating_point() != value.is_floating_point() and tensor.numel() > 1:
            raise _Problem(f"has {tensors[key].dtype} in {_quoted([key])}, where {value.dtype} belongs")
        if tensors[key].dtype != value.dtype:
            casts[tensors[key].dtype, value.dtype] += 1
            if _bad_values(tensor):
                raise _Problem(f"has values in {_quoted([key])} that are too large for {value.dtype}")
    return done, [f"cast {n} tensors from {a} to {b}".replace("torch.", "") for (a, b), n in casts.items()]


def _put(module: torch.nn.Module, tensors: Tensors, own: Tensors) -> None:
    """Load what was checked; should the module's own loading code fail, all is put back as it was."""
    meta = any(value.is_meta for value in own.values())
    state = OrderedDict(_tied(tensors, own) if meta else tensors)
    # The module's own versions: without them torch takes the names for those of its first release.
    state._metadata = getattr(own, "_metadata", None)  # type: ignore[attr-defined]
    saved = {key: value.clone() for key, value in own.items() if not value.is_meta}
    places = [(m, dict(m._parameters), dict(m._buffers)) for m in module.modules()]
    try:
        module.load_state_dict(state, strict=True, assign=meta)
    except BaseException as error:
        for part, parameters, buffers in places:
            part._parameters.update(parameters)
            part._buffers.update(buffers)
        for key, value in saved.items():
            own[key].copy_(value)
        if isinstance(error, Exception):
            raise _Problem(f"was refused by the model's own loading code ({_short(str(error))})") from error
        raise


def _tied(tensors: Tensors, own: Mapping[str, torch.Tensor]) -> Tensors:
    """The tensors as what is assigned: one parameter for all names of one parameter of the module."""
    made = {
        id(value): torch.nn.Parameter(tensors[key], requires_grad=value.requires_grad)
        for key, value in own.items()
        if isinstance(value, torch.nn.Parameter)
    }
    return {key: made.get(id(value), tensors[key]) for key, value in own.items()}


def _quoted(names: Iterable[Any], count: int = 3) -> str:
    """The first names in quotes, and dots where there are more."""
    names = list(names)
    return ", ".join(_short(repr(name)) for name in names[:count]) + (", ..." if names[count:] else "")


def _short(text: str) -> str:
    """The text, cut in the middle where it is longer than a line: names come from the file."""
    return text if len(text) <= 100 else f"{text[:60]}...{text[-30:]}"
