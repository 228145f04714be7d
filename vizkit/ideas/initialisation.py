"""Initialisation against depth: deviations of activations and of gradients, layer by layer."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vizkit.plots import Look, dress, legend
from vizkit.training.initialisers import INITIALISERS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ASPECT = 0.62
DEPTH, WIDTH, BATCH = 30, 256, 256

SHOWN = {"small": "0.01 randn", "torch": "torch's own", "xavier": "Xavier", "he": "He", "large": "He x 1.5"}


def spreads(initialiser: str, activation: str, seed: int = 0) -> tuple[list[float], list[float]]:
    """Deviations of the activations (forward) and of the loss's gradients to them (backward), for each layer.

    A net of `DEPTH` layers of `WIDTH` units on a batch of standard normal inputs; the loss is a random sum of
    the outputs.
    """
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(BATCH, WIDTH, generator=generator)
    outputs: list[Tensor] = []
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for _ in range(DEPTH):
            weight = torch.empty(WIDTH, WIDTH)
            INITIALISERS["he" if initialiser == "large" else initialiser](weight)
            weight = weight * 1.5 if initialiser == "large" else weight
            x = x @ weight.T
            x = torch.relu(x) if activation == "ReLU" else torch.tanh(x)
            x.requires_grad_() if not x.requires_grad else x.retain_grad()
            outputs.append(x)
    (outputs[-1] * torch.randn(outputs[-1].shape, generator=generator)).sum().backward()  # type: ignore[no-untyped-call]
    forward = [float(o.detach().std()) for o in outputs]
    backward = [float(o.grad.std()) if o.grad is not None else 0.0 for o in outputs]
    return forward, backward


def drawn(figure: "Figure", look: Look) -> None:
    """Forward above, backward below; tanh on the left, ReLU on the right."""
    for column, activation in enumerate(("tanh", "ReLU")):
        for row in range(2):
            axes = figure.add_subplot(2, 2, 2 * row + column + 1)
            for k, (name, words) in enumerate(SHOWN.items()):
                values = spreads(name, activation)[row]
                shown = [v if v > 0 else float("nan") for v in values]
                axes.plot(range(1, DEPTH + 1), shown, color=look.series[k], linewidth=1.6, label=words)
            axes.set_yscale("log")
            axes.set_ylim(1e-8, 1e6)
            what = "activations" if row == 0 else "gradients to the activations"
            dress(axes, look, title=f"{what}, {activation}", x="layer", y="standard deviation")
            if row == 0 and column == 0:
                legend(axes, look, loc="upper left", ncol=2)
    figure.tight_layout()
