"""Odd surroundings: no home, a C locale, no terminal, closed or full streams, warnings as errors."""

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.reliability.campaign import Part, Tally, Trial
from tests.reliability.processes import ROOT
from tests.slow_index import photo


@dataclass(frozen=True)
class Place:
    """Surroundings: variables (None: unset), redirections, interpreter options, the right exit codes."""

    environ: Mapping[str, str | None] = field(default_factory=dict)
    shell: str = ""
    python: tuple[str, ...] = ()
    codes: tuple[int, ...] = (0,)
    options: tuple[str, ...] = ()
    pictured: bool = True


PLACES = {
    "no HOME": Place({"HOME": None, "XDG_CACHE_HOME": None, "XDG_CONFIG_HOME": None}),
    "HOME that is not there": Place({"HOME": "/nonexistent/home"}),
    "read-only HOME": Place({"HOME": "/proc", "MPLCONFIGDIR": None}),
    "HOME that is a file": Place({"HOME": "/etc/passwd"}),
    "C locale": Place({"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}),
    "a locale that is not there": Place({"LC_ALL": "xx_XX.UTF-8"}),
    "ASCII streams": Place({"PYTHONIOENCODING": "ascii"}),
    "no display": Place({"DISPLAY": None, "WAYLAND_DISPLAY": None, "MPLBACKEND": None}),
    "a display that is not there": Place({"DISPLAY": ":77"}),
    "another drawing backend": Place({"MPLBACKEND": "TkAgg"}),
    "a dumb terminal": Place({"TERM": "dumb"}),
    "no terminal kind": Place({"TERM": None}),
    "an unknown terminal": Place({"TERM": "xyzzy", "COLUMNS": "0", "LINES": "0"}),
    "one column": Place({"COLUMNS": "1"}),
    "a narrow terminal of nonsense": Place({"COLUMNS": "abc"}),
    "no colours": Place({"NO_COLOR": "1"}),
    "forced colours": Place({"FORCE_COLOR": "1"}),
    "standard input closed": Place(shell="<&-"),
    "standard output closed": Place(shell=">&-"),
    "standard error closed": Place(shell="2>&-"),
    "all streams closed": Place(shell="<&- >&- 2>&-"),
    "standard output full": Place(shell=">/dev/full", codes=(5,), options=("--json",)),
    "standard error full": Place(shell="2>/dev/full"),
    "nobody reads": Place(shell="| true", codes=(0, 141), options=("--json",)),
    "warnings as errors": Place(python=("-W", "error")),
    "developer mode": Place(python=("-X", "dev")),
    "optimised": Place(python=("-OO",)),
    "no site of the user's": Place(python=("-s", "-P")),
    "no bytecode": Place({"PYTHONDONTWRITEBYTECODE": "1"}),
    "random hashes": Place({"PYTHONHASHSEED": "12345"}),
    "a wrong TMPDIR": Place({"TMPDIR": "/nonexistent"}),
    "strange time zone": Place({"TZ": "Mars/Olympus"}),
    "no PATH": Place({"PATH": ""}),
    "presets from the environment": Place({"VIZKIT_SALIENCY_SAMPLES": "3", "VIZKIT_THREADS": "1"}),
    "a wrong preset": Place({"VIZKIT_SALIENCY_SAMPLES": "many"}, codes=(2,), pictured=False),
    "no CUDA device": Place({"CUDA_VISIBLE_DEVICES": ""}),
}


def run(trial: Trial, tally: Tally) -> None:
    """Three commands in each: a picture of a map, a drawn figure, a help text."""
    picture = trial.folder / "photo.png"
    photo(0).save(picture)
    commands = {
        "saliency": ["saliency", str(picture), "-o", "{out}/map.png"],
        "find-lr": ["lab", "schedules", "-o", "{out}/lab.png"],
        "help": ["saliency", "--help"],
    }
    chosen = ["saliency"] if trial.size == "ci" else list(commands)
    places = dict(trial.dice.sample(sorted(PLACES.items()), 14)) if trial.size == "ci" else PLACES

    def one(item: tuple[str, str]) -> None:
        title, name = item
        place = places[title]
        out = trial.folder / f"{name}-{title}".replace(" ", "-")
        out.mkdir()
        words = [word.format(out=out) for word in commands[name]]
        words += place.options if name == "saliency" else ()
        ended = _run(words, place, out)
        codes = place.codes if name == "saliency" else (0, *place.codes)
        tally.inputs += 1
        tally.endings[f"exit {ended.returncode}"] += 1
        said = (ended.stdout + ended.stderr).decode(errors="replace")
        if "Traceback" in said or "internal error" in said:
            tally.problem("tracebacks", f"{title}, {name}: {said[-400:]}")
        elif ended.returncode not in codes:
            tally.problem("", f"{title}, {name}: exit {ended.returncode}: {said[-400:]}")
        if name == "saliency" and place.pictured != (out / "map.png").exists():
            tally.problem("", f"{title}: the picture is{' not' * place.pictured} there: {said[-300:]}")
        if name == "saliency" and place.codes == (0,) and ended.stderr.strip():
            tally.problem("", f"{title}: says {said[-300:]!r}")

    trial.each(one, [(title, name) for title in places for name in chosen])


def _run(words: list[str], place: Place, cwd: Path) -> subprocess.CompletedProcess[bytes]:
    environ = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **place.environ}
    kept = {k: v for k, v in environ.items() if v is not None}
    command = [sys.executable, *place.python, "-m", "vizkit.cli.main", *words]
    if place.shell:
        command = ["/bin/bash", "-c", f'set -o pipefail; "$@" {place.shell}', "bash", *command]
    return subprocess.run(command, capture_output=True, env=kept, cwd=cwd, timeout=180, check=False)


PART = Part("environments", "odd surroundings: home, locale, terminal, streams", run)
