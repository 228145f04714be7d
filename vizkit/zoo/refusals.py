"""Why a weights file is refused: in one line what it is and what to do, with the file's name in front."""

import tarfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BufferedReader
from typing import Any

from vizkit.errors import WeightsError

AGAIN = "copy or download it again"
"""What to do about a damaged file."""

WANTED = "wanted is a state dict saved with torch.save or as .safetensors"
"""What to do about a file of another kind."""

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


class Problem(Exception):  # noqa: N818 - never leaves the readers; `about` turns it into a WeightsError
    """What is wrong with a file, without its name."""


@contextmanager
def about(file: str) -> Iterator[None]:
    """Put the file's name before each problem found inside."""
    try:
        yield
    except Problem as problem:
        raise WeightsError(f"{file}: {problem}") from problem.__cause__
    except OSError as error:
        raise WeightsError(f"{file}: cannot be read ({error.strerror or error})") from error


def _is_text(head: bytes) -> bool:
    """Whether the bytes hold no control characters but white space."""
    return not any(byte < 32 and byte not in b"\t\n\r\f" for byte in head)


def foreign_text(head: bytes) -> str:
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


def tar_text(stream: BufferedReader) -> str:
    """What to say about a tar archive."""
    try:
        with tarfile.open(fileobj=stream, mode="r:") as archive:
            names = set(archive.getnames())
    except (tarfile.TarError, ValueError, EOFError):
        names = set()
    if {"storages", "tensors", "pickle"} <= names:
        return "is a tar archive of an ancient torch, not read here: save it again with a newer one"
    return "is a tar archive: unpack it and name the weights file in it"


def zip_text(names: list[str]) -> str | None:
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
        return f"is a zip archive: unpack it and name the weights file in it, such as {quoted(inner[:1])}"
    return f"is a zip archive without weights: {WANTED}"


def quoted(names: Iterable[Any], count: int = 3) -> str:
    """The first names in quotes, and dots where there are more."""
    names = list(names)
    return ", ".join(short(repr(name)) for name in names[:count]) + (", ..." if names[count:] else "")


def short(text: str) -> str:
    """The text, cut in the middle where it is longer than a line: names come from the file."""
    return text if len(text) <= 100 else f"{text[:60]}...{text[-30:]}"
