"""Beginning with a trained net: a new last layer, parts that are frozen, thaw one by one, or learn slowly."""

from collections.abc import Iterator

from torch import nn

from vizkit.errors import ModelError

PARTS = 4
"""The net below its last layer, in so many parts of about equally many modules."""


def last_layer(module: nn.Module) -> tuple[str, nn.Linear | nn.Conv2d]:
    """The name and module of the classifier: the last linear layer, else the last convolution.

    Raises `ModelError` for a net without either.
    """
    for kind in (nn.Linear, nn.Conv2d):
        found = [(name, m) for name, m in module.named_modules() if isinstance(m, kind)]
        if found:
            return found[-1]
    raise ModelError("the net has no linear layer and no convolution that could get new classes")


def new_head(module: nn.Module, classes: int) -> nn.Module:
    """The module with a new last layer for so many classes: zero bias, torch's own initial weights."""
    name, old = last_layer(module)
    new: nn.Module
    if isinstance(old, nn.Linear):
        new = nn.Linear(old.in_features, classes, bias=True)
    else:
        new = nn.Conv2d(old.in_channels, classes, old.kernel_size, old.stride, old.padding)  # type: ignore[arg-type]
    nn.init.zeros_(new.bias)  # type: ignore[arg-type]
    if not name:
        return new
    parent, _, own = name.rpartition(".")
    setattr(module.get_submodule(parent), own, new)
    return module


def parts_of(module: nn.Module) -> list[list[nn.Module]]:
    """The module in parts from the picture to the scores, the last being the last layer alone.

    Containers are opened; what stands in them is dealt out in order, as evenly as it goes.
    """
    _, head = last_layer(module)
    body = [m for m in _pieces(module, head) if m is not head and any(True for _ in m.parameters())]
    each = max(1, -(-len(body) // PARTS))
    parts = [body[k : k + each] for k in range(0, len(body), each)]
    return [*parts, [head]]


def _pieces(module: nn.Module, head: nn.Module) -> Iterator[nn.Module]:
    """Modules in the order of their definition: containers, and what holds the last layer, are opened."""
    for child in module.children():
        opened = isinstance(child, nn.Sequential | nn.ModuleList) or any(m is head for m in child.modules())
        if child is not head and opened:
            yield from _pieces(child, head)
        else:
            yield child


def rate_shares(module: nn.Module, deeper: float) -> dict[nn.Parameter, float]:
    """Each parameter's share of the rate: 1 for the last layer, else `deeper` to the power of its depth."""
    shares = {}
    for depth, part in enumerate(reversed(parts_of(module))):
        for piece in part:
            for parameter in piece.parameters():
                shares[parameter] = deeper**depth
    return shares


def frozen_parts(thaw: str, progress: float) -> int:
    """How many parts from the picture on do not learn at this share of the run.

    "head": all but the last layer. "gradual": all of them at first, one less after each tenth, none from
    four tenths on.
    """
    if thaw == "head":
        return PARTS
    if thaw == "gradual":
        return max(0, PARTS - int(progress * 10 + 1e-9))
    return 0


def keep_norms(module: nn.Module) -> None:
    """Batch normalisations go on with their running means and variances; their weights may still learn."""
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.eval()


def freeze(module: nn.Module, count: int) -> None:
    """Take the first `count` parts from learning: no gradients, and normalisations that stay as they are."""
    parts = parts_of(module)
    for number, part in enumerate(parts):
        learns = number >= min(count, len(parts) - 1)
        for piece in part:
            piece.requires_grad_(learns)
            if not learns:
                piece.eval()
