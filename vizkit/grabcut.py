"""From a heat map to an object: seeds by percentile, GrabCut by OpenCV, one piece without holes.

Simonyan, Vedaldi & Zisserman 2014, section 3.2; Rother, Kolmogorov & Blake 2004, GrabCut. Arrays in, arrays
out; a picture that GrabCut can do nothing with gets the thresholded map and a note that says so.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from vizkit.errors import UsageError
from vizkit.frame import Floats, Size, coverage, spread
from vizkit.results import Box

Bools = npt.NDArray[np.bool_]
Bytes = npt.NDArray[np.uint8]
By = Literal["grabcut", "threshold"]
Firm = Literal["background", "both", "none"]

NONE, BACKGROUND, FOREGROUND = 0, 1, 2
"""What a seed says of its pixel."""

LONGEST = 640
"""GrabCut works at no more than this many pixels on the long side: a megapixel takes up to ten seconds."""


@dataclass(frozen=True)
class Recipe:
    """How a map becomes a mask.

    foreground, background: percentiles of the map from which on, and up to which, pixels are seeds.
    smooth: the standard deviation of a Gaussian over the map, as a share of its longer side.
    firm: the seeds that GrabCut may not give up. beyond: whether the object may reach beyond the map.
    largest: keep the largest connected piece only. holes: fill its holes.
    """

    foreground: float = 95.0
    background: float = 30.0
    smooth: float = 0.02
    iterations: int = 5
    firm: Firm = "background"
    beyond: bool = True
    largest: bool = True
    holes: bool = True
    seed: int = 0


@dataclass(frozen=True)
class Cut:
    """A mask and its seeds, both (H, W) at the photograph's size, and what must be said of them.

    by: "grabcut", or "threshold" where GrabCut could do nothing; the notes then say why.
    """

    mask: Bools
    seeds: Bytes
    by: By = "grabcut"
    notes: tuple[str, ...] = ()


def cut_out(photo: Image.Image, box: Box, values: Floats, recipe: Recipe) -> Cut:
    """The object that a map (h, w) over `box` of a photograph shows.

    Raises `UsageError` without OpenCV, and for percentiles in the wrong order.
    """
    import_cv2()
    scale = min(1.0, LONGEST / max(photo.size))
    size = max(1, round(photo.width * scale)), max(1, round(photo.height * scale))
    small = photo.convert("RGB")
    small = small if size == photo.size else small.resize(size, Image.Resampling.BOX)
    calm = smoothed(values, recipe.smooth)
    low, high = thresholds(calm, recipe.background, recipe.foreground)
    placed, seen = spread(calm, box, photo.size, size), coverage(box, photo.size, size) > 0.5
    seeds = seeds_of(placed, low, high) * seen
    mask, notes = _object(np.asarray(small), placed, seen, seeds, (low, high), recipe)
    mask = tidy(mask, largest=recipe.largest, holes=recipe.holes)
    by: By = "threshold" if notes else "grabcut"
    return Cut(_enlarged(mask, photo.size), _nearest(seeds, photo.size), by, notes)


def smoothed(values: Floats, share: float) -> Floats:
    """The map under a Gaussian with a standard deviation of `share` of its longer side."""
    from scipy.ndimage import gaussian_filter

    calm: Floats = gaussian_filter(values, share * max(values.shape), mode="nearest")
    return calm


def thresholds(values: Floats, background: float, foreground: float) -> tuple[float, float]:
    """The values at two percentiles. Raises `UsageError` where the second is not above the first."""
    if foreground <= background:
        raise UsageError(f"foreground_above={foreground:g} must be more than background_below={background:g}")
    low, high = np.percentile(values, (background, foreground))
    return float(low), float(high)


def seeds_of(values: Floats, low: float, high: float) -> Bytes:
    """Seeds like `values`: foreground from `high` on, background up to `low`; none where the two are one."""
    seeds = np.full(values.shape, NONE, np.uint8)
    if high > low:
        seeds[values >= high] = FOREGROUND
        seeds[values <= low] = BACKGROUND
    return seeds


def _object(
    rgb: Bytes, placed: Floats, seen: Bools, seeds: Bytes, ends: tuple[float, float], recipe: Recipe
) -> tuple[Bools, tuple[str, ...]]:
    """The mask by GrabCut, or by the map alone where there are no seeds or no colours to tell apart."""
    if not ends[1] > ends[0]:
        return np.zeros_like(seen), ("the map is flat: there are no seeds, and so no object",)
    likely = seen & (placed >= sum(ends) / 2)
    missing = [n for n, k in (("foreground", FOREGROUND), ("background", BACKGROUND)) if k not in seeds]
    if missing:
        return likely, (f"there are no {missing[0]} seeds: this is the thresholded map, without GrabCut",)
    mask = grabcut(rgb, seeds, likely, seen if not recipe.beyond else None, recipe)
    if mask is None or not mask.any() or mask.all():
        return likely, ("GrabCut finds no object in these colours: this is the thresholded map",)
    return mask, ()


def grabcut(rgb: Bytes, seeds: Bytes, likely: Bools, allowed: Bools | None, recipe: Recipe) -> Bools | None:
    """GrabCut's mask of a picture (H, W, 3), None where its colour models cannot be fitted.

    likely: the pixels without a seed that start as object; allowed: outside of it all is background.
    """
    cv2 = import_cv2()
    labels = np.where(likely, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    sure = {"both": (cv2.GC_BGD, cv2.GC_FGD), "background": (cv2.GC_BGD, cv2.GC_PR_FGD)}
    back, fore = sure.get(recipe.firm, (cv2.GC_PR_BGD, cv2.GC_PR_FGD))
    labels[seeds == BACKGROUND] = back
    labels[seeds == FOREGROUND] = fore
    if allowed is not None:
        labels[~allowed] = cv2.GC_BGD
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.setRNGSeed(recipe.seed % 2**31)  # the colour models start from k-means with random centres
    try:
        cv2.grabCut(_bgr(rgb), labels, None, *models, recipe.iterations, cv2.GC_INIT_WITH_MASK)
    except cv2.error:  # one colour, or one kind of pixels: there are no models to tell apart
        return None
    found: Bools = (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)
    return found


def _bgr(rgb: Bytes) -> Bytes:
    return np.ascontiguousarray(rgb[..., ::-1])


def tidy(mask: Bools, *, largest: bool, holes: bool) -> Bools:
    """The largest 4-connected piece of a mask, the first of equals, with its holes filled."""
    from scipy import ndimage

    if largest and mask.any():
        pieces, _ = ndimage.label(mask)
        mask = pieces == 1 + np.bincount(pieces.ravel())[1:].argmax()
    whole: Bools = ndimage.binary_fill_holes(mask) if holes else mask
    return whole


def overlap(mask: Bools, truth: Bools) -> float:
    """Intersection over union of two masks, in [0, 1]; that of two empty ones is 1.

    Raises `UsageError` for masks of different proportions; the truth is brought to the mask's size.
    """
    tall, wide = mask.shape
    if abs(truth.shape[1] * tall - truth.shape[0] * wide) > max(*truth.shape, tall, wide):
        given, wanted = (f"{s[1]} x {s[0]}" for s in (truth.shape, mask.shape))
        raise UsageError(f"the true mask has {given} pixels, the photograph {wanted}")
    truth = _nearest(truth.astype(np.uint8), (wide, tall)) > 0
    union = int((mask | truth).sum())
    return int((mask & truth).sum()) / union if union else 1.0


def _enlarged(mask: Bools, size: Size) -> Bools:
    """A mask at another size, its outline smooth."""
    picture = Image.fromarray(mask.astype(np.uint8) * 255)
    return np.asarray(picture.resize(size, Image.Resampling.BILINEAR)) >= 128


def _nearest(labels: Bytes, size: Size) -> Bytes:
    return np.array(Image.fromarray(labels).resize(size, Image.Resampling.NEAREST))


def import_cv2() -> Any:
    """OpenCV. Raises `UsageError` with what to install where it is missing."""
    try:
        import cv2
    except ImportError as error:
        raise UsageError("cutting out needs OpenCV: pip install 'vizkit[segment]'") from error
    return cv2
