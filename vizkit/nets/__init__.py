"""Networks for small pictures, in their published forms, by name."""

from collections.abc import Callable

from torch import nn

from vizkit.errors import UsageError, did_you_mean
from vizkit.nets.plain import alexnet, all_conv, lenet5, linear, mlp, network_in_network, simple, vgg
from vizkit.nets.residual import resnet9, resnet20, resnet_preact, resnext29, stochastic_depth, wide_resnet
from vizkit.nets.wired import densenet, fractalnet, inception, squeezenet

NETS: dict[str, Callable[[int, int, int], nn.Module]] = {
    "linear": linear,
    "mlp": mlp,
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
    """A network with new weights for pictures (channels, side, side). Raises `UsageError` for other names."""
    if name not in NETS:
        raise UsageError(f"there is no net {name!r}{did_you_mean(name, NETS)}; there are {', '.join(NETS)}")
    return NETS[name](channels, classes, side)
