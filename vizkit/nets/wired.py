"""Networks whose layers join by concatenation or by means: Inception, SqueezeNet, DenseNet, FractalNet."""

import torch
from torch import Tensor, nn

from vizkit.nets.parts import head, plain, pools, unit


class Beside(nn.Module):
    """Several branches on the same input, their channels concatenated."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, sum of outs, H, W)."""
        return torch.cat([branch(x) for branch in self.branches], 1)


def _inception(inputs: int, one: int, three: tuple[int, int], five: tuple[int, int], pool: int) -> Beside:
    return Beside(
        unit(inputs, one, 1),
        nn.Sequential(*unit(inputs, three[0], 1), *unit(*three, 3)),
        nn.Sequential(*unit(inputs, five[0], 1), *unit(*five, 5)),
        nn.Sequential(nn.MaxPool2d(3, 1, 1), *unit(inputs, pool, 1)),
    )


def inception(channels: int, classes: int, side: int) -> nn.Module:
    """GoogLeNet's first four modules, for small pictures, with batch normalisation (Szegedy et al. 2015)."""
    halvings = pools(side, most=2)
    return nn.Sequential(
        *unit(channels, 64),
        *unit(64, 192),
        *([nn.MaxPool2d(2)] if halvings > 0 else []),
        _inception(192, 64, (96, 128), (16, 32), 32),
        _inception(256, 128, (128, 192), (32, 96), 64),
        *([nn.MaxPool2d(2)] if halvings > 1 else []),
        _inception(480, 192, (96, 208), (16, 48), 64),
        _inception(512, 160, (112, 224), (24, 64), 64),
        *head(512, classes),
    )


def _fire(inputs: int, squeezed: int, expanded: int) -> nn.Sequential:
    branches = Beside(plain(squeezed, expanded, 1), plain(squeezed, expanded, 3))
    return nn.Sequential(*plain(inputs, squeezed, 1), branches)


def squeezenet(channels: int, classes: int, side: int) -> nn.Module:
    """SqueezeNet 1.0 (Iandola et al. 2016), 1.25 M parameters for ImageNet; small pictures have a small stem.

    Above 96 pixels the stem is the published 7 x 7 convolution of stride 2.
    """
    large = side > 96
    stem = plain(channels, 96, 7, 2, 0) if large else plain(channels, 96, 3)
    halvings = 3 if large else pools(side, most=3)
    layers: list[nn.Module] = [*stem]
    fires = [(16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256)]
    inputs, pooled = 96, 0
    for k, (squeezed, expanded) in enumerate(fires):
        if k in (0, 3, 7) and pooled < halvings:
            layers.append(nn.MaxPool2d(3, 2, ceil_mode=True))
            pooled += 1
        layers.append(_fire(inputs, squeezed, expanded))
        inputs = 2 * expanded
    last = [nn.Dropout(0.5), *plain(512, classes, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, *last)


class Dense(nn.Module):
    """The input and what a bottleneck makes of it, concatenated (Huang et al. 2017)."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.ReLU(),
            nn.Conv2d(inputs, 4 * growth, 1, bias=False),
            nn.BatchNorm2d(4 * growth),
            nn.ReLU(inplace=True),
            nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, in + growth, H, W)."""
        return torch.cat([x, self.inner(x)], 1)


def densenet(channels: int, classes: int, _side: int, *, depth: int = 100, growth: int = 12) -> nn.Module:
    """DenseNet-BC: bottlenecks, half of the channels kept between blocks; (100, 12) has 0.77 M parameters."""
    each, width = (depth - 4) // 6, 2 * growth
    layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1, bias=False)]
    for block in range(3):
        for _ in range(each):
            layers.append(Dense(width, growth))
            width += growth
        if block < 2:
            fewer = width // 2
            convolution = nn.Conv2d(width, fewer, 1, bias=False)
            layers += [nn.BatchNorm2d(width), nn.ReLU(inplace=True), convolution, nn.AvgPool2d(2)]
            width = fewer
    return nn.Sequential(*layers, nn.BatchNorm2d(width), nn.ReLU(inplace=True), *head(width, classes))


class Fractal(nn.Module):
    """A block of FractalNet: columns of 1, 2, 4 ... convolutions whose means join (Larsson et al. 2017).

    f_1 = convolution; f_(c+1)(x) = mean of f_c(f_c(x)) and a convolution of x. In training single
    paths are dropped; one always stays. Leaving all but one column out is up to the net around it.
    """

    def __init__(self, inputs: int, outputs: int, columns: int, drop: float = 0.15) -> None:
        super().__init__()
        self.columns, self.drop = columns, drop
        self.own = unit(inputs, outputs)
        self.first = Fractal(inputs, outputs, columns - 1, drop) if columns > 1 else None
        self.second = Fractal(outputs, outputs, columns - 1, drop) if columns > 1 else None

    def forward(self, x: Tensor, only: int | None = None) -> Tensor:
        """(N, in, H, W) -> (N, out, H, W); `only`: the paths of this column alone, 0 for the deepest."""
        if self.first is None or self.second is None:
            made: Tensor = self.own(x)
            return made
        if only == self.columns - 1:
            alone: Tensor = self.own(x)
            return alone
        deep = self.second(self.first(x, only), only)
        if only is not None:
            return deep  # type: ignore[no-any-return]
        if self.training:
            kept = (torch.rand(2) >= self.drop).tolist()
            if kept == [False, True]:
                return self.own(x)  # type: ignore[no-any-return]
            if not kept[1]:
                return deep  # type: ignore[no-any-return]
        return (deep + self.own(x)) / 2  # type: ignore[no-any-return]


class FractalNet(nn.Module):
    """Blocks of fractals with poolings; in training every second batch uses one random column throughout."""

    def __init__(
        self, channels: int, classes: int, widths: tuple[int, ...], columns: int, halvings: int
    ) -> None:
        super().__init__()
        self.columns = columns
        self.blocks = nn.ModuleList()
        inputs = channels
        for width in widths:
            self.blocks.append(Fractal(inputs, width, columns))
            inputs = width
        self.halvings = halvings
        self.head = nn.Sequential(*head(inputs, classes))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, classes)."""
        only = None
        if self.training and torch.rand(()) < 0.5:
            only = int(torch.randint(0, self.columns, ()))
        for k, block in enumerate(self.blocks):
            x = block(x, only)
            if k < self.halvings:
                x = nn.functional.max_pool2d(x, 2)
        made: Tensor = self.head(x)
        return made


def fractalnet(channels: int, classes: int, side: int) -> nn.Module:
    """Three columns, four blocks of 32 to 256 channels."""
    return FractalNet(channels, classes, (32, 64, 128, 256), 3, pools(side, least=2))
