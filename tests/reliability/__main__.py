"""The reliability campaign: hostile inputs and injected faults, counted.

    python -m tests.reliability ci                  at most 5 minutes on two cores
    python -m tests.reliability nightly             at most an hour
    python -m tests.reliability release             as long as it takes
    python -m tests.reliability ci --only kills --seed 7

Prints a table of counts and writes it as JSON. The seed is printed: with it every failure repeats.
Exit code 1 if a promise was broken.
"""

import argparse
import os
import random
import sys
from pathlib import Path

from tests.reliability.campaign import MINUTES, SIZES, Part, campaign, failed, summary, write


def parts() -> list[Part]:
    """All parts, the cheap ones first."""
    from tests.reliability import (
        environments,
        faults,
        folder,
        guided,
        kills,
        leaks,
        models,
        mutations,
        pictures,
        ranks,
        scale,
        weights,
    )

    cheap = [pictures.PART, weights.PART, mutations.PART, guided.PART, *models.PARTS, environments.PART]
    return [*cheap, leaks.PART, scale.PART, folder.PART, *faults.PARTS, *ranks.PARTS, kills.PART]


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("size", choices=SIZES)
    parser.add_argument("--only", action="append", metavar="PART", help="a part; repeatable")
    parser.add_argument("--seed", type=int, help="of the dice [default: a new one]")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="where the counts go, too; parts in it stay"
    )
    parser.add_argument("--minutes", type=float, help="stop then, with what was reached [default: by size]")
    parser.add_argument("--processes", type=int, default=len(os.sched_getaffinity(0)))
    given = parser.parse_args()
    known = {part.name: part for part in parts()}
    if wrong := set(given.only or ()) - set(known):
        parser.error(f"there is no part {sorted(wrong)}; there are {', '.join(known)}")
    seed = random.SystemRandom().randrange(10**6) if given.seed is None else given.seed
    print(f"size {given.size}, seed {seed}", flush=True)
    chosen = [part for name, part in known.items() if not given.only or name in given.only]
    record = campaign(chosen, given.size, seed, given.processes, given.minutes or MINUTES[given.size])
    print(f"\n{record['machine']}\n{summary(record)}")
    if given.json:
        write(record, given.json)
    if failed(record):
        sys.exit(f"{failed(record)} promises broken (seed {seed})")


if __name__ == "__main__":
    main()
