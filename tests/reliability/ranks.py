"""Part E, several processes: shards of a scan and ranks of a training of which one dies."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.reliability.campaign import Part, Tally, Trial
from tests.reliability.faults import stages
from tests.reliability.kills import SCENES
from tests.reliability.processes import ROOT, Running, fingerprint, finish


def dead_ranks(trial: Trial, tally: Tally) -> None:
    """One of three shards of a scan is killed; later it is run again, and all are merged."""
    scan = next(scene for scene in SCENES if scene.name == "scan")
    (stage,) = stages(trial, tally, (scan,))

    def one(number: int) -> None:
        dice = random.Random(f"{number} {first}")
        out = trial.folder / f"ranks{number}"
        out.mkdir()
        words = stage.words(out)
        parts = [[*words[:3], str(out / f"part{k}"), *words[4:], "--shard", f"{k}/3"] for k in (1, 2, 3)]
        running = [Running(part) for part in parts]
        victim = dice.randrange(3)
        ended = running[victim].wait(dice.uniform(0.02, stage.seconds))
        if ended is None:
            running[victim].kill(signal.SIGKILL)
            tally.faults += 1
        ends = [r.wait() if k != victim or ended is None else ended for k, r in enumerate(running)]
        for k, end in enumerate(ends):
            if k != victim and (end is None or end.code):
                tally.problem("", f"dead ranks: shard {k + 1} ended with {end}")
        finish(parts[victim])
        merged = finish(["scan", "--merge", str(out / "index"), *(str(out / f"part{k}") for k in (1, 2, 3))])
        found = {
            k: v for k, v in fingerprint(out, without=stage.scene.volatile).items() if k.startswith("index/")
        }
        tally.resumed += 1
        tally.identical += found == stage.expected
        if merged.code or found != stage.expected:
            tally.problem("lost", f"dead ranks, merged: exit {merged.code}: {merged.err[-300:]}")
        shutil.rmtree(out)

    first = trial.dice.random()
    trial.each(one, range(trial.count(1, 20, 50)))


def dead_trainers(trial: Trial, tally: Tally) -> None:
    """One of two processes of a training under torchrun is killed, then the same command again."""
    out = trial.folder / "runs"

    def command(folder: Path) -> list[str]:
        words = ["train", "digits", "-o", str(folder), "--net", "lenet5", "--epochs", "2", "--no-report"]
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
        return [*launcher, "-m", "vizkit.cli.main", *words]

    def launch(folder: Path) -> subprocess.Popen[bytes]:
        null = subprocess.DEVNULL
        return subprocess.Popen(
            command(folder), stdout=null, stderr=null, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )

    whole = launch(out / "whole")
    begun = time.monotonic()
    if whole.wait(300):
        tally.problem("", "two ranks: undisturbed it fails")
        return
    longest = time.monotonic() - begun
    expected = (out / "whole" / "model.safetensors").read_bytes()
    for number in range(trial.count(0, 4, 12)):
        folder = out / str(number)
        process = launch(folder)
        time.sleep(trial.dice.uniform(0.4 * longest, longest))
        ranks = [int(pid) for pid in _children(process.pid)]
        if ranks and process.poll() is None:
            os.kill(trial.dice.choice(ranks), signal.SIGKILL)
            tally.faults += 1
        process.wait(120)
        code = launch(folder).wait(300)
        tally.resumed += 1
        same = code == 0 and (folder / "model.safetensors").read_bytes() == expected
        tally.identical += same
        if not same:
            tally.problem("lost", f"two ranks: exit {code} after a rank was killed")


def _children(pid: int) -> list[str]:
    return subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True
    ).stdout.split()


PARTS = (
    Part("shards", "one of three shards of a scan dies", dead_ranks),
    Part("ranks", "one of two ranks of a training dies", dead_trainers),
)
