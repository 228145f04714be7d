"""What the channels of layers are for: a page of tables, a row a channel."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from vizkit.errors import UsageError
from vizkit.results import Result

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor


@dataclass(frozen=True)
class Share:
    """The most common folder or class of a channel's strongest pictures, and its share of them in [0, 1]."""

    name: str
    share: float


@dataclass(frozen=True)
class Shown:
    """One of a channel's patches: its number in `Summary.patches`, the picture's name, the unit's value."""

    patch: int
    image: str
    value: float


@dataclass(frozen=True)
class Channel:
    """A channel: its statistics over all pictures, and what its strongest pictures have in common.

    largest: the largest value; median, p99: quantiles; positive: the share of values above 0; selectivity:
    how many deviations the largest values stand above the mean. folder, label: None where there is nothing to
    tell apart.
    """

    number: int
    largest: float
    mean: float
    std: float
    median: float
    p99: float
    positive: float
    selectivity: float
    folder: Share | None
    label: Share | None
    patches: tuple[Shown, ...]

    @property
    def dead(self) -> bool:
        """Whether it is nowhere above zero."""
        return self.largest <= 0


@dataclass(frozen=True)
class LayerSummary:
    """A layer's channels, those that agree most first."""

    name: str
    height: int
    width: int
    channels: Sequence[Channel]


@dataclass(frozen=True, eq=False, repr=False)
class Summary(Result):
    """Tables of what channels are for. `save("summary.html")` is the page, `.json` the numbers.

    patches: RGB squares, shown by any channel; chance: the share of the most common folder that as many
    pictures drawn at random would have on average, None where there is one folder only.
    """

    layers: Sequence[LayerSummary]
    patches: "Sequence[Image]"
    heading: str
    chance: float | None = None
    lines: Sequence[str] = ()
    notes: Sequence[str] = ()
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def values(self) -> "Tensor":
        """(channels, 6) float32, all layers' in turn, channels in order: largest, mean, std, median, p99,
        positive."""
        import torch

        rows = [
            [c.largest, c.mean, c.std, c.median, c.p99, c.positive]
            for layer in self.layers
            for c in sorted(layer.channels, key=lambda c: c.number)
        ]
        return torch.tensor(rows, dtype=torch.float32)

    def picture(self, **style: Any) -> "Image":
        """There is none. Raises `UsageError`."""
        raise UsageError("a summary is a page: save it as .html, or as .json")

    def _repr_png_(self) -> None:
        """Nothing: a notebook shows the text."""

    def figures(self) -> dict[str, Any]:
        """Every channel with its statistics, folders and patches."""
        layers = [
            {
                "layer": layer.name,
                "map": [layer.height, layer.width],
                "channels": [{"channel": c.number, "dead": c.dead} | _plain(c) for c in layer.channels],
            }
            for layer in self.layers
        ]
        return {
            **super().figures(),
            "heading": self.heading,
            "chance": self.chance,
            **self.details,
            "layers": layers,
        }

    def html(self) -> str:
        """The page: tables that can be sorted and searched."""
        import importlib

        page: str = importlib.import_module("vizkit.site.pages").summary_page(self)  # by name: a later layer
        return page


def _plain(channel: Channel) -> dict[str, Any]:
    told = asdict(channel)
    del told["number"]
    told["patches"] = [{"image": p.image, "value": p.value} for p in channel.patches]
    return told
