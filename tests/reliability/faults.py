"""Part E, the disk and the machine: full disks, failing writes, read-only and vanished folders, two writers,
too little memory.

After each fault everything that was there before must be there still, byte for byte, the message must be one
line with the right exit code, and the same command must then succeed with the undisturbed result.
"""

import contextlib
import dataclasses
import errno
import functools
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.reliability.campaign import Part, Tally, Trial
from tests.reliability.kills import SCENES, Scene, Stage, leftovers, rehearse, torn_files
from tests.reliability.processes import Ended, Running, fingerprint, finish, limit_memory

SINGLE = Scene(
    "saliency", ("saliency", "{photo}", "-o", "{out}/map.png", "--raw", "{out}/map.npy"), 0,
    earlier=("saliency", "{photo}", "-o", "{out}/map.png", "--raw", "{out}/map.npy", "--target", "7"),
)  # fmt: skip
QUICK = (SINGLE, *(s for s in SCENES if not s.plain))
ONE_BY_ONE = tuple(
    dataclasses.replace(s, name=f"{s.name}, one by one", words=(*s.words, "--batch", "1"))
    if "{photos}" in s.words and s.words[0] in ("scan", "saliency")
    else s
    for s in QUICK
)
"""For little memory: where a batch is halved, the last decimals of the scores in a record differ."""


def stages(trial: Trial, tally: Tally, scenes: tuple[Scene, ...] = QUICK) -> list[Stage]:
    """The scenes, rehearsed."""
    found = [rehearse(scene, trial, tally) for scene in scenes]
    return [stage for stage in found if stage is not None]


def judge(stage: Stage, out: Path, ended: Ended, codes: tuple[int, ...], what: str, tally: Tally) -> None:
    """See that after a fault nothing was torn, lost or left unexplained."""
    title = f"{what}, {stage.scene.name}"
    tally.endings[f"{what}: exit {ended.code}"] += 1
    if ended.traceback:
        tally.problem("tracebacks", f"{title}: {ended.err[-500:]}")
    elif ended.code not in codes:
        tally.problem("", f"{title}: exit {ended.code} instead of {codes}: {ended.err[-300:]}")
    elif ended.code and not ended.last.startswith("vizkit: "):
        tally.problem("", f"{title}: exit {ended.code} is not explained: {ended.err[-300:]!r}")
    for wrong in torn_files(stage, out):
        tally.problem("torn", f"{title}: {wrong}")


def again(stage: Stage, out: Path, what: str, tally: Tally) -> None:
    """Without the fault the same command must succeed."""
    ended = finish(stage.words(out))
    tally.resumed += 1
    found = fingerprint(out, without=stage.scene.volatile)
    same = found == stage.expected
    tally.identical += same
    if ended.code or not same:
        differ = sorted(k for k in {**found, **stage.expected} if found.get(k) != stage.expected.get(k))
        title = f"{what}, {stage.scene.name}, again"
        tally.problem("lost", f"{title}: exit {ended.code}, {differ[:5]}: {ended.err[-300:]}")
    if left := leftovers(out):
        tally.problem("", f"{what}, {stage.scene.name}: leaves {left[:5]}")


# --- full disk ---


@contextlib.contextmanager
def small_disk(place: Path, megabytes: int = 64) -> Iterator[bool]:
    """A disk of its own at `place`, or an ordinary folder where mounting is not allowed (gives False)."""
    place.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "vizkit", str(place)]
    mounted = (
        shutil.which("mount") and subprocess.run(command, capture_output=True, check=False).returncode == 0
    )
    try:
        yield bool(mounted)
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(place)], capture_output=True, check=False)


def _limit_files(size: int) -> None:
    """No file may grow larger than this; without a disk of our own the nearest thing to a full one."""
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def full_disk(trial: Trial, tally: Tally) -> None:
    """So many runs on a disk with too little room, then with room."""
    ready = stages(trial, tally)

    def one(number: int) -> None:
        dice = random.Random(f"{number} {first}")
        stage = ready[number % len(ready)]
        place = trial.folder / f"disk{number}"
        with small_disk(place) as mounted:
            out = place / "out"
            stage.begin(out)
            before = fingerprint(out)
            biggest, whole = _needs(stage)
            prepare = None
            if mounted:
                room = os.statvfs(place)
                free = room.f_bavail * room.f_frsize
                with open(place / "filler", "wb") as file, contextlib.suppress(OSError):
                    file.write(bytes(max(0, free - dice.randrange(whole))))
            else:
                prepare = functools.partial(_limit_files, dice.randrange(biggest))
            ended = finish(stage.words(out), prepare=prepare)
            tally.faults += bool(ended.code)  # else there was room enough
            judge(stage, out, ended, (0, 5, 6), "full disk", tally)
            for name, digest in before.items():
                now = fingerprint(out).get(name)
                if ended.code and now not in (digest, stage.expected.get(name)):
                    tally.problem("lost", f"full disk, {stage.scene.name}: {name} has changed")
            (place / "filler").unlink(missing_ok=True)
            again(stage, out, "full disk", tally)

    first = trial.dice.random()
    trial.each(one, range(trial.count(6, 60, 260)))


def _needs(stage: Stage) -> tuple[int, int]:
    """(bytes of the largest file, of all) of an undisturbed run, with journals."""
    sizes = [p.stat().st_size for p in stage.whole.rglob("*") if p.is_file()]
    return max(sizes), sum(sizes)


# --- failing calls of the system ---


def _fail_at(call: str, number: int, code: int) -> None:
    """Make the so-many-th fsync, replace or write of our writer fail."""
    from vizkit import atomic

    left = [number]

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                raise OSError(code, os.strerror(code))
            return function(*args, **kwargs)

        return run

    if call == "write":

        def opened(*args: Any, **kwargs: Any) -> Any:
            file = open(*args, **kwargs)  # noqa: SIM115 - the caller closes it
            return _Failing(file, counted(file.write)) if "w" in str(args[1:2]) else file

        atomic.open = opened  # type: ignore[attr-defined]
    else:
        setattr(os, call, counted(getattr(os, call)))


class _Failing:
    """A file whose `write` is another one."""

    def __init__(self, file: Any, write: Callable[..., Any]) -> None:
        self._file, self.write = file, write

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> "_Failing":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()


def failing_calls(trial: Trial, tally: Tally) -> None:
    """EIO and ENOSPC out of write, fsync and replace."""
    ready = stages(trial, tally)

    def one(number: int) -> None:
        dice = random.Random(f"{number} {first}")
        stage = ready[number % len(ready)]
        out = trial.folder / f"failing{number}"
        stage.begin(out)
        call, code = dice.choice(("write", "fsync", "replace")), dice.choice((errno.EIO, errno.ENOSPC))
        prepare = functools.partial(_fail_at, call, dice.choice((1, 1, 2, 3, 5)), code)
        ended = finish(stage.words(out), prepare=prepare)
        tally.faults += bool(ended.code)  # else there is no such call
        judge(stage, out, ended, (0, 5, 6), f"{errno.errorcode[code]} in {call}", tally)
        again(stage, out, f"{errno.errorcode[code]} in {call}", tally)
        shutil.rmtree(out)

    first = trial.dice.random()
    trial.each(one, range(trial.count(6, 60, 90)))


# --- folders ---


@contextlib.contextmanager
def read_only(place: Path, mounted: bool) -> Iterator[bool]:
    """The folder as one that cannot be written to; gives False where that cannot be."""
    if not mounted and os.geteuid() == 0:
        yield False
        return

    def change(option: str, folder: int, file: int) -> None:
        if mounted:
            subprocess.run(["mount", "-o", f"remount,{option}", str(place)], check=True, capture_output=True)
        else:
            for path in (place, *place.rglob("*")):
                path.chmod(folder if path.is_dir() else file)

    change("ro", 0o555, 0o444)
    try:
        yield True
    finally:
        change("rw", 0o755, 0o644)


def folders_gone(trial: Trial, tally: Tally) -> None:
    """Read-only output folders, and such that are taken away while the command runs."""
    ready = stages(trial, tally)

    def locked(number: int) -> None:
        stage = ready[number % len(ready)]
        place = trial.folder / f"readonly{number}"
        with small_disk(place) as mounted:
            out = place / "out"
            stage.begin(out)
            with read_only(place, mounted) as possible:
                if not possible:
                    return
                ended = finish(stage.words(out))
                tally.faults += 1
                judge(stage, out, ended, (2, 5), "read-only folder", tally)
                if ended.seconds > 0.7 * stage.seconds + 1:
                    title = f"read-only folder, {stage.scene.name}"
                    tally.problem("", f"{title}: found out after {ended.seconds:.1f} s")
            again(stage, out, "read-only folder", tally)

    def vanished(number: int) -> None:
        dice = random.Random(f"{number} {first}")
        stage = ready[number % len(ready)]
        out = trial.folder / f"vanished{number}"
        stage.begin(out)
        running = Running(stage.words(out))
        ended = running.wait(dice.uniform(0.02, stage.seconds))
        if ended is None:
            for _ in range(5):  # it may write meanwhile
                shutil.rmtree(out, ignore_errors=True)
        ended = ended or running.wait()
        if ended is None:
            running.kill(signal.SIGKILL)
            running.wait()
            tally.problem("hangs", f"vanished folder, {stage.scene.name}")
            return
        tally.faults += 1
        tally.endings[f"vanished folder: exit {ended.code}"] += 1
        if ended.traceback:
            tally.problem("tracebacks", f"vanished folder, {stage.scene.name}: {ended.err[-500:]}")
        elif ended.code not in (0, 2, 5, 6):
            tally.problem("", f"vanished folder, {stage.scene.name}: exit {ended.code}: {ended.err[-300:]}")

    first = trial.dice.random()
    trial.each(locked, range(trial.count(3, 12, 30)))
    trial.each(vanished, range(trial.count(3, 24, 60)))


# --- several at once ---


def two_writers(trial: Trial, tally: Tally) -> None:
    """The same command twice at the same time: one result, byte for byte; the second may be turned away."""
    for number, stage in _turns(stages(trial, tally), trial.count(3, 40, 100)):
        out = trial.folder / f"both{number}"
        stage.begin(out)
        first = Running(stage.words(out))
        time.sleep(trial.dice.choice((0, 0, 0.05, 0.3, 1.0)))
        second = Running(stage.words(out))
        ends = [running.wait() for running in (first, second)]
        tally.faults += 1
        for ended in ends:
            if ended is None:
                tally.problem("hangs", f"two writers, {stage.scene.name}")
            else:
                judge(stage, out, ended, (0, 2), "two writers", tally)
        if not any(ended is not None and ended.code == 0 for ended in ends):
            tally.problem("", f"two writers, {stage.scene.name}: neither has succeeded")
        again(stage, out, "two writers", tally)
        shutil.rmtree(out)


def _turns(ready: list[Stage], count: int) -> Iterator[tuple[int, Stage]]:
    yield from ((number, ready[number % len(ready)]) for number in range(count))


# --- memory ---


def little_memory(trial: Trial, tally: Tally) -> None:
    """Too little address space: it says what it lacks.

    Not in the small size: it takes long, and what native code does without memory (it has crashed, and it has
    waited for ever) would stop CI by chance.
    """
    if not (count := trial.count(0, 50, 90)):
        tally.notes.append("not run: not of this size")
        return
    ready = stages(trial, tally, ONE_BY_ONE)

    def one(number: int) -> None:
        dice = random.Random(f"{number} {first}")
        stage = ready[number % len(ready)]
        out = trial.folder / f"memory{number}"
        stage.begin(out)
        ended = finish(stage.words(out), prepare=functools.partial(limit_memory, dice.uniform(1, 400)))
        if ended.code < 0 and "Fatal Python error" in ended.err:
            # a library does not look at what its allocator says; nothing may be torn or lost all the same
            where = [line for line in ended.err.splitlines() if line.startswith("  File")][:1]
            tally.notes.append(f"{stage.scene.name}: a crash in native code below {where}")
            ended = dataclasses.replace(ended, code=4, err="vizkit: crashed\n")
        tally.faults += bool(ended.code)  # else it was memory enough
        judge(stage, out, ended, (0, 3, 4, 5, 6), "little memory", tally)
        again(stage, out, "little memory", tally)
        shutil.rmtree(out)

    first = trial.dice.random()
    trial.each(one, range(count))


PARTS = (
    Part("full disk", "runs on a disk with too little room", full_disk),
    Part("failing writes", "EIO and ENOSPC out of write, fsync and replace", failing_calls),
    Part("folders", "read-only output folders, and such that vanish", folders_gone),
    Part("two writers", "the same command twice at once", two_writers),
    Part("memory", "too little memory (RLIMIT_AS)", little_memory),
)
