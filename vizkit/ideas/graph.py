"""A computational graph with its gates: values forward, gradients backward, both by autograd."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vizkit.plots import Look

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ASPECT = 0.5

GIVEN = {"w0": 2.0, "x0": -1.0, "w1": -3.0, "x1": -2.0, "w2": -3.0}
"""The numbers that the classic example has."""

PLACES = {
    "w0": (0, 5.2), "x0": (0, 4.2), "w1": (0, 3.0), "x1": (0, 2.0), "w2": (0, 0.6),
    "w0 x0": (2, 4.7), "w1 x1": (2, 2.5), "sum": (4, 3.6), "sum + w2": (6, 2.6), "sigmoid": (8.2, 2.6),
}  # fmt: skip
"""Where each value stands."""

EDGES = (
    ("w0", "w0 x0"), ("x0", "w0 x0"), ("w1", "w1 x1"), ("x1", "w1 x1"), ("w0 x0", "sum"), ("w1 x1", "sum"),
    ("sum", "sum + w2"), ("w2", "sum + w2"), ("sum + w2", "sigmoid"),
)  # fmt: skip

GATES = {"w0 x0": "x", "w1 x1": "x", "sum": "+", "sum + w2": "+", "sigmoid": "σ"}


@dataclass(frozen=True)
class Node:
    """A value of the graph and the gradient of the output to it."""

    value: float
    gradient: float


def nodes() -> dict[str, Node]:
    """sigmoid(w0 x0 + w1 x1 + w2), every value in between, and all gradients."""
    made: dict[str, Tensor] = {
        name: torch.tensor(v, dtype=torch.float64, requires_grad=True) for name, v in GIVEN.items()
    }
    made["w0 x0"] = made["w0"] * made["x0"]
    made["w1 x1"] = made["w1"] * made["x1"]
    made["sum"] = made["w0 x0"] + made["w1 x1"]
    made["sum + w2"] = made["sum"] + made["w2"]
    made["sigmoid"] = torch.sigmoid(made["sum + w2"])
    for value in made.values():
        value.retain_grad()
    made["sigmoid"].backward()  # type: ignore[no-untyped-call]
    return {n: Node(float(v.detach()), 0.0 if v.grad is None else float(v.grad)) for n, v in made.items()}


def drawn(figure: "Figure", look: Look) -> None:
    """The graph, and what each gate does with a gradient."""
    axes = figure.add_subplot()
    found = nodes()
    for start, end in EDGES:
        _arrow(axes, PLACES[start], PLACES[end], look)
    for name, (x, y) in PLACES.items():
        gate = GATES.get(name)
        axes.scatter(
            [x], [y], s=900 if gate else 500, color=look.page, edgecolors=look.ink, linewidths=1.3, zorder=3
        )
        axes.text(
            x,
            y,
            gate or name,
            ha="center",
            va="center",
            color=look.ink,
            fontsize=15 if gate else 11,
            zorder=4,
        )
        node = found[name]
        at, ground = (x + 0.95, y), {"facecolor": look.page, "edgecolor": "none", "pad": 0.8}
        axes.text(
            *at, f"{node.value:.2f}", ha="center", va="bottom", color=look.series[2], fontsize=11, bbox=ground
        )
        axes.text(
            *at, f"{node.gradient:.2f}", ha="center", va="top", color=look.series[1], fontsize=11, bbox=ground
        )
    words = [
        "green: values, computed forward     orange: gradients of the output, computed backward",
        "+ hands its gradient on     x hands it on times the other factor     σ times σ (1 - σ)",
    ]
    for k, text in enumerate(words):
        axes.text(-0.4, -0.75 - 0.5 * k, text, color=look.soft, fontsize=10)
    axes.text(-0.4, 6.1, "f(w, x) = σ(w0 x0 + w1 x1 + w2)", color=look.ink, fontsize=14)
    axes.set_xlim(-0.6, 10)
    axes.set_ylim(-1.5, 6.5)
    axes.axis("off")
    figure.tight_layout()


def _arrow(axes: "Axes", start: tuple[float, float], end: tuple[float, float], look: Look) -> None:
    style = {"arrowstyle": "-|>", "color": look.soft, "linewidth": 1.1, "shrinkA": 15, "shrinkB": 16}
    axes.annotate("", xy=end, xytext=start, arrowprops=style, zorder=1)
