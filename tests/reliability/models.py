"""Part D: methods x models. Every torchvision classification model, hostile modules, injected exceptions.

Each call gives finite numbers or a reason, and leaves the module as it was: hooks, modes, flags, gradients,
buffers, weights byte for byte.
"""

import gc
import hashlib
from collections import Counter
from collections.abc import Iterator
from typing import get_args

import torch
from torch import nn

import vizkit
from tests.reliability.campaign import Part, Tally, Trial
from tests.reliability.hostile import HOSTILE
from vizkit.cams import Variant
from vizkit.errors import VizkitError
from vizkit.evaluation.checking import FailingAt
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
    both = (*module.parameters(), *module.buffers())
    yield from (t for t in both if not torch.nn.parameter.is_lazy(t))


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


def judge(title: str, module: nn.Module, size: int, channels: int, tally: Tally) -> Counter[str]:
    """Every call on the module, then whether it is what it was; what the calls ended in."""
    before = state(module)
    pixels = torch.rand(channels, size, size, generator=torch.Generator().manual_seed(0))
    kept_pixels = pixels.clone()
    kinds: Counter[str] = Counter()
    for method, options in specs(size):
        tally.inputs += 1
        said = outcome(method, options, module, pixels)
        kinds[said.partition(":")[0]] += 1
        if said.startswith("FAILS"):
            tally.problem("tracebacks", f"{title}, {method}: {said}")
        elif said == "NOT FINITE" or "\n" in said:
            tally.problem("", f"{title}, {method}: {said}")
        if not torch.equal(pixels, kept_pixels):
            tally.problem("lost", f"{title}, {method}: the picture was written to")
            pixels = kept_pixels.clone()
    for key, value in state(module).items():
        if value != before[key]:
            tally.problem("lost", f"{title}: {key} of the module has changed")
    tally.endings.update(kinds)
    return kinds


SMALL = ("resnet18", "mobilenet_v2", "squeezenet1_1", "shufflenet_v2_x0_5", "mnasnet0_5")


def torchvision_models(trial: Trial, tally: Tally) -> None:
    """The models of torchvision with random weights; those of more than 250 M parameters last."""
    sizes = {n: models().get_model_weights(n).DEFAULT.meta["num_params"] for n in names()}
    known = sorted(sizes, key=sizes.__getitem__)
    known = [n for n in known if trial.size == "release" or sizes[n] < GIANT]
    chosen = list(SMALL) if trial.size == "ci" else known
    for name in chosen:
        module = vizkit.load_model(name, random_weights=True, device="cpu").module
        wake(module)
        size = smallest(module)
        module.train()  # the state that a user's net may be in
        if size is None:
            tally.problem("", f"{name}: takes no size")
        else:
            judge(name, module, size, 3, tally)
        del module
        gc.collect()
    tally.notes.append(f"{len(chosen)} models, {len(specs(64))} calls each")


def hostile(trial: Trial, tally: Tally) -> None:
    """Modules that make trouble."""
    for title, make in HOSTILE.items():
        torch.manual_seed(0)
        module = make()
        channels = 1 if title == "one channel" else 3
        kinds = judge(title, module, 24, channels, tally)
        if not kinds["finite"] + kinds["zero"] + kinds["refused"]:
            tally.problem("", f"{title}: neither an answer nor a reason")
    tally.notes.append(f"{len(HOSTILE)} modules, {len(specs(24))} calls each")


def exceptions(trial: Trial, tally: Tally) -> None:
    """An exception instead of the first, second, ... operator of every call: nothing may be left behind."""
    torch.manual_seed(0)
    module = HOSTILE["reused layers"]().train()
    pixels = torch.rand(3, 24, 24, generator=torch.Generator().manual_seed(0))
    for method, options in specs(24):
        for number in range(trial.count(5, 50, 50)):
            before = state(module)
            failing = FailingAt(number)
            with failing:
                said = outcome(method, options, module, pixels)
            tally.faults += failing.thrown
            title = f"{method} {options}, exception at operator {number}"
            changed = [key for key, value in state(module).items() if value != before[key]]
            if changed:
                tally.problem("lost", f"{title}: {changed} changed")
            if not torch.is_grad_enabled() or torch.is_inference_mode_enabled():
                tally.problem("lost", f"{title}: gradients are off")
                torch.set_grad_enabled(True)
            if not failing.thrown:
                break
            tally.endings[said.split(":")[0]] += 1


PARTS = (
    Part("models", "techniques x models of torchvision", torchvision_models),
    Part("hostile modules", "techniques x modules that make trouble", hostile),
    Part("exceptions", "an exception instead of an operator, techniques x operators", exceptions),
)
