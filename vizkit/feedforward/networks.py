"""The networks: a style network with an instance normalisation for each style, and a decoder of features."""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class StyleNorm(nn.Module):
    """Instance normalisation with a scale and a shift for each style (Dumoulin, Shlens & Kudlur 2017)."""

    def __init__(self, channels: int, styles: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(styles, channels))
        self.shift = nn.Parameter(torch.zeros(styles, channels))

    def forward(self, x: Tensor, mix: Tensor) -> Tensor:
        """(N, C, H, W) normalised; `mix` (N, styles) is how much of each style a picture gets."""
        scale, shift = mix @ self.scale, mix @ self.shift
        return F.instance_norm(x) * scale[:, :, None, None] + shift[:, :, None, None]


class StyleConv(nn.Module):
    """Mirrored padding, convolution, style norm; enlarged before by `up`. Enlarging and convolving leaves no
    checkerboard as a transposed convolution would (Odena et al. 2016).
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, styles: int, stride: int = 1, up: int = 1
    ) -> None:
        super().__init__()
        self.up, self.padding = up, kernel // 2
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride)
        self.norm = StyleNorm(outputs, styles)

    def forward(self, x: Tensor, mix: Tensor) -> Tensor:
        """(N, inputs, H, W) -> (N, outputs, H up / stride, W up / stride)."""
        if self.up > 1:
            x = F.interpolate(x, scale_factor=self.up, mode="bilinear")
        x = self.conv(F.pad(x, [self.padding] * 4, "reflect"))
        normalised: Tensor = self.norm(x, mix)
        return normalised


class Residual(nn.Module):
    """Two convolutions whose result is added to what went in."""

    def __init__(self, channels: int, styles: int) -> None:
        super().__init__()
        self.first = StyleConv(channels, channels, 3, styles)
        self.second = StyleConv(channels, channels, 3, styles)

    def forward(self, x: Tensor, mix: Tensor) -> Tensor:
        """(N, channels, H, W) to the same."""
        added: Tensor = self.second(F.relu(self.first(x, mix)), mix)
        return x + added


class StyleNet(nn.Module):
    """Pictures in, painted pictures out, in one pass (Johnson, Alahi & Fei-Fei 2016; half of its width)."""

    def __init__(self, styles: int, width: int = 16, blocks: int = 3) -> None:
        super().__init__()
        self.styles, self.width, self.depth = styles, width, blocks
        w = width
        self.down = nn.ModuleList(
            [
                StyleConv(3, w, 5, styles),
                StyleConv(w, 2 * w, 3, styles, 2),
                StyleConv(2 * w, 4 * w, 3, styles, 2),
            ]
        )
        self.blocks = nn.ModuleList(Residual(4 * w, styles) for _ in range(blocks))
        self.up = nn.ModuleList(
            [StyleConv(4 * w, 2 * w, 3, styles, up=2), StyleConv(2 * w, w, 3, styles, up=2)]
        )
        self.last = StyleConv(w, 3, 5, styles)

    def forward(self, pictures: Tensor, mix: Tensor) -> Tensor:
        """(N, 3, H, W) in [0, 1] to the same; `mix` (N, styles), rows that add up to 1."""
        rows, columns = pictures.shape[2:]
        below, right = -rows % 4, -columns % 4
        x = F.pad(pictures, (0, right, 0, below), "replicate") * 2 - 1
        for layer in self.down:
            x = F.relu(layer(x, mix))
        for block in self.blocks:
            x = block(x, mix)
        for layer in self.up:
            x = F.relu(layer(x, mix))
        return torch.sigmoid(2 * self.last(x, mix))[:, :, :rows, :columns]


class Decoder(nn.Module):
    """Codes to pictures: the mean features of a net, whitened, back to pixels (Dosovitskiy & Brox 2016)."""

    def __init__(self, codes: int, side: int, width: int = 32) -> None:
        super().__init__()
        self.codes, self.side, self.width = codes, side, width
        self.levels = max(1, (side // 4 - 1).bit_length())
        widths = [min(8, 2 ** (self.levels - k)) * width for k in range(self.levels + 1)]
        self.start = nn.Linear(codes, widths[0] * 16)
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in itertools.pairwise(widths))
        self.norms = nn.ModuleList(nn.GroupNorm(8, b) for b in widths[1:])
        self.last = nn.Conv2d(widths[-1], 3, 3, padding=1)

    def forward(self, codes: Tensor) -> Tensor:
        """(N, codes) of about unit variance -> (N, 3, side, side) in [0, 1]."""
        x = F.leaky_relu(self.start(codes), 0.2).view(len(codes), -1, 4, 4)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.interpolate(x, scale_factor=2, mode="bilinear")
            x = F.leaky_relu(norm(conv(x)), 0.2)
        picture = torch.sigmoid(self.last(x))
        if picture.shape[2] != self.side:
            picture = F.interpolate(picture, (self.side, self.side), mode="bilinear", antialias=True)
        return picture
