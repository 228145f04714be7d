"""Filters: the weights of the first layer, or of any other, as pictures."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from PIL import Image
from torch import Tensor

from vizkit import colormaps
from vizkit.errors import one_line
from vizkit.kernels import as_grey, dominant, filter_bank, layer_with_weights, order_of, spectrum
from vizkit.origin import origin
from vizkit.pictures import Pictures, Strip, Tile
from vizkit.registry import Layer, Model, method
from vizkit.signatures import Between
from vizkit.zoo import as_model

DEAD = 1e-3
"""A filter whose norm is below this share of the median one is called dead."""

FLAT = 0.8
"""A spectrum whose least value is above this share of its largest prefers no frequency."""


@method(
    section="look inside",
    title="filters: the weights as pictures, grey is zero",
    paper="Krizhevsky, Sutskever & Hinton 2012; Zeiler & Fergus 2014",
    formula=r"W_k \in \mathbb{R}^{C \times h \times w}, \quad \mathrm{shown:} \; \frac{1}{2} +"
    r" \frac{W_k}{2 \max |W_k|}",
    example="vizkit filters --model resnet50 --order similarity",
    gives="pictures",
    layouts=(),
)
def filters(
    model: Model,
    *,
    layer: Layer = None,
    scale: Annotated[
        Literal["each", "all"], "Brightness spans each filter's own weights, or those of all filters."
    ] = "each",
    order: Annotated[
        Literal["norm", "similarity", "index"], "Strongest first, alike ones side by side, or as numbered."
    ] = "norm",
    count: Annotated[int, "Filters shown at most.", Between(1, 4096)] = 256,
    inputs: Annotated[int, "Input channels shown of each filter of a deeper layer.", Between(1, 256)] = 16,
    frequency: Annotated[bool, "Show the frequencies that the filters react to instead."] = False,
) -> Any:
    """Show the filters of a layer: by itself the first convolution.

    Filters over three input channels that are the picture's are shown in colour, all others in grey, an input
    channel a tile: what a deeper filter weighs is channels of the layer before, which have no colour. Filters
    of one pixel are shown as one matrix. Grey is zero; weights act on normalised pixels, and only their
    proportions are shown. With `frequency`, the magnitude of the Fourier transform: the middle is frequency
    0, the edge half a cycle a pixel.

    `arrays` are the exact weights (filters, inputs, height, width) in the order shown, before `count`.
    Raises `UsageError` for a layer that has no filters, `ModelError` for a network without any.
    """
    model = as_model(model)
    name, module = layer_with_weights(model, layer)
    bank = filter_bank(name, module, model.input_shape)
    ranked = order_of(bank, order)
    bank = bank[ranked]
    norms = bank.flatten(1).norm(dim=1)
    shown = min(count, len(bank))
    numbers = ranked[:shown]
    strips, aligned = _strips(bank, numbers, model.channels, scale, inputs, frequency=frequency)
    size = " x ".join(str(s) for s in bank.shape[1:])
    many = f"{shown} of {len(bank)} filters" if shown < len(bank) else f"{len(bank)} filters"
    dead = [ranked[k] for k in range(len(bank)) if float(norms[k]) < DEAD * float(norms.median())]
    return Pictures(
        provenance=origin(model, target=f"filters of {name}", layer=name),
        strips=strips,
        heading=f"{name}: {many} of {size}",
        notes=[_reading(bank, scale, frequency=frequency)],
        enlarge="crisp",
        aligned=aligned,
        arrays=bank,
        details={
            "layer": name,
            "shape": list(bank.shape),
            "norms": [float(norms[k]) for k in range(shown)],
            "dead": dead,
        },
    )


def _reading(bank: Tensor, scale: str, *, frequency: bool) -> str:
    if frequency:
        return "middle: frequency 0, edge: half a cycle a pixel; bright: what the filter reacts to"
    spans = "each filter's own largest weight" if scale == "each" else "the largest weight of all"
    if bank.shape[2:] == (1, 1):
        return (
            f"a row an output, a column an input; colours span {spans if scale == 'all' else 'all weights'}"
        )
    return f"grey is zero, brightness spans {spans}; weights act on normalised pixels"


def _strips(
    bank: Tensor, numbers: Sequence[int], channels: int, scale: str, inputs: int, *, frequency: bool
) -> tuple[list[Strip], bool]:
    """The rows of the picture, and whether a place in a row means the same in all of them."""
    shown = bank[: len(numbers)]
    largest = float(bank.abs().max())
    if frequency and bank.shape[2:] != (1, 1):
        return [Strip([_spectrum_tile(f, n) for f, n in zip(shown, numbers, strict=True)])], False
    if bank.shape[2:] == (1, 1):
        return [Strip([_matrix_tile(shown[:, :, 0, 0])])], False
    if bank.shape[1] == 1 or bank.shape[1] == channels == 3:
        ends = [largest if scale == "all" else float(f.abs().max()) for f in shown]
        tiles = [_tile(f, e, n) for f, e, n in zip(shown, ends, numbers, strict=True)]
        return [Strip(tiles)], False
    strips = []
    for one, number in zip(shown[: max(1, min(len(shown), 24))], numbers, strict=False):
        end = largest if scale == "all" else float(one.abs().max())
        tiles = [_tile(k[None], end, number, channel) for channel, k in enumerate(one[:inputs])]
        strips.append(Strip(tiles, f"filter {number}", f"norm {float(one.norm()):.3g}"))
    return strips, True


def _tile(one: Tensor, largest: float, number: int, channel: int | None = None) -> Tile:
    grey = as_grey(one, largest).expand(3, -1, -1)
    record = {"filter": number, "norm": float(one.norm())} | ({} if channel is None else {"input": channel})
    pixels = (grey * 255).round().byte().permute(1, 2, 0).contiguous().numpy()
    return Tile(Image.fromarray(pixels), record=record)


def _spectrum_tile(one: Tensor, number: int) -> Tile:
    magnitude = spectrum(one)
    cycles, degrees = dominant(magnitude)
    level = (magnitude / magnitude.max().clamp_min(1e-12) * 255).round().byte().numpy()
    said = f"{cycles:.2f} c/px {degrees:.0f}°" if cycles else "colour"
    if float(magnitude.min()) > FLAT * float(magnitude.max()):
        said = "all alike"
    record = {"filter": number, "cycles_per_pixel": cycles, "orientation_degrees": degrees}
    return Tile(Image.fromarray(colormaps.colours("ember")[level]), (f"{number}: {said}",), record=record)


def _matrix_tile(matrix: Tensor) -> Tile:
    """Weights (outputs, inputs) as one picture, blue below and red above zero."""
    level = (as_grey(matrix, float(matrix.abs().max())) * 255).round().byte().numpy()
    said = one_line(f"{matrix.shape[0]} outputs (down) x {matrix.shape[1]} inputs")
    return Tile(Image.fromarray(np.asarray(colormaps.colours("tide")[level])), (said,))
