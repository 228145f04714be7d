"""Scans killed at random moments and gone on with: is the index byte for byte the undisturbed one?

`python -m tests.benchmarks.scan_kills --kills 50` kills `vizkit scan` with SIGKILL, SIGTERM and SIGINT in
turn, after random times, until so many have hit; each scan is then run to its end and compared.
"""

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.slow_index import photo_folder

COMMAND = [sys.executable, "-m", "vizkit.cli.main", "scan"]
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


def fingerprint(index: Path) -> dict[str, str]:
    """The hash of every file of an index but its journal."""
    files = sorted(p for p in index.rglob("*") if p.is_file() and "journal" not in p.relative_to(index).parts)
    return {str(p.relative_to(index)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def start(photos: Path, out: Path, *options: str) -> subprocess.Popen[str]:
    """A scan in a process group of its own."""
    return subprocess.Popen(
        [*COMMAND, str(photos), "-o", str(out), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def finished(photos: Path, out: Path, *options: str) -> tuple[int, str]:
    """The exit code and what was said on stderr by a scan run to its end."""
    process = start(photos, out, *options)
    _, said = process.communicate()
    return process.returncode, said


def killed(photos: Path, out: Path, number: int, after: float, *options: str) -> int | None:
    """The exit code of a scan that got signal `number` after so many seconds; None if it was done before."""
    process = start(photos, out, *options)
    try:
        process.communicate(timeout=after)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, number)
        process.communicate()
        return process.returncode
    return None


def main() -> None:
    """Kill, go on, compare; print the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    dice = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as folder:
        photos = photo_folder(Path(folder) / "photos", given.pictures)
        (photos / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
        whole = Path(folder) / "whole"
        began = time.monotonic()
        code, _ = finished(photos, whole)
        longest = time.monotonic() - began
        expected = fingerprint(whole)
        print(f"undisturbed: exit {code}, {longest:.1f} s, {len(expected)} files")
        hits, scans, same, codes = 0, 0, 0, {}
        while hits < given.kills:
            out = Path(folder) / f"index{scans}"
            for _ in range(given.kills - hits if dice.random() < 0.5 else 1):
                number = SIGNALS[hits % len(SIGNALS)]
                ended = killed(photos, out, number, dice.uniform(0.3, longest))
                if ended is None:
                    break
                hits += 1
                codes[(number.name, ended)] = codes.get((number.name, ended), 0) + 1
                if dice.random() < 0.4:
                    break
            code, said = finished(photos, out)
            scans += 1
            same += fingerprint(out) == expected
            left = [p.name for p in out.rglob("*") if "tmp" in p.name or p.name.startswith("part-")]
            if fingerprint(out) != expected or left or "Traceback" in said:
                print(f"  DIFFERS after scan {scans}: exit {code}, left {left}: {said[-300:]}")
        print(f"{hits} kills in {scans} scans, {same} indexes byte-identical; exit codes {codes}")


if __name__ == "__main__":
    main()
