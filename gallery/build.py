"""Build the gallery into gallery/site: `python gallery/build.py`, with the options of `vizkit gallery`."""

import sys
from pathlib import Path

from vizkit.cli.main import run

if __name__ == "__main__":  # other processes read this file too
    here = Path(__file__).parent
    measured = ["--measured", str(here / "measured")] if (here / "measured").is_dir() else []
    run(["gallery", "--out", str(here / "site"), *measured, *sys.argv[1:]])
