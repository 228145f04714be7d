"""What a trained net sees, by our own techniques: filters, patches, a map of its features, class images."""

import io
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from vizkit import atomic
from vizkit.errors import VizkitError, one_line
from vizkit.methods.class_image import class_image
from vizkit.methods.embed import embed
from vizkit.methods.filters import filters
from vizkit.methods.patches import patches
from vizkit.reports import Chart, Section
from vizkit.scanning.choosing import default_features, default_layers
from vizkit.scanning.scanner import scan
from vizkit.training.datasets import Pictures
from vizkit.training.report import as_picture
from vizkit.zoo import VisionModel

MOST = 1500
"""Pictures that are scanned and mapped at most."""

WIDTH = 860
"""Of the figures on the page, in pixels."""

CLASSES = 20
"""Classes that are painted at most."""


def portrait(model: VisionModel, judged: Pictures, *, seed: int = 0) -> list[Section]:
    """Sections of a page: what fits the net and the pictures (N, C, H, W) it is shown; others say why not."""
    sections = [_tried("First-layer filters", lambda: _figure(filters(model)))]
    with tempfile.TemporaryDirectory(prefix="vizkit-") as folder:
        root, index = Path(folder) / "pictures", Path(folder) / "index"
        _write(judged, root, seed)
        sections += list(_scanned(model, root, index, seed))
    names = list(range(len(judged.classes)))[:CLASSES]
    painted = _tried(
        "Class images: what raises each class's score most", lambda: _painted(model, names, seed)
    )
    return [*sections, painted]


def _write(judged: Pictures, root: Path, seed: int) -> None:
    """The pictures as files, a folder a class; at most `MOST` of them, drawn by the seed."""
    generator = torch.Generator().manual_seed(seed % 2**63)
    numbers = torch.randperm(len(judged), generator=generator)[:MOST]
    for label, name in enumerate(judged.classes):
        own = [k for k in numbers.tolist() if int(judged.labels[k]) == label]
        folder = atomic.make_folder(root / f"{label:03} {_plain(name)}") if own else root
        for k in own:
            held = io.BytesIO()
            as_picture(judged.images[k]).save(held, "PNG")
            atomic.write(folder / f"{k:06}.png", held.getvalue())


def _plain(name: str) -> str:
    return "".join(c if c.isalnum() or c in " -_" else "-" for c in name)[:60]


def _scanned(model: VisionModel, root: Path, index: Path, seed: int) -> Iterator[Section]:
    """The strongest patches of the last convolution, and the map of the features."""
    try:
        layers = default_layers(model)
        features = default_features(model)
        found = scan(model, root, index, layers=layers[-1:] + layers[:1], features=features).index
    except VizkitError as error:
        yield Section("Patches", [one_line(f"Not for this net: {error}")])
        return
    words = "Rows are channels of the last convolution: the pictures, or parts of them, that excite it most."
    deep = _tried(
        "Maximally activating patches",
        lambda: _figure(patches(found, layers[-1], channels=12, count=12)),
        words,
    )
    yield deep
    yield _tried(
        "Its features on a map (t-SNE)",
        lambda: _figure(embed(found, seed=seed)),
        "Pictures that it finds alike lie side by side; colours are true classes.",
    )


def _painted(model: VisionModel, classes: list[int], seed: int) -> Chart:
    size = max(48, *(model.preprocessing.size or (48, 48)))
    return _figure(class_image(model, classes, size=size, seed=seed), layout="figure")


def _figure(result: Any, **settings: Any) -> Chart:
    """A result's own figure for both themes."""
    light, dark = (
        result.picture(width=WIDTH * 3 // 2, theme=theme, **settings) for theme in ("light", "dark")
    )
    return Chart("", light, dark, WIDTH)


def _tried(heading: str, make: Callable[[], Chart], words: str = "") -> Section:
    """A section with the chart, or why there is none."""
    try:
        return Section(heading, [words] if words else [], charts=[make()])
    except VizkitError as error:
        return Section(heading, [one_line(f"Not for this net: {error}")])
