"""Networks with shortcuts.

He et al. 2016a, b; Zagoruyko & Komodakis 2016; Xie et al. 2017; Huang et al. 2016.
"""

import torch
from torch import Tensor, nn

from vizkit.nets.parts import bare, head, unit


class Residual(nn.Module):
    """x + inner(x)."""

    def __init__(self, *inner: nn.Module) -> None:
        super().__init__()
        self.inner = nn.Sequential(*inner)

    def forward(self, x: Tensor) -> Tensor:
        """Maps of the same shape."""
        made: Tensor = x + self.inner(x)
        return made


class Scaled(nn.Module):
    """x * factor: scores of maxima are large, and so would be the first steps."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        return x * self.factor

    def extra_repr(self) -> str:
        """The factor."""
        return str(self.factor)


class Basic(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut, ReLU behind the sum; survives with a probability in training.

    The shortcut is parameter-free ("A": every second pixel, new channels zero) or a 1 x 1 convolution.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, *, survival: float = 1.0) -> None:
        super().__init__()
        self.inner = nn.Sequential(*unit(inputs, outputs, 3, stride), *bare(outputs, outputs))
        self.stride, self.more, self.survival = stride, outputs - inputs, survival
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, out, H / stride, W / stride)."""
        short = x[:, :, :: self.stride, :: self.stride]
        if self.more:
            short = nn.functional.pad(short, (0, 0, 0, 0, self.more // 2, self.more - self.more // 2))
        if self.training and self.survival < 1:
            if torch.rand(()) >= self.survival:
                return short
            kept: Tensor = self.relu(short + self.inner(x))
            return kept
        made: Tensor = self.relu(short + self.survival * self.inner(x))
        return made


class PreActivation(nn.Module):
    """Normalisation and ReLU before each of two convolutions; the shortcut is left alone."""

    def __init__(self, inputs: int, outputs: int, stride: int, drop: float = 0.0) -> None:
        super().__init__()
        self.norm = nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU(inplace=True))
        self.inner = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            *([nn.Dropout(drop)] if drop else []),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
        )
        self.short = (
            nn.Conv2d(inputs, outputs, 1, stride, bias=False) if stride > 1 or inputs != outputs else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, out, H / stride, W / stride)."""
        active = self.norm(x)
        made: Tensor = (x if self.short is None else self.short(active)) + self.inner(active)
        return made


class Aggregated(nn.Module):
    """ResNeXt's bottleneck: 1 x 1, grouped 3 x 3, 1 x 1 convolutions beside a projection."""

    def __init__(self, inputs: int, outputs: int, stride: int, *, groups: int, width: int) -> None:
        super().__init__()
        inner = groups * width * outputs // 256
        self.inner = nn.Sequential(
            *unit(inputs, inner, 1), *unit(inner, inner, 3, stride, groups), *bare(inner, outputs, 1)
        )
        same = stride == 1 and inputs == outputs
        self.short = nn.Identity() if same else nn.Sequential(*bare(inputs, outputs, 1, stride))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(N, in, H, W) -> (N, out, H / stride, W / stride)."""
        made: Tensor = self.relu(self.short(x) + self.inner(x))
        return made


def resnet9(channels: int, classes: int, side: int, *, width: int = 16) -> nn.Module:
    """Four stages of 1, 2, 4 and 8 times `width` channels, residual pairs in the second and the last.

    The default of training: 413,000 parameters for one channel and ten classes.
    """
    a, b, c, d = (width * 2**k for k in range(4))
    pool = nn.MaxPool2d(2) if side >= 16 else nn.Identity()
    return nn.Sequential(
        *unit(channels, a),
        *unit(a, b),
        pool,
        Residual(*unit(b, b), *unit(b, b)),
        *unit(b, c),
        nn.MaxPool2d(2),
        *unit(c, d),
        nn.MaxPool2d(2),
        Residual(*unit(d, d), *unit(d, d)),
        nn.AdaptiveMaxPool2d(1),
        nn.Flatten(),
        nn.Linear(d, classes),
        Scaled(0.125),
    )


def resnet20(channels: int, classes: int, _side: int, *, depth: int = 20, last: float = 1.0) -> nn.Module:
    """He et al.'s nets for CIFAR: 6n + 2 layers, 16, 32, 64 channels; 20 has 0.27 M parameters.

    last: the probability with which the last block survives, falling linearly from 1 (stochastic depth).
    """
    count = (depth - 2) // 6
    blocks: list[nn.Module] = []
    inputs = 16
    for stage, width in enumerate((16, 32, 64)):
        for k in range(count):
            number = stage * count + k + 1
            survival = 1 - number / (3 * count) * (1 - last)
            stride = 2 if stage and not k else 1
            blocks.append(Basic(inputs, width, stride, survival=survival))
            inputs = width
    return nn.Sequential(*unit(channels, 16), *blocks, *head(64, classes))


def stochastic_depth(channels: int, classes: int, side: int) -> nn.Module:
    """A ResNet-56 whose blocks are left out at random in training, the last every second time."""
    return resnet20(channels, classes, side, depth=56, last=0.5)


def _pre(channels: int, classes: int, depth: int, width: int, drop: float = 0.0) -> nn.Module:
    each = (depth - 4) // 6
    blocks: list[nn.Module] = []
    inputs = 16
    for stage in range(3):
        outputs = 16 * 2**stage * width
        for k in range(each):
            blocks.append(PreActivation(inputs, outputs, 2 if stage and not k else 1, drop))
            inputs = outputs
    first = nn.Conv2d(channels, 16, 3, 1, 1, bias=False)
    return nn.Sequential(
        first, *blocks, nn.BatchNorm2d(inputs), nn.ReLU(inplace=True), *head(inputs, classes)
    )


def resnet_preact(channels: int, classes: int, _side: int) -> nn.Module:
    """A pre-activation ResNet of 22 layers."""
    return _pre(channels, classes, 22, 1)


def wide_resnet(
    channels: int, classes: int, _side: int, *, depth: int = 28, width: int = 10, drop: float = 0.0
) -> nn.Module:
    """WRN-depth-width (Zagoruyko & Komodakis 2016): 28-10 has 36.5 M parameters."""
    return _pre(channels, classes, depth, width, drop)


def resnext29(channels: int, classes: int, _side: int, *, groups: int = 8, width: int = 64) -> nn.Module:
    """ResNeXt-29, 8 x 64d: 34.4 M parameters (Xie et al. 2017)."""
    blocks: list[nn.Module] = []
    inputs = 64
    for stage, outputs in enumerate((256, 512, 1024)):
        for k in range(3):
            stride = 2 if stage and not k else 1
            blocks.append(Aggregated(inputs, outputs, stride, groups=groups, width=width))
            inputs = outputs
    return nn.Sequential(*unit(channels, 64), *blocks, *head(1024, classes))
