"""Layers that torch lacks: maxout, DropConnect, hierarchical softmax, repeatable fractional pooling."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NODES = 24
"""Points of the Gauss-Hermite rule that takes the mean over DropConnect's masks."""


class Maxout(nn.Module):
    """The largest of `pieces` linear maps (Goodfellow et al. 2013): (N, in) -> (N, out).

    max_k (W_k x + b_k); with two pieces it can be a ReLU, an absolute value, or anything convex in two parts.
    """

    def __init__(self, inputs: int, outputs: int, pieces: int = 2) -> None:
        super().__init__()
        self.outputs, self.pieces = outputs, pieces
        self.linear = nn.Linear(inputs, outputs * pieces)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        made: Tensor = self.linear(x).unflatten(-1, (self.outputs, self.pieces)).amax(-1)
        return made


class DropConnect(nn.Linear):
    """A linear layer whose weights are dropped one by one, with its activation (Wan et al. 2013).

    In training every weight of every example is kept with probability 1 - `drop`; nothing is scaled. In
    evaluation the sum before the activation is taken for normal with the mean (1 - p) (W x + b) and variance
    p (1 - p) (W^2 x^2 + b^2), and the activation's mean over it is the output: that is not dropout's rule
    of scaled weights, which gives the activation of the mean. `activation` is a module or function of one
    tensor; the mean over the normal distribution is by Gauss-Hermite quadrature, exact for a ReLU.
    """

    nodes: Tensor
    weights: Tensor

    def __init__(
        self, inputs: int, outputs: int, drop: float = 0.5, activation: nn.Module | None = None
    ) -> None:
        super().__init__(inputs, outputs)
        self.drop = drop
        self.activation = nn.ReLU() if activation is None else activation
        nodes, weights = _hermite(NODES)
        self.register_buffer("nodes", nodes, persistent=False)
        self.register_buffer("weights", weights, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in) -> (N, out)."""
        if self.training:
            kept = torch.rand((len(x), *self.weight.shape), device=x.device) >= self.drop
            biases = torch.rand((len(x), self.out_features), device=x.device) >= self.drop
            sums = torch.einsum("noi,ni->no", self.weight * kept, x) + self.bias * biases
            made: Tensor = self.activation(sums)
            return made
        keep = 1 - self.drop
        mean = keep * F.linear(x, self.weight, self.bias)
        variance = keep * self.drop * F.linear(x.square(), self.weight.square(), self.bias.square())
        return self._mean(mean, variance.clamp(min=0).sqrt())

    def _mean(self, mean: Tensor, deviation: Tensor) -> Tensor:
        """The mean of the activation of a normal distribution."""
        if isinstance(self.activation, nn.ReLU):
            z = mean / deviation.clamp(min=1e-12)
            density = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
            mass: Tensor = torch.special.ndtr(z)
            return mean * mass + deviation * density
        points = mean[..., None] + deviation[..., None] * self.nodes
        made: Tensor = (self.activation(points) * self.weights).sum(-1)
        return made


def _hermite(count: int) -> tuple[Tensor, Tensor]:
    """Points and weights (count,) of the mean over a standard normal distribution."""
    import numpy as np

    nodes, weights = np.polynomial.hermite_e.hermegauss(count)
    return torch.from_numpy(nodes).float(), torch.from_numpy(weights / weights.sum()).float()


class FractionalPool(nn.Module):
    """Max pooling to 1 / sqrt(2) of the side, by windows drawn anew in training (Graham 2014).

    In evaluation the windows are those of the middle draw, so that an answer repeats.
    """

    def __init__(self, ratio: float = 0.5**0.5) -> None:
        super().__init__()
        self.ratio = ratio

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, int(H ratio), int(W ratio))."""
        drawn = None if self.training else x.new_full((len(x), x.shape[1], 2), 0.5)
        made: Tensor = F.fractional_max_pool2d(
            x, 2, output_ratio=(self.ratio, self.ratio), _random_samples=drawn
        )
        return made


class HierarchicalSoftmax(nn.Module):
    """Classes as leaves of a balanced binary tree, a logistic decision at each node (Morin & Bengio 2005).

    log p(class) = the sum along its path of log sigmoid(+-(w_node x + b_node)); `loss` costs log2(classes)
    decisions an example, not all classes.
    """

    nodes: Tensor
    signs: Tensor

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.decisions = nn.Linear(inputs, classes - 1)
        nodes, signs = _paths(classes)
        self.register_buffer("nodes", nodes, persistent=False)
        self.register_buffer("signs", signs, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in) -> (N, classes) log probabilities."""
        decided = self.decisions(x)[:, self.nodes.flatten()].unflatten(1, self.nodes.shape)
        # where a path is shorter, the sign is 0 and the decision certain
        logs = F.logsigmoid(decided * self.signs) * self.signs.abs()
        made: Tensor = logs.sum(-1)
        return made

    def loss(self, x: Tensor, labels: Tensor) -> Tensor:
        """The mean of -log p(label), of the nodes on the labels' paths alone."""
        nodes, signs = self.nodes[labels], self.signs[labels]
        weight, bias = self.decisions.weight[nodes], self.decisions.bias[nodes]
        decided = torch.einsum("npi,ni->np", weight, x) + bias
        return -(F.logsigmoid(decided * signs) * signs.abs()).sum(1).mean()


def _paths(classes: int) -> tuple[Tensor, Tensor]:
    """(classes, depth): the inner nodes from the root to each class, and -1 or 1 for the side, 0 for none."""
    paths: list[list[tuple[int, int]]] = []
    free = iter(range(classes))

    def grow(count: int, path: list[tuple[int, int]]) -> None:
        if count == 1:
            paths.append(path)
            return
        node, left = next(free), (count + 1) // 2
        grow(left, [*path, (node, 1)])
        grow(count - left, [*path, (node, -1)])

    grow(classes, [])
    depth = max(1, *(len(p) for p in paths))
    padded = [[*p, *[(0, 0)] * (depth - len(p))] for p in paths]
    table = torch.tensor(padded).view(classes, depth, 2)
    return table[..., 0], table[..., 1].float()
