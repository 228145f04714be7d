"""Which pictures a command works on and where each result goes; settled before torch is imported."""

import importlib.util
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vizkit import atomic
from vizkit.errors import UsageError
from vizkit.folders import require_there, walk_images
from vizkit.results import picture_format

STDIN = "-"
FILMS = ("deepdream", "invert", "texture")
"""Commands on pictures that can write a .gif."""
_PICTURES = (".png", ".jpg", ".jpeg", ".webp")


@dataclass(frozen=True)
class Task:
    """One picture and its outputs (`-` is standard input or output)."""

    source: str
    output: str
    raw: str | None = None
    sheet: str | None = None

    @property
    def name(self) -> str:
        """What messages call the picture."""
        return "standard input" if self.source == STDIN else self.source


def plan(
    images: Sequence[str],
    command: str,
    out: str | None,
    raw: str | None,
    *,
    force: bool,
    sheet: str | None = None,
) -> tuple[list[Task], bool]:
    """The tasks, and whether there are several (then results go to folders and work is resumed).

    Raises `UsageError` or `OutputError` for anything that would fail later: missing files, outputs that
    cannot be written or would replace an input or a stranger's file.
    """
    found = list(_found(_without_ours(images) or [sample_photograph()]))
    walked = [i for i in images if os.path.isdir(i)]
    if walked and out is None:
        raise UsageError(f"{walked[0]!r} is a folder; say where its results go: -o FOLDER")
    several = len(found) > 1 or bool(walked)
    endings = _endings([relative for _, relative in found])
    beside = not images  # the sample's result goes to the current folder
    tasks = []
    for (source, _), stem in zip(found, endings, strict=True):
        output = _output(source, stem, command, out, several=several, here=beside)
        beside_it = _sheet(stem, command, sheet, several=several)
        tasks.append(Task(source, output, _raw(stem, command, raw, several=several), beside_it))
    folders = [path for path in (out, raw, sheet) if path is not None and _is_folder(path, several=several)]
    _check(tasks, folders, force=force)
    return tasks, several


def unfinished(path: str) -> str:
    """Where an unfinished picture goes: to `path`, or beside what stands there, which it must not replace."""
    if path == STDIN or not os.path.isfile(path):
        return path
    stem, ending = os.path.splitext(path)
    return f"{stem}.interrupted{ending}"


def sample_photograph() -> str:
    """A photograph of a cat that comes with scikit-image."""
    spec = importlib.util.find_spec("skimage")
    path = Path(spec.origin).parent / "data" / "chelsea.png" if spec and spec.origin else None
    if path is None or not path.is_file():
        raise UsageError("no picture was given, and scikit-image's sample photographs are not installed")
    return str(path)


def _without_ours(images: Sequence[str]) -> Sequence[str]:
    """Of several files (`*.png`, say) those that vizkit did not make; one file is taken as it is."""
    if len(images) < 2:
        return images
    return [i for i in images if not (os.path.isfile(i) and atomic.is_ours(i))] or images


def _found(images: Sequence[str]) -> Iterator[tuple[str, Path]]:
    """(source, path relative to what was asked for) of every picture."""
    for image in images:
        if image == STDIN:
            yield image, Path("stdin")
        elif os.path.isdir(image):
            yield from ((str(path), relative) for path, relative in walk_images(image))
        else:
            require_there(image)
            yield image, Path(os.path.basename(image))


def _endings(relatives: Sequence[Path]) -> list[Path]:
    """Relative names without their ending, or with it where two would collide (`cat.jpg`, `cat.png`)."""
    names = [r.with_suffix("") for r in relatives]
    for _ in range(2):  # `cat.jpg` in full may again be the short name of `cat.jpg.png`
        count = Counter(names)
        names = [n if count[n] == 1 else r for n, r in zip(names, relatives, strict=True)]
    twice = [str(n) for n, k in Counter(names).items() if k > 1]
    if twice:
        raise UsageError(f"two pictures are called {twice[0]!r}; give them in separate runs")
    return names


def _output(source: str, stem: Path, command: str, out: str | None, *, several: bool, here: bool) -> str:
    file = stem.with_name(f"{stem.name}.{command}.png")
    if out is None:
        return str(file) if here or source == STDIN else str(Path(source).parent / file.name)
    if _is_folder(out, several=several):
        if out == STDIN or (out.lower().endswith(_PICTURES) and not os.path.isdir(out)):
            raise UsageError(f"several pictures need a folder: -o {out!r} is one file")
        return str(Path(out) / file)
    if picture_format(out) in ("JSON", "HTML") or (picture_format(out) == "GIF" and command not in FILMS):
        raise UsageError(
            "-o takes a picture in the format .png, .jpg or .webp; --json prints the record to stdout"
        )
    return out


def _raw(stem: Path, command: str, raw: str | None, *, several: bool) -> str | None:
    if raw is None:
        return None
    if _is_folder(raw, several=several):
        return str(Path(raw) / stem.with_name(f"{stem.name}.{command}.npy"))
    if not raw.endswith(".npy"):
        raise UsageError(f"--raw writes .npy files, not {os.path.basename(raw)!r}")
    return raw


def _sheet(stem: Path, command: str, sheet: str | None, *, several: bool) -> str | None:
    """Where the figure of a painted picture goes."""
    if sheet is None:
        return None
    if _is_folder(sheet, several=several):
        return str(Path(sheet) / stem.with_name(f"{stem.name}.{command}.sheet.png"))
    if picture_format(sheet) in ("JSON", "HTML", "GIF"):
        raise UsageError("--sheet takes a picture (.png, .jpg, .webp)")
    return sheet


def _is_folder(path: str, *, several: bool) -> bool:
    return several or path.endswith(os.sep) or os.path.isdir(path)


def _check(tasks: Sequence[Task], folders: Sequence[str], *, force: bool) -> None:
    for folder in folders:
        atomic.make_folder(folder)
    sources = {os.path.realpath(t.source) for t in tasks if t.source != STDIN}
    for task in tasks:
        for path in (task.output, task.raw, task.sheet):
            if path is None or path == STDIN:
                continue
            if os.path.realpath(path) in sources:
                raise UsageError(f"{path!r} is an input; write the result elsewhere")
            if folders:
                atomic.make_folder(os.path.dirname(path) or ".")
            atomic.check(path, force=force)
