"""Part B, guided: a fuzzer that watches which lines run (atheris, libFuzzer) looks for a way through.

Each reader in a process of its own, `python -m tests.reliability.guided READER FOLDER SECONDS SEED`: it may
end in a result or in one of our errors, and in nothing else. What broke it is kept in the problem's text.
"""

import contextlib
import importlib.util
import io
import json
import os
import pickle
import re
import struct
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.reliability.campaign import Part, Tally, Trial
from tests.reliability.processes import ROOT

Reader = Callable[[bytes], object]
SLOWEST, LARGEST = 20, 3000
"""Seconds and MB that one input may cost."""


def _on_disk(read: Callable[[Path], object], name: str) -> Reader:
    """A reader of bytes from a reader of a path: always the same file, in memory where that is a folder."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="vizkit-guided-", dir=memory if memory.is_dir() else None))

    def through(data: bytes) -> object:
        (folder / name).write_bytes(data)
        return read(folder / name)

    return through


def pictures() -> Reader:
    from vizkit.images import read_image

    return read_image


def weights() -> Reader:
    from vizkit.zoo.weightfiles import read_weights

    return _on_disk(read_weights, "weights.pt")


def arrays() -> Reader:
    from vizkit import tensorfiles

    return _on_disk(tensorfiles.read, "arrays.safetensors")


def idx() -> Reader:
    from vizkit.training.archives import read_idx

    plain, packed = _on_disk(read_idx, "train-images-idx3-ubyte"), _on_disk(read_idx, "a.gz")
    return lambda data: (packed if data[:2] == b"\x1f\x8b" else plain)(data)


def cifar() -> Reader:
    from vizkit.training.archives import read

    batch = _on_disk(lambda path: read(str(path.parent)), "data_batch_1")
    packed = _on_disk(lambda path: read(str(path)), "a.tar")
    return lambda data: (packed if data[257:262] == b"ustar" else batch)(data)


def index() -> Reader:
    from tests.reliability.mutations import make_small_index
    from vizkit.scanning.index import Index

    whole = make_small_index(Path(tempfile.mkdtemp(prefix="vizkit-guided-")))

    def through(data: bytes) -> object:
        (whole / "index.json").write_bytes(data)
        return Index(whole)

    return through


def styles() -> Reader:
    from vizkit.feedforward.styling import FastStyle

    return _on_disk(lambda path: FastStyle(str(path)), "styles.safetensors")


def classifiers() -> Reader:
    import vizkit

    return _on_disk(lambda path: vizkit.load_model(str(path), device="cpu"), "model.safetensors")


def targets() -> Reader:
    from torch import nn

    from vizkit.targetspecs import parse_target

    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU()))
    labels = ("tabby", "tiger cat", "tiger", "school bus", "vs", "a:b")
    return lambda data: parse_target(data.decode(errors="surrogateescape"), net, labels)


READERS: dict[str, Callable[[], Reader]] = {
    r.__name__: r for r in (pictures, weights, arrays, idx, cifar, index, styles, classifiers, targets)
}


def seeds(name: str) -> Iterator[bytes]:
    """Whole files to begin with."""
    from tests.reliability.mutations import SAFETENSORS, make_small_index, saved, starts, state

    if name == "pictures":
        yield from starts()
    elif name == "weights":
        yield from (saved(state()), saved(state(), old=True), SAFETENSORS)
    elif name == "arrays":
        yield SAFETENSORS
    elif name == "idx":
        import gzip

        plain = b"\0\0\x08\x03" + struct.pack(">3I", 2, 3, 4) + bytes(24)
        yield from (plain, gzip.compress(plain, mtime=0), b"\0\0\x08\x01" + struct.pack(">I", 5) + bytes(5))
    elif name == "cifar":
        import numpy as np

        yield pickle.dumps({b"labels": [1, 2], b"data": np.zeros((2, 3072), np.uint8)}, protocol=2)
        with io.BytesIO() as packed, tarfile.open(fileobj=packed, mode="w") as archive:
            member = tarfile.TarInfo("cifar-10-batches-py/data_batch_1.bin")
            member.size = 3073
            archive.addfile(member, io.BytesIO(bytes(3073)))
            yield packed.getvalue()
    elif name == "index":
        with tempfile.TemporaryDirectory() as folder:
            text = (make_small_index(Path(folder)) / "index.json").read_text(encoding="utf-8")
        yield from (text.encode(), json.dumps(json.loads(text)).encode())
    elif name in ("styles", "classifiers"):
        yield from _networks(name)
    else:
        yield from (b"tabby", b"3", b"tabby vs tiger cat", b"2.0:1,3,4", b"0:1,max", b"tiger in mask.png")


def _networks(name: str) -> Iterator[bytes]:
    """A file of ours, and the same without its hash, so that wrong numbers get further."""
    import torch

    from vizkit import networkfiles, tensorfiles
    from vizkit.feedforward.networks import StyleNet
    from vizkit.feedforward.styling import KIND
    from vizkit.nets import make_net
    from vizkit.zoo.trained import Blueprint, save_classifier

    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.safetensors"
        if name == "styles":
            config = {"styles": ["a"], "width": 1, "blocks": 1}
            networkfiles.save(str(path), KIND, config, StyleNet(1, 1, 1).state_dict())
        else:
            net = make_net("linear", channels=1, classes=2, side=4)
            save_classifier(str(path), net, Blueprint("linear", 1, 4, ["a", "b"], [0.5], [0.5], {}))
        yield path.read_bytes()
        held, about = tensorfiles.read(path)
        loose = json.loads(about["network"]) | {"format": 1}  # which needs no hash
        del loose["sha256"]
        tensorfiles.write(path, held, about | {"network": json.dumps(loose)})
        yield path.read_bytes()


def fuzz(name: str, folder: Path, seconds: int, seed: int) -> None:
    """Never returns: libFuzzer ends the process, with 77 where something else than our errors was raised."""
    import atheris

    with atheris.instrument_imports(include=["vizkit", "PIL"], enable_loader_override=False):
        from vizkit.errors import VizkitError

        read = READERS[name]()

        def one(data: bytes) -> None:
            with contextlib.suppress(VizkitError):
                read(data)

        corpus = folder / name
        corpus.mkdir()
        # what is imported on the way, also to an error, is watched too and not taken for a slow input
        for number, data in enumerate((*seeds(name), b"\0\xff nothing of the kind")):
            (corpus / f"seed{number}").write_bytes(data)
            one(data)

    given = {"max_total_time": seconds, "seed": seed, "timeout": SLOWEST, "rss_limit_mb": LARGEST}
    given |= {"print_final_stats": 1, "max_len": 65536}
    words = [f"-{key}={value}" for key, value in given.items()]
    atheris.Setup([name, *words, f"-artifact_prefix={folder / name}-", str(corpus)], one)
    atheris.Fuzz()


def judge(name: str, folder: Path, code: int, said: str, tally: Tally) -> None:
    """Count what the fuzzer's process has told."""
    for pattern in (r"number_of_executed_units:\s*(\d+)", r"\n#(\d+)\s"):
        if runs := re.findall(pattern, said):
            tally.inputs += int(runs[-1])
            tally.endings[f"{name}"] += int(runs[-1])
            break
    if code == 0:
        return
    found = [p.read_bytes()[:200] for p in folder.glob(f"{name}-*") if p.is_file()]
    raised = said.partition("Uncaught Python exception")[2] or said[-1500:]
    text = " ".join(raised.split()[:120])
    tally.problem("hangs" if "timeout" in said[-3000:] else "tracebacks", f"{name}: {text[:700]} {found!r}")


def fuzzed(name: str, folder: Path, seconds: int, seed: int, tally: Tally) -> None:
    """One reader for so many seconds, in a process of its own."""
    words = [name, str(folder), str(seconds), str(seed)]
    ended = subprocess.run(
        [sys.executable, "-m", "tests.reliability.guided", *words],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        timeout=seconds + 300,
        check=False,
    )
    judge(name, folder, ended.returncode, ended.stderr.decode(errors="replace"), tally)


def run(trial: Trial, tally: Tally) -> None:
    """Every reader; not in the small size, where they would take longer to begin than to run."""
    seconds = trial.count(0, 60, 180)
    if not seconds or importlib.util.find_spec("atheris") is None:
        tally.notes.append("not run: " + ("atheris is not installed" if seconds else "not of this size"))
        return
    jobs = [(name, trial.dice.randrange(1, 2**31)) for name in READERS]
    trial.each(lambda job: fuzzed(job[0], trial.folder, seconds, job[1], tally), jobs)
    tally.notes.append(f"{len(READERS)} readers, {seconds} s each")


PART = Part("guided", "a coverage-guided fuzzer at the readers", run)


def alone() -> None:
    """Go on in a child; this process waits and ends as the child does.

    A process begins with the peak memory of the one that started it (Linux keeps it across exec), and
    libFuzzer would take the gigabytes of a large one, as of a test run, for its own. A fork begins anew.
    """
    if child := os.fork():
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        os._exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    alone()
    fuzz(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
