"""Pictures of every kind as a network's input, with the geometry to find the way back."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from PIL import Image as PILImage
from torch import Tensor

from vizkit.errors import ImageError, UsageError
from vizkit.images import Photo, read_image, to_pillow, to_tensor
from vizkit.results import Box
from vizkit.sessions import is_finite

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]

LARGEST_PHOTO = 2048
"""Results keep the photograph for drawing at no more than this many pixels on its long side."""


@dataclass(frozen=True)
class Preprocessing:
    """From a photograph to the net's input.

    size: (height, width) of the input in pixels, None for any size (`resize` is then the short side of
        photographs, without a crop).
    resize: the short side before the centre crop; (height, width) to ignore the aspect; None: `size`.
    mean, std: subtracted from and dividing pixels in [0, 1], a value a channel; None for none.
    function: replaces resize and crop: PIL image -> tensor (C, H, W), as the net's `mean`/`std` want it.
    """

    size: tuple[int, int] | None = None
    resize: int | tuple[int, int] | None = None
    interpolation: Interpolation = "bilinear"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    function: Callable[[PILImage.Image], Tensor] | None = None

    def geometry(self, width: int, height: int) -> tuple[tuple[int, int], Box]:
        """Output size (height, width) and the box of a width x height photograph that it shows."""
        if self.size is None:
            whole = (0.0, 0.0, float(width), float(height))
            return (height, width) if self.resize is None else self.resized(width, height), whole
        rows, columns = self.size
        tall, wide = self.resized(width, height)
        # whole pixels, rounded as torchvision's centre crop does
        top, left = round((tall - rows) / 2.0), round((wide - columns) / 2.0)
        x, y = width / wide, height / tall
        return self.size, (left * x, top * y, (left + columns) * x, (top + rows) * y)

    def resized(self, width: int, height: int) -> tuple[int, int]:
        """(height, width) after the resize, before the crop."""
        resize = self.resize if self.resize is not None else max(self.size or (0, 0))
        if isinstance(resize, tuple):
            return resize
        short = min(width, height)
        return int(resize * height / short), int(resize * width / short)


@dataclass(frozen=True)
class Prepared:
    """One picture, ready for the net: `pixels` (C, H, W), and what the result is drawn on."""

    pixels: Tensor
    photo: PILImage.Image
    box: Box
    name: str
    warnings: tuple[str, ...] = ()


def images_of(image: Any) -> tuple[list[Any], bool]:
    """The pictures in what was given, and whether it was a sequence (a list, a tuple or a batch)."""
    if isinstance(image, Tensor) and image.ndim == 4:
        return list(image), True
    if isinstance(image, list | tuple):
        return [part for entry in image for part in images_of(entry)[0]], True
    return [image], False


def prepare(image: Any, preprocessing: Preprocessing, channels: int) -> Prepared:
    """A path, PIL image, array, tensor or `Photo` as the input of a net with so many channels.

    What is prepared stays as it is. Raises what `read_image` raises, `ImageError` for channels that do
    not suit, `UsageError` for what is no picture.
    """
    if isinstance(image, Prepared):
        return image
    if isinstance(image, Tensor):
        return _prepare_tensor(image, preprocessing, channels)
    photo = image if isinstance(image, Photo) else read_image(pillow_of(image))
    if preprocessing.function is not None:
        return _prepare_by_function(photo, preprocessing.function)
    return _prepare_photo(photo, preprocessing, channels)


def _prepare_photo(photo: Photo, preprocessing: Preprocessing, channels: int) -> Prepared:
    picture = photo.image
    warnings = list(photo.warnings)
    if channels == 1:
        picture = picture.convert("L")
        warnings.append("converted to grey: the model takes one channel")
    (rows, columns), box = preprocessing.geometry(*picture.size)
    if (columns, rows) != picture.size or preprocessing.size is not None:
        filters = PILImage.Resampling[preprocessing.interpolation.upper()]
        picture = _crop_and_resize(picture, (columns, rows), filters, box)
    shown, shown_box = _for_drawing(photo.image, box)
    pixels = to_tensor(picture.convert("RGB"))[: 1 if channels == 1 else 3]
    return Prepared(pixels, shown, shown_box, photo.name, tuple(warnings))


def _crop_and_resize(
    picture: PILImage.Image, size: tuple[int, int], filters: PILImage.Resampling, box: Box
) -> PILImage.Image:
    """The box of the picture at `size`; parts outside the picture (input larger than it) are black."""
    left, top, right, bottom = box
    if left < 0 or top < 0 or right > picture.width or bottom > picture.height:
        scale_x, scale_y = size[0] / (right - left), size[1] / (bottom - top)
        inner = picture.resize((round(picture.width * scale_x), round(picture.height * scale_y)), filters)
        padded = PILImage.new(picture.mode, size)
        padded.paste(inner, (round(-left * scale_x), round(-top * scale_y)))
        return padded
    return picture.resize(size, filters, box=box)


def _for_drawing(picture: PILImage.Image, box: Box) -> tuple[PILImage.Image, Box]:
    scale = LARGEST_PHOTO / max(picture.size)
    if scale >= 1:
        return picture, box
    width, height = (max(1, round(side * scale)) for side in picture.size)
    x, y = width / picture.width, height / picture.height
    small = picture.resize((width, height), PILImage.Resampling.BICUBIC, reducing_gap=2.0)
    return small, (box[0] * x, box[1] * y, box[2] * x, box[3] * y)


def _prepare_by_function(photo: Photo, function: Callable[[PILImage.Image], Tensor]) -> Prepared:
    pixels = function(photo.image)
    if not isinstance(pixels, Tensor) or pixels.ndim not in (3, 4) or (pixels.ndim == 4 and len(pixels) != 1):
        got = tuple(pixels.shape) if isinstance(pixels, Tensor) else type(pixels).__name__
        raise UsageError(f"preprocess must give a tensor (C, H, W), not {got}")
    prepared = _as_given(pixels.reshape(pixels.shape[-3:]).float(), photo.name)
    warnings = (*photo.warnings, "own preprocessing: drawn on the net's input, not on the photograph")
    return Prepared(prepared.pixels, prepared.photo, prepared.box, photo.name, warnings)


def _prepare_tensor(image: Tensor, preprocessing: Preprocessing, channels: int) -> Prepared:
    if image.ndim != 3 or not image.numel():
        raise UsageError(f"a tensor image is (C, H, W) or (N, C, H, W), not {tuple(image.shape)}")
    if image.layout is not torch.strided or image.is_quantized or image.is_meta or image.is_complex():
        raise UsageError("a tensor image is an ordinary one of real numbers, not sparse, quantized or meta")
    # a clone: the caller's tensor may be a leaf of a graph or an inference tensor
    with torch.inference_mode(False):
        pixels = image.detach().clone()
    pixels = pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels.float()
    if not is_finite(pixels):
        raise ImageError("the tensor image holds NaN or infinite values")
    if preprocessing.size is None or tuple(pixels.shape[1:]) == preprocessing.size:
        return _as_given(pixels, "tensor")
    if pixels.shape[0] != channels:
        raise ImageError(f"the tensor image has {pixels.shape[0]} channels, the model takes {channels}")
    height, width = pixels.shape[1:]
    box = preprocessing.geometry(width, height)[1]
    shown, shown_box = _for_drawing(_viewable(pixels), box)
    return Prepared(resize_tensor(pixels, preprocessing), shown, shown_box, "tensor")


def resize_tensor(pixels: Tensor, preprocessing: Preprocessing) -> Tensor:
    """Pixels (C, H, W) through resize and crop, differentiably; what lies outside is zero."""
    assert preprocessing.size is not None  # noqa: S101 - for the type checker; the caller has looked
    rows, columns = preprocessing.size
    tall, wide = preprocessing.resized(pixels.shape[2], pixels.shape[1])
    mode = "bilinear" if preprocessing.interpolation == "bilinear" else "bicubic"
    resized = F.interpolate(pixels[None], (tall, wide), mode=mode, antialias=True)[0]
    resized = resized.clamp(pixels.min(), pixels.max())  # bicubic overshoots at edges
    top, left = max(0, round((tall - rows) / 2)), max(0, round((wide - columns) / 2))
    cut = resized[:, top : top + rows, left : left + columns]
    missing = rows - cut.shape[1], columns - cut.shape[2]
    return F.pad(cut, (missing[1] // 2, -(-missing[1] // 2), missing[0] // 2, -(-missing[0] // 2)))


def _as_given(pixels: Tensor, name: str) -> Prepared:
    shown, box = _for_drawing(_viewable(pixels), (0.0, 0.0, float(pixels.shape[2]), float(pixels.shape[1])))
    return Prepared(pixels, shown, box, name)


def _viewable(pixels: Tensor) -> PILImage.Image:
    """(C, H, W) as RGB: as it is where it is a picture in [0, 1], else grey between its extremes."""
    if pixels.shape[0] not in (1, 3):
        pixels = pixels.mean(0, keepdim=True)
    low, high = map(float, torch.aminmax(pixels))
    if low < 0 or high > 1:
        pixels = (pixels - low).div_(max(high - low, 1e-12))
    return to_pillow(pixels)


def pillow_of(image: Any) -> Any:
    """An array (H, W) or (H, W, 3 or 4) of uint8 as a PIL image; anything else as it is."""
    if type(image).__module__ != "numpy" or not hasattr(image, "dtype"):
        return image
    if str(image.dtype) != "uint8" or (image.ndim != 2 and image.shape[2:] not in ((3,), (4,))):
        raise UsageError(f"an array image is uint8 (H, W, 3), not {image.dtype} {tuple(image.shape)}")
    return PILImage.fromarray(image)
