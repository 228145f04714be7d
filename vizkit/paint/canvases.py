"""Canvases: what is optimised, and how it becomes a picture (N, 3, H, W) in [0, 1].

`Pixels` are the pixels themselves. `Fourier` are the coefficients of a Fourier series, scaled so that all
frequencies move alike, in decorrelated colours (Olah, Mordvintsev & Schubert 2017). `Phases` hold the
magnitudes of an average photograph fixed and leave the phases free (Fel et al. 2023, MACO). `Latent` is the
input of a generator that knows what pictures look like (Nguyen et al. 2016).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from vizkit.paint.photographs import COLOUR_MEAN, COLOURS, SPECTRUM_DECAY

Size = tuple[int, int]

_EDGE = 1 / 512
"""Photographs are moved this far from black and white before the logit, which is infinite there."""


RELIEF = 2.7
"""Root mean square of the scale of Fourier coefficients: how far a step of size 1 moves the logits."""

OPENED = 0.7
"""A coarse beginning has let in all frequencies when this share of a painting is done."""


class Canvas(ABC):
    """Something with parameters that gives pictures."""

    parameters: list[Tensor]

    @abstractmethod
    def picture(self) -> Tensor:
        """(N, 3, H, W) in [0, 1], differentiable in the parameters."""

    @property
    @abstractmethod
    def size(self) -> Size:
        """Height and width of the picture."""

    def grown(self, size: Size) -> "Canvas":
        """A canvas of another size that shows the same picture."""
        raise NotImplementedError(f"{type(self).__name__} has one size")

    def advance(self, share: float) -> None:  # noqa: B027 - most canvases stay what they are
        """Be told before each step how much of the painting is done, from 0 to 1."""

    def settle(self) -> None:  # noqa: B027 - most canvases have nothing to settle
        """Put parameters that left their range back into it, after a step of the optimiser."""


class Pixels(Canvas):
    """The pixels themselves, kept in [0, 1] by clamping after every step."""

    def __init__(self, start: Tensor) -> None:
        self.parameters = [start.detach().clone().float().requires_grad_()]

    def picture(self) -> Tensor:
        """The pixels."""
        return self.parameters[0]

    @property
    def size(self) -> Size:
        """Height and width."""
        rows, columns = self.parameters[0].shape[2:]
        return rows, columns

    def grown(self, size: Size) -> "Pixels":
        """The picture resized."""
        return Pixels(resized(self.parameters[0].detach(), size))

    def settle(self) -> None:
        """Clamp to [0, 1]."""
        with torch.no_grad():
            self.parameters[0].clamp_(0, 1)


class Fourier(Canvas):
    """A Fourier series in decorrelated colours, through a sigmoid.

    start: pictures (N, 3, H, W) in [0, 1] that the canvas begins with; `noise` the standard deviation of the
    coefficients that are added. A coefficient of frequency f (cycles a pixel) is scaled by
    1 / max(f, 1 / longer side) ** decay, as photographs fall off. coarse: the painting begins with
    frequencies of about this many cycles a pixel and lets in higher ones until 70 % of it is done, so that
    large shapes come before textures; 0: all from the beginning. margin: a series is periodic, so this
    share of the longer side is added around the picture and cut off, and opposite edges know nothing of
    each other.
    """

    def __init__(
        self,
        start: Tensor,
        *,
        decay: float = SPECTRUM_DECAY,
        noise: float = 0.01,
        generator: torch.Generator | None = None,
        colours: bool = True,
        coarse: float = 0.0,
        margin: float = 0.0,
    ) -> None:
        rows, columns = start.shape[2:]
        self.coarse, self.decay, self.share = coarse, decay, margin
        self._size = rows, columns
        start = F.pad(start, [self.margin] * 4, "reflect") if self.margin else start
        device = start.device
        self.mix = (COLOURS if colours else torch.eye(3)).to(device)
        self.mean = (COLOUR_MEAN if colours else torch.zeros(3)).to(device)[:, None, None]
        self.scale = self.whole = fourier_scale(self._extent, decay).to(device)
        self.frequencies = frequencies(self._extent).to(device)
        coefficients = self._coefficients(start.float())
        drawn = torch.randn(coefficients.shape, generator=generator).to(device)
        self.parameters = [(coefficients + noise * drawn).requires_grad_()]

    @property
    def margin(self) -> int:
        """Pixels around the picture that are painted and cut off, fewer than mirroring can fill."""
        return min(round(self.share * max(self._size)), min(self._size) - 1)

    @property
    def _extent(self) -> Size:
        return self._size[0] + 2 * self.margin, self._size[1] + 2 * self.margin

    def _coefficients(self, start: Tensor) -> Tensor:
        logits = torch.logit(start.clamp(_EDGE, 1 - _EDGE)) - self.mean
        plain = mixed(logits, torch.linalg.inv(self.mix))
        return torch.view_as_real(torch.fft.rfft2(plain, norm="ortho") / self.scale)

    def grown(self, size: Size) -> "Fourier":
        """The same series, with room for higher frequencies."""
        grown = Fourier.__new__(Fourier)
        grown._size, grown.coarse, grown.share = size, self.coarse, self.share
        grown.mix, grown.mean, grown.decay = self.mix, self.mean, self.decay
        old, new = self._extent, grown._extent
        grown.scale = grown.whole = fourier_scale(new, self.decay).to(self.whole)
        grown.frequencies = frequencies(new).to(self.whole)
        series = torch.view_as_complex(self.parameters[0].detach()) * self.whole
        spread = torch.view_as_real(series)
        wider = _moved(spread, old, new)
        # an orthonormal transform of more pixels has larger coefficients for the same picture
        gain = (new[0] * new[1] / (old[0] * old[1])) ** 0.5
        grown.parameters = [(gain * wider / grown.whole[..., None]).requires_grad_()]
        return grown

    def advance(self, share: float) -> None:
        """Let in the frequencies that belong to this share of the painting."""
        if self.coarse and share < OPENED:
            cut = self.coarse * (2**-0.5 / self.coarse) ** (share / OPENED)
            self.scale = self.whole * torch.exp(-2 * (self.frequencies / cut).square())
        else:
            self.scale = self.whole

    def picture(self) -> Tensor:
        """The series summed up, colours mixed, squashed to [0, 1]."""
        series = torch.view_as_complex(self.parameters[0]) * self.scale
        plain = torch.fft.irfft2(series, s=self._extent, norm="ortho")
        m = self.margin
        return self._squashed(plain[..., m : m + self._size[0], m : m + self._size[1]])

    def _squashed(self, plain: Tensor) -> Tensor:
        return torch.sigmoid(mixed(plain, self.mix) + self.mean)

    @property
    def size(self) -> Size:
        """Height and width."""
        return self._size


class Phases(Canvas):
    """Fixed magnitudes, free phases: contrast and sharpness stay those of a photograph.

    The magnitudes are those of the average photograph, 1 / f ** decay in decorrelated logits, scaled so that
    these have a standard deviation of `contrast`.
    """

    def __init__(
        self,
        count: int,
        size: Size,
        *,
        decay: float = SPECTRUM_DECAY,
        contrast: float = 1.0,
        generator: torch.Generator | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self._size = size
        self.mix, self.mean = COLOURS.to(device), COLOUR_MEAN.to(device)[:, None, None]
        magnitude = fourier_scale(size, decay)
        magnitude[0, 0] = 0
        weights = torch.full(magnitude.shape, 2.0)  # a column stands for itself and its mirror
        weights[:, 0] = 1
        if size[1] % 2 == 0:
            weights[:, -1] = 1
        spread = (weights * magnitude.square()).sum().sqrt() / math.sqrt(size[0] * size[1])
        self.magnitude = (magnitude * contrast / spread).to(device)
        drawn = torch.rand((count, 3, *magnitude.shape), generator=generator)
        self.parameters = [(2 * math.pi * drawn).to(device).requires_grad_()]

    def picture(self) -> Tensor:
        """The series with these phases, colours mixed, squashed to [0, 1]."""
        series = torch.polar(self.magnitude.expand_as(self.parameters[0]), self.parameters[0])
        plain = torch.fft.irfft2(series, s=self._size, norm="ortho")
        return torch.sigmoid(mixed(plain, self.mix) + self.mean)

    @property
    def size(self) -> Size:
        """Height and width."""
        return self._size


class Latent(Canvas):
    """The input of a generator, pulled towards where it was trained.

    decode: codes (N, D) -> pictures in [0, 1]. `reach`: codes are kept within so many standard deviations.
    """

    def __init__(self, start: Tensor, decode: Callable[[Tensor], Tensor], *, reach: float = 3.0) -> None:
        self.decode, self.reach = decode, reach
        self.parameters = [start.detach().clone().float().requires_grad_()]
        with torch.no_grad():
            rows, columns = self.picture().shape[2:]
        self._size = rows, columns

    def picture(self) -> Tensor:
        """What the generator makes of the codes."""
        return self.decode(self.parameters[0])

    @property
    def size(self) -> Size:
        """Height and width."""
        return self._size

    def settle(self) -> None:
        """Clamp the codes to their reach."""
        with torch.no_grad():
            self.parameters[0].clamp_(-self.reach, self.reach)


def _moved(coefficients: Tensor, old: Size, new: Size) -> Tensor:
    """(N, C, H, W // 2 + 1, 2) coefficients at their frequencies (cycles a picture) in another size."""
    out = coefficients.new_zeros((*coefficients.shape[:2], new[0], new[1] // 2 + 1, 2))
    # the highest frequency of an even size stands for two and is left out
    rows, columns = (min(old[0], new[0]) - 1) // 2, (min(old[1], new[1]) - 1) // 2 + 1
    out[:, :, : rows + 1, :columns] = coefficients[:, :, : rows + 1, :columns]
    if rows:
        out[:, :, -rows:, :columns] = coefficients[:, :, -rows:, :columns]
    return out


def fourier_scale(size: Size, decay: float) -> Tensor:
    """(H, W // 2 + 1): proportional to 1 / max(f, 1 / longer side) ** decay.

    f is the frequency in cycles a pixel. Scaled to a root mean square that depends on neither decay nor size.
    """
    scale = frequencies(size).clamp(min=1 / max(size)) ** -decay
    return scale * (RELIEF / scale.square().mean().sqrt())


def frequencies(size: Size) -> Tensor:
    """(H, W // 2 + 1): cycles a pixel of each coefficient of a real Fourier transform."""
    rows, columns = size
    across = torch.fft.rfftfreq(columns).square()
    squares: Tensor = torch.fft.fftfreq(rows)[:, None].square() + across
    return squares.sqrt()


def mixed(maps: Tensor, matrix: Tensor) -> Tensor:
    """The channels of maps (N, 3, H, W) mixed by a matrix (3, 3)."""
    return (matrix @ maps.flatten(2)).view(maps.shape)


def noise(count: int, size: Size, *, generator: torch.Generator, strength: float = 0.1) -> Tensor:
    """(count, 3, H, W) grey with normal noise of this standard deviation, in [0, 1]."""
    return (0.5 + strength * torch.randn((count, 3, *size), generator=generator)).clamp(0, 1)


def flat(count: int, size: Size, colour: Sequence[float] = (0.5, 0.5, 0.5)) -> Tensor:
    """(count, 3, H, W) of one colour."""
    return torch.tensor(colour).view(1, 3, 1, 1).expand(count, 3, *size).clone()


def resized(pictures: Tensor, size: Size) -> Tensor:
    """Pictures (N, 3, H, W) at another size, antialiased, kept in [0, 1]."""
    if tuple(pictures.shape[2:]) == tuple(size):
        return pictures
    return F.interpolate(pictures, size=size, mode="bicubic", antialias=True).clamp(0, 1)
