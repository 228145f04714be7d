"""A scan beside its limits: the bare folded pass, decoding alone, memory for any number of pictures.

python -m tests.benchmarks.scan                     statistics beside the bare pass (CPU time, one thread)
python -m tests.benchmarks.scan --pipeline 400      whole scans beside decoding and passes alone (wall time)
python -m tests.benchmarks.scan --memory 100 10000  peak memory of a process for so many pictures
python -m tests.benchmarks.scan --decode            JPEGs of three sizes, with and without `draft`
"""

import argparse
import io
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import vizkit
from tests.benchmarks.common import machine, medians, table
from vizkit.images import read_image
from vizkit.scanning import extremes
from vizkit.scanning.choosing import default_layers
from vizkit.scanning.network import Network
from vizkit.scanning.observing import observe, wanted_layers
from vizkit.scanning.reading import enough, read_picture
from vizkit.scanning.running import Running
from vizkit.sessions import session
from vizkit.zoo import VisionModel

MODELS = ("efficientnet_lite0", "resnet18", "mobilenet_v2", "vgg16")
SIZES = ((500, 375), (1024, 768), (4000, 3000))


def load(name: str) -> VisionModel:
    """The default model with its weights, others with random ones."""
    return vizkit.load_model(name, random_weights=name != "efficientnet_lite0")


def overhead(names: list[str], batch: int, rounds: int) -> None:
    """Bare folded pass, with top-k over what follows each convolution, with all statistics."""
    rows = []
    for name in names:
        model = load(name)
        with session(model.module):
            layers = default_layers(model)
            network = Network(model, layers, model.input_shape)
            wanted = wanted_layers(network, ())
            pixels = torch.rand(batch, *model.input_shape, generator=torch.Generator().manual_seed(1))
            widths = [w.channels for w in wanted]
            plain = Running(widths, [False] * len(widths), 24)
            whole = Running(widths, [w.lowest for w in wanted], 24)
            times = medians(
                {
                    "bare": lambda n=network, p=pixels: n.run(p, lambda *_: None),
                    "top": lambda n=network, p=pixels, r=plain: top_only(n, p, r),
                    "all": lambda n=network, p=pixels, r=whole, w=wanted: everything(n, p, r, w),
                },
                rounds=rounds,
            )
        bare = times["bare"][0]
        rows.append(
            [
                name,
                f"{len(layers)}",
                f"{1000 * bare / batch:.1f} ± {1000 * times['bare'][1] / batch:.1f}",
                f"{times['top'][0] / bare:.3f}",
                f"{times['all'][0] / bare:.3f}",
            ]
        )
    print(f"\nbatches of {batch}, {rounds} rounds\n")
    print(table(["model", "layers", "bare, ms a picture", "top-k / bare", "all statistics / bare"], rows))


_turn = 0


def _numbers(count: int) -> np.ndarray:
    global _turn
    _turn += count
    return np.arange(_turn - count, _turn, dtype=np.int32)


def top_only(network: Network, pixels: torch.Tensor, running: Running) -> None:
    """The strongest value and place of every channel, taken into the running lists."""
    found = []
    network.run(pixels, lambda _, output: found.append(extremes.highest(output)))
    values = torch.cat([f.values for f in found], 1).numpy()
    places = torch.cat([f.places for f in found], 1).numpy()
    running.top["highest"].update(values, places, _numbers(len(pixels)))


def everything(network: Network, pixels: torch.Tensor, running: Running, wanted: list) -> None:  # type: ignore[type-arg]
    """What a scan does with a batch."""
    observed = observe(network, wanted, pixels, range(len(pixels)))
    running.update(observed.found, _numbers(len(pixels)))


# --- whole scans ---


def write_folder(folder: Path, count: int, size: tuple[int, int]) -> Path:
    """So many JPEGs of this size: a photograph of scikit-image, perturbed."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    source = Image.fromarray(sample())
    for k in range(count):
        left, top = random.integers(0, 60, 2)
        part = source.resize(size, box=(left, top, left + 360, top + 230))
        pixels = np.asarray(part, np.int16) + random.integers(-20, 20, 3)
        data = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(data, "JPEG", quality=88)
        (folder / f"{k:05d}.jpg").write_bytes(data.getvalue())
    return folder


def sample() -> np.ndarray:
    """scikit-image's cat."""
    import skimage

    return np.asarray(Image.open(Path(skimage.__file__).parent / "data" / "chelsea.png"))


def pipeline(count: int, name: str, threads: int) -> None:
    """A whole scan in pictures a second, beside decoding alone and bare passes alone by as many threads."""
    rows = []
    for size in SIZES:
        some = max(24, count // (8 if size[0] > 2000 else 1))
        with tempfile.TemporaryDirectory() as scratch:
            folder = write_folder(Path(scratch) / "photos", some, size)
            model = load(name)
            torch.set_num_threads(1)
            files = sorted(p.name for p in folder.iterdir())

            def decode_all(names=files, root=folder, net=model) -> None:  # type: ignore[no-untyped-def]
                with ThreadPoolExecutor(threads) as pool:
                    list(pool.map(lambda n: read_picture(root, n, net, {}), names))

            decoding, passing = rate(decode_all, some), bare_rate(model, max(some, 160), threads)
            steps: list[tuple[int, float]] = []
            begun = time.perf_counter()
            vizkit.scan(
                model,
                folder,
                Path(scratch) / "index",
                threads=threads,
                on_step=lambda done, _, s=steps: s.append((done, time.perf_counter())),
            )
            rest = time.perf_counter() - begun - (steps[-1][1] - steps[1][1])
            whole = (steps[-1][0] - steps[1][0]) / (steps[-1][1] - steps[1][1])
            alone = (
                f"{decoding:.1f}",
                f"{passing:.1f}",
                f"{whole:.1f}",
                f"{whole / min(decoding, passing):.2f}",
            )
            both = 1 / (1 / decoding + 1 / passing)
            rows.append([f"{size[0]}x{size[1]}", f"{some}", *alone, f"{whole / both:.2f}", f"{rest:.1f}"])
    head = ["JPEGs", "pictures", "decode alone /s", "bare pass alone /s", "scan /s", "scan / slower"]
    print(f"\n{name}, {threads} thread(s), wall time\n")
    print(table([*head, "scan / both in turn", "making ready and writing, s"], rows))


def bare_rate(model: VisionModel, count: int, threads: int) -> float:
    """Pictures a second through the folded network alone, made ready before."""
    pixels = torch.rand(8, *model.input_shape)
    with session(model.module), ThreadPoolExecutor(threads, lambda: torch.set_num_threads(1)) as pool:
        network = Network(model, default_layers(model), model.input_shape)
        return rate(
            lambda: list(pool.map(lambda _: network.run(pixels, lambda *_: None), range(count // 8))), count
        )


def rate(run: Callable[[], object], count: int) -> float:
    """Pictures a second."""
    run()
    begun = time.perf_counter()
    run()
    return count / (time.perf_counter() - begun)


_CHILD = """
import resource, sys, vizkit
model = vizkit.load_model("efficientnet_lite0")
vizkit.scan(model, sys.argv[1], sys.argv[2], threads=int(sys.argv[3]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def memory(counts: list[int], threads: int) -> None:
    """Peak resident memory of a process that scans so many pictures."""
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for count in counts:
            folder = write_folder(Path(scratch) / f"p{count}", count, (256, 192))
            begun = time.perf_counter()
            arguments = [
                sys.executable,
                "-c",
                _CHILD,
                str(folder),
                str(Path(scratch) / f"i{count}"),
                f"{threads}",
            ]
            done = subprocess.run(arguments, capture_output=True, text=True, check=True)
            peak = int(done.stdout.split()[-1]) / 1024
            rows.append([f"{count}", f"{peak:.0f}", f"{time.perf_counter() - begun:.0f}"])
            print(rows[-1], flush=True)
    print(table(["pictures", "peak memory, MiB", "s"], rows))


def decoding(rounds: int) -> None:
    """Reading a JPEG for the default model, at full size and through `draft` at twice what is needed."""
    model = load("efficientnet_lite0")
    short = enough(model.preprocessing)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for size in SIZES:
            path = next(write_folder(Path(scratch) / f"{size[0]}", 1, size).iterdir())
            times = medians(
                {
                    "full": lambda p=path: model.prepare(read_image(p)),
                    "draft": lambda p=path: model.prepare(read_image(p, shorter=short)),
                },
                rounds=rounds,
            )
            pixels = [model.prepare(read_image(path, shorter=s)).pixels for s in (0, short)]
            difference = float((pixels[0] - pixels[1]).abs().mean()) * 255
            full, draft = times["full"][0], times["draft"][0]
            said = f"{1000 * full:.1f}", f"{1000 * draft:.1f}", f"{full / draft:.2f}", f"{difference:.2f}"
            rows.append([f"{size[0]}x{size[1]}", *said])
    print(f"\nshort side decoded at {short} px or more\n")
    print(table(["JPEG", "full, ms", "draft, ms", "full / draft", "mean difference of 255"], rows))


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--pipeline", type=int, metavar="N")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--memory", type=int, nargs="+", metavar="N")
    parser.add_argument("--decode", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(machine())
    if given.pipeline:
        pipeline(given.pipeline, given.models.split(",")[0], given.threads)
    elif given.memory:
        memory(given.memory, given.threads)
    elif given.decode:
        decoding(given.rounds)
    else:
        overhead(given.models.split(","), given.batch, given.rounds)
    print(f"\nthis process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB at most")


if __name__ == "__main__":
    main()
