"""Dropout against DropConnect: what is dropped, and what stands in for the mean at test time."""

import itertools
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vizkit.nets.layers import DropConnect
from vizkit.plots import Look, dress, legend

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ASPECT = 0.62
SIZES = (5, 6, 4)
DROP = 0.5


def masks(kind: str, seed: int = 1) -> tuple[list[Tensor], list[Tensor]]:
    """Which units of each layer, and which weights between them (out, in), are there in one step."""
    generator = torch.Generator().manual_seed(seed)
    units = [torch.ones(n, dtype=torch.bool) for n in SIZES]
    weights = [torch.ones(b, a, dtype=torch.bool) for a, b in itertools.pairwise(SIZES)]
    if kind == "dropout":
        units[1] = torch.rand(SIZES[1], generator=generator) >= DROP
        weights = [weights[0] & units[1][:, None], weights[1] & units[1]]
    if kind == "DropConnect":
        weights = [torch.rand(w.shape, generator=generator) >= DROP for w in weights]
    return units, weights


def outputs_at_test(draws: int = 4000, seed: int = 1) -> dict[str, Tensor]:
    """Of 12 units behind a ReLU on one input: the mean over many random masks, and the rules that stand in.

    "sampled": the mean; "moments": DropConnect's rule, the ReLU's mean over a normal distribution with the
    sum's mean and variance; "scaled": dropout's rule, weights times the share that is kept.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layer = DropConnect(40, 12, DROP)
        x = torch.randn(1, 40)
        with torch.no_grad():
            layer.weight.mul_(3)
            layer.train()
            sampled = layer(x.expand(draws, -1)).mean(0)
            layer.eval()
            moments = layer(x)[0]
            scaled = torch.relu((1 - DROP) * torch.nn.functional.linear(x, layer.weight, layer.bias))[0]
    return {"sampled": sampled, "moments": moments, "scaled": scaled}


def drawn(figure: "Figure", look: Look) -> None:
    """Three nets above; below, rules against what many masks give."""
    grid = figure.add_gridspec(2, 3, height_ratios=(1.25, 1))
    for k, kind in enumerate(("all of it", "dropout", "DropConnect")):
        _net(figure.add_subplot(grid[0, k]), kind, look)
    found = {name: values.numpy() for name, values in outputs_at_test().items()}
    order = found["sampled"].argsort()
    axes = figure.add_subplot(grid[1, :])
    places = range(len(order))
    axes.bar(
        places, found["sampled"][order], color=look.soft, alpha=0.35, label="mean over 4,000 random masks"
    )
    axes.plot(places, found["moments"][order], "o", color=look.series[0], label="DropConnect's rule: moments")
    axes.plot(
        places, found["scaled"][order], "x", color=look.series[1], label="weights scaled, as for dropout"
    )
    dress(axes, look, title="at test time: the output of 12 ReLU units", x="unit")
    axes.set_xticks([])
    legend(axes, look, loc="upper left")
    figure.tight_layout()


def _net(axes: "Axes", kind: str, look: Look) -> None:
    units, weights = masks(kind)
    places = [[(layer, (k + 0.5) / count) for k in range(count)] for layer, count in enumerate(SIZES)]
    for layer, kept in enumerate(weights):
        for b in range(SIZES[layer + 1]):
            for a in range(SIZES[layer]):
                (x0, y0), (x1, y1) = places[layer][a], places[layer + 1][b]
                there = bool(kept[b, a])
                ink, alpha = (look.series[0], 0.7) if there else (look.soft, 0.12)
                axes.plot(
                    [x0, x1], [y0, y1], color=ink, alpha=alpha, linewidth=1.1 if there else 0.7, zorder=1
                )
    for layer, kept in enumerate(units):
        for k, (x, y) in enumerate(places[layer]):
            there = bool(kept[k])
            face = look.series[0] if there else look.page
            axes.scatter(
                [x], [y], s=150, color=face, edgecolors=look.series[0] if there else look.soft, zorder=2
            )
            if not there:
                axes.scatter([x], [y], s=60, marker="x", color=look.series[1], zorder=3)
    axes.axis("off")
    axes.set_title(kind, color=look.ink, fontsize=11)
