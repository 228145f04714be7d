"""Chains of layers: from a linear classifier to VGG and all-convolutional nets."""

from torch import nn

from vizkit.nets.layers import DropConnect, FractionalPool, Maxout
from vizkit.nets.parts import head, plain, pools, unit


def linear(channels: int, classes: int, side: int) -> nn.Module:
    """Scores W x + b of the pixels: the rows of W are pictures, the classes' templates."""
    return nn.Sequential(nn.Flatten(), nn.Linear(channels * side * side, classes))


def mlp(channels: int, classes: int, side: int) -> nn.Module:
    """Two hidden layers of 256 and 128 units."""
    layers = [nn.Linear(channels * side * side, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU()]
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(128, classes))


def simple(channels: int, classes: int, side: int) -> nn.Module:
    """Two convolutions with poolings, one hidden layer."""
    count = pools(side, least=2, most=2)
    left = side // 2**count
    layers: list[nn.Module] = []
    for k, (inputs, outputs) in enumerate(((channels, 32), (32, 64))):
        layers += [*plain(inputs, outputs), *([nn.MaxPool2d(2)] if k < count else [])]
    hidden = [nn.Flatten(), nn.Linear(64 * left * left, 128), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, *hidden, nn.Dropout(0.5), nn.Linear(128, classes))


def lenet5(channels: int, classes: int, side: int) -> nn.Module:
    """LeNet-5 with all maps connected, as it is built today (LeCun et al. 1998): 61,706 parameters.

    Pictures of 28 pixels are padded to 32; smaller ones keep what is left of 5 x 5 maps.
    """
    padding = max(0, (32 - side + 1) // 2)
    left = ((side + 2 * padding - 4) // 2 - 4) // 2
    return nn.Sequential(
        nn.Conv2d(channels, 6, 5, padding=padding),
        nn.Tanh(),
        nn.AvgPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.Tanh(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * left * left, 120),
        nn.Tanh(),
        nn.Linear(120, 84),
        nn.Tanh(),
        nn.Linear(84, classes),
    )


def alexnet(channels: int, classes: int, side: int) -> nn.Module:
    """AlexNet's five convolutions and three linear layers, for small pictures (Krizhevsky et al. 2012)."""
    count = pools(side, least=2)
    widths = (channels, 64, 192, 384, 256, 256)
    layers: list[nn.Module] = []
    for k in range(5):
        layers += plain(widths[k], widths[k + 1], 5 if k == 0 else 3)
        if (0, 1, 4).count(k) and (0, 1, 4).index(k) < count:
            layers.append(nn.MaxPool2d(2))
    left = side // 2**count
    linears = [nn.Dropout(), nn.Linear(256 * left * left, 512), nn.ReLU(inplace=True)]
    linears += [nn.Dropout(), nn.Linear(512, 512), nn.ReLU(inplace=True), nn.Linear(512, classes)]
    return nn.Sequential(*layers, nn.Flatten(), *linears)


def vgg(channels: int, classes: int, side: int) -> nn.Module:
    """Pairs of 3 x 3 convolutions between poolings, with batch normalisation (Simonyan & Zisserman 2015)."""
    layers: list[nn.Module] = []
    inputs, halvings = channels, pools(side)
    for k, width in enumerate((64, 128, 256)):
        layers += [*unit(inputs, width), *unit(width, width)]
        layers += [nn.MaxPool2d(2)] if k < halvings else []
        inputs = width
    return nn.Sequential(*layers, *head(inputs, classes))


def network_in_network(channels: int, classes: int, side: int) -> nn.Module:
    """Convolutions followed by 1 x 1 ones (Lin et al. 2014): 966,986 parameters for CIFAR-10."""
    halvings = pools(side, most=2)

    def between(k: int, kind: type[nn.Module]) -> list[nn.Module]:
        pool = [kind(3, 2, 1)] if k < halvings else []
        return [*pool, nn.Dropout(0.5)]

    return nn.Sequential(
        *plain(channels, 192, 5),
        *plain(192, 160, 1),
        *plain(160, 96, 1),
        *between(0, nn.MaxPool2d),
        *plain(96, 192, 5),
        *plain(192, 192, 1),
        *plain(192, 192, 1),
        *between(1, nn.AvgPool2d),
        *plain(192, 192, 3),
        *plain(192, 192, 1),
        *plain(192, classes, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


def all_conv(channels: int, classes: int, _side: int) -> nn.Module:
    """All-CNN-C: strides in place of pooling (Springenberg et al. 2015): 1,369,738 for CIFAR-10."""
    return nn.Sequential(
        nn.Dropout(0.2),
        *plain(channels, 96),
        *plain(96, 96),
        *plain(96, 96, stride=2),
        nn.Dropout(0.5),
        *plain(96, 192),
        *plain(192, 192),
        *plain(192, 192, stride=2),
        nn.Dropout(0.5),
        *plain(192, 192),
        *plain(192, 192, 1),
        *plain(192, classes, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )


def maxout(channels: int, classes: int, side: int) -> nn.Module:
    """Two hidden layers of 240 maxout units with 5 pieces, dropout before each (Goodfellow et al. 2013)."""
    first = [nn.Flatten(), nn.Dropout(0.2), Maxout(channels * side * side, 240, 5)]
    return nn.Sequential(
        *first, nn.Dropout(0.5), Maxout(240, 240, 5), nn.Dropout(0.5), nn.Linear(240, classes)
    )


def dropconnect(channels: int, classes: int, side: int) -> nn.Module:
    """Convolutions of 32 and 64 maps, then 128 units whose weights are dropped (Wan et al. 2013)."""
    count = pools(side, least=2)
    layers: list[nn.Module] = []
    for k, (inputs, outputs) in enumerate(((channels, 32), (32, 64), (64, 64))):
        layers += [*unit(inputs, outputs), *([nn.MaxPool2d(2)] if k < count else [])]
    left = side // 2**count
    hidden = DropConnect(64 * left * left, 128, 0.5)
    return nn.Sequential(*layers, nn.Flatten(), hidden, nn.Linear(128, classes))


def fractional(channels: int, classes: int, side: int) -> nn.Module:
    """Convolutions with fractional max pooling between them, each map 1 / sqrt(2) as wide (Graham 2014)."""
    layers: list[nn.Module] = []
    inputs, left = channels, side
    for k in range(6):
        layers += unit(inputs, outputs := 24 * (k + 1))
        if int(left / 2**0.5) >= 2:
            layers.append(FractionalPool())
            left = int(left / 2**0.5)
        inputs = outputs
    return nn.Sequential(*layers, *head(inputs, classes))
