"""The comparisons: each job beside what it cannot be faster than, and beside the peers, on the same module.

A function a job; each gives rows. Ratios are to the limit named in the row: 1 is the limit itself.
"""

import contextlib
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

import vizkit
from tests.benchmarks import occlusion as windows
from tests.benchmarks.explain import CLASS, bare, fifty
from tests.benchmarks.paint import bare as truncated
from tests.benchmarks.paint import styles_goal
from tests.rewrite import class_gradient, rewritten
from vizkit.zoo.torchvision_models import import_torchvision

MODELS = ("efficientnet_lite0", "resnet18", "resnet50", "mobilenet_v2", "vgg16")


@dataclass(frozen=True)
class Row:
    """One job on one model.

    limit: what it is measured against, in milliseconds (with half the interquartile range). ours, peers:
    ratios to it. exact: what says that the numbers are right. goal: the largest ratio of ours that keeps the
    promise, or, where `against` names a peer, the least factor by which ours must be faster than it.
    """

    job: str
    model: str
    limit: str
    milliseconds: float
    spread: float
    ours: float
    peers: Mapping[str, float] = field(default_factory=dict)
    exact: str = ""
    goal: float = 0.0
    against: str = ""

    @property
    def reached(self) -> float:
        """What is compared with the goal."""
        return self.peers[self.against] / self.ours if self.against else self.ours

    @property
    def met(self) -> bool:
        """Whether the promise is kept; ratios within 0.02 of each other cannot be told apart."""
        return self.reached >= self.goal - 0.02 if self.against else self.reached <= self.goal + 0.02


@dataclass(frozen=True)
class Bench:
    """How it is measured: device, rounds, models."""

    device: str
    rounds: int
    models: tuple[str, ...]

    def load(self, name: str) -> vizkit.VisionModel:
        """The model, frozen; real weights where they are at hand."""
        torch.manual_seed(0)
        model = vizkit.load_model(
            name, random_weights=not name.startswith("efficientnet_lite"), device=self.device
        )
        model.module.requires_grad_(False)
        return model

    def pixels(self, model: vizkit.VisionModel) -> torch.Tensor:
        """(1, C, H, W) of noise."""
        generator = torch.Generator().manual_seed(0)
        return torch.rand(1, *model.input_shape, generator=generator).to(self.device)

    def times(
        self, calls: Mapping[str, Callable[[], object]], rounds: int = 0
    ) -> dict[str, tuple[float, float]]:
        """Medians and spreads in milliseconds, the calls interleaved; CPU time, on a GPU wall time."""
        clock = time.process_time if self.device == "cpu" else time.perf_counter
        for call in calls.values():
            call()
        seen: dict[str, list[float]] = {name: [] for name in calls}
        names = list(calls)
        for turn in range(rounds or self.rounds):
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                self.wait()
                start = clock()
                calls[name]()
                self.wait()
                seen[name].append(1000 * (clock() - start))
        return {name: (statistics.median(t), _spread(t)) for name, t in seen.items()}

    def wait(self) -> None:
        """For what the GPU has not done yet."""
        if self.device != "cpu":
            torch.cuda.synchronize()


def _spread(times: list[float]) -> float:
    if len(times) < 4:
        return (max(times) - min(times)) / 2
    first, _, third = statistics.quantiles(times, n=4)
    return (third - first) / 2


def _row(
    job: str, model: str, limit: str, times: Mapping[str, tuple[float, float]], ours: str, **more: Any
) -> Row:
    """A row of what was timed: `limit` and `ours` are keys, the others are peers."""
    base, spread = times[limit]
    others = {k: v[0] / base for k, v in times.items() if k not in (limit, ours)}
    return Row(job, model, limit, base, spread, times[ours][0] / base, others, **more)


def _far(found: torch.Tensor, right: torch.Tensor) -> str:
    """The largest difference as a share of the largest value."""
    return f"{float((found.cpu() - right.cpu()).abs().max() / right.abs().max().cpu()):.0e}"


# --- gradients ---


def saliency(bench: Bench) -> Iterator[Row]:
    """The gradient of a logit to the input."""
    from captum.attr import Saliency

    for name in bench.models:
        model, naive = bench.load(name), bench.load(name)
        naive.module.requires_grad_(True)
        pixels = bench.pixels(model)
        peer = Saliency(model.module)

        def backward(module: nn.Module = naive.module, given: torch.Tensor = pixels) -> None:
            leaf = given.clone().requires_grad_()
            module(leaf)[:, CLASS].sum().backward()
            module.zero_grad()

        times = bench.times(
            {
                "forward + backward": lambda m=model, p=pixels: bare(m.module, p),
                "ours": lambda m=model, p=pixels: vizkit.saliency(m.module, p[0], target=CLASS),
                "Captum": lambda s=peer, p=pixels: s.attribute(p.clone().requires_grad_(), target=CLASS),
                "loss.backward()": backward,
            }
        )
        right = bare(model.module, pixels)[0].abs().amax(0)
        far = _far(vizkit.saliency(model.module, pixels[0], target=CLASS).values, right)
        yield _row(
            "saliency", name, "forward + backward", times, "ours", exact=f"to the gradient {far}", goal=1.05
        )


def guided(bench: Bench) -> Iterator[Row]:
    """Guided backprop; what is right is the net rewritten ReLU by ReLU."""
    from captum.attr import GuidedBackprop

    for name in bench.models:
        model = bench.load(name)
        pixels = bench.pixels(model)
        peer = GuidedBackprop(model.module)
        times = bench.times(
            {
                "forward + backward": lambda m=model, p=pixels: bare(m.module, p),
                "ours": lambda m=model, p=pixels: vizkit.guided_backprop(m.module, p[0], target=CLASS),
                "Captum": lambda g=peer, p=pixels: g.attribute(p.clone().requires_grad_(), target=CLASS),
            }
        )
        right = class_gradient(rewritten(model.module, "guided")[0], pixels, CLASS)[0]
        ours = vizkit.guided_backprop(model.module, pixels[0], target=CLASS).attribution
        theirs = peer.attribute(pixels.clone().requires_grad_(), target=CLASS).detach()[0]
        exact = f"to the rewritten net {_far(ours, right)}, Captum {_far(theirs, right)}"
        yield _row("guided backprop", name, "forward + backward", times, "ours", exact=exact, goal=1.05)


def grad_cam(bench: Bench) -> Iterator[Row]:
    """Grad-CAM at the layer that vizkit takes by itself."""
    from captum.attr import LayerAttribution, LayerGradCam

    import_torchvision()  # which the peers import, also beside a torch that it does not fit
    for name in bench.models:
        model = bench.load(name)
        pixels = bench.pixels(model)
        layer = str(vizkit.grad_cam(model.module, pixels[0]).provenance.layer)
        captum = LayerGradCam(model.module, model.module.get_submodule(layer))
        calls: dict[str, Callable[[], object]] = {
            "forward + backward": lambda m=model, p=pixels: bare(m.module, p),
            "ours": lambda m=model, p=pixels: vizkit.grad_cam(m.module, p[0], target=CLASS),
            "Captum": lambda c=captum, p=pixels: c.attribute(p, target=CLASS),
        }
        calls |= _other_cams(bench.load(name).module, layer, pixels)
        times = bench.times(calls)
        small = captum.attribute(pixels, target=CLASS, relu_attributions=True).detach()
        right = LayerAttribution.interpolate(small, tuple(pixels.shape[2:]), "bilinear")[0, 0]
        ours = vizkit.grad_cam(model.module, pixels[0], target=CLASS).values
        alike = float(torch.corrcoef(torch.stack([ours.flatten().cpu(), right.flatten().cpu()]))[0, 1])
        more = {"exact": f"correlation with Captum's {alike:.5f}"}
        yield _row("Grad-CAM", name, "forward + backward", times, "ours", **more, goal=0.55)
        if "pytorch-grad-cam" in calls:
            yield _row(
                "Grad-CAM, factor", name, "forward + backward", times, "ours", **more,
                goal=2.4, against="pytorch-grad-cam",
            )  # fmt: skip


def _other_cams(module: nn.Module, layer: str, pixels: torch.Tensor) -> dict[str, Callable[[], object]]:
    """The peers that are installed, as they are used: with the net's parameters as they come."""
    found: dict[str, Callable[[], object]] = {}
    with contextlib.suppress(ImportError):
        from torchcam.methods import GradCAM as TorchCam

        frozen = TorchCam(module, target_layer=module.get_submodule(layer))

        def torchcam() -> object:
            return frozen(CLASS, module(pixels.clone().requires_grad_()))

        found["torchcam"] = torchcam
    with contextlib.suppress(ImportError):
        from pytorch_grad_cam import GradCAM
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

        twin = _twin(module)
        cam = GradCAM(model=twin, target_layers=[twin.get_submodule(layer)])
        found["pytorch-grad-cam"] = lambda: cam(input_tensor=pixels, targets=[ClassifierOutputTarget(CLASS)])
    return found


def _twin(module: nn.Module) -> nn.Module:
    """A copy without the hooks of others, its parameters as a user has them."""
    import copy

    twin = copy.deepcopy(module)
    for part in twin.modules():
        part._forward_hooks.clear()
        part._backward_hooks.clear()
    return twin.requires_grad_(True)


def integrated_gradients(bench: Bench) -> Iterator[Row]:
    """50 steps; what is right is that the attributions sum to the difference of the scores."""
    from captum.attr import IntegratedGradients

    for name in bench.models[:3]:
        model = bench.load(name)
        pixels = bench.pixels(model)
        peer = IntegratedGradients(model.module)
        times = bench.times(
            {
                "50 gradients": lambda m=model, p=pixels: fifty(m.module, p),
                "ours": lambda m=model, p=pixels: vizkit.integrated_gradients(
                    m.module, p[0], target=CLASS, steps=50
                ),
                "Captum, batches of 10": lambda g=peer, p=pixels: g.attribute(
                    p, target=CLASS, n_steps=50, internal_batch_size=10
                ),
                "Captum as it comes": lambda g=peer, p=pixels: g.attribute(p, target=CLASS, n_steps=50),
            },
            max(3, bench.rounds // 3),
        )
        ours = vizkit.integrated_gradients(model.module, pixels[0], target=CLASS, steps=50).attribution
        theirs = peer.attribute(pixels, target=CLASS, n_steps=50).detach()
        with torch.no_grad():
            ends = [float(model.module(x)[0, CLASS]) for x in (pixels, torch.zeros_like(pixels))]
        whole = ends[0] - ends[1]
        gaps = [abs(float(a.double().sum()) / whole - 1) for a in (ours, theirs)]
        exact = f"sum off by {100 * gaps[0]:.1g} %, Captum {100 * gaps[1]:.1g} %"
        yield _row("integrated gradients", name, "50 gradients", times, "ours", exact=exact, goal=1.05)


# --- many passes ---


def occlusion(bench: Bench) -> Iterator[Row]:
    """Windows of 32 px every 16; times a position, beside Captum at its best batch size."""
    goals = {"vgg16": 5.0, "resnet18": 2.0, "resnet50": 2.0, "mobilenet_v2": 2.5, "efficientnet_lite0": 1.0}
    for name in bench.models:
        yield _occluded(bench, name, goals[name])


def _occluded(bench: Bench, name: str, goal: float) -> Row:
    from vizkit.incremental import Engine

    model = windows.build(name)
    size, window, stride = 224, 32, 16
    pixels = torch.rand(3, size, size, generator=torch.Generator().manual_seed(0))
    grid = windows.grid(size, window, stride)
    engine = Engine(model, (3, size, size))
    step, wide = stride, window
    while windows.positions(size, wide, step) > 36:  # Captum's time a position is always the same
        step += 1
        wide = max(wide, step)
    count = windows.positions(size, wide, step)
    calls: dict[str, Callable[[], object]] = {
        f"Captum, batches of {b}": lambda b=b, m=model, w=wide, s=step: windows.captum(m, pixels, w, s, b)
        for b in (1, 4, 16)
    }
    calls["ours"] = lambda m=model: vizkit.occlusion(m, pixels, target=0, window=window, stride=stride)
    times = bench.times(calls, max(3, bench.rounds // 3))
    positions = math.ceil((size - window) / stride + 1) ** 2
    own = tuple(t / positions for t in times.pop("ours"))
    best = min(times, key=lambda k: times[k][0])
    theirs = tuple(t / count for t in times[best])
    far = windows.gap(model, pixels, grid, windows.outputs(engine, pixels, grid))
    return Row(
        "occlusion, a position", name, best, theirs[0], theirs[1], own[0] / theirs[0], {"Captum": 1.0},
        f"logits to {far:.0e}", goal, "Captum",
    )  # fmt: skip


def painting(bench: Bench) -> Iterator[Row]:
    """A step of painting and of style transfer beside the bare passes to the deepest layer that is used."""
    from dataclasses import replace

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
        yield _row(f"a step of {title}", name, "forward + backward", times, "ours", goal=most)


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
        yield _row("scan", name, "folded forward, 8 pictures", times, "ours", goal=1.2)


def tsne(bench: Bench) -> Iterator[Row]:
    """2,000 points from 50 principal components, with the same divergence."""
    from sklearn.manifold import TSNE

    from tests.benchmarks.embed import features
    from vizkit.embedding.affinities import divergence
    from vizkit.embedding.reduction import COMPONENTS, components, has, ready, reduce

    points = ready(features(2000, None), "euclidean")
    start = components(points, COMPONENTS, 0)[0]
    found: dict[str, Any] = {}

    def theirs() -> None:
        model = TSNE(perplexity=30, init="pca", learning_rate="auto", random_state=0, n_jobs=1)
        found["scikit-learn"] = np.asarray(model.fit_transform(start.astype(np.float32)))

    def ours(engine: str) -> None:
        found[engine] = reduce(start, "tsne", perplexity=30, seed=0, engine=engine).positions

    calls = {"scikit-learn": theirs, "ours": lambda: ours("sklearn")}
    if has("openTSNE"):
        import openTSNE

        calls["openTSNE"] = lambda: found.update(
            openTSNE=np.asarray(openTSNE.TSNE(perplexity=30, random_state=0, n_jobs=1).fit(start))
        )
    times = bench.times(calls, 1)
    kl = {k: divergence(start, v, 30) for k, v in found.items()}
    exact = ", ".join(f"KL {'ours' if k == 'sklearn' else k} {v:.3f}" for k, v in kl.items())
    yield _row("t-SNE, 2,000 points", "", "scikit-learn", times, "ours", exact=exact, goal=1.05)


def startup(bench: Bench) -> Iterator[Row]:
    """Processes that need no net, beside one that imports click."""
    import resource

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
    times = {name: (statistics.median(t), _spread(t)) for name, t in seen.items()}
    for name in ("vizkit --help", "vizkit saliency --help", "a missing file"):
        part = {k: times[k] for k in ("import click", name)}
        yield _row(name, "", "import click", part, name, goal=2.0)
    part = {k: times[k] for k in ("import torch", "import vizkit and torch")}
    yield _row("import vizkit", "", "import torch", part, "import vizkit and torch", goal=1.1)


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
