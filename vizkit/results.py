"""What a technique returns: frozen values on the CPU in float32, with the record of what made them.

Nothing here draws. `picture()` looks the drawing up in a table that `vizkit.render` fills.
"""

import dataclasses
import importlib
import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from vizkit import atomic
from vizkit.errors import UsageError, did_you_mean
from vizkit.fingerprint import Fingerprint

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels, fractions allowed."""

DRAWINGS: "dict[type, Callable[..., Image]]" = {}
"""Result class -> function that draws it; filled by the module that the class names in `drawn_by`."""


@dataclass(frozen=True)
class Prediction:
    """One class the model considers: index, label, raw score (logit) and softmax probability."""

    index: int
    label: str
    score: float
    probability: float


@dataclass(frozen=True)
class Provenance:
    """What made a result: enough to make it again, and to know when it must be made again.

    `title` is the method's name in plain words with what its values mean, "name: meaning"; `settings` are
    the options that are not at their defaults, in words.
    """

    method: str
    model: str
    weights: Fingerprint
    image: str
    target: str
    layer: str | None = None
    title: str = ""
    settings: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    image_sha256: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """The record as plain JSON values; reads (and so computes, once) the weights' hash."""
        record = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        record["weights"] = self.weights.hex
        record["options"] = {k: plain(v) for k, v in self.options.items()}
        record["versions"] = dict(self.versions)
        record["warnings"] = list(self.warnings)
        record["settings"] = list(self.settings)
        return record


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """Base of all results: `picture()`, `save()`, `to_json()`, and notebook display."""

    drawn_by: ClassVar[str] = "vizkit.render"
    """The module that draws this kind."""

    provenance: Provenance

    def __repr__(self) -> str:
        made = self.provenance
        return f"{type(self).__name__}({made.method} of {made.target!r} in {made.image!r} by {made.model!r})"

    def picture(self, **style: Any) -> "Image":
        """The result as a PIL image (RGB); the options are those of the drawing in `vizkit.render`."""
        return drawing(type(self))(self, **style)

    def save(self, path: str | os.PathLike[str], *, force: bool = False, **style: Any) -> None:
        """Write the picture (`.png`, `.jpg`, `.webp`), the record (`.json`) or, for what has one, the page
        (`.html`) or the film (`.gif`), with its provenance inside.

        A file that vizkit made is replaced, any other only with `force`. Raises `OutputError` or
        `UsageError`; what stood there before is then unchanged.
        """
        kind = picture_format(path)
        atomic.check(path, force=force)
        if kind == "JSON":
            data = atomic.encoded(self.to_json())
        elif kind == "HTML":
            data = atomic.encoded(self.html())
        elif kind == "GIF":
            data = self.film()
        else:
            data = encode(self.picture(**style), kind, self.as_dict())
        atomic.write(path, data, force=force)

    def html(self) -> str:
        """The result as a page that stands by itself. Raises `UsageError` for results that have none."""
        raise UsageError(f"{self.provenance.method or 'this'} makes no .html; use .png, .jpg, .webp or .json")

    def film(self) -> bytes:
        """The result as an animated GIF. Raises `UsageError` for results that have no frames."""
        raise UsageError(f"{self.provenance.method or 'this'} makes no .gif; use .png, .jpg, .webp or .json")

    def as_dict(self) -> dict[str, Any]:
        """The record as plain JSON values, without the pixel data. The first key is vizkit's mark."""
        from vizkit import __version__

        return {atomic.MARK: __version__, **self.figures(), "provenance": self.provenance.as_dict()}

    def figures(self) -> dict[str, Any]:
        """The method's own numbers, as plain JSON values."""
        return {"target": self.provenance.target, "warnings": list(self.provenance.warnings)}

    def to_json(self) -> str:
        """`as_dict()` as JSON text, one line's end at the end."""
        return json.dumps(self.as_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def _repr_png_(self) -> bytes | None:
        return encode(self.picture(), "PNG", self.as_dict())


@dataclass(frozen=True, eq=False, repr=False)
class Heatmap(Result):
    """A map over the model's input.

    values: (H, W), one number a pixel of the model's input.
    attribution: (C, H, W), signed, one number an input value, where the method has one.
    photo: the photograph (RGB, upright) and `box`, the part of it that the model's input covers.
    signed: whether values have a meaningful sign (drawn with a diverging colour map).
    prediction: the most probable classes, best first (empty when the output is no classification).
    target_index: the class explained, where the target is one class.
    details: the technique's own figures (the error of an approximation, say), plain JSON values.
    """

    values: "Tensor"
    photo: "Image"
    box: Box
    attribution: "Tensor | None" = None
    signed: bool = False
    prediction: Sequence[Prediction] = ()
    target_score: float | None = None
    target_probability: float | None = None
    target_index: int | None = None
    details: Mapping[str, Any] = field(default_factory=dict)

    def figures(self) -> dict[str, Any]:
        """Prediction, target with score, and the range of the values."""
        return {
            "prediction": [dataclasses.asdict(p) for p in self.prediction],
            **super().figures(),
            "target_index": self.target_index,
            "target_score": self.target_score,
            "target_probability": self.target_probability,
            "values_min": float(self.values.min()),
            "values_max": float(self.values.max()),
            **self.details,
        }


def drawing(kind: type[Result]) -> "Callable[..., Image]":
    """The function that draws results of class `kind`."""
    if kind not in DRAWINGS:
        importlib.import_module(kind.drawn_by)  # by name: results must not depend on drawing
    return DRAWINGS[kind]


# --- files ---

Format = Literal["PNG", "JPEG", "WEBP", "JSON", "HTML", "GIF"]
_FORMATS: dict[str, Format] = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".json": "JSON",
    ".html": "HTML",
    ".gif": "GIF",
}


def picture_format(path: str | os.PathLike[str]) -> Format:
    """The format that a file's ending asks for; PNG for `-` and devices. Raises `UsageError` for others."""
    name = os.fspath(path)
    ending = os.path.splitext(name)[1].lower()
    if name == "-" or (not ending and os.path.exists(name) and not os.path.isfile(name)):
        return "PNG"
    if ending not in _FORMATS:
        hint = did_you_mean(ending, _FORMATS) or f"; use one of {', '.join(_FORMATS)}"
        raise UsageError(f"cannot tell the format of {name!r} from its ending{hint}")
    return _FORMATS[ending]


def encode(image: "Image", kind: Format, record: Mapping[str, Any]) -> bytes:
    """`image` as the bytes of a file that carries `record` (JSON) as its origin."""
    text = atomic.encoded(json.dumps(record, ensure_ascii=False, allow_nan=False)).decode()
    buffer = io.BytesIO()
    if kind == "PNG":
        from PIL.PngImagePlugin import PngInfo

        info = PngInfo()
        info.add_itxt(atomic.MARK, text)
        # Level 6 takes three times as long for 10 % fewer bytes on such figures.
        image.save(buffer, "PNG", pnginfo=info, compress_level=1)
    elif kind == "JPEG":
        image = _on_white(image)
        comment = f"{atomic.MARK} {text}".encode()[:65_000]  # a JPEG comment holds 65,533 bytes
        image.save(buffer, "JPEG", quality=93, subsampling=0, comment=comment)
    else:
        image.save(buffer, "WEBP", quality=93, method=4, xmp=f"{atomic.MARK} {text}".encode())
    return buffer.getvalue()


def encode_film(frames: "Sequence[Image]", seconds: float, record: Mapping[str, Any]) -> bytes:
    """Frames as the bytes of an animated GIF that repeats, with the record in its comment."""
    from PIL import Image as PILImage

    # a palette of its own for every frame: colours drift in a long film
    shown = [
        f.quantize(256, PILImage.Quantize.MEDIANCUT, dither=PILImage.Dither.FLOYDSTEINBERG) for f in frames
    ]
    text = json.dumps(record, ensure_ascii=True, allow_nan=False)
    buffer = io.BytesIO()
    shown[0].save(
        buffer,
        "GIF",
        save_all=True,
        append_images=shown[1:],
        duration=round(1000 * seconds),
        loop=0,
        comment=f"{atomic.MARK} {text}".encode(),
    )
    return buffer.getvalue()


def _on_white(image: "Image") -> "Image":
    """A transparent picture on white, for formats that know no transparency."""
    if image.mode != "RGBA":
        return image
    white = image.copy()
    white.paste("white", (0, 0, *image.size))
    white.alpha_composite(image)
    return white.convert("RGB")


def read_record(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The record inside a PNG that vizkit wrote, or None."""
    try:
        with open(path, "rb") as file:
            text = atomic.png_text(file)
        record = json.loads(text) if text else None
    except (OSError, ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def plain(value: Any) -> Any:
    """A JSON value for an option: names for callables and types, text for the rest."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    shape = getattr(value, "shape", None) or getattr(value, "size", None)
    if shape is not None:  # a picture given as an option
        return f"{type(value).__name__} {' x '.join(str(s) for s in shape)}"
    return getattr(value, "__name__", str(value))
