"""Every torchvision classification model x saliency: a finite map or a reason, and nothing left behind.

    python -m tests.benchmarks.sweep [--giants] [--only resnet18 vgg11 ...]

Random weights, the smallest of 32, 64, 96, 128, 224, 299 px that the net accepts. The giants above
250 M parameters (vit_h_14, vit_l_16, vit_l_32, regnet_y_128gf) run with --giants only.
"""

import argparse
import gc
import hashlib
import sys
import time
from collections.abc import Iterator

import torch
from torch import nn

import vizkit
from tests.benchmarks.common import machine, table
from vizkit.errors import VizkitError
from vizkit.zoo.torchvision_models import models, names

SIZES = (32, 64, 96, 128, 224, 299)
GIANT = 250_000_000


def state(module: nn.Module) -> dict[str, object]:
    """Hooks, modes, flags, gradients, buffers and the bytes of all tensors."""
    return {
        "hooks": [[*m._forward_hooks, *m._forward_pre_hooks, *m._backward_hooks] for m in module.modules()],
        "modes": [m.training for m in module.modules()],
        "flags": [p.requires_grad for p in module.parameters()],
        "grads": [p.grad for p in module.parameters()],
        "objects": [id(t) for t in _tensors(module)],
        "bytes": hashlib.sha256(b"".join(_digest(t) for t in _tensors(module))).hexdigest(),
    }


def _tensors(module: nn.Module) -> Iterator[torch.Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def _digest(tensor: torch.Tensor) -> bytes:
    return hashlib.sha256(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy()).digest()


def wake(module: nn.Module) -> None:
    """Small random numbers for matrices that are initialised to zero (the head of vision transformers)."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim > 1 and not bool(parameter.any()):
                parameter.normal_(std=0.02)


def smallest(module: nn.Module) -> int | None:
    """The first of `SIZES` that the net accepts."""
    module.eval()
    for size in SIZES:
        try:
            with torch.no_grad():
                module(torch.zeros(1, 3, size, size))
        except (RuntimeError, ValueError, AssertionError):
            continue
        return size
    return None


def row(name: str, giants: bool) -> list[str]:
    """One model's line."""
    count = models().get_model_weights(name).DEFAULT.meta["num_params"]
    head = [name, f"{count / 1e6:.1f} M"]
    if count > GIANT and not giants:
        return [*head, "", "", "left to --giants", ""]
    module = vizkit.load_model(name, random_weights=True, device="cpu").module
    wake(module)
    size = smallest(module)
    module.train()  # the state that a user's net may be in
    before = state(module)
    start = time.perf_counter()
    try:
        result = vizkit.saliency(module, torch.rand(3, size, size))
        values = result.values
        said = "finite" if bool(torch.isfinite(values).all()) and bool(values.any()) else "ZERO OR NAN"
    except VizkitError as error:
        said = f"refused: {error}"
    seconds = time.perf_counter() - start
    kept = [key for key, value in state(module).items() if value != before[key]]
    return [*head, str(size), f"{seconds:.2f}", said, "same" if not kept else f"CHANGED: {kept}"]


def main() -> None:
    """Print the table; exit with 1 if anything was left behind or not finite."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--giants", action="store_true")
    parser.add_argument("--only", nargs="*")
    arguments = parser.parse_args()
    print(machine())
    rows = []
    for name in arguments.only or names():
        rows.append(row(name, arguments.giants))
        print("  ".join(rows[-1]), file=sys.stderr)
        gc.collect()
    print(table(["model", "parameters", "px", "seconds", "map", "before and after"], rows))
    bad = [r[0] for r in rows if "CHANGED" in r[5] or "ZERO" in r[4]]
    print(f"{len(rows)} models, {sum(r[4] == 'finite' for r in rows)} finite, bad: {bad or 'none'}")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
