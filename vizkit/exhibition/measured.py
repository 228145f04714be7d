"""What was measured, as tables for the gallery's page: the reliability campaign's counts, the comparisons.

The files are what `python -m tests.reliability SIZE --json reliability.json` and `python -m tests.benchmarks
--json benchmarks.json` write.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vizkit.errors import UsageError
from vizkit.folders import read_json

RELIABILITY, BENCHMARKS = "reliability.json", "benchmarks.json"

_COUNTS = ("inputs", "faults", "lost", "torn", "tracebacks", "hangs")


@dataclass(frozen=True)
class Measured:
    """A table with a heading, words before it and words after it."""

    name: str
    heading: str
    words: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str


def read_measured(folder: Path) -> list[Measured]:
    """The tables of what lies in the folder.

    Raises `UsageError` where there is no such folder, and for files that are something else.
    """
    if not folder.is_dir():
        raise UsageError(f"there is no folder {str(folder)!r}; name the one with what was measured")
    found = []
    for name, make in ((RELIABILITY, _reliability), (BENCHMARKS, _benchmarks)):
        path = folder / name
        if not path.exists():
            continue
        try:
            found.append(make(read_json(path)))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, ArithmeticError) as error:
            raise UsageError(
                f"{str(path)!r} is no record of measurements ({error}); make it again"
            ) from error
    return found


def _reliability(record: dict[str, Any]) -> Measured:
    parts = record["parts"]
    rows = [
        (
            name,
            str(part["what"]),
            *(f"{part[k]:,}" for k in _COUNTS),
            _resumed(part),
            str(len(part["problems"])),
        )
        for name, part in parts.items()
    ]
    total = {k: sum(part[k] for part in parts.values()) for k in (*_COUNTS, "resumed", "identical")}
    broken = sum(len(part["problems"]) for part in parts.values())
    rows.append(("all", "", *(f"{total[k]:,}" for k in _COUNTS), _resumed(total), str(broken)))
    return Measured(
        "reliability",
        "Hard to break",
        "Hostile inputs tried and faults injected. Lost: earlier output that is gone or has changed; torn: "
        "half written; resumed: the same command again after a fault, byte for byte as an undisturbed run; "
        "promises broken: whatever else went against what the guides say.",
        ("part", "what", *_COUNTS, "resumed alike", "promises broken"),
        tuple(rows),
        f"python -m tests.reliability {record['size']}; {record['machine']}",
    )


def _resumed(counts: dict[str, Any]) -> str:
    return f"{counts['identical']:,} of {counts['resumed']:,}" if counts["resumed"] else ""


def _benchmarks(record: dict[str, Any]) -> Measured:
    rows = [
        (
            str(row["job"]),
            f"{row['model']}{' on a GPU' if row['device'] != 'cpu' else ''}",
            f"{row['limit']} ({row['milliseconds']:.4g} ms)",
            f"{row['reached']:.2f} times faster" if row["against"] else f"{row['ours']:.2f}",
            ", ".join(f"{name} {ratio:.2f}" for name, ratio in row["peers"].items()),
            str(row["exact"]),
            "met" if row["met"] else f"missed ({row['goal']:g})",
        )
        for row in record["rows"]
    ]
    return Measured(
        "benchmarks",
        "Measured speed",
        "Time as a share of what cannot be beaten: the network's bare passes, or what the row names. One "
        "thread, variants interleaved, medians.",
        ("job", "model", "limit", "vizkit", "peers", "exactness", "goal"),
        tuple(rows),
        f"python -m tests.benchmarks; {record['machine']}",
    )
