"""Curves: series of numbers over steps, with the record of what made them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from vizkit.results import Result

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Series:
    """One line: (x, y) points, its name, and the group it is drawn with ("training", "held out")."""

    name: str
    points: Sequence[tuple[float, float]]
    group: str = ""


@dataclass(frozen=True, eq=False, repr=False)
class Curves(Result):
    """Series over a common axis; series of one name share a panel, groups have a colour.

    across: what the axis counts. heading: what the figure says in bold.
    """

    drawn_by: ClassVar[str] = "vizkit.curve_drawing"

    heading: str
    series: Sequence[Series]
    across: str = "step"

    @property
    def values(self) -> "Tensor":
        """(points, 2) of all series, one after another."""
        import torch

        return torch.tensor([p for s in self.series for p in s.points]).reshape(-1, 2)

    def figures(self) -> dict[str, Any]:
        """The points of every series."""
        said = [
            {"name": s.name, "group": s.group, "points": [list(p) for p in s.points]} for s in self.series
        ]
        own = {"heading": self.heading, "across": self.across, "series": said}
        return {**super().figures(), **own}
