"""Part B: damaged bytes. Mutations of pictures through the reader, some of them through the whole command.

More of the same for what else is read: weights, indexes, trained networks.
"""

import multiprocessing
import random
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch

from tests.reliability.campaign import Part, Tally, Trial
from tests.reliability.pictures import fine_kinds
from tests.test_checkpoints import ST as SAFETENSORS
from tests.test_checkpoints import Net, saved, state
from vizkit.errors import VizkitError
from vizkit.images import read_image
from vizkit.zoo.checkpoints import load_weights

STARTS = 25
LONGEST = 5.0
CHUNK = 500


def mutated(data: bytes, dice: random.Random) -> bytes:
    """The bytes with some changed, cut, doubled, or with numbers that parsers trip over."""
    bytes_ = bytearray(data)
    for _ in range(dice.choice((1, 1, 2, 4, 16))):
        at = dice.randrange(len(bytes_)) if bytes_ else 0
        # headers are where the decisions fall
        at = at % 64 if dice.random() < 0.3 and len(bytes_) > 64 else at
        move = dice.randrange(6)
        if not bytes_ or move == 0:
            bytes_[at : at + 1] = bytes([dice.randrange(256)])
        elif move == 1:
            bytes_[at] ^= 1 << dice.randrange(8)
        elif move == 2:
            bytes_[at : at + 4] = dice.choice(
                (b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\x80")
            )
        elif move == 3:
            del bytes_[at : at + dice.randrange(1, 40)]
        elif move == 4:
            bytes_[at:at] = bytes_[at : at + dice.randrange(1, 40)]
        else:
            del bytes_[max(1, at) :]
    return bytes(bytes_)


def starts() -> list[bytes]:
    """The smallest of the good pictures, of every format."""
    return sorted({kind.data for kind in fine_kinds().values()}, key=len)[:STARTS]


def read_many(given: tuple[Sequence[bytes], str, int]) -> tuple[Counter[str], list[str], int]:
    """(how they ended, what broke a promise, how many took too long) of so many mutations."""
    pictures, seed, count = given
    torch.set_num_threads(1)
    dice = random.Random(seed)
    ends: Counter[str] = Counter()
    wrong, slow = [], 0
    for number in range(count):
        data = mutated(dice.choice(pictures), dice)
        start = time.monotonic()
        try:
            read_image(data)
            ends["read"] += 1
        except VizkitError as error:
            ends["refused"] += 1
            if "\n" in str(error):
                wrong.append(f"mutation {number} of {seed!r}: not one line: {error}")
        except Exception as error:  # noqa: BLE001 - that is what is looked for
            wrong.append(f"mutation {number} of {seed!r}: {type(error).__name__}: {error}")
        if time.monotonic() - start > LONGEST:
            slow += 1
            wrong.append(f"mutation {number} of {seed!r}: {time.monotonic() - start:.1f} s")
    return ends, wrong, slow


def explain_many(given: tuple[Sequence[bytes], str, int, str]) -> tuple[Counter[str], list[str], int]:
    """The same through `vizkit saliency`, in this process."""
    from tests.reliability.hushed import hushed_call

    pictures, seed, count, folder = given
    torch.set_num_threads(1)
    dice = random.Random(seed)
    ends: Counter[str] = Counter()
    wrong, slow = [], 0
    place = Path(folder) / seed.replace(" ", "-")
    place.mkdir(parents=True)
    for number in range(count):
        path, out = place / f"{number}.img", place / f"{number}.png"
        path.write_bytes(mutated(dice.choice(pictures), dice))
        start = time.monotonic()
        code, said = hushed_call(["saliency", str(path), "-o", str(out), "--layout", "map", "--width", "64"])
        ends[f"exit {code}"] += 1
        bad_code = code not in (0, 2, 3)
        if bad_code or "Traceback" in said or (code == 0) != out.exists():
            wrong.append(f"mutation {number} of {seed!r}: exit {code}, {said[-300:]}")
        slow += time.monotonic() - start > 2 * LONGEST
        path.unlink()
        out.unlink(missing_ok=True)
    return ends, wrong, slow


def weigh_many(given: tuple[Sequence[bytes], str, int, str]) -> tuple[Counter[str], list[str], int]:
    """Mutations of weights through `load_weights`, which changes all of a module or nothing."""
    files, seed, count, folder = given
    torch.set_num_threads(1)
    dice = random.Random(seed)
    ends: Counter[str] = Counter()
    wrong, slow = [], 0
    path = Path(folder) / f"{seed.replace(' ', '-')}.pt"
    for number in range(count):
        path.write_bytes(mutated(dice.choice(files), dice))
        net = Net()
        before = [t.clone() for t in net.state_dict().values()]
        start = time.monotonic()
        try:
            load_weights(net, path)
            ends["loaded"] += 1
        except VizkitError:
            ends["refused"] += 1
            if not all(torch.equal(a, b) for a, b in zip(before, net.state_dict().values(), strict=True)):
                wrong.append(f"mutation {number} of {seed!r}: refused, but the module has changed")
        except Exception as error:  # noqa: BLE001 - that is what is looked for
            wrong.append(f"mutation {number} of {seed!r}: {type(error).__name__}: {error}")
        slow += time.monotonic() - start > LONGEST
    return ends, wrong, slow


QUESTIONS = (
    ["patches", "{index}", "conv2:1", "-o", "{out}"],
    ["patches", "{index}", "relu#2", "-o", "{out}"],
    ["neighbours", "{index}", "-o", "{out}"],
    ["embed", "{index}", "-o", "{out}", "--method", "pca"],
    ["summary", "{index}", "-o", "{out}.html"],
)
"""What is asked of a damaged index."""


def make_small_index(folder: Path) -> Path:
    """An index of a small net, with features."""
    import vizkit
    from tests.conftest import TinyNet
    from tests.slow_index import photo_folder

    photo_folder(folder / "photos", 14)
    torch.manual_seed(0)
    vizkit.scan(vizkit.wrap(TinyNet(), size=32), folder / "photos", folder / "index", features=["relu#2"])
    return folder / "index"


def ask_many(given: tuple[str, str, int]) -> tuple[Counter[str], list[str], int]:
    """One file of an index damaged, then a question: an answer, or one line and a code that is not 1."""
    from tests.reliability.hushed import hushed_call

    whole, seed, count = given
    torch.set_num_threads(1)
    dice = random.Random(seed)
    ends: Counter[str] = Counter()
    wrong, slow = [], 0
    place = Path(whole).parent / seed.replace(" ", "-")
    for number in range(count):
        index = place / f"index{number}"
        shutil.copytree(whole, index)
        victim = dice.choice(sorted(p for p in index.iterdir() if p.is_file()))
        data = victim.read_bytes()
        # most of an array is pixels: where it is described, and where numbers stand, is more telling
        head = min(len(data), 4000) if victim.suffix == ".safetensors" and dice.random() < 0.6 else len(data)
        if dice.random() < 0.5:
            victim.write_bytes(mutated(data[:head], dice) + data[head:])
        else:  # the same length: the file is whole, its numbers are wrong
            spoilt = bytearray(data)
            for _ in range(dice.choice((1, 8, 64))):
                spoilt[dice.randrange(head)] = dice.randrange(256)
            victim.write_bytes(spoilt)
        words = [w.format(index=index, out=place / "out.png") for w in dice.choice(QUESTIONS)]
        start = time.monotonic()
        code, said = hushed_call(words)
        ends[f"exit {code}"] += 1
        if code not in (0, 2, 3, 4) or "Traceback" in said:
            wrong.append(
                f"mutation {number} of {seed!r}, {victim.suffix}: {words[0]} exit {code}, {said[-300:]}"
            )
        slow += time.monotonic() - start > 2 * LONGEST
        shutil.rmtree(index)
    return ends, wrong, slow


def run(trial: Trial, tally: Tally) -> None:
    """All of them, in processes of their own: should a decoder crash, that is seen too."""
    pictures = starts()
    weights = [saved(state()), saved(state(), old=True), SAFETENSORS]
    size, index = str(trial.folder), str(make_small_index(trial.folder / "asked"))
    tasks = [
        ("pictures read", read_many, trial.count(2_000, 30_000, 100_000), CHUNK, (pictures,), ()),
        ("pictures explained", explain_many, trial.count(40, 400, 2_000), 50, (pictures,), (size,)),
        ("weights read", weigh_many, trial.count(300, 4_000, 20_000), CHUNK, (weights,), (size,)),
        ("indexes asked", ask_many, trial.count(60, 500, 3_000), 50, (index,), ()),
    ]
    context = multiprocessing.get_context("forkserver")
    for title, work, count, chunk, before, after in tasks:
        seeds = [f"{title} {trial.dice.randrange(10**9)}" for _ in range(-(-count // chunk))]
        jobs = [(*before, seed, min(chunk, count), *after) for seed in seeds]
        with context.Pool(trial.processes) as pool:
            handles = [(seed, pool.apply_async(work, (job,))) for seed, job in zip(seeds, jobs, strict=True)]
            for seed, handle in handles:
                try:
                    ends, wrong, slow = handle.get(timeout=LONGEST * CHUNK)
                except multiprocessing.TimeoutError:
                    tally.problem("hangs", f"{seed!r}: no answer, a crash or a hang")
                    continue
                tally.inputs += sum(ends.values())
                tally.endings.update({f"{title}: {k}": v for k, v in ends.items()})
                tally.hangs += slow
                for text in wrong:
                    tally.problem("tracebacks", text)


PART = Part("mutations", "damaged bytes through the readers and the whole command", run)
