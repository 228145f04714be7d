"""Results made of heat maps: several side by side, and an object cut out by one."""

import dataclasses
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from vizkit.results import Box, Heatmap, Prediction, Result, plain

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor


@dataclass(frozen=True, eq=False, repr=False)
class Sheet(Result):
    """Several heat maps of one picture side by side.

    cells: (rows x columns), a `Heatmap` or, where there is none, the reason in words.
    rows, columns: their labels; captions: a line of text a cell, or nothing.
    aligned: whether columns must stay under each other (else each row may be broken into lines).
    scale: "own": each map's colours span its own values; "shared": all maps are drawn in multiples of their
    own mean magnitude, on one scale.
    """

    drawn_by: ClassVar[str] = "vizkit.sheets"

    cells: Sequence[Sequence["Heatmap | str"]]
    rows: Sequence[str]
    columns: Sequence[str]
    photo: "Image"
    box: Box
    captions: Sequence[Sequence[str]] = ()
    aligned: bool = False
    scale: Literal["own", "shared"] = "own"
    prediction: Sequence[Prediction] = ()
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def maps(self) -> "list[Heatmap]":
        """The heat maps, row by row."""
        return [cell for row in self.cells for cell in row if isinstance(cell, Heatmap)]

    @property
    def values(self) -> "Tensor":
        """(number of maps, H, W)."""
        import torch

        return torch.stack([m.values for m in self.maps])

    def figures(self) -> dict[str, Any]:
        """Prediction, and what each cell shows."""
        cells = [
            {"row": row, "column": column}
            | (cell.figures() if isinstance(cell, Heatmap) else {"refused": cell})
            for row, line in zip(self.rows, self.cells, strict=True)
            for column, cell in zip(self.columns, line, strict=True)
        ]
        for cell in cells:
            cell.pop("prediction", None)
        return {
            "prediction": [dataclasses.asdict(p) for p in self.prediction],
            **super().figures(),
            **self.details,
            "cells": cells,
        }


@dataclass(frozen=True, eq=False, repr=False)
class Segmentation(Result):
    """An object cut out of a photograph.

    mask: (H, W) bool at the photograph's size, True on the object.
    heatmap: the map that says where it is. seeds: (H, W) uint8, 0 none, 1 background, 2 foreground.
    by: what found the edge, "grabcut", or "threshold" where that could do nothing (the warnings say why).
    truth_iou: intersection over union with the true mask, where one was given.
    """

    drawn_by: ClassVar[str] = "vizkit.segmentation_drawing"

    mask: "Tensor"
    heatmap: Heatmap
    seeds: "Tensor"
    by: Literal["grabcut", "threshold"] = "grabcut"
    truth_iou: float | None = None

    @property
    def photo(self) -> "Image":
        """The photograph (RGB, upright)."""
        return self.heatmap.photo

    @property
    def box(self) -> Box:
        """The part of the photograph that the network sees."""
        return self.heatmap.box

    @property
    def values(self) -> "Tensor":
        """(H, W) float32: 1 on the object, 0 beside it."""
        return self.mask.float()

    @property
    def share(self) -> float:
        """The object's share of the photograph."""
        return float(self.mask.float().mean())

    def cutout(self) -> "Image":
        """The object alone at the photograph's size (RGBA), transparent around it, the edge 1 px soft."""
        return self.picture(layout="cutout", width=None)

    def outline(self) -> "Image":
        """The photograph at its size (RGB) with a line around the object, all else faded."""
        return self.picture(layout="overlay", width=None)

    def iou(self, mask: Any) -> float:
        """Intersection over union with a mask of the photograph: a picture, file, array or tensor (H, W).

        Raises what `vizkit.masks.read_mask` raises, and `UsageError` for other proportions.
        """
        read = importlib.import_module("vizkit.masks").read_mask  # by name: results depend on nothing
        overlap: Callable[..., float] = importlib.import_module("vizkit.grabcut").overlap
        return overlap(self.mask.numpy(), read(mask).numpy())

    def figures(self) -> dict[str, Any]:
        """The map's figures, what it was made by, the object's share of the photograph, the IoU."""
        made = self.heatmap.provenance
        return {
            **self.heatmap.figures(),
            "warnings": list(self.provenance.warnings),
            "map": {"method": made.method, "options": {k: plain(v) for k, v in made.options.items()}},
            "by": self.by,
            "share": self.share,
            **({} if self.truth_iou is None else {"iou": self.truth_iou}),
        }
