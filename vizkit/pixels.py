"""From what a file holds to 8-bit RGB, upright: alpha, deep integers, floats, Lab and orientation."""

from typing import TYPE_CHECKING, Any

from PIL import Image

from vizkit.decoding import UNREADABLE, Noticed, explained
from vizkit.errors import UsageError, did_you_mean, one_line

if TYPE_CHECKING:
    import numpy as np

_ORIENTATION = 274  # the EXIF and TIFF tag
_UPRIGHT = {
    2: (Image.Transpose.FLIP_LEFT_RIGHT, "mirrored"),
    3: (Image.Transpose.ROTATE_180, "turned by 180 degrees"),
    4: (Image.Transpose.FLIP_TOP_BOTTOM, "flipped upside down"),
    5: (Image.Transpose.TRANSPOSE, "mirrored and turned"),
    6: (Image.Transpose.ROTATE_270, "turned right by 90 degrees"),
    7: (Image.Transpose.TRANSVERSE, "mirrored and turned"),
    8: (Image.Transpose.ROTATE_90, "turned left by 90 degrees"),
}


def finish(image: Image.Image, label: str, background: str, noticed: Noticed) -> Image.Image:
    """The decoded `image` in RGB and upright, sharing nothing with it and without its metadata."""
    with explained(f"cannot use {label}"):
        picture = _to_rgb(image, background, noticed)
        orientation = _orientation(image, noticed)
        if orientation in _UPRIGHT:
            move, how = _UPRIGHT[orientation]
            noticed.warnings.append(f"{how}, as its EXIF orientation {orientation} asks")
            picture = picture.transpose(move)
        picture.info = {}  # a second reading must not turn it again
        return picture


def colour(name: str) -> tuple[int, ...]:
    """Red, green and blue of a colour name or `#rrggbb`. Raises `UsageError`."""
    from PIL import ImageColor

    try:
        return ImageColor.getrgb(name)[:3]
    except (ValueError, TypeError, AttributeError) as error:
        near = did_you_mean(str(name), ImageColor.colormap) or "; give a name such as 'white', or '#rrggbb'"
        raise UsageError(f"unknown background colour {str(name)!r}{near}") from error


def _orientation(image: Image.Image, noticed: Noticed) -> int:
    """The EXIF or TIFF orientation; 0 where there is none. Broken EXIF does not spoil a good picture."""
    tags = getattr(image, "tag_v2", None)
    try:
        value = (image.getexif() if tags is None else tags).get(_ORIENTATION)
    except UNREADABLE:
        noticed.notes.append("its EXIF data are broken and not used")
        value = None
    return value if isinstance(value, int) else 0


def _to_rgb(image: Image.Image, background: str, noticed: Noticed) -> Image.Image:
    if image.mode[0] in "IF":
        return _deep_to_grey(image, noticed).convert("RGB")
    if image.mode == "LAB":
        return _lab_to_rgb(image)
    if image.has_transparency_data:
        return _flat(image, background, noticed)
    return image.copy() if image.mode == "RGB" else image.convert("RGB")


def _flat(image: Image.Image, background: str, noticed: Noticed) -> Image.Image:
    rgba = image if image.mode == "RGBA" else image.convert("RGBA")  # a large copy less
    alpha = rgba.getchannel("A")
    if alpha.getextrema() == (255, 255):
        return rgba.convert("RGB")
    noticed.warnings.append(
        f"transparent parts are laid on {one_line(background)} (--background chooses another colour)"
    )
    canvas = Image.new("RGB", image.size, colour(background))
    canvas.paste(rgba, mask=alpha)
    return canvas


def _lab_to_rgb(image: Image.Image) -> Image.Image:
    from PIL import ImageCms

    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    picture = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
    assert picture is not None  # noqa: S101 - None is for in-place work only
    return picture


def _deep_to_grey(image: Image.Image, noticed: Noticed) -> Image.Image:
    """A picture of more than 8 bits or of floats in 256 greys, by its depth or its range of values."""
    import numpy as np

    values = np.asarray(image)
    if _tag(image, "SampleFormat", 1) == 1 and _tag(image, "BitsPerSample", 0) == 32 and image.mode == "I":
        values = values.view(np.uint32)
    levels = _float_levels if image.mode == "F" else _integer_levels
    low, high = levels(image, values, noticed)
    grey = np.empty(values.shape, np.uint8)
    step = max(1, (1 << 22) // values.shape[1])
    for top in range(0, len(values), step):
        with np.errstate(invalid="ignore"):  # a signalling NaN
            rows = values[top : top + step].astype(np.float64)
        rows = np.nan_to_num(rows, nan=low, posinf=high, neginf=low)
        grey[top : top + step] = np.rint((rows - low).clip(0, high - low) / ((high - low) or 1) * 255)
    if "transparency" in image.info:
        noticed.warnings.append("its transparent grey is shown as a grey")
    return Image.fromarray(grey)


def _tag(image: Image.Image, name: str, default: int) -> int:
    number = {"BitsPerSample": 258, "SampleFormat": 339}[name]
    value = getattr(image, "tag_v2", {}).get(number, default)
    return int(value[0] if isinstance(value, tuple) else value)


def _float_levels(
    _image: Image.Image, values: "np.ndarray[Any, Any]", noticed: Noticed
) -> tuple[float, float]:
    import numpy as np

    finite = values[np.isfinite(values)]
    if not finite.size:
        raise ValueError("none of its values is a finite number")
    if finite.size < values.size:
        noticed.warnings.append(f"{values.size - finite.size:,} values are not finite; NaN is shown black")
    low, high = float(finite.min()), float(finite.max())
    if low >= 0 and high <= 1:
        return 0.0, 1.0
    noticed.warnings.append(f"its values from {low:g} to {high:g} are stretched from black to white")
    return low, high


def _integer_levels(
    image: Image.Image, values: "np.ndarray[Any, Any]", noticed: Noticed
) -> tuple[float, float]:
    low, high = int(values.min()), int(values.max())
    if low < 0:
        noticed.warnings.append(f"its values from {low} to {high} are stretched from black to white")
        return low, high
    bits = _tag(image, "BitsPerSample", 32 if image.mode == "I" and image.format != "PPM" else 16)
    if bits == 32:
        # Such files mostly hold far smaller numbers: the least usual depth that has room for them.
        bits = next(b for b in (8, 16, 31, 32) if high < 1 << b)
    elif _tag(image, "SampleFormat", 1) == 2:
        bits -= 1
    noticed.warnings.append(f"{(1 << bits) - 1} of its grey values is shown as white, in 256 steps")
    return 0, (1 << bits) - 1
