"""The only writer of files: a file is there whole, or what stood there before is untouched.

Bytes are made in memory first, written to a private temporary file beside the target, flushed to
the disk and moved over the target in one step (`os.replace`). A full disk, a crash or a second
writer can therefore never leave a torn file. Files that vizkit made carry a mark and may be
replaced; any other file only with `force`.
"""

import contextlib
import json
import os
import re
import secrets
import stat
import struct
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import IO

from vizkit.errors import OutputError, UsageError, one_line

MARK = "vizkit"
"""The key under which every file of ours names its origin: PNG text, JPEG comment, XMP, JSON, HTML meta."""

NPY_MARK = b"\nvizkit"
"""What stands behind the data of our .npy files; readers stop at the end of the data."""

_TEMPORARY = re.compile(r"^\.(?P<name>.*)\.(?P<pid>\d+)-[0-9a-f]{8}\.vizkit-tmp$", re.DOTALL)
_HEAD = 1 << 20  # a mark that starts later than this is not looked for


def check(path: str | os.PathLike[str], *, force: bool = False) -> None:
    """Fail now if `write(path, ...)` could not succeed later, so that nothing is computed in vain.

    Raises `OutputError` (no such folder, a folder, not writable, name too long) or `UsageError`
    (another program's file stands there and `force` is not given).
    """
    target = _resolve(path)
    if _is_stream(target):
        return
    _refuse_foreign(target, force)
    temporary = _temporary_beside(target)
    with _explained(target):
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        os.unlink(temporary)


def write(path: str | os.PathLike[str], data: bytes, *, force: bool = False) -> None:
    """Write `data` to `path` in one step; `-` is standard output.

    The old file's permissions are kept, a symbolic link is followed. Raises as `check` does, and
    `OutputError` when the disk is full; the old file is then byte for byte what it was.
    """
    if os.fspath(path) == "-":
        write_stdout(data)
        return
    if _is_stream(target := _resolve(path)):
        with _explained(target):
            target.write_bytes(data)
        return
    write_pieces(target, [data], force=force)


def write_pieces(path: str | os.PathLike[str], pieces: Iterable[bytes], *, force: bool = False) -> None:
    """`write` for a file too large for the memory, given in pieces; not for streams."""
    target = _resolve(path)
    _refuse_foreign(target, force)
    temporary = _temporary_beside(target)
    try:
        with _explained(target):
            _write_and_sync(temporary, pieces, _mode_of(target))
            os.replace(temporary, target)
            _sync_folder(target.parent)
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
    _remove_stale(target)


def encoded(text: str) -> bytes:
    r"""Text as UTF-8; what is no text in a file's name becomes an escape such as `\udcff`."""
    return text.encode("utf-8", "backslashreplace")


def write_stdout(data: bytes) -> None:
    """Write `data` to standard output. Raises `OutputError` when it is full; a closed pipe passes through."""
    try:
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(f"cannot write to standard output: {error.strerror}") from error


def make_folder(path: str | os.PathLike[str]) -> Path:
    """The folder `path`, made with its parents where it is missing. Raises `OutputError`."""
    folder = Path(path)
    with _explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def is_ours(path: str | os.PathLike[str]) -> bool:
    """Whether the file carries our mark (PNG, JPEG, WebP, GIF, JSON, HTML or safetensors)."""
    try:
        with open(path, "rb") as file:
            return _marked(file)
    except OSError:
        return False


def is_whole_png(path: str | os.PathLike[str]) -> bool:
    """Whether the file ends as a PNG does: nobody has cut it."""
    try:
        with open(path, "rb") as file:
            file.seek(-12, os.SEEK_END)
            return file.read() == b"\0\0\0\0IEND\xaeB`\x82"
    except OSError:
        return False


def is_temporary(name: str) -> bool:
    """Whether `name` is one of our temporary files, which a folder walk must pass over."""
    return _TEMPORARY.match(name) is not None


def png_text(file: IO[bytes]) -> str | None:
    """The text of the chunk under our key in an open PNG, or None; stops at the first pixel data."""
    file.seek(8)
    while len(header := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", header)
        if kind in (b"IDAT", b"IEND") or length > _HEAD:
            return None
        body = file.read(length + 4)[:-4]
        # keyword, then compression flag and method, language and translated keyword (both empty)
        if kind == b"iTXt" and body.startswith(MARK.encode() + b"\0\0\0"):
            return body[len(MARK) + 3 :].split(b"\0", 2)[-1].decode(errors="replace")
    return None


# --- writing ---


def _resolve(path: str | os.PathLike[str]) -> Path:
    try:
        target = Path(os.path.realpath(path))
        is_folder = target.is_dir()
    except (OSError, ValueError) as error:
        raise OutputError(f"cannot write {os.fspath(path)!r}: {error}") from error
    if is_folder:
        raise OutputError(f"cannot write {os.fspath(path)!r}: it is a folder; name a file in it")
    if not target.parent.is_dir():
        folder = os.path.dirname(path)
        raise OutputError(f"cannot write {os.fspath(path)!r}: there is no folder {folder!r}; make it first")
    return target


def _is_stream(target: Path) -> bool:
    """A device or pipe (`/dev/null`, `/dev/stdout`): written straight, there is nothing to protect."""
    return target.exists() and not target.is_file()


def _refuse_foreign(target: Path, force: bool) -> None:
    if not force and target.exists() and target.stat().st_size and not is_ours(target):
        raise UsageError(f"{str(target)!r} exists and was not made by vizkit; pass --force to replace it")


def _temporary_beside(target: Path) -> Path:
    # The name is cut so that a target of the longest allowed name still has room for the suffix.
    stem = os.fsdecode(os.fsencode(target.name)[:180])
    return target.with_name(f".{stem}.{os.getpid()}-{secrets.token_hex(4)}.vizkit-tmp")


def _mode_of(target: Path) -> int:
    with contextlib.suppress(OSError):
        return stat.S_IMODE(target.stat().st_mode)
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def _write_and_sync(path: Path, pieces: Iterable[bytes], mode: int) -> None:
    # The name must fail for being too long exactly when the target's would.
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    with open(path, "wb") as file:
        for piece in pieces:
            file.write(piece)
        file.flush()
        os.fchmod(file.fileno(), mode)
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    # Some file systems cannot sync a folder; the rename is atomic all the same.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _remove_stale(target: Path) -> None:
    """Remove what a killed writer of the same file left behind."""
    stem = os.fsdecode(os.fsencode(target.name)[:180])
    with contextlib.suppress(OSError):
        for entry in os.scandir(target.parent):
            match = _TEMPORARY.match(entry.name)
            if match and match["name"] == stem and not _alive(int(match["pid"])):
                with contextlib.suppress(OSError):
                    os.unlink(entry.path)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


@contextlib.contextmanager
def _explained(target: Path):  # type: ignore[no-untyped-def]
    try:
        yield
    except OSError as error:
        raise OutputError(f"cannot write {one_line(str(target))!r}: {error.strerror or error}") from error


# --- recognising our own files ---


def _marked(file: IO[bytes]) -> bool:
    head = file.read(12)
    file.seek(0)
    if head.startswith(b"\x89PNG"):
        return _marked_png(file)
    if head.startswith(b"\xff\xd8"):
        return _marked_jpeg(file)
    if head[:4] == b"RIFF" and head[8:] == b"WEBP":
        return _marked_webp(file)
    if head.startswith((b"GIF87a", b"GIF89a")):
        # a comment, in front of the first frame
        return re.search(rb"!\xfe.vizkit ", file.read(4096), re.DOTALL) is not None
    if head.startswith(b"\x93NUMPY"):
        file.seek(-len(NPY_MARK), os.SEEK_END)
        return file.read() == NPY_MARK
    start = file.read(_HEAD)
    text = start.lstrip()
    if text.startswith(b"{"):
        return re.match(rb'\{\s*"vizkit"\s*:', text) is not None
    if text[:15].lower() == b"<!doctype html>":
        return b'<meta name="generator" content="vizkit' in start
    return _marked_safetensors(start)


def _marked_png(file: IO[bytes]) -> bool:
    return png_text(file) is not None


def _marked_jpeg(file: IO[bytes]) -> bool:
    file.seek(2)
    while len(header := file.read(4)) == 4 and header[0] == 0xFF and header[1] != 0xDA:
        (length,) = struct.unpack(">H", header[2:])
        if length < 2:  # it counts itself
            return False
        body = file.read(length - 2)
        if header[1] == 0xFE and body.startswith(MARK.encode() + b" "):
            return True
    return False


def _marked_webp(file: IO[bytes]) -> bool:
    file.seek(12)
    while len(header := file.read(8)) == 8:
        kind, length = struct.unpack("<4sI", header)
        if kind == b"XMP ":
            return file.read(min(length, _HEAD)).startswith(MARK.encode() + b" ")
        file.seek(length + length % 2, os.SEEK_CUR)
    return False


def _marked_safetensors(start: bytes) -> bool:
    if len(start) < 8:
        return False
    (length,) = struct.unpack("<Q", start[:8])
    if length > len(start) - 8:
        return False
    try:
        header = json.loads(start[8 : 8 + length])
    except (ValueError, RecursionError):
        return False
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    return isinstance(metadata, dict) and MARK in metadata
