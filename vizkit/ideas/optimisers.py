"""Paths of torch's optimisers on two surfaces."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from vizkit.plots import Look, dress, legend
from vizkit.training.descent import OPTIMISERS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ASPECT = 0.5

RATES = {
    "bowl": {"sgd": 0.045, "momentum": 0.02, "nesterov": 0.02, "adagrad": 0.8, "rmsprop": 0.05, "adam": 0.15},
    "saddle": {
        "sgd": 0.05,
        "momentum": 0.02,
        "nesterov": 0.02,
        "adagrad": 0.25,
        "rmsprop": 0.03,
        "adam": 0.08,
    },
}
"""Near the best that each can do there by itself."""

STARTS = {"bowl": (-9.0, 2.4), "saddle": (-2.2, 0.01)}
STEPS = 60


def bowl(p: Tensor) -> Tensor:
    """(x^2 + 40 y^2) / 2: curvatures that differ by 40."""
    return (p[..., 0] ** 2 + 40 * p[..., 1] ** 2) / 2


def saddle(p: Tensor) -> Tensor:
    """x^2 - y^2 + y^4 / 4: flat at the origin, falling to both sides, least at y = sqrt 2."""
    return p[..., 0] ** 2 - p[..., 1] ** 2 + p[..., 1] ** 4 / 4


SURFACES: dict[str, Callable[[Tensor], Tensor]] = {"bowl": bowl, "saddle": saddle}


def path(surface: str, name: str, steps: int = STEPS) -> Tensor:
    """(steps + 1, 2) where the optimiser stands after each step."""
    kind, usual = OPTIMISERS[name]
    place = torch.tensor(STARTS[surface], dtype=torch.float64, requires_grad=True)
    optimiser = kind([place], lr=RATES[surface][name], **usual)  # type: ignore[call-arg]
    found = [place.detach().clone()]
    for _ in range(steps):
        optimiser.zero_grad()
        SURFACES[surface](place).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        found.append(place.detach().clone())
    return torch.stack(found)


def drawn(figure: "Figure", look: Look) -> None:
    """The bowl on the left, the saddle on the right."""
    titles = {
        "bowl": "a bowl 40 times as steep across as along",
        "saddle": "a saddle, from 0.01 beside its ridge",
    }
    spans = {"bowl": ((-10, 4), (-3.2, 3.2)), "saddle": ((-2.6, 2.2), (-1.2, 2.4))}
    for k, surface in enumerate(SURFACES):
        axes = figure.add_subplot(1, 2, k + 1)
        (left, right), (low, high) = spans[surface]
        xs, ys = torch.meshgrid(
            torch.linspace(left, right, 300), torch.linspace(low, high, 300), indexing="xy"
        )
        heights = SURFACES[surface](torch.stack([xs, ys], -1)).numpy()
        levels = np.quantile(heights, np.linspace(0.002, 0.98, 22))
        axes.contour(
            xs, ys, heights, levels=np.unique(levels), colors=[look.soft], alpha=0.35, linewidths=0.7
        )
        for number, name in enumerate(RATES[surface]):
            places = path(surface, name)
            axes.plot(
                places[:, 0],
                places[:, 1],
                color=look.series[number],
                linewidth=1.6,
                label=name,
                marker="o",
                ms=2,
            )
        axes.plot(*STARTS[surface], marker="o", ms=7, color=look.ink)
        axes.set_xlim(left, right)
        axes.set_ylim(low, high)
        dress(axes, look, title=titles[surface], grid=False)
        legend(axes, look, loc="upper right" if surface == "bowl" else "lower left")
    figure.text(
        0.02, 0.015, f"{STEPS} steps of each from the same place (black)", color=look.soft, fontsize=9
    )
    figure.tight_layout(rect=(0, 0.04, 1, 1))
