"""Picture files by their names: all of them below a folder, and what to say of a path that leads to none."""

import errno
import itertools
import json
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from vizkit.atomic import is_ours, is_temporary
from vizkit.errors import ImageError, UsageError, VizkitError, did_you_mean

ENDINGS = {
    ending: form
    for form, endings in {
        "JPEG": ".jpg .jpeg .jpe .jfif",
        "PNG": ".png .apng",
        "GIF": ".gif",
        "WEBP": ".webp",
        "TIFF": ".tif .tiff",
        "BMP": ".bmp .dib",
        "PPM": ".ppm .pgm .pbm .pnm .pfm",
        "MPO": ".mpo",
        "AVIF": ".avif .avifs",
        "HEIF": ".heic .heif .hif",
    }.items()
    for ending in endings.split()
}
"""Ending of a file name, in small letters -> the picture format it promises."""


def walk_images(folder: str | os.PathLike[str], *, skip_ours: bool = True) -> list[tuple[Path, Path]]:
    """Every picture below `folder` as (path, path relative to `folder`), sorted by the relative path.

    Pictures are picked by their ending, also the broken ones, so that nothing is lost in silence.
    Hidden files and folders, temporary files and (`skip_ours`) what vizkit made are passed over.
    Linked folders are not entered; a file reached by several names counts once, by its own name
    before a link's. Raises `UsageError` when there is no such folder, or no picture in it, and
    `ImageError` when a folder may not be read.
    """
    root = Path(folder)
    _require_folder(root)
    files: dict[object, Path] = {}
    found = sorted(_picture_files(root), key=lambda item: (item[0], item[1].parts))
    for _is_link, path in found:
        files.setdefault(_identity(path), path)
    kept = sorted((p for p in files.values() if not (skip_ours and is_ours(p))), key=lambda p: p.parts)
    if not kept:
        only = "only pictures that vizkit made" if files else f"no pictures ({' '.join(ENDINGS)})"
        raise UsageError(f"{str(root)!r} holds {only}; name a folder with photographs")
    return [(path, path.relative_to(root)) for path in kept]


def missing_file(path: str | os.PathLike[str]) -> UsageError:
    """The error for a path where no file is: an address, a broken link, or a name like one that is there."""
    return UsageError(_missing(os.fspath(path)))


def read_small(path: str | os.PathLike[str], limit: int = 1 << 26) -> bytes:
    """The bytes of a file that has no reason to be larger than `limit`.

    Raises `OSError`, also for a larger one, and for what is no file (opening a pipe would wait for ever).
    """
    with open(
        path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))
    ) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is no file", os.fspath(path))
        # no more is asked for than there is, as room for it is made at once; some systems say 0
        data = file.read(min(limit, max(status.st_size, 1 << 16)) + 1) if status.st_size <= limit else None
    if data is None or len(data) > limit:
        raise OSError(errno.EFBIG, f"it is larger than {limit:,} bytes", os.fspath(path))
    return data


def refuse_input(out: str | None, sources: Iterable[str | None]) -> None:
    """Raise `UsageError` where writing to `out` would replace something that is read.

    sources: files, folders of pictures or data, indexes; None and "-" are none. What vizkit made inside a
    folder of pictures may be replaced, inside an index nothing.
    """
    target = os.path.realpath(out or "")
    for source in sources if out and out != "-" else ():
        if not source or source == "-" or not os.path.exists(source):
            continue
        place = os.path.realpath(source)
        inside = target.startswith(place + os.sep) and os.path.exists(target)
        index = os.path.exists(os.path.join(place, "index.json"))
        if target == place or (inside and (index or not is_ours(target))):
            raise UsageError(f"{out!r} is an input; write the result elsewhere")


def read_json(path: str | os.PathLike[str], limit: int = 1 << 26) -> Any:
    """What a JSON file holds that has no reason to be larger than `limit`.

    Raises `OSError` as `read_small` does, and `ValueError` for what is no JSON or is nested too deep.
    """
    try:
        return json.loads(read_small(path, limit))
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def require_there(path: str) -> None:
    """Raise what `unopened` gives where nothing is at `path`."""
    try:
        os.stat(path)
    except (ValueError, OSError) as error:
        raise unopened(path, error) from error


def unopened(path: str, error: OSError | ValueError) -> VizkitError:
    """The error to raise for a path that could not be opened; a `ValueError` is a NUL in the name."""
    if isinstance(error, ValueError) or error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
        return missing_file(path)
    if error.errno == errno.ELOOP:
        return ImageError(f"cannot read {path!r}: it is a link that leads back to itself; remove it")
    return ImageError(f"cannot read {path!r}: {error.strerror}; check its permissions")


def refuse_foreign(folder: str | os.PathLike[str], mark: str) -> None:
    """Raise `UsageError` for a folder that holds files but not `mark`, what marks it as ours."""
    place = Path(folder)
    if place.is_dir() and not (place / mark).exists() and any(place.iterdir()):
        raise UsageError(f"{str(place)!r} holds other files; choose a new folder")


def _missing(path: str) -> str:
    if "://" in path:
        return f"{path!r} is an address, not a file; download the picture first"
    if os.path.islink(path):
        return f"{path!r} is a link to {os.readlink(path)!r}, which does not exist; mend or remove the link"
    folder, name = os.path.split(path)
    try:
        with os.scandir(folder or ".") as entries:
            near = did_you_mean(name, [entry.name for entry in itertools.islice(entries, 5000)])
    except (OSError, ValueError):
        return f"there is no file {path!r}, nor a folder {folder!r}; check the spelling"
    return f"there is no file {path!r}{near or '; check the spelling'}"


def _require_folder(root: Path) -> None:
    try:
        kind = os.stat(root).st_mode
    except (OSError, ValueError) as error:
        failure = unopened(str(root), error)
        if isinstance(failure, ImageError):
            raise failure from error
        raise UsageError(str(failure).replace("no file", "no folder", 1)) from error
    if not stat.S_ISDIR(kind):
        raise UsageError(f"{str(root)!r} is not a folder; name the folder that holds the pictures")


def _picture_files(root: Path) -> Iterator[tuple[bool, Path]]:
    """(whether it is a link, path) of every picture file below `root`, in no certain order."""
    seen: set[object] = set()
    folders = [root]
    while folders:
        folder = folders.pop()
        if (identity := _identity(folder)) in seen:
            continue
        seen.add(identity)
        for entry in _entries(folder):
            if entry.name.startswith(".") or is_temporary(entry.name):
                continue
            if entry.is_dir(follow_symlinks=False):
                folders.append(folder / entry.name)
            elif os.path.splitext(entry.name)[1].lower() in ENDINGS and _is_file(entry):
                yield entry.is_symlink(), folder / entry.name


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise ImageError(
            f"cannot list the folder {str(folder)!r}: {error.strerror}; check its permissions"
        ) from error


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Whether it is a file; a broken link counts, so that reading it tells the user."""
    try:
        return stat.S_ISREG(entry.stat().st_mode)
    except OSError:
        return True


def _identity(path: Path) -> object:
    """What is the same for all names of one file; the path itself where the system does not tell."""
    try:
        status = os.stat(path)
    except OSError:
        return path
    return (status.st_dev, status.st_ino) if status.st_ino else path
