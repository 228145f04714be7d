"""What painting techniques share: photographs in at any size, progress over parts, results out."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from vizkit.errors import ImageError, UsageError
from vizkit.fingerprint import Fingerprint
from vizkit.images import Photo, read_image, to_tensor
from vizkit.origin import origin
from vizkit.paint.canvases import Size, resized
from vizkit.paint.loop import OnStep
from vizkit.paint.loop import Painting as Painted
from vizkit.paint.seeing import full_name
from vizkit.paintings import Painting, as_bytes
from vizkit.results import Prediction, Provenance
from vizkit.sessions import is_finite
from vizkit.targets import label_of, probabilities
from vizkit.zoo import VisionModel
from vizkit.zoo.preparing import Prepared, images_of, pillow_of

SMALLEST = 16
"""No picture is painted with a side below this many pixels."""


class Photograph:
    """A photograph at full size: pixels (1, 3, H, W) in [0, 1], its name, and what was noticed in reading."""

    def __init__(self, image: Any) -> None:
        self.warnings: tuple[str, ...] = ()
        self.name = "tensor"
        if isinstance(image, Prepared):
            image = Photo(image.photo, image.name, None, image.warnings, ())
        if isinstance(image, Tensor):
            self.pixels = _from_tensor(image)
            return
        photo = image if isinstance(image, Photo) else read_image(pillow_of(image))
        self.name, self.warnings = photo.name, photo.warnings
        self.pixels = to_tensor(photo.image)[None]

    @property
    def size(self) -> Size:
        """Height and width."""
        rows, columns = self.pixels.shape[2:]
        return rows, columns

    def at(self, longer: int | None) -> Tensor:
        """The pixels with this longer side, the aspect kept; None: as they are."""
        return self.pixels if longer is None else resized(self.pixels, with_longer(self.size, longer))

    def fitted(self, size: Size) -> Tensor:
        """The middle of the photograph at exactly this size."""
        scale = max(size[0] / self.size[0], size[1] / self.size[1])
        whole = max(size[0], round(self.size[0] * scale)), max(size[1], round(self.size[1] * scale))
        pixels = resized(self.pixels, whole)
        top, left = (whole[0] - size[0]) // 2, (whole[1] - size[1]) // 2
        return pixels[..., top : top + size[0], left : left + size[1]]


def _from_tensor(image: Tensor) -> Tensor:
    if image.ndim != 3 or image.shape[0] not in (1, 3) or not image.numel():
        raise UsageError(f"a picture to paint on is a tensor (3, H, W), not {tuple(image.shape)}")
    pixels = image.detach()
    pixels = pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels.float()
    if not is_finite(pixels):
        raise ImageError("the tensor image holds NaN or infinite values")
    if float(pixels.min()) < 0 or float(pixels.max()) > 1:
        raise UsageError("a picture to paint on has values in [0, 1]")
    return pixels.expand(3, -1, -1)[None].clone()


def photographs(image: Any) -> tuple[list[Photograph], bool]:
    """What was given as photographs, and whether it was a sequence."""
    images, many = images_of(image)
    if not images:
        raise UsageError("there is no picture; give at least one")
    return [Photograph(one) for one in images], many


def with_longer(size: Size, longer: int) -> Size:
    """The size with this longer side, in the same proportions, no side below `SMALLEST`."""
    scale = longer / max(size)
    return max(SMALLEST, round(size[0] * scale)), max(SMALLEST, round(size[1] * scale))


LUMINANCE = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in the grey that pictures are read as (ITU-R BT.601)."""


class InGrey(VisionModel):
    """A model of grey pictures that is shown RGB ones: it sees their luminance."""

    def __init__(self, model: VisionModel) -> None:
        super().__init__(
            model.module,
            model.name,
            model.preprocessing,
            model.labels,
            model.output,
            model.notes,
            model.warnings,
            channels=3,
        )

    def raw(self, pixels: Tensor) -> Any:
        """Whatever the module returns for pixels (N, 3, H, W)."""
        return super().raw(grey(pixels))


def grey(pixels: Tensor) -> Tensor:
    """(N, 3, H, W) -> (N, 1, H, W) luminance."""
    return (pixels * pixels.new_tensor(LUMINANCE).view(-1, 1, 1)).sum(1, keepdim=True)


def three_colours(model: VisionModel) -> VisionModel:
    """The model for RGB pictures; one for grey ones sees their luminance. Raises `UsageError`."""
    if model.channels == 1:
        return InGrey(model)
    if model.channels != 3:
        raise UsageError(
            f"{model.name} takes {model.channels} channels; painting needs a net for RGB or grey pictures"
        )
    return model


def read_layers(
    model: VisionModel, text: str | None, usual: Callable[[VisionModel], Sequence[str]]
) -> dict[str, float]:
    """Layers with weights from "conv1,conv2=0.5", in the order of the net; the usual ones for None."""
    if text is None:
        return dict.fromkeys(usual(model), 1.0)
    found: dict[str, float] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        name, equals, weight = part.partition("=")
        full = full_name(model.module, name.strip())
        try:
            found[full] = float(weight) if equals else 1.0
        except ValueError:
            raise UsageError(f"{part!r}: a layer's weight is a number, as in conv2=0.5") from None
    if not found or min(found.values()) < 0 or not sum(found.values()):
        raise UsageError(f"layers={text!r} names no layer with a weight above 0")
    return found


def numbers_of(text: str | None, count: int) -> list[float]:
    """So many weights from "1,0.5"; all alike for None. Raises `UsageError`."""
    if text is None:
        return [1.0] * count
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"weights={text!r}: weights are numbers, as in 1,0.5") from None
    if len(found) != count:
        raise UsageError(f"{len(found)} weights for {count} styles; give one for each")
    if min(found) < 0 or not sum(found):
        raise UsageError(f"weights={text!r}: weights are at least 0, and one is above it")
    return found


def seeded_generator(seed: int) -> torch.Generator:
    """A generator on the CPU, so that every device draws the same numbers."""
    return torch.Generator().manual_seed(seed % 2**63)


def part_of(on_step: OnStep, part: int, parts: int) -> OnStep:
    """Progress of one of several equal parts as progress of the whole."""
    if on_step is None:
        return None
    tell: Callable[[int, int], None] = on_step
    return lambda done, total: tell(part * total + done, parts * total)


# --- what a net says of painted pictures ---


def predictions(model: VisionModel, pictures: Tensor) -> list[list[Prediction]]:
    """The five most probable classes of each picture, read as its file would be; [] without classes."""
    found: list[list[Prediction]] = []
    for picture in pictures:
        pixels = model.prepare(picture).pixels[None].to(model.device)
        with torch.no_grad():
            output = model(pixels)
        if output.ndim != 2:
            found.append([])
            continue
        scores, share = output[0].float().cpu(), probabilities(output)[0].cpu()
        best = scores.sort(descending=True, stable=True).indices[:5].tolist()
        found.append(
            [Prediction(k, label_of(k, model.labels), float(scores[k]), float(share[k])) for k in best]
        )
    return found


def probability_of(model: VisionModel, pictures: Tensor, classes: Sequence[int]) -> list[float]:
    """The probability of a class for each picture, read as its file would be."""
    found = []
    for picture, index in zip(pictures, classes, strict=True):
        with torch.no_grad():
            output = model(model.prepare(picture).pixels[None].to(model.device))
        found.append(float(probabilities(output)[0, index]))
    return found


def naturalness(pictures: Tensor) -> dict[str, float]:
    """Contrast, the mean of |x - 0.5|, and the share of pixel values within 2/255 of black or white."""
    burnt = (pictures < 2.5 / 255) | (pictures > 252.5 / 255)
    return {"contrast": float((pictures - 0.5).abs().mean()), "burnt": float(burnt.float().mean())}


def similarity(first: Tensor, second: Tensor) -> float:
    """Structural similarity of two pictures (3, H, W) in [0, 1] (Wang et al. 2004), by scikit-image."""
    from skimage.metrics import structural_similarity

    arrays = [p.numpy().transpose(1, 2, 0) for p in (first, second)]
    window = min(7, *first.shape[1:])
    window -= 1 - window % 2
    return float(structural_similarity(*arrays, channel_axis=2, data_range=1.0, win_size=window))


# --- results ---


def painted(
    model: VisionModel,
    weights: Fingerprint,
    parts: Sequence[Painted],
    *,
    heading: str,
    target: str,
    image: str = "",
    layer: str | None = None,
    warnings: Sequence[str] = (),
    **more: Any,
) -> Painting:
    """The result of one or several paintings of one size, on the levels of 8 bits."""
    stopped = next((p.stopped for p in parts if p.stopped), "")
    shots = [s for p in parts for s in p.snapshots] if len(parts) == 1 else _together(parts)

    def finished(pictures: Tensor) -> Tensor:
        if isinstance(model, InGrey):  # colours are what such a net cannot see
            pictures = grey(pictures).expand(-1, 3, -1, -1)
        return as_bytes(pictures)

    return Painting(
        provenance=provenance(model, weights, target=target, image=image, layer=layer, warnings=warnings),
        pictures=finished(torch.cat([p.pictures for p in parts])),
        heading=heading,
        snapshots=[(step, finished(shot)) for step, shot in shots],
        stopped=stopped,
        **more,
    )


def _together(parts: Sequence[Painted]) -> list[tuple[int, Tensor]]:
    """Snapshots of the same step of all parts as one."""
    steps = [step for step, _ in parts[0].snapshots]
    found = []
    for k, step in enumerate(steps):
        if all(len(p.snapshots) > k for p in parts):
            found.append((step, torch.cat([p.snapshots[k][1] for p in parts])))
    return found


def provenance(
    model: VisionModel,
    weights: Fingerprint,
    *,
    target: str,
    image: str = "",
    layer: str | None = None,
    warnings: Sequence[str] = (),
) -> Provenance:
    """The record of what made a painting."""
    return origin(model, image=image, target=target, layer=layer, warnings=warnings, weights=weights)


def start_of(history: Tensor) -> dict[str, float]:
    """The objective at the first and the last step, averaged over pictures."""
    if not len(history):
        return {}
    return {"objective_first": float(history[0].mean()), "objective_last": float(history[-1].mean())}
