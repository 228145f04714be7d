"""Part E: kills at random moments, and the same command again until it ends.

Nothing that was whole may be torn or lost, and what stands at the end must be, byte for byte, what an
undisturbed run leaves (but for journals, locks and times).
"""

import json
import os
import random
import shutil
import signal
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from tests.reliability.campaign import Part, Tally, Trial
from tests.reliability.processes import Ended, Running, fingerprint, finish
from tests.slow_index import photo, photo_folder
from vizkit.tensorfiles import read as read_safetensors

SIGNALS = {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}
TINY = ["--size", "48", "--steps", "12", "--seed", "3"]


@dataclass(frozen=True)
class Scene:
    """A command that takes a while. moving: parts of names of files that are rewritten on the way.

    volatile: parts of names that may differ between two runs. share: of all kills.
    """

    name: str
    words: tuple[str, ...]
    share: float
    moving: tuple[str, ...] = ()
    volatile: tuple[str, ...] = ("journal", "lock")
    plain: bool = False
    earlier: tuple[str, ...] = ()


SCENES = (
    Scene("scan", ("scan", "{photos}", "-o", "{out}/index", "--batch", "4"), 0.25),
    Scene("saliency of a folder", ("saliency", "{photos}", "-o", "{out}/maps", "--width", "300"), 0.2),
    Scene("train", ("train", "digits", "-o", "{out}/run", "--net", "lenet5", "--epochs", "3", "--no-report"),
          0.25, moving=("log.", "state", "training.json")),
    Scene("style transfer", ("style-transfer", "{photo}", "{style}", "-o", "{out}/styled.png", *TINY), 0.15,
          volatile=("journal", "lock", "interrupted"),
          earlier=("style-transfer", "{photo}", "{style}", "-o", "{out}/styled.png", *TINY[:-1], "4")),
    Scene("fast style", ("fast-style", "train", "{style}", "--images", "{photos}",
          "-o", "{out}/net.safetensors", "--steps", "12", "--size", "64", "--batch", "2", "--width", "4"),
          0.1, moving=("net",)),
    Scene("gallery", ("gallery", "--quick", "--only", "filters", "--only", "receptive-field",
          "-o", "{out}/site", "--processes", "1", "--quiet"), 0.05, moving=("index.html", "records"),
          volatile=("records", "index.html", "html"), plain=True),
)  # fmt: skip


@dataclass
class Stage:
    """A scene with its inputs, its undisturbed result (in `whole`) and how long that takes."""

    scene: Scene
    inputs: Mapping[str, str]
    whole: Path
    expected: Mapping[str, str] = field(default_factory=dict)
    before: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    def words(self, out: Path, words: Sequence[str] | None = None) -> list[str]:
        """The command for this output folder."""
        return [word.format(**self.inputs, out=out) for word in words or self.scene.words]

    def begin(self, out: Path) -> None:
        """A fresh output folder, with an earlier result where the scene has one."""
        out.mkdir(parents=True)
        if self.scene.earlier:
            finish(self.words(out, self.scene.earlier))


def inputs_of(trial: Trial) -> dict[str, str]:
    """Pictures for the scenes, made once."""
    folder = trial.shared / "inputs"
    if not folder.exists():
        photo_folder(folder / "photos", 14)
        for name, seed in (("photo", 50), ("style", 51)):
            photo(seed, (120, 90)).save(folder / f"{name}.png")
    return {name: str(folder / name) for name in ("photos",)} | {
        name: str(folder / f"{name}.png") for name in ("photo", "style")
    }


_REHEARSED: dict[tuple[str, str], "Stage"] = {}


def rehearse(scene: Scene, trial: Trial, tally: Tally) -> Stage | None:
    """Run the scene twice without a fault, once for all parts: it must repeat, or nothing can be compared."""
    known = _REHEARSED.get((str(trial.shared), scene.name))
    if known is not None:
        return known
    stage = Stage(scene, inputs_of(trial), trial.shared / f"{scene.name}-undisturbed0")
    prints = []
    for number in range(2):
        out = trial.shared / f"{scene.name}-undisturbed{number}"
        stage.begin(out)
        stage.before = fingerprint(out)
        ended = finish(stage.words(out), plain=scene.plain)
        stage.seconds = ended.seconds
        if ended.code != 0:
            tally.problem("", f"{scene.name}: undisturbed it ends with {ended.code}: {ended.last}")
            return None
        prints.append(fingerprint(out, without=scene.volatile))
    if prints[0] != prints[1]:
        differ = sorted(k for k in {**prints[0], **prints[1]} if prints[0].get(k) != prints[1].get(k))
        tally.problem("", f"{scene.name}: two undisturbed runs differ in {differ[:5]}")
        return None
    stage.expected = prints[0]
    _REHEARSED[str(trial.shared), scene.name] = stage
    return stage


def torn_files(stage: Stage, out: Path) -> list[str]:
    """Files that are neither what was there before nor what must come out, or cannot be read."""
    wrong = []
    for name, digest in fingerprint(out, without=("vizkit-tmp",)).items():
        path = out / name
        if any(word in name for word in (*stage.scene.moving, *stage.scene.volatile)):
            if not readable(path):
                wrong.append(name)
        elif digest not in (stage.expected.get(name), stage.before.get(name)):
            wrong.append(name)
    wrong += [f"{name} is gone" for name in stage.before if not (out / name).exists()]
    return wrong


def readable(path: Path) -> bool:
    """Whether a file of a known kind can be read to its end."""
    try:
        if path.suffix == ".json":
            json.loads(path.read_bytes())
        elif path.suffix == ".safetensors":
            read_safetensors(path)
        elif path.suffix in (".png", ".webp", ".jpg"):
            Image.open(path).load()
        elif path.suffix == ".html":
            return path.read_text(encoding="utf-8").rstrip().endswith("</html>")
    except FileNotFoundError:
        return True
    except Exception:  # noqa: BLE001 - whatever a torn file raises
        return False
    return True


def leftovers(folder: Path, without: Collection[str] = ()) -> list[str]:
    """Temporary files and half-done parts."""
    found = [p.name for p in folder.rglob("*") if "vizkit-tmp" in p.name or p.name.startswith("part-")]
    return [name for name in found if not any(word in name for word in without)]


class _Count:
    """How many kills are left, for several threads."""

    def __init__(self, number: int) -> None:
        self._left, self._lock = number, threading.Lock()

    def take(self) -> bool:
        with self._lock:
            self._left -= 1
            return self._left >= 0

    def give(self) -> None:
        with self._lock:
            self._left += 1


def torture(stage: Stage, out: Path, left: _Count, dice: random.Random, tally: Tally) -> None:
    """One result, killed one to six times on its way."""
    scene = stage.scene
    stage.begin(out)
    for _ in range(dice.choice((1, 1, 1, 2, 3, 6))):
        if not left.take():
            break
        number = dice.choice(list(SIGNALS))
        running = Running(stage.words(out), plain=scene.plain)
        ended = running.wait(dice.uniform(0.02, stage.seconds))
        if ended is not None:
            left.give()
            break
        running.kill(number)
        ended = running.wait()
        _judge_kill(stage, out, number, ended, tally)
        if ended is None:
            running.kill(signal.SIGKILL)
            running.wait()
    ended = finish(stage.words(out), plain=scene.plain)
    tally.resumed += 1
    same = fingerprint(out, without=scene.volatile) == stage.expected
    tally.identical += same
    if ended.traceback:
        tally.problem("tracebacks", f"{scene.name}, resumed: {ended.err[-300:]}")
    if ended.code or not same:
        if keep := os.environ.get("CAMPAIGN_KEEP"):  # where to leave what went wrong, to be looked at
            shutil.copytree(out, Path(keep) / out.name)
            shutil.copytree(stage.whole, Path(keep) / stage.whole.name, dirs_exist_ok=True)
        found = fingerprint(out, without=scene.volatile)
        differ = sorted(k for k in {**found, **stage.expected} if found.get(k) != stage.expected.get(k))
        tally.problem("lost", f"{scene.name}, resumed: exit {ended.code}, {differ[:5]}: {ended.last}")
    if left_over := leftovers(out):
        tally.problem("", f"{scene.name}: leaves {left_over[:5]}")
    shutil.rmtree(out)


def _judge_kill(stage: Stage, out: Path, number: signal.Signals, ended: Ended | None, tally: Tally) -> None:
    name = stage.scene.name
    tally.faults += 1
    if ended is None:
        tally.problem("hangs", f"{name}: goes on after {number.name}")
        return
    tally.endings[f"{number.name} -> {ended.code}"] += 1
    if ended.traceback:
        tally.problem("tracebacks", f"{name}, {number.name}: {ended.err[-400:]}")
    # before Python has set its handlers, and after the work is done, the signal's own ending is right
    if ended.code not in (SIGNALS[number], -number, 0):
        tally.problem("", f"{name}, {number.name}: exit {ended.code}: {ended.last}")
    for wrong in torn_files(stage, out):
        tally.problem("torn", f"{name}, {number.name}: {wrong}")


def run(trial: Trial, tally: Tally) -> None:
    """Every scene its share of the kills."""
    total = trial.count(20, 200, 1000)
    wanted = os.environ.get("CAMPAIGN_SCENE", "")
    for scene in SCENES:
        if wanted not in scene.name:
            continue
        if (stage := rehearse(scene, trial, tally)) is None:
            continue
        left = _Count(max(1, round(total * scene.share)))
        seeds = [trial.dice.randrange(10**9) for _ in range(total)]
        before = tally.faults

        def one(seed: int, stage: Stage = stage, left: _Count = left) -> None:
            if left.take():
                left.give()
                name = f"{stage.scene.name}-{seed}".replace(" ", "-")
                torture(stage, trial.folder / name, left, random.Random(seed), tally)

        trial.each(one, seeds)
        tally.notes.append(f"{scene.name}: {tally.faults - before} kills, {stage.seconds:.1f} s undisturbed")


PART = Part("kills", "SIGKILL, SIGTERM, SIGINT at random moments, then the same command again", run)
