"""A map of pictures: points in two dimensions with names, groups and thumbnails."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from vizkit.results import Result

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import Tensor


@dataclass(frozen=True)
class Grouping:
    """One way to tell points apart: its name, the groups' names, the group of each point (-1: none)."""

    name: str
    names: tuple[str, ...]
    of: tuple[int, ...]


@dataclass(frozen=True, eq=False, repr=False)
class Scatter(Result):
    """Pictures as points of a map.

    positions: (n, 2) float, y upwards. names: of the pictures. groupings: ways to colour them, the chosen
    one first. thumbnails: JPEG files. neighbours: (n, k) numbers of the nearest in the features, nearest
    first. cells: (n, 2) row and column of each point in a grid without overlaps. new: which points were
    placed into a map that was there. heading, lines, notes: what a figure says.
    """

    drawn_by: ClassVar[str] = "vizkit.scatter_drawing"

    positions: "npt.NDArray[Any]"
    names: Sequence[str]
    groupings: Sequence[Grouping]
    thumbnails: Sequence[bytes]
    neighbours: "npt.NDArray[Any]"
    cells: "npt.NDArray[Any]"
    heading: str
    lines: Sequence[str] = ()
    notes: Sequence[str] = ()
    new: Sequence[bool] = ()
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def values(self) -> "Tensor":
        """(n, 2) float32: the positions."""
        import torch

        return torch.from_numpy(self.positions.astype("float32"))

    def figures(self) -> dict[str, Any]:
        """The quality of the map, and every picture with its place and groups."""
        points = [
            {
                "image": name,
                "x": float(x),
                "y": float(y),
                **{g.name: g.names[g.of[k]] if g.of[k] >= 0 else None for g in self.groupings},
                **({"new": True} if self.new and self.new[k] else {}),
            }
            for k, (name, (x, y)) in enumerate(zip(self.names, self.positions.tolist(), strict=True))
        ]
        return {**super().figures(), "heading": self.heading, **self.details, "points": points}

    def html(self) -> str:
        """A page that stands by itself: zoom, hover, search, neighbours by a click."""
        import importlib

        page: str = importlib.import_module("vizkit.site.pages").embedding_page(
            self
        )  # by name: a later layer
        return page
