"""Sample photographs: those that scikit-image and scikit-learn bring with them, or the user's own."""

import importlib.util
import io
import os
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from vizkit import atomic
from vizkit.errors import UsageError
from vizkit.folders import walk_images
from vizkit.images import read_image

SAMPLES = {
    "cat": ("skimage", "data/chelsea.png"),
    "cup": ("skimage", "data/coffee.png"),
    "rocket": ("skimage", "data/rocket.jpg"),
    "motorcycle": ("skimage", "data/motorcycle_left.png"),
    "tissue": ("skimage", "data/ihc.png"),
    "galaxies": ("skimage", "data/hubble_deep_field.jpg"),
    "gravel": ("skimage", "data/gravel.png"),
    "bricks": ("skimage", "data/brick.png"),
    "grass": ("skimage", "data/grass.png"),
    "coins": ("skimage", "data/coins.png"),
    "pagoda": ("sklearn", "datasets/images/china.jpg"),
    "dahlia": ("sklearn", "datasets/images/flower.jpg"),
}
"""What each is called: the package that brings it, and where."""

CREDITS = (
    "Photographs: the samples of scikit-image (public domain, CC0) and of scikit-learn: the pagoda by "
    "danielbuechele and the dahlia by vultilion, both CC BY 2.0."
)

LARGEST = 640
"""Longer side of a photograph in the gallery."""

PIECES, PIECE = 20, 200
"""Squares cut from each photograph for the techniques that look at a whole folder, and their side."""


def write_photographs(folder: Path, own: str | os.PathLike[str] | None) -> dict[str, str]:
    """Lay the photographs into `folder`/photos; returns name -> path inside `folder`.

    `own`: a folder of the user's pictures, which then stand under the same names, the first ones first.
    Raises `UsageError` where there is no picture, `ImageError` for one that cannot be read.
    """
    sources = _own(own) if own is not None else [_installed(*SAMPLES[name]) for name in SAMPLES]
    photos = atomic.make_folder(folder / "photos")
    found = {}
    for name, source in zip(SAMPLES, sources, strict=True):
        path = photos / f"{name}.jpg"
        picture = read_image(source).image
        picture.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
        _write(path, picture)
        found[name] = path.relative_to(folder).as_posix()
    return found


def write_pieces(folder: Path, own: str | os.PathLike[str] | None) -> str:
    """Lay a folder of many pictures: squares cut from the samples in a raster, or the user's own folder.

    Returns its path inside `folder`, or the absolute one of the user's.
    """
    if own is not None:
        return str(Path(own).absolute())
    pieces = folder / "photos" / "pieces"
    for name in SAMPLES:
        photograph = read_image(folder / "photos" / f"{name}.jpg").image
        atomic.make_folder(pieces / name)
        for number, box in enumerate(raster(photograph.size, PIECES, PIECE)):
            _write(pieces / name / f"{number:02}.jpg", photograph.crop(box))
    return pieces.relative_to(folder).as_posix()


def raster(size: tuple[int, int], count: int, side: int) -> list[tuple[int, int, int, int]]:
    """`count` squares that are spread over a picture of `size` as evenly as whole rows allow."""
    width, height = size
    columns = max(1, round((count * width / height) ** 0.5))
    rows = -(-count // columns)
    boxes = []
    for k in range(count):
        row, column = divmod(k, columns)
        x = round((width - side) * (column / max(1, columns - 1)))
        y = round((height - side) * (row / max(1, rows - 1)))
        boxes.append((x, y, x + side, y + side))
    return boxes


def _write(path: Path, picture: Image.Image) -> None:
    kept = io.BytesIO()
    picture.save(kept, "JPEG", quality=90)
    data = kept.getvalue()
    if not path.is_file() or path.read_bytes() != data:
        atomic.write(path, data, force=True)


def _installed(package: str, inside: str) -> Path:
    spec = importlib.util.find_spec(package)
    path = Path(spec.origin).parent / inside if spec and spec.origin else None
    if path is None or not path.is_file():
        raise UsageError(
            f"{package}'s sample photographs are not installed; give pictures by --images FOLDER"
        )
    return path


def _own(folder: str | os.PathLike[str]) -> Sequence[Path]:
    found = [path for path, _ in walk_images(folder)]
    return [found[k % len(found)] for k in range(len(SAMPLES))]
