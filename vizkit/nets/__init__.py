"""Networks for small pictures, in their published forms, by name."""

from collections.abc import Callable

from torch import nn

from vizkit.errors import UsageError, did_you_mean
from vizkit.nets.layers import HierarchicalSoftmax
from vizkit.nets.plain import (
    alexnet,
    all_conv,
    dropconnect,
    fractional,
    lenet5,
    linear,
    maxout,
    mlp,
    network_in_network,
    simple,
    vgg,
)
from vizkit.nets.residual import resnet9, resnet20, resnet_preact, resnext29, stochastic_depth, wide_resnet
from vizkit.nets.wired import densenet, fractalnet, inception, squeezenet

NETS: dict[str, Callable[[int, int, int], nn.Module]] = {
    "linear": linear,
    "mlp": mlp,
    "maxout": maxout,
    "dropconnect": dropconnect,
    "fractional": fractional,
    "simple": simple,
    "lenet5": lenet5,
    "alexnet": alexnet,
    "vgg": vgg,
    "nin": network_in_network,
    "allconv": all_conv,
    "inception": inception,
    "squeezenet": squeezenet,
    "resnet9": resnet9,
    "resnet20": resnet20,
    "resnet20-preact": resnet_preact,
    "wrn-16-2": lambda c, k, s: wide_resnet(c, k, s, depth=16, width=2),
    "wrn-28-10": lambda c, k, s: wide_resnet(c, k, s, depth=28, width=10),
    "resnext29": resnext29,
    "stochastic-depth": stochastic_depth,
    "densenet": densenet,
    "fractalnet": fractalnet,
}
"""Names and what builds them from (channels, classes, side) of the pictures."""


def make_net(name: str, *, channels: int, classes: int, side: int) -> nn.Module:
    """A network with new weights for pictures (channels, side, side). Raises `UsageError` for other names.

    "NAME+hierarchical" has a `HierarchicalSoftmax` in place of its last linear layer.
    """
    base, plus, addition = name.partition("+")
    if base not in NETS:
        raise UsageError(f"there is no net {base!r}{did_you_mean(base, NETS)}; there are {', '.join(NETS)}")
    net = NETS[base](channels, classes, side)
    if not plus:
        return net
    if addition != "hierarchical":
        raise UsageError(f"a net may end with +hierarchical, not with {plus + addition!r}")
    return _hierarchical(net, classes, base)


def _hierarchical(net: nn.Module, classes: int, name: str) -> nn.Module:
    """The net with a tree of decisions for its last linear layer."""
    found = [(at, m) for at, m in net.named_modules() if isinstance(m, nn.Linear)]
    if not found or found[-1][1].out_features != classes:
        raise UsageError(f"{name} does not end with a linear layer that a tree could replace")
    at, last = found[-1]
    parent, _, own = at.rpartition(".")
    setattr(net.get_submodule(parent), own, HierarchicalSoftmax(last.in_features, classes))
    return net
