"""A campaign: parts that try inputs and inject faults, a table of counts, JSON, one seed for everything."""

import json
import random
import shutil
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from tests.benchmarks.common import machine, table

SIZES = ("ci", "nightly", "release")
MINUTES = {"ci": 10.0, "nightly": 60.0, "release": 24 * 60.0}
Item = TypeVar("Item")


@dataclass
class Tally:
    """What one part has tried and seen. problems: what broke a promise, one line each."""

    inputs: int = 0
    faults: int = 0
    torn: int = 0
    lost: int = 0
    tracebacks: int = 0
    hangs: int = 0
    resumed: int = 0
    identical: int = 0
    endings: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def problem(self, kind: str, text: str) -> None:
        """Something broke a promise: count it as `kind` (an attribute, or "" for none) and say it."""
        if kind:
            setattr(self, kind, getattr(self, kind) + 1)
        self.problems.append(f"{kind or 'wrong'}: {text}")


@dataclass(frozen=True)
class Trial:
    """What a part gets: its size, dice of its own, an empty folder, how many processes it may use.

    shared: a folder for what several parts use. until: when it has to come to an end (by `time.monotonic`),
    with the counts that it has reached.
    """

    size: str
    dice: random.Random
    folder: Path
    processes: int
    until: float
    shared: Path

    def count(self, ci: int, nightly: int, release: int) -> int:
        """The number for this size."""
        return {"ci": ci, "nightly": nightly, "release": release}[self.size]

    def each(self, run: Callable[[Item], None], items: Iterable[Item]) -> None:
        """`run` on every item, several at a time; they are processes' parents, so threads do."""

        def one(item: Item) -> None:
            if time.monotonic() < self.until:
                run(item)

        with ThreadPoolExecutor(self.processes) as pool:
            for _ in pool.map(one, items):
                pass


@dataclass(frozen=True)
class Part:
    """A part of the campaign."""

    name: str
    what: str
    run: Callable[[Trial, Tally], None]


def campaign(parts: Sequence[Part], size: str, seed: int, processes: int, minutes: float) -> dict[str, Any]:
    """Run the parts, print as they end; returns the record. minutes: for all of them together."""
    record: dict[str, Any] = {"size": size, "seed": seed, "machine": machine(), "parts": {}}
    began = time.monotonic()
    until = began + 60 * minutes
    shared = Path(tempfile.mkdtemp(prefix="vizkit-reliability-"))
    for part in parts:
        tally = Tally()
        folder = Path(tempfile.mkdtemp(prefix="vizkit-reliability-"))
        trial = Trial(size, random.Random(f"{seed} {part.name}"), folder, processes, until, shared)
        start = time.monotonic()
        try:
            part.run(trial, tally)
        except Exception:  # noqa: BLE001 - the others must run all the same
            tally.problem("", f"the part itself failed: {traceback.format_exc()}")
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        tally.seconds = round(time.monotonic() - start, 1)
        if time.monotonic() > until:
            tally.notes.append("stopped when the time was over")
        record["parts"][part.name] = {"what": part.what, "size": size, "seed": seed, **_plain(tally)}
        print(f"{part.name}: {_line(tally)} ({tally.seconds:.0f} s)", flush=True)
        for note in tally.notes:
            print(f"    {note}", flush=True)
        for problem in tally.problems[:20]:
            print(f"    PROBLEM {problem}", flush=True)
    shutil.rmtree(shared, ignore_errors=True)
    record["seconds"] = round(time.monotonic() - began, 1)
    return record


def failed(record: dict[str, Any]) -> int:
    """How many promises were broken."""
    return sum(len(part["problems"]) for part in record["parts"].values())


HEAD = ("inputs", "faults", "lost", "torn", "tracebacks", "hangs")


def summary(record: dict[str, Any]) -> str:
    """The table of counts, in Markdown."""
    rows = []
    total: Counter[str] = Counter()
    for name, part in record["parts"].items():
        total.update({k: part[k] for k in (*HEAD, "resumed", "identical")})
        rows.append(_row(name, part["what"], part, len(part["problems"])))
    rows.append(_row("all", "", total, failed(record)))
    head = ["part", "what", *HEAD, "resumed byte-identical", "promises broken"]
    return table(head, rows)


def _row(name: str, what: str, counts: Any, broken: int) -> list[str]:
    resumed = f"{counts['identical']:,} of {counts['resumed']:,}" if counts["resumed"] else ""
    return [name, what, *(f"{counts[k]:,}" for k in HEAD), resumed, str(broken)]


def write(record: dict[str, Any], path: Path) -> None:
    """The record as JSON; parts of an earlier record there that were not run again stay in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        earlier = json.loads(path.read_text(encoding="utf-8"))
        record = record | {"parts": earlier["parts"] | record["parts"]}
        record["seconds"] = round(sum(part["seconds"] for part in record["parts"].values()), 1)
    path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _plain(tally: Tally) -> dict[str, Any]:
    return {**vars(tally), "endings": dict(sorted(tally.endings.items()))}


def _line(tally: Tally) -> str:
    words = [f"{tally.inputs:,} inputs"] if tally.inputs else []
    words += [f"{tally.faults:,} faults"] if tally.faults else []
    words += [f"{tally.identical:,} of {tally.resumed:,} byte-identical"] if tally.resumed else []
    words += [f"{count:,} x {what}" for what, count in sorted(tally.endings.items())][:12]
    return ", ".join([*words, f"{len(tally.problems)} problems"])
