"""Every torchvision classification model x every technique: a map or a reason, and nothing left behind.

    python -m tests.benchmarks.sweep [--giants] [--only resnet18 vgg11 ...]

Random weights, the smallest of 32, 64, 96, 128, 224, 299 px that the net accepts. The giants above
250 M parameters (vit_h_14, vit_l_16, vit_l_32, regnet_y_128gf) run with --giants only.
"""

import argparse
import gc
import hashlib
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import get_args

import torch
from torch import nn

import vizkit
from tests.benchmarks.common import machine, table
from vizkit.cams import Variant
from vizkit.errors import VizkitError
from vizkit.registry import all_methods
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


def specs(size: int) -> list[tuple[str, dict[str, object]]]:
    """Every technique once with cheap options (2 steps, 8 masks, 4 positions), every kind of map."""
    variants = get_args(Variant)
    half = -(-size // 2)
    return [
        ("saliency", {}),
        ("saliency", {"samples": 2, "average": "vargrad"}),
        ("guided_backprop", {}),
        ("deconvnet", {}),
        ("integrated_gradients", {"steps": 2}),
        *(("grad_cam", {"variant": v, "channels": 2, "signed": True}) for v in variants),
        ("guided_grad_cam", {}),
        ("occlusion", {"window": half, "stride": half}),
        ("occlusion", {"shape": "superpixels", "pieces": 4}),
        ("rise", {"masks": 8}),
        ("segment", {"method": "saliency:samples=2"}),
        ("compare", {"methods": "saliency,grad_cam"}),
        ("sanity_check", {"methods": "saliency", "stages": 2}),
    ]


def outcome(name: str, options: dict[str, object], module: nn.Module, pixels: torch.Tensor) -> str:
    """ "finite", "zero", "refused: why" or what went wrong."""
    try:
        values = all_methods()[name].function(module, pixels, target=0, **options).values.float()
    except VizkitError as error:
        return f"refused: {error}"
    except Exception as error:  # noqa: BLE001 - that is what is looked for
        return f"FAILS: {type(error).__name__}: {error}"
    if not bool(torch.isfinite(values).all()):
        return "NOT FINITE"
    return "finite" if bool(values.any()) else "zero"


def row(name: str, giants: bool) -> tuple[list[str], list[str]]:
    """One model's line, and what is to be said of it."""
    count = models().get_model_weights(name).DEFAULT.meta["num_params"]
    head = [name, f"{count / 1e6:.1f} M"]
    if count > GIANT and not giants:
        return [*head, "", "", "", "", "", "left to --giants"], []
    module = vizkit.load_model(name, random_weights=True, device="cpu").module
    wake(module)
    size = smallest(module)
    module.train()  # the state that a user's net may be in
    before = state(module)
    pixels = torch.rand(3, size, size, generator=torch.Generator().manual_seed(0))
    start, said = time.perf_counter(), {}
    for method, options in specs(size):
        chosen = options.get("variant") or options.get("average") or options.get("shape") or ""
        said[f"{method} {chosen}".strip()] = outcome(method, options, module, pixels)
    seconds = time.perf_counter() - start
    kept = [key for key, value in state(module).items() if value != before[key]]
    kinds = [sum(v.startswith(k) for v in said.values()) for k in ("finite", "zero", "refused")]
    notes = [f"{name}: {k}: {v}" for k, v in said.items() if v not in ("finite", "zero")]
    same = "same" if not kept else f"CHANGED: {kept}"
    return [*head, str(size), f"{seconds:.1f}", *map(str, kinds), same], notes


def main() -> None:
    """Print the table; exit with 1 if anything failed, was left behind or was not finite."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--giants", action="store_true")
    parser.add_argument("--only", nargs="*")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(machine())
    rows, notes = [], []
    for name in arguments.only or names():
        line, said = row(name, arguments.giants)
        rows.append(line)
        notes += said
        print("  ".join(line), *said, sep="\n    ", file=sys.stderr, flush=True)
        gc.collect()
    head = ["model", "parameters", "px", "seconds", "finite", "zero", "refused", "before and after"]
    print(table(head, rows))
    reasons = Counter(note.partition(": ")[2] for note in notes)
    print("\n".join(f"{count} x {reason}" for reason, count in reasons.most_common()))
    bad = [r[0] for r in rows if "CHANGED" in r[7]] + [n for n in notes if "FAILS" in n or "NOT FIN" in n]
    print(f"{len(rows)} models, {len(specs(64))} calls each, bad: {bad or 'none'}")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
