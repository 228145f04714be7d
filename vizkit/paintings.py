"""Pictures that were painted: the result of every technique that optimises or transforms a picture."""

import importlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

from vizkit.errors import UsageError
from vizkit.results import Prediction, Result, picture_format

if TYPE_CHECKING:
    from torch import Tensor

    from vizkit.pictures import Strip, Tile


@dataclass(frozen=True, eq=False, repr=False)
class Painting(Result):
    """Painted pictures, all of one size.

    pictures: (N, 3, H, W) in [0, 1], rounded to the 256 levels of the file that is written, so that what
    is said of them holds for the file. captions: lines of text for each. heading: what the figure says in
    bold. beside: rows that the figure shows above them (the photograph, the style, a perturbation); first:
    tiles that stand before them in their row. snapshots: (step, pictures) on the way. frames: pictures (3,
    H, W) of a film, for .gif files. seconds: how long a frame is shown. stopped: why it ended before its
    last step. lossless: what is said of them holds for exactly these pixels, so that they go into a .png.
    """

    drawn_by: ClassVar[str] = "vizkit.painting_drawing"

    pictures: "Tensor"
    heading: str = ""
    captions: Sequence[tuple[str, ...]] = ()
    beside: "Sequence[Strip]" = ()
    first: "Sequence[Tile]" = ()
    figure_alone: bool = False
    notes: Sequence[str] = ()
    columns: int | None = None
    snapshots: "Sequence[tuple[int, Tensor]]" = ()
    frames: "Sequence[Tensor]" = ()
    seconds: float = 0.06
    stopped: str = ""
    lossless: bool = False
    prediction: Sequence[Prediction] = ()
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def values(self) -> "Tensor":
        """The pictures."""
        return self.pictures

    def alone(self, index: int) -> "Painting":
        """One of the pictures as a result of its own."""
        captions = self.captions[index : index + 1]
        shots = [(step, shot[index : index + 1]) for step, shot in self.snapshots]
        return replace(self, pictures=self.pictures[index : index + 1], captions=captions, snapshots=shots)

    def along_the_way(self) -> "list[tuple[str, Painting]]":
        """(a name such as "step0032", that state) of every snapshot."""
        return [
            (f"step{step:05d}", replace(self, pictures=shot, snapshots=(), frames=()))
            for step, shot in self.snapshots
        ]

    def check_format(self, kind: str, layout: str = "picture") -> None:
        """Raise `UsageError` for a format that would change pixels that must stay as they are."""
        if self.lossless and kind in ("JPEG", "WEBP", "GIF") and layout == "picture":
            method = self.provenance.method
            raise UsageError(
                f"{method} writes .png: a .{kind.lower()} changes the pixels, and with them the answer"
            )

    def save(self, path: str | os.PathLike[str], *, force: bool = False, **style: Any) -> None:
        """As `Result.save`. Raises `UsageError` for a lossy format where every pixel counts."""
        self.check_format(picture_format(path), style.get("layout", "picture"))
        super().save(path, force=force, **style)

    def film(self) -> bytes:
        """The frames, or the snapshots on the way, as an animated GIF. Raises `UsageError` without any."""
        made: bytes = importlib.import_module(self.drawn_by).film(self)  # results do not depend on drawing
        return made

    def figures(self) -> dict[str, Any]:
        """The technique's own figures."""
        said = {"prediction": [vars(p) for p in self.prediction]} if self.prediction else {}
        rows, columns = self.pictures.shape[2:]
        size = {"pictures": len(self.pictures), "height": rows, "width": columns}
        stopped = {"stopped": self.stopped} if self.stopped else {}
        return {**said, **super().figures(), "heading": self.heading, **size, **stopped, **self.details}


def as_bytes(pictures: "Tensor") -> "Tensor":
    """Pictures in [0, 1] on the levels that an 8-bit file holds: multiples of 1/255."""
    return pictures.clamp(0, 1).mul_(255).round_().div_(255)
