"""Part F: a large folder with one bad file in a hundred: each is named, the others are done, memory stays."""

import json
import threading
import time
from pathlib import Path

from PIL import Image

from tests.reliability.campaign import Part, Tally, Trial
from tests.reliability.pictures import bad_kinds
from tests.reliability.processes import Running
from tests.slow_index import photo

PARTIAL = 6


def make_folder(folder: Path, count: int, bad: bool) -> list[str]:
    """So many pictures, every hundredth bad where `bad`; the names of the bad ones."""
    kinds = [k for k in bad_kinds().values() if k.code == 3 and not k.options][:20]
    scenes = [photo(seed) for seed in range(40)]
    named = []
    for number in range(count):
        where = folder / f"part{number % 10}"
        where.mkdir(parents=True, exist_ok=True)
        path = where / f"picture{number:05}.jpg"
        if bad and number % 100 == 50:
            path.write_bytes(kinds[(number // 100) % len(kinds)].data)
            named.append(path.relative_to(folder).as_posix())
        else:
            shifted = Image.Image.rotate(scenes[number % 40], number % 360)
            shifted.save(path, quality=80)
    return named


class Watch(threading.Thread):
    """Looks at a process's resident memory, in MB, several times a second."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid, self.seen, self.over = pid, [0.0], False

    def run(self) -> None:
        while not self.over:
            try:
                text = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii")
            except OSError:
                return
            size = next((int(line.split()[1]) for line in text.splitlines() if line.startswith("VmRSS")), 0)
            self.seen.append(size / 1024)
            time.sleep(0.1)

    def growth(self) -> float:
        """From the first third of the time to the last, as a share."""
        third = max(1, len(self.seen) // 3)
        early, late = max(self.seen[third // 2 : third + 1]), max(self.seen[-third:])
        return late / max(early, 1.0) - 1


def run(trial: Trial, tally: Tally) -> None:
    """A scan of the clean folder and of the one with bad files; then saliency maps of a smaller one."""
    count = trial.count(200, 3_000, 10_000)
    times: dict[str, float] = {}
    for bad in (False, True):
        folder = trial.folder / ("bad" if bad else "clean")
        named = make_folder(folder, count, bad)
        running = Running(["scan", str(folder), "-o", str(trial.folder / f"index-{bad}"), "--quiet"])
        watch = Watch(running.pid)
        watch.start()
        ended = running.wait(7200)
        watch.over = True
        if ended is None:
            running.kill(9)
            tally.problem("hangs", f"a scan of {count} pictures")
            return
        times[folder.name] = ended.seconds
        tally.inputs += count
        tally.endings[f"{folder.name}: exit {ended.code}"] += 1
        about = json.loads((trial.folder / f"index-{bad}" / "index.json").read_bytes())
        told = {str(f["name"] if isinstance(f, dict) else f[0]) for f in about["failed"]}
        if told != set(named) or about["images"] != count - len(named):
            tally.problem(
                "", f"{about['images']} done, {len(told)} named, not {count - len(named)}, {len(named)}"
            )
        if ended.code != (PARTIAL if bad else 0) or ended.traceback:
            tally.problem("", f"exit {ended.code}: {ended.last}")
        tally.notes.append(
            f"{folder.name}: {count} files, {about['images']} done, {len(told)} named, "
            f"{ended.seconds:.0f} s, {max(watch.seen):.0f} MB, growth {100 * watch.growth():+.1f} %"
        )
        if count >= 3000 and watch.growth() > 0.05:
            tally.problem("", f"memory grows by {100 * watch.growth():.1f} %")
    ratio = times["bad"] / times["clean"]
    tally.notes.append(f"time with bad files / without: {ratio:.2f}")
    if count >= 3000 and ratio > 1.05:
        tally.problem("", f"bad files cost {100 * (ratio - 1):.0f} % more time")


PART = Part("folder", "a folder in which one file in a hundred is bad", run)
