"""Networks that make trouble: answered with finite numbers or refused with a reason, never left changed."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.nets import Apply


class Answer(NamedTuple):
    """An output of two parts."""

    logits: Tensor
    extra: Tensor


def body(*more: nn.Module, inplace: bool = True) -> nn.Sequential:
    """A small net; what is given comes before its end."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU(inplace), *more,
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5),
    )  # fmt: skip


def pair() -> tuple[nn.Module, nn.Module]:
    """A convolution and what answers."""
    return nn.Conv2d(3, 6, 3), nn.Linear(6, 5)


class Reused(nn.Module):
    """One ReLU three times, one convolution twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.conv = nn.Conv2d(3, 6, 3, 2, 1), nn.Conv2d(6, 6, 3, 1, 1)
        self.relu, self.fc = nn.ReLU(inplace=True), nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.first(x))
        x = self.relu(self.conv(x))
        return self.fc(self.relu(x + self.conv(x)).mean((2, 3)))


class Counting(nn.Module):
    """Keeps a counter in a buffer, and a growing list."""

    def __init__(self) -> None:
        super().__init__()
        self.body = body()
        self.register_buffer("calls", torch.zeros(()))
        self.seen: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.body(x)


class Raising(nn.Module):
    """Raises at the so-manyth call."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.body, self.left = body(), at

    def forward(self, x: Tensor) -> Tensor:
        self.left -= 1
        if self.left < 0:
            raise ValueError("no more\nof this")
        return self.body(x)


class Checkpointed(nn.Module):
    """Computes its middle again in the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.rest = nn.Conv2d(3, 6, 3, 2, 1), body()[1:]

    def forward(self, x: Tensor) -> Tensor:
        from torch.utils.checkpoint import checkpoint

        return checkpoint(self.rest, self.stem(x), use_reentrant=False)


def _shared() -> nn.Module:
    conv = nn.Conv2d(6, 6, 3, 1, 1)
    return body(conv, nn.ReLU(), conv)


def _frozen() -> nn.Module:
    return body().requires_grad_(False)


def _with_hooks() -> nn.Module:
    net = body()
    net[0].register_forward_hook(lambda _m, _i, output: output * 1.0)
    net[2].register_forward_pre_hook(lambda _m, given: given)
    return net


def _parametrized() -> nn.Module:
    net = body()
    nn.utils.parametrizations.weight_norm(net[0])
    nn.utils.parametrizations.spectral_norm(net[-1])
    return net


def _filled(value: float) -> nn.Module:
    net = body()
    nn.init.constant_(net[-1].weight, value)
    return net


def _of(function: Callable[..., Any], *layers: nn.Module) -> Callable[[], nn.Module]:
    return lambda: Apply(function, *(layers or (body(),)))


HOSTILE: dict[str, Callable[[], nn.Module]] = {
    "in-place ReLU": body,
    "functional ReLU": _of(lambda x, c, f: f(F.relu(c(x)).mean((2, 3))), *pair()),
    "clamp as ReLU": _of(lambda x, c, f: f(c(x).clamp(min=0).mean((2, 3))), *pair()),
    "reused layers": Reused,
    "shared weights": _shared,
    "SiLU": lambda: body(nn.SiLU()),
    "Hardswish in place": lambda: body(nn.Hardswish(inplace=True)),
    "dropout": lambda: body(nn.Dropout(0.5)),
    "group and instance norm": lambda: body(nn.GroupNorm(2, 6), nn.InstanceNorm2d(6)),
    "batch norm without statistics": lambda: body(nn.BatchNorm2d(6, track_running_stats=False)),
    "frozen parameters": _frozen,
    "hooks of its own": _with_hooks,
    "weight and spectral norm": _parametrized,
    "a counting buffer": Counting,
    "checkpointing": Checkpointed,
    "a dictionary": _of(lambda x, b: OrderedDict(out=b(x), aux=b(x) * 2)),
    "a list": _of(lambda x, b: [b(x), b(x)]),
    "a named tuple": _of(lambda x, b: Answer(b(x), b(x))),
    "a text": _of(lambda x, b: "an answer"),
    "nothing": _of(lambda x, b: None),
    "a map": _of(lambda x, c: c(x), nn.Conv2d(3, 5, 3)),
    "three dimensions": _of(lambda x, b: b(x)[:, None].expand(-1, 4, -1)),
    "integers": _of(lambda x, b: b(x).argmax(1)),
    "no batch": _of(lambda x, b: b(x)[0]),
    "detached": _of(lambda x, b: b(x).detach()),
    "without gradient": _of(lambda x, b: torch.no_grad()(b)(x)),
    "NaN": _of(lambda x, b: b(x) * float("nan")),
    "infinite": _of(lambda x, b: b(x) / 0),
    "NaN weights": lambda: _filled(float("nan")),
    "zero weights": lambda: _filled(0.0),
    "one class": _of(lambda x, b: b(x)[:, :1]),
    "a constant": _of(lambda x, b: torch.ones(len(x), 5)),
    "writes to its input": _of(lambda x, b: b(x.mul_(2))),
    "random numbers": _of(lambda x, b: b(x + torch.randn_like(x))),
    "one channel": lambda: nn.Sequential(nn.Conv2d(1, 6, 3), *body()[3:]),
    "no convolution": lambda: nn.Sequential(nn.Flatten(), nn.LazyLinear(5)),
    "a fixed size": lambda: nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(2 * 22 * 22, 5)),
    "another fixed size": lambda: nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(77, 5)),
    "no layer at all": nn.Identity,
    "double precision": lambda: body().double(),
    "half precision": lambda: body().half(),
    "raises": lambda: Raising(0),
    "raises later": lambda: Raising(3),
    "training mode": lambda: body().train(),
}  # fmt: skip
