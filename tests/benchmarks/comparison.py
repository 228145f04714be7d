"""The comparisons of what takes many passes, a whole process or none; and all jobs by name.

Each job beside what it cannot be faster than, and beside the peers, on the same module. A function a job;
each gives rows. Ratios are to the limit named in the row: 1 is the limit itself.
"""

import os
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch

import vizkit
from tests.benchmarks import occlusion as windows
from tests.benchmarks.comparing import MODELS, Bench, Row, row, spread
from tests.benchmarks.gradients import grad_cam, guided, integrated_gradients, saliency
from tests.benchmarks.paint import bare as truncated
from tests.benchmarks.paint import styles_goal

OCCLUSION = {
    "exact": {"vgg16": 5.0, "resnet18": 2.0, "resnet50": 2.0, "mobilenet_v2": 2.5, "efficientnet_lite0": 1.0},
    "bf16": {"vgg16": 10.0, "resnet18": 4.0, "resnet50": 4.0, "mobilenet_v2": 5.0, "efficientnet_lite0": 1.0},
    "dense": dict.fromkeys(MODELS, 1.05),
}
"""How many times as fast as Captum's exact one a position is to be, by the way it is computed."""


def occlusion(bench: Bench) -> Iterator[Row]:
    """Windows of 32 px every 16; times a position, beside Captum at its best batch size."""
    for name in bench.models:
        yield from _occluded(bench, name)


def _occluded(bench: Bench, name: str) -> Iterator[Row]:
    from vizkit.incremental import Engine
    from vizkit.incremental.checks import has_bf16

    model = windows.build(name)
    size, window, stride = 224, 32, 16
    pixels = torch.rand(3, size, size, generator=torch.Generator().manual_seed(0))
    grid = windows.grid(size, window, stride)
    step, wide = stride, window
    while windows.positions(size, wide, step) > 36:  # Captum's time a position is always the same
        step += 1
        wide = max(wide, step)
    engines = {
        "exact": Engine(model, (3, size, size)),
        "bf16": Engine(model, (3, size, size), precision="bf16"),
        "dense": Engine(model, (3, size, size), dense=True),
    }
    if not has_bf16(pixels.device):
        del engines["bf16"]
    calls: dict[str, Callable[[], object]] = {
        f"Captum, batches of {b}": lambda b=b: windows.captum(model, pixels, wide, step, b)
        for b in (1, 4, 16)
    }
    for way in engines:
        more = {"precision": "bf16" if way == "bf16" else "fp32", "incremental": way != "dense"}
        calls[way] = lambda m=more: vizkit.occlusion(
            model, pixels, target=0, window=window, stride=stride, **m
        )
    times = bench.times(calls, max(3, bench.rounds // 3))
    captum = {k: times[k] for k in calls if k.startswith("Captum")}
    best = min(captum, key=lambda k: captum[k][0])
    theirs, swing = (t / windows.positions(size, wide, step) for t in captum[best])
    for way, engine in engines.items():
        own = times[way][0] / len(grid)
        logits = windows.outputs(engine, pixels, grid)
        exact = f"logits to {windows.gap(model, pixels, grid, logits):.0e}"
        if way == "bf16":
            exact = f"correlation {windows.likeness(model, pixels, grid, logits):.4f} with the exact map"
        title = {"exact": "occlusion", "bf16": "occlusion in bf16", "dense": "occlusion, nothing reused"}[way]
        yield Row(
            f"{title}, a position", name, best, theirs, swing, own / theirs, {"Captum": 1.0}, exact,
            OCCLUSION[way][name], "Captum",
        )  # fmt: skip


def painting(bench: Bench) -> Iterator[Row]:
    """A step of painting and of style transfer beside the bare passes to the deepest layer that is used."""
    from vizkit.paint import objectives
    from vizkit.paint.canvases import Fourier, Pixels, flat
    from vizkit.paint.loop import Plan, opened
    from vizkit.paint.recipes import CLASS_VIEWS
    from vizkit.sessions import session

    generator, lite = torch.Generator().manual_seed(0), "efficientnet_lite0"
    modern = Plan(200, 0.05, views=replace(CLASS_VIEWS, size=(224, 224)))
    vgg = vizkit.load_model("vgg19", random_weights=True, device="cpu")
    classes = objectives.class_probability([1, 2, 3, 4], log=True)
    cases = {
        "class image, batch of 4": (lite, classes, 4, modern, 1.1),
        "unit image, batch of 4": (lite, objectives.channel("_blocks.8._act0", 3), 4, modern, 1.1),
        "style transfer": ("vgg19", styles_goal(vgg, 224), 1, Plan(300, 0.02, average=0.97), 1.2),
    }  # fmt: skip
    for title, (name, goal, count, plan, most) in cases.items():
        own = name.startswith("efficientnet")
        net, plain = (vizkit.load_model(name, random_weights=not own, device="cpu") for _ in range(2))
        start = flat(count, (224, 224))
        canvas = Pixels(start) if plan.average else Fourier(start)
        with session(net.module), session(plain.module), opened(net, canvas, goal, plan, generator) as loop:
            times = bench.times(
                {
                    "forward + backward": truncated(plain, list(goal.layers), start),
                    "ours": lambda loop=loop: loop.step(1),
                }
            )
        yield row(f"a step of {title}", name, "forward + backward", times, "ours", goal=most)


def scan(bench: Bench) -> Iterator[Row]:
    """All statistics of all layers beside the bare folded pass."""
    from tests.benchmarks import scan as scans
    from vizkit.scanning.choosing import default_layers
    from vizkit.scanning.network import Network
    from vizkit.scanning.observing import wanted_layers
    from vizkit.scanning.running import Running
    from vizkit.sessions import session

    for name in ("efficientnet_lite0", "resnet18", "vgg16"):
        model = bench.load(name)
        with session(model.module):
            network = Network(model, default_layers(model), model.input_shape)
            wanted = wanted_layers(network, ())
            pixels = torch.rand(8, *model.input_shape, generator=torch.Generator().manual_seed(1))
            running = Running([w.channels for w in wanted], [w.lowest for w in wanted], 24)
            times = bench.times(
                {
                    "folded forward, 8 pictures": lambda n=network, p=pixels: n.run(p, lambda *_: None),
                    "ours": lambda n=network, p=pixels, r=running, w=wanted: scans.everything(n, p, r, w),
                }
            )
        yield row("scan", name, "folded forward, 8 pictures", times, "ours", goal=1.2)


def tsne(bench: Bench) -> Iterator[Row]:
    """2,000 points, and with openTSNE 10,000, from 50 principal components; with their divergences."""
    from vizkit.embedding.reduction import has

    found, exact = _embedded(bench, 2000, "sklearn")
    yield row("t-SNE, 2,000 points", "", "scikit-learn", found, "ours", exact=exact, goal=1.05)
    if has("openTSNE"):
        found, exact = _embedded(bench, 10_000, "opentsne")
        slow = row("t-SNE, 10,000 points", "", "scikit-learn", found, "ours", exact=exact)
        slow = replace(slow, peers={"scikit-learn": 1.0, **slow.peers})
        yield replace(slow, goal=2.3, against="scikit-learn")


def _embedded(bench: Bench, count: int, engine: Any) -> tuple[dict[str, tuple[float, float]], str]:
    """(times, divergences in words) of scikit-learn, our own and openTSNE where that is what ours is not."""
    from sklearn.manifold import TSNE

    from tests.benchmarks.embed import features
    from vizkit.embedding.affinities import divergence
    from vizkit.embedding.reduction import COMPONENTS, components, has, ready, reduce

    points = ready(features(count, None), "euclidean")
    start = components(points, COMPONENTS, 0)[0]
    found: dict[str, Any] = {}

    def theirs() -> None:
        model = TSNE(perplexity=30, init="pca", learning_rate="auto", random_state=0, n_jobs=1)
        found["scikit-learn"] = np.asarray(model.fit_transform(start.astype(np.float32)))

    def ours() -> None:
        found["ours"] = reduce(start, "tsne", perplexity=30, seed=0, engine=engine).positions

    calls = {"scikit-learn": theirs, "ours": ours}
    if has("openTSNE"):
        import openTSNE

        calls["openTSNE"] = lambda: found.update(
            openTSNE=np.asarray(openTSNE.TSNE(perplexity=30, random_state=0, n_jobs=1).fit(start))
        )
    times = bench.times(calls, 1, warm=False)
    kl = {k: divergence(start, v, 30) for k, v in found.items()}
    return times, ", ".join(f"KL {k} {v:.3f}" for k, v in kl.items())


def startup(bench: Bench) -> Iterator[Row]:
    """Processes that need no net, beside one that imports click."""

    def cost(command: list[str]) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return 1000 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)

    python, run = sys.executable, [sys.executable, "-m", "vizkit.cli.main"]
    commands = {
        "import click": [python, "-c", "import click"],
        "vizkit --help": [*run, "--help"],
        "vizkit saliency --help": [*run, "saliency", "--help"],
        "a missing file": [*run, "saliency", "no.jpg"],
        "import torch": [python, "-c", "import torch"],
        "import vizkit and torch": [python, "-c", "import vizkit, torch"],
    }
    seen: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(max(3, bench.rounds)):
        for name, command in commands.items():
            seen[name].append(cost(command))
    times = {name: (statistics.median(t), spread(t)) for name, t in seen.items()}
    for name in ("vizkit --help", "vizkit saliency --help", "a missing file"):
        part = {k: times[k] for k in ("import click", name)}
        yield row(name, "", "import click", part, name, goal=2.0)
    part = {k: times[k] for k in ("import torch", "import vizkit and torch")}
    yield row("import vizkit", "", "import torch", part, "import vizkit and torch", goal=1.1)


JOBS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "saliency": saliency,
    "guided": guided,
    "grad-cam": grad_cam,
    "integrated-gradients": integrated_gradients,
    "occlusion": occlusion,
    "painting": painting,
    "scan": scan,
    "tsne": tsne,
    "startup": startup,
}
ON_GPU = ("saliency", "guided", "grad-cam", "integrated-gradients")
"""Jobs that are measured on a GPU too, where there is one."""
