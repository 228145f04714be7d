"""Gradient techniques against the bare limit and the peers, on the same module in one process.

    python -m tests.benchmarks.explain [--rounds 9] [--models resnet18 vgg16 ...] [--ig-rounds 3]

Limits: guided backprop: forward + backward to the input with frozen weights. Grad-CAM: the same (the goal is
a share of it). Integrated gradients: 50 gradients in batches of 10. Peers at their best settings: Captum
with frozen weights (integrated gradients with internal batches of 10), pytorch-grad-cam as it is used.
"""

import argparse
import warnings
from collections.abc import Callable

import torch
from captum.attr import GuidedBackprop, IntegratedGradients, LayerGradCam

import vizkit
from tests.benchmarks.common import machine, medians, table
from vizkit.zoo.torchvision_models import import_torchvision

CLASS = 3


def bare(module: torch.nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    """The gradient of one logit to the input, nothing else."""
    leaf = pixels.clone().requires_grad_()
    return torch.autograd.grad(module(leaf)[:, CLASS].sum(), leaf)[0]


def fifty(module: torch.nn.Module, pixels: torch.Tensor) -> None:
    """50 gradients in batches of 10."""
    for _ in range(5):
        bare(module, pixels.expand(10, -1, -1, -1))


def peer_grad_cam(module: torch.nn.Module, layer: str, pixels: torch.Tensor) -> Callable[[], object] | None:
    """pytorch-grad-cam's Grad-CAM, None where it is not installed."""
    import_torchvision()  # which the peer imports, also beside a torch that it does not fit
    try:
        from pytorch_grad_cam import GradCAM
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
    except ImportError:
        return None
    cam = GradCAM(model=module, target_layers=[module.get_submodule(layer)])
    return lambda: cam(input_tensor=pixels, targets=[ClassifierOutputTarget(CLASS)])


def rows(name: str, rounds: int, ig_rounds: int) -> list[list[str]]:
    """One model's lines: technique, time of the limit, ratios of vizkit and of the peers."""
    own = name.startswith("efficientnet_lite")
    model = vizkit.load_model(name, random_weights=not own, device="cpu")
    module = model.module.requires_grad_(False)
    pixels = torch.rand(1, *model.input_shape, generator=torch.Generator().manual_seed(0))
    image = pixels[0]
    layer = vizkit.grad_cam(module, image).provenance.layer
    guided, cam, ig = GuidedBackprop(module), LayerGradCam(module, module.get_submodule(layer)), None
    calls = {
        "bare": lambda: bare(module, pixels),
        "guided": lambda: vizkit.guided_backprop(module, image, target=CLASS),
        "guided, Captum": lambda: guided.attribute(pixels.clone().requires_grad_(), target=CLASS),
        "cam": lambda: vizkit.grad_cam(module, image, target=CLASS),
        "cam, Captum": lambda: cam.attribute(pixels, target=CLASS),
    }
    times = medians(calls, rounds=rounds)
    peer = peer_grad_cam(vizkit.load_model(name, random_weights=True, device="cpu").module, layer, pixels)
    if peer is not None:
        times |= medians({"cam, pytorch-grad-cam": peer}, rounds=max(3, rounds // 2))
    ig = IntegratedGradients(module)
    slow = {
        "fifty": lambda: fifty(module, pixels),
        "ig": lambda: vizkit.integrated_gradients(module, image, target=CLASS, steps=50),
        "ig, Captum": lambda: ig.attribute(pixels, target=CLASS, n_steps=50, internal_batch_size=10),
        "ig, Captum as it comes": lambda: ig.attribute(pixels, target=CLASS, n_steps=50),
    }
    if name == "vgg16":
        slow.pop("ig, Captum as it comes")
    times |= medians(slow, rounds=ig_rounds, warmup=1) if ig_rounds else {}

    def line(title: str, limit: str, keys: list[str]) -> list[str]:
        below = times[limit][0]
        ratios = [f"{times[k][0] / below:.3f}" if k in times else "" for k in keys]
        return [name, title, f"{1e3 * below:.0f} ± {1e3 * times[limit][1]:.0f}", *ratios]

    lines = [
        line("guided backprop / fwd+bwd", "bare", ["guided", "guided, Captum", ""]),
        line("Grad-CAM / fwd+bwd", "bare", ["cam", "cam, Captum", "cam, pytorch-grad-cam"]),
    ]
    if ig_rounds:
        keys = ["ig", "ig, Captum", "ig, Captum as it comes"]
        lines.append(line("integrated gradients / 50 gradients", "fifty", keys))
    return lines


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--ig-rounds", type=int, default=3, help="0 leaves them out")
    parser.add_argument(
        "--models", nargs="+", default=["efficientnet_lite0", "resnet18", "resnet50", "vgg16"]
    )
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")  # Captum warns of its hooks in every call
    torch.set_num_threads(1)
    print(machine())
    lines = [line for name in arguments.models for line in rows(name, arguments.rounds, arguments.ig_rounds)]
    head = ["model, 1 x 224 px", "technique / limit", "limit, ms", "vizkit", "Captum", "another"]
    print(table(head, lines))


if __name__ == "__main__":
    main()
