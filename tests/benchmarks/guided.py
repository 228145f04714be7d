"""Guided backprop and the deconvnet: distance to nets that were rewritten ReLU by ReLU, ours and Captum's.

    python -m tests.benchmarks.guided [--models resnet18 googlenet ...]

Relative L2 distance of the gradient of a logit to the pixels; 0 is right. "plain" is the distance of the
gradient without any rule, which is what a method gives that sees no ReLU.
"""

import argparse
import warnings

import torch
from captum.attr import Deconvolution, GuidedBackprop

import vizkit
from tests.benchmarks.common import machine, table
from tests.rewrite import class_gradient, lively, rewritten

MODELS = (
    *("resnet18", "vgg11_bn", "googlenet", "inception_v3", "densenet121", "mobilenet_v2", "squeezenet1_1"),
    *("alexnet", "shufflenet_v2_x1_0", "efficientnet_lite0"),
)
PEERS = {"guided": GuidedBackprop, "deconvnet": Deconvolution}
OURS = {"guided": vizkit.guided_backprop, "deconvnet": vizkit.deconvnet}


def gap(found: torch.Tensor, right: torch.Tensor) -> str:
    """Relative L2 distance."""
    return f"{float((found - right).norm() / right.norm()):.1e}"


def row(name: str) -> list[str]:
    """One model's line."""
    own = name.startswith("efficientnet_lite")
    module = vizkit.load_model(name, random_weights=not own, device="cpu").module.double().eval()
    module = module if own else lively(module)
    size = 96 if name == "inception_v3" else 64
    pixels = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(2))
    cells, count = [name], 0
    for rule, peer in PEERS.items():
        explicit, count = rewritten(module, rule)
        right = class_gradient(explicit, pixels.double(), 3)[0]
        ours = OURS[rule](module, pixels[0], target=3).attribution
        theirs = peer(module).attribute(pixels.double().requires_grad_(), target=3).detach()[0]
        plain = class_gradient(module, pixels.double(), 3)[0]
        cells += [gap(ours, right), gap(theirs, right), gap(plain, right)]
    return [cells[0], str(count), *cells[1:]]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", default=MODELS)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    print(machine())
    names = ["guided: vizkit", "Captum", "plain", "deconvnet: vizkit", "Captum", "plain"]
    print(table(["model", "ReLUs", *names], [row(name) for name in arguments.models]))


if __name__ == "__main__":
    main()
