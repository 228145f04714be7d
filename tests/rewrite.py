"""The oracle of the ReLU rules: the net rewritten by torch.fx, its ReLUs replaced by ones with the rule.

Shares nothing with `vizkit.hooks`: it finds the ReLUs in the graph, not while the net runs.
"""

import operator

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn


class Rectified(nn.Module):
    """clamp(x, 0, top) with the backward rule written as a straight-through sum of products."""

    def __init__(self, rule: str, top: float = float("inf")) -> None:
        super().__init__()
        self.rule, self.top = rule, top

    def forward(self, x: Tensor) -> Tensor:
        return _Gate.apply(x, self.rule, self.top)


class _Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, rule, top):
        ctx.save_for_backward(x)
        ctx.rule, ctx.top = rule, top
        return torch.where(x > 0, torch.where(x < top, x, torch.full_like(x, top)), torch.zeros_like(x))

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        passed = torch.where(gradient > 0, gradient, torch.zeros_like(gradient))
        if ctx.rule == "guided":
            inside = (x > 0) & (x < ctx.top)
            passed = torch.where(inside, passed, torch.zeros_like(passed))
        return passed, None, None


class _Deep(fx.Tracer):
    """Goes into torchvision's blocks, stops at torch's own layers."""

    def is_leaf_module(self, m: nn.Module, name: str) -> bool:
        return type(m).__module__.startswith("torch.nn.modules") and not list(m.children())


def rewritten(net: nn.Module, rule: str) -> tuple[nn.Module, int]:
    """A copy of the net's graph in which every ReLU follows the rule, and how many ReLUs there are."""
    tracer = _Deep()
    graph = tracer.trace(net)
    module = fx.GraphModule(tracer.root, graph)
    found = 0
    for node in list(graph.nodes):
        top = _top(node, dict(module.named_modules()))
        if top is None:
            continue
        name = f"rectified_{found}"
        module.add_submodule(name, Rectified(rule, top))
        with graph.inserting_after(node):
            new = graph.call_module(name, (node.args[0],))
        node.replace_all_uses_with(new)
        graph.erase_node(node)
        found += 1
    module.recompile()
    return module, found


def _top(node: fx.Node, modules: dict[str, nn.Module]) -> float | None:
    """Where the ReLU is cut off above, None if the node is no ReLU."""
    if node.op == "call_module":
        layer = modules[node.target]
        if isinstance(layer, nn.ReLU6):
            return 6.0
        return float("inf") if isinstance(layer, nn.ReLU) else None
    functions = {F.relu: float("inf"), torch.relu: float("inf"), F.relu6: 6.0}
    if node.op == "call_function":
        return functions.get(node.target)
    if node.op == "call_method" and node.target in ("relu", "relu_"):
        return float("inf")
    return None


def class_gradient(net: nn.Module, pixels: Tensor, index: int) -> Tensor:
    """The gradient of one logit to the pixels."""
    leaf = pixels.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(operator.getitem(net(leaf), (slice(None), index)).sum(), leaf)
    return gradient


def lively(net: nn.Module, seed: int = 0) -> nn.Module:
    """Batch-norm statistics and biases that are not the neutral ones, so that ReLUs cut; in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in net.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean.copy_(0.2 * torch.randn(part.running_mean.shape, generator=generator))
                part.running_var.copy_(0.5 + torch.rand(part.running_var.shape, generator=generator))
                part.bias.copy_(0.1 * torch.randn(part.bias.shape, generator=generator))
    return net.eval()
