"""A folder of photographs: vizkit against the bare batched loop (decode, resize, forward, backward).

    python -m tests.benchmarks.folder FOLDER [--rounds 3]

Three rows: the bare loop; `vizkit.saliency(model, paths)`; and `vizkit saliency FOLDER -o MAPS` as the
command runs it, with every figure drawn, encoded and written. CPU time and wall time of one process.
"""

import argparse
import contextlib
import io
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import vizkit
from tests.benchmarks.common import machine, table
from vizkit.cli.main import call

BATCH = 4


def bare(model: vizkit.VisionModel, paths: list[Path]) -> list[torch.Tensor]:
    """What anyone would write."""
    maps = []
    for start in range(0, len(paths), BATCH):
        pixels = torch.stack([_pixels(p) for p in paths[start : start + BATCH]]).requires_grad_()
        output = model.module(pixels)
        (gradient,) = torch.autograd.grad(output.amax(1).sum(), pixels)
        maps += list(gradient.abs().amax(1))
    return maps


def _pixels(path: Path) -> torch.Tensor:
    picture = Image.open(path)
    if picture.mode == "RGBA":
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    picture = picture.convert("RGB")
    scale = 256 / min(picture.size)
    picture = picture.resize([int(s * scale) for s in picture.size], Image.Resampling.BICUBIC)
    left, top = (picture.width - 224) // 2, (picture.height - 224) // 2
    array = np.asarray(picture.crop((left, top, left + 224, top + 224)), dtype=np.float32)
    return torch.from_numpy((array - 127) / 128).permute(2, 0, 1).contiguous()


def command(folder: Path, width: int) -> None:
    """The command line, into a fresh folder."""
    with tempfile.TemporaryDirectory() as maps, contextlib.redirect_stdout(io.StringIO()):
        arguments = ["saliency", str(folder), "-o", maps, "--device", "cpu", "-q", "--width", str(width)]
        if call(arguments) != 0:
            raise RuntimeError("the command failed")


def measured(run: Callable[[], object], rounds: int) -> tuple[float, float]:
    """Median CPU and wall seconds."""
    processor, wall = [], []
    for _ in range(rounds):
        starts = time.process_time(), time.perf_counter()
        run()
        processor.append(time.process_time() - starts[0])
        wall.append(time.perf_counter() - starts[1])
    return statistics.median(processor), statistics.median(wall)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    model = vizkit.load_model(device="cpu")
    model.module.requires_grad_(False)
    paths = [path for path, _ in vizkit.walk_images(arguments.folder)]
    runs: dict[str, Callable[[], object]] = {
        "bare batched loop": lambda: bare(model, paths),
        "vizkit.saliency(model, paths)": lambda: vizkit.saliency(model, paths),
        "vizkit saliency FOLDER, figures of 1200 px": lambda: command(arguments.folder, 1200),
        "vizkit saliency FOLDER, figures of 600 px": lambda: command(arguments.folder, 600),
    }
    bare(model, paths[:8])
    times = {name: measured(run, arguments.rounds) for name, run in runs.items()}
    base = times["bare batched loop"]
    rows = [
        [name, f"{cpu:.2f}", f"{wall:.2f}", f"{base[0] / cpu:.2f}", f"{base[1] / wall:.2f}"]
        for name, (cpu, wall) in times.items()
    ]
    print(f"{len(paths)} pictures; {machine()}")
    print(table(["run", "CPU s", "wall s", "throughput (CPU)", "throughput (wall)"], rows))


if __name__ == "__main__":
    main()
