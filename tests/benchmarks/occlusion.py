"""Occlusion: the incremental engine against Captum's `Occlusion` at its best batch size, same model object.

python -m tests.benchmarks.occlusion [--models vgg16 resnet18 ...] [--window 32 --stride 16]
                                     [--precision bf16] [--positions 36] [--rounds 5]

The engine always computes the whole grid. Captum's time a position does not depend on their number; with
--positions it is timed on about that many, by a wider window and stride.
"""

import argparse
import math
import time
from dataclasses import replace
from typing import Any

import torch
from captum.attr import Occlusion
from torch import nn

import vizkit
from tests.benchmarks.common import machine, medians, table
from vizkit.incremental import Engine, Windows
from vizkit.sessions import session

BATCHES = (1, 4, 8, 16)


def build(name: str) -> vizkit.VisionModel:
    """A model with real weights if they are at hand, else random ones with statistics that fit them."""
    random_weights = not name.startswith("efficientnet_lite")
    torch.manual_seed(0)
    model = vizkit.load_model(name, random_weights=random_weights, device="cpu")
    if random_weights:
        calibrate(model.module)
    # any size: pictures are taken as they are
    model.preprocessing = replace(model.preprocessing, size=None, resize=None)
    return model


def calibrate(module: nn.Module) -> None:
    """Batch statistics for random weights: without them activations vanish or explode."""
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    momenta = [m.momentum for m in norms]
    for norm in norms:
        norm.momentum = None
        norm.train()
    with torch.no_grad():
        module(torch.randn(4, 3, 224, 224, generator=torch.Generator().manual_seed(2)))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


def grid(size: int, window: int, stride: int) -> Windows:
    """The windows that lie inside the picture."""
    line = torch.arange(0, size - window + 1, stride)
    tops, lefts = torch.meshgrid(line, line, indexing="ij")
    return Windows(tops.flatten(), lefts.flatten(), window, window)


def captum(model: vizkit.VisionModel, pixels: torch.Tensor, window: int, stride: int, batch: int) -> Any:
    """Captum's attribution for class 0, the model in its own layout and precision."""
    return Occlusion(model.module).attribute(
        pixels[None],
        sliding_window_shapes=(pixels.shape[0], window, window),
        strides=(pixels.shape[0], stride, stride),
        baselines=0.5,
        target=0,
        perturbations_per_eval=batch,
    )


def positions(size: int, window: int, stride: int) -> int:
    """How many windows Captum evaluates."""
    return (math.ceil((size - window) / stride) + 1) ** 2


def outputs(engine: Engine, pixels: torch.Tensor, windows: Windows) -> torch.Tensor:
    """Logits of all windows, in their order."""
    with session(engine.model.module):
        found = list(engine.run(pixels, torch.full_like(pixels, 0.5), windows))
    logits = torch.cat([output for _, output, _ in found])
    return logits[torch.cat([index for index, _, _ in found]).argsort()]


def gap(model: vizkit.VisionModel, pixels: torch.Tensor, windows: Windows, logits: torch.Tensor) -> float:
    """The largest difference to the untouched model, over 24 windows spread over the grid."""
    pick = torch.linspace(0, len(windows) - 1, min(24, len(windows))).long()
    fill = torch.full_like(pixels, 0.5)
    with torch.no_grad():
        gaps = [model.raw(windows.perturb(pixels, fill, p)) - logits[p] for p in pick.split(4)]
    return float(torch.cat(gaps).abs().max())


def likeness(
    model: vizkit.VisionModel, pixels: torch.Tensor, windows: Windows, logits: torch.Tensor
) -> float:
    """The correlation of class 0's drops with those of the exact engine."""
    exact = outputs(Engine(model, tuple(pixels.shape)), pixels, windows)
    return float(torch.corrcoef(torch.stack([exact[:, 0], logits[:, 0]]))[0, 1])


def row(name: str, options: argparse.Namespace) -> list[str]:
    """One model's line."""
    model, size = build(name), options.size
    pixels = torch.rand(3, size, size, generator=torch.Generator().manual_seed(0))
    windows = grid(size, options.window, options.stride)
    engine = Engine(model, (3, size, size), precision=options.precision, dense=options.dense)
    start = time.process_time()
    logits = outputs(engine, pixels, windows)
    first = time.process_time() - start
    window, stride = options.window, options.stride
    while options.positions and positions(size, window, stride) > options.positions:
        stride += 1
        window = max(window, stride)  # Captum refuses gaps between windows
    count = positions(size, window, stride)
    variants: dict[str, Any] = {f"{b}": lambda b=b: captum(model, pixels, window, stride, b) for b in BATCHES}
    variants["engine"] = lambda: outputs(engine, pixels, windows)
    variants["function"] = lambda: vizkit.occlusion(
        model,
        pixels,
        target=0,
        window=options.window,
        stride=options.stride,
        precision=options.precision,
        incremental=not options.dense,
    )
    variants["function"]()  # its first call prepares an engine of its own
    times = medians(variants, rounds=options.rounds, warmup=0)
    best = min((str(b) for b in BATCHES), key=lambda b: times[b][0])
    theirs, ours = 1e3 * times[best][0] / count, 1e3 * times["engine"][0] / len(windows)
    return [
        name,
        f"{theirs:.2f} (batch {best}, {count} positions)",
        f"{ours:.2f} ± {1e3 * times['engine'][1] / len(windows):.2f}",
        f"{theirs / ours:.2f}",
        f"{theirs / (1e3 * times['function'][0] / len(windows)):.2f}",
        f"{engine.saved:.2f}",
        f"{gap(model, pixels, windows, logits):.1e}",
        f"{max(0.0, first - times['engine'][0]):.2f}",
        f"{likeness(model, pixels, windows, logits):.4f}",
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    models = ["efficientnet_lite0", "mobilenet_v2", "resnet18", "resnet50", "vgg16"]
    parser.add_argument("--models", nargs="+", default=models)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--window", type=int, default=32)
    parser.add_argument("--stride", type=int, default=16)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--dense", action="store_true", help="without boxes: what other nets fall back to")
    parser.add_argument("--positions", type=int, default=36, help="Captum's, at most; 0 for the whole grid")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(machine())
    what = "dense" if options.dense else "incremental"
    print(f"{what}, {options.size} px, window {options.window}, stride {options.stride}, {options.precision}")
    head = ["model", "Captum, ms a position", "engine, ms", "ratio", "vizkit.occlusion() ratio"]
    more = ["multiplications saved", "largest difference", "preparation, s", "correlation with exact"]
    rows = [row(name, options) for name in options.models]
    print(table([*head, *more], rows))


if __name__ == "__main__":
    main()
