"""Pictures in rows: filters, activation maps, patches, neighbours."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from vizkit.results import Box, Prediction, Result, plain

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Tile:
    """One picture of a grid.

    image: RGB. caption: lines of text under it, the first one in ink, the others softer.
    box: an outline in the picture's own pixels (a receptive field in its surroundings, say).
    record: what is said of it in the JSON record, plain values.
    """

    image: "Image"
    caption: tuple[str, ...] = ()
    box: Box | None = None
    record: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Strip:
    """Tiles that belong together, on one or more lines, with a label and a softer note of its own."""

    tiles: Sequence[Tile]
    label: str = ""
    note: str = ""


@dataclass(frozen=True, eq=False, repr=False)
class Pictures(Result):
    """Pictures in labelled rows.

    strips: the rows. heading: what the figure says in bold; lines: what stands under it, from full to short;
    notes: how to read the pictures, at the foot.
    enlarge: "crisp" shows pixels as squares (filters), "smooth" interpolates (photographs).
    columns: tiles a line; None for as many as look well. aligned: the same place in every strip is the same
    thing, so strips are single lines and labels stand on the left.
    """

    drawn_by: ClassVar[str] = "vizkit.grids"

    strips: Sequence[Strip]
    heading: str
    lines: Sequence[str] = ()
    notes: Sequence[str] = ()
    enlarge: Literal["crisp", "smooth"] = "smooth"
    columns: int | None = None
    aligned: bool = False
    prediction: Sequence[Prediction] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    arrays: "Tensor | None" = None

    @property
    def tiles(self) -> list[Tile]:
        """All tiles, strip by strip."""
        return [tile for strip in self.strips for tile in strip.tiles]

    @property
    def pictures(self) -> "Tensor":
        """(N, 3, H, W) in [0, 1]; smaller pictures stand in the middle of grey where sizes differ."""
        import numpy as np
        import torch

        shown = [tile.image.convert("RGB") for tile in self.tiles]
        width, height = max(p.width for p in shown), max(p.height for p in shown)
        out = np.full((len(shown), height, width, 3), 0.5, np.float32)
        for k, picture in enumerate(shown):
            y, x = (height - picture.height) // 2, (width - picture.width) // 2
            out[k, y : y + picture.height, x : x + picture.width] = np.asarray(picture, np.float32) / 255
        return torch.from_numpy(out).permute(0, 3, 1, 2)

    @property
    def values(self) -> "Tensor":
        """The numbers behind the pictures where there are some (`arrays`), else the pictures."""
        return self.pictures if self.arrays is None else self.arrays

    def figures(self) -> dict[str, Any]:
        """The technique's own figures, and what is said of every tile."""
        strips = [
            {"label": s.label, "note": s.note}
            | {"tiles": [{k: plain(v) for k, v in t.record.items()} for t in s.tiles]}
            for s in self.strips
        ]
        said = {"prediction": [vars(p) for p in self.prediction]} if self.prediction else {}
        return {**said, **super().figures(), "heading": self.heading, **self.details, "strips": strips}
