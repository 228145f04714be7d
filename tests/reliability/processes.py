"""The command line in processes of its own, which can be killed, starved of memory or made to fail.

A server process imports torch once; every command is a fork of it (multiprocessing's "forkserver"), in a
session of its own, so that a thousand runs do not import torch a thousand times. `plain=True` starts a new
interpreter instead, as a user does.
"""

import contextlib
import faulthandler
import functools
import hashlib
import multiprocessing
import multiprocessing.connection
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 180.0
"""Seconds after which a command counts as hanging."""

Prepare = Callable[[], None]
_ONE_AT_A_TIME = threading.Lock()
"""Starting a process also asks how all earlier ones ended, which can be read only once."""


@dataclass(frozen=True)
class Ended:
    """How a command ended: exit code (negative: the signal), what it said, seconds, peak memory in MB."""

    code: int
    out: str
    err: str
    seconds: float
    peak: float = 0.0

    @property
    def traceback(self) -> bool:
        """Whether a traceback was shown, or a bug of ours confessed."""
        return "Traceback (most recent call last)" in self.err + self.out or "internal error" in self.err

    @property
    def last(self) -> str:
        """The last line on stderr."""
        lines = [line for line in self.err.replace("\r", "\n").splitlines() if line.strip()]
        return lines[-1][:300] if lines else ""


class Running:
    """A command that has been started. prepare: called in the new process before the command runs."""

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        cwd: Path | None = None,
        environ: Mapping[str, str | None] | None = None,
        prepare: Prepare | None = None,
        plain: bool = False,
    ) -> None:
        self._said = tempfile.TemporaryDirectory(prefix="vizkit-said-")
        self._out, self._err = (Path(self._said.name) / name for name in ("out", "err"))
        environ = {"OMP_NUM_THREADS": "1", **(environ or {})}
        self._begun = time.monotonic()
        if plain:
            self._start_plain(arguments, cwd, environ)
        else:
            given = (tuple(arguments), str(cwd or ""), dict(environ), str(self._out), str(self._err), prepare)
            self._process: Any = _server().Process(target=_child, args=given)
            with _ONE_AT_A_TIME:
                self._process.start()
            self.pid = self._process.pid

    def _start_plain(
        self, arguments: Sequence[str], cwd: Path | None, environ: Mapping[str, str | None]
    ) -> None:
        changed = {k: v for k, v in environ.items() if v is not None}
        kept = {k: v for k, v in os.environ.items() if k not in environ}
        with open(self._out, "wb") as out, open(self._err, "wb") as err:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "vizkit.cli.main", *arguments],
                cwd=cwd,
                env=kept | changed,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        self.pid = self._process.pid

    def wait(self, seconds: float = PATIENCE) -> Ended | None:
        """How it ended, or None if it still runs after so long."""
        if isinstance(self._process, subprocess.Popen):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(seconds)
            code = self._process.poll()
        else:
            multiprocessing.connection.wait([self._process.sentinel], seconds)
            with _ONE_AT_A_TIME:
                code = self._process.exitcode
        if code is None:
            return None
        took = time.monotonic() - self._begun
        peak, out, err = (
            path.read_text(errors="replace") if path.exists() else ""
            for path in (_peak_file(self._err), self._out, self._err)
        )
        self._said.cleanup()
        return Ended(code, out, err, took, float(peak or 0))

    def kill(self, number: int) -> None:
        """Send the signal to it and to all that it has started."""
        try:
            os.killpg(self.pid, number)
        except (ProcessLookupError, PermissionError):  # before it had a session of its own
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)


def finish(arguments: Sequence[str], **options: Any) -> Ended:
    """Run a command to its end. One that hangs is killed; its code is then -9."""
    running = Running(arguments, **options)
    ended = running.wait()
    if ended is None:
        running.kill(signal.SIGKILL)
        ended = running.wait()
        assert ended is not None
        return Ended(
            ended.code, ended.out, ended.err + f"\nhangs for more than {PATIENCE:.0f} s", ended.seconds
        )
    return ended


def fingerprint(folder: Path, *, without: Collection[str] = ()) -> dict[str, str]:
    """The hash of every file below, by its path; paths in which one of `without` occurs are left out."""
    found = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder).as_posix()
        if not any(word in name for word in without):
            with contextlib.suppress(FileNotFoundError):  # a temporary file that has just gone
                found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


# --- in the new process ---


@functools.cache
def _server() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.reliability.preloaded"])
    return context


def _child(
    arguments: Sequence[str],
    cwd: str,
    environ: Mapping[str, str | None],
    out: str,
    err: str,
    prepare: Prepare | None,
) -> None:
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the command sets its own
    for name, value in environ.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    if cwd:
        os.chdir(cwd)
    for path, number in ((os.devnull, 0), (out, 1), (err, 2)):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, number)
        os.close(descriptor)
    # closefd: the numbers outlive the objects
    sys.stdin = open(0, closefd=False, encoding="utf-8")  # noqa: SIM115 - for the process's life
    sys.stdout = open(1, "w", closefd=False, encoding="utf-8")  # noqa: SIM115
    sys.stderr = open(2, "w", closefd=False, encoding="utf-8", buffering=1)  # noqa: SIM115
    import torch

    from vizkit.cli.main import run

    torch.set_num_threads(1)
    if prepare is not None:
        prepare()
    try:
        run(list(arguments))
    finally:
        with contextlib.suppress(OSError, MemoryError):
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            _peak_file(Path(err)).write_text(str(peak), encoding="ascii")


def _peak_file(err: Path) -> Path:
    return err.with_name("peak")


def limit_memory(megabytes: float) -> None:
    """Allow this process so much more address space than it has now."""
    with open("/proc/self/statm", encoding="ascii") as file:
        have = int(file.read().split()[0]) * resource.getpagesize()
    faulthandler.enable()  # should native code crash for want of memory, it says where
    limit = have + int(megabytes * 2**20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
