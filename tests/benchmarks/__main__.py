"""The comparison table: vizkit beside the bare limit and beside its peers, on this machine.

    python -m tests.benchmarks                        all jobs; about half an hour
    python -m tests.benchmarks --only saliency --only grad-cam --rounds 15
    python -m tests.benchmarks --json benchmarks.json

CPU time of one thread, variants interleaved, medians with half the interquartile range; where a GPU is there,
its rows follow. Peers that are not installed are left out: pip install grad-cam torchcam. Other scripts of
this folder ask more of single techniques.
"""

import argparse
import json
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from tests.benchmarks.common import machine, table
from tests.benchmarks.comparing import MODELS, Bench, Row
from tests.benchmarks.comparison import JOBS, ON_GPU

HEAD = ("job", "model", "limit", "limit, ms", "vizkit", "peers", "exactness", "goal", "met")


def cells(row: Row) -> list[str]:
    """A row as the table shows it."""
    peers = ", ".join(f"{name} {ratio:.2f}" for name, ratio in row.peers.items())
    goal = f">= {row.goal:g}x faster than {row.against}" if row.against else f"<= {row.goal:g}"
    ours = f"{row.reached:.2f}x faster" if row.against else f"{row.ours:.2f}"
    time = f"{row.milliseconds:.1f} ± {row.spread:.1f}"
    return [row.job, row.model, row.limit, time, ours, peers, row.exact, goal, "yes" if row.met else "NO"]


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", action="append", choices=list(JOBS))
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, metavar="FILE")
    given = parser.parse_args()
    warnings.filterwarnings("ignore")  # peers warn of their hooks in every call
    torch.set_num_threads(1)
    print(machine(), flush=True)
    record: dict[str, Any] = {"machine": machine(), "rounds": given.rounds, "rows": []}
    rows = []
    for device in ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]:
        bench = Bench(device, given.rounds, tuple(given.models))
        for name in given.only or JOBS:
            if device != "cpu" and name not in ON_GPU:
                continue
            for row in JOBS[name](bench):
                rows.append(cells(row))
                record["rows"].append(
                    {**asdict(row), "device": device, "met": row.met, "reached": row.reached}
                )
                print("  ".join(rows[-1]), flush=True)
    print(f"\n{machine()}\n\n{table(HEAD, rows)}")
    if given.json:
        given.json.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
