"""Activation functions and their gradients, by autograd."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from vizkit.plots import Look, dress

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ASPECT = 0.62

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "ReLU": F.relu,
    "leaky ReLU (0.1)": lambda x: F.leaky_relu(x, 0.1),
    "ELU": F.elu,
    "GELU": F.gelu,
    "SiLU (swish)": F.silu,
    "maxout of x / 2 and -x - 1": lambda x: torch.maximum(x / 2, -x - 1),
}
"""Names and functions; leaky ReLU with a steeper slope than its usual 0.01, so that it is seen."""


def curves(name: str, points: int = 401) -> tuple[Tensor, Tensor, Tensor]:
    """x in [-4, 4], the function's values and its derivative."""
    x = torch.linspace(-4, 4, points, dtype=torch.float64, requires_grad=True)
    y = FUNCTIONS[name](x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    return x.detach(), y.detach(), slope


def drawn(figure: "Figure", look: Look) -> None:
    """A panel a function."""
    for k, name in enumerate(FUNCTIONS):
        x, y, slope = curves(name)
        axes = figure.add_subplot(2, 4, k + 1)
        axes.axhline(0, color=look.soft, linewidth=0.6)
        axes.axvline(0, color=look.soft, linewidth=0.6)
        flat = (slope.abs() < 0.05).numpy()
        axes.fill_between(x, -2, 4, where=flat, color=look.series[1], alpha=0.10, linewidth=0)
        axes.plot(x, y, color=look.series[0], linewidth=2)
        axes.plot(x, slope, color=look.series[1], linewidth=1.4, linestyle="--")
        axes.set_ylim(-1.6, 3.2)
        axes.set_xlim(-4, 4)
        dress(axes, look, title=name)
    words = "solid: the function   dashed: its gradient   shaded: gradient below 0.05, where learning stops"
    figure.text(0.02, 0.015, words, color=look.soft, fontsize=9)
    figure.tight_layout(rect=(0, 0.04, 1, 1))
