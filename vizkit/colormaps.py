"""The four colour tables of vizkit: made here, perceptually even, readable with colour-blind eyes.

A map is written down as a few control colours. Each arm (a sequential map has one, a diverging map two
that meet in the neutral middle) is a Bézier curve through OKLab, walked in steps of equal CIELAB
difference, so that equal differences of value look equally large everywhere.

OKLab: B. Ottosson 2020, "A perceptual color space for image processing". CIELAB: CIE 1976, D65 white.
"""

import functools
import math

import numpy as np
import numpy.typing as npt

from vizkit.errors import UsageError, did_you_mean

Floats = npt.NDArray[np.float64]

_ARMS: dict[str, tuple[tuple[str, ...], ...]] = {
    "ember": (("#0a0616", "#40099a", "#c4007c", "#ff3326", "#ffb400", "#fff6b8"),),
    "gray": (("#000000", "#ffffff"),),
    "tide": (("#0a429f", "#3986ff", "#f5f6f7"), ("#f5f6f7", "#fb824c", "#940923")),
    "tide-dark": (("#6faaff", "#3166ff", "#0e1013"), ("#0e1013", "#c50436", "#f98f5d")),
}

NAMES = tuple(_ARMS)

_OKLAB_TO_LMS = np.array(
    [[1, 0.3963377774, 0.2158037573], [1, -0.1055613458, -0.0638541728], [1, -0.0894841775, -1.2914855480]]
)
_LMS_TO_RGB = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
)
_RGB_TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)


@functools.cache
def colours(name: str) -> npt.NDArray[np.uint8]:
    """The table of a map, (256, 3) sRGB bytes, lowest value first; read-only.

    Raises `UsageError` for a name that is not in `NAMES`.
    """
    if name not in _ARMS:
        hint = did_you_mean(name, NAMES) or f"; use one of {', '.join(NAMES)}"
        raise UsageError(f"unknown colour map {name!r}{hint}")
    table = np.round(_walk(name) * 255).astype(np.uint8)
    table.setflags(write=False)
    return table


def _walk(name: str, count: int = 256) -> Floats:
    """`count` sRGB colours in [0, 1] along the map, before rounding to bytes."""
    arms = [_even(_bezier([_hex(c) for c in arm])) for arm in _ARMS[name]]
    place = np.linspace(0, len(arms), count)
    which = np.minimum(place.astype(int), len(arms) - 1)
    at = (place - which) * (len(arms[0]) - 1)
    parts = [[np.interp(at, np.arange(len(a)), a[:, c]) for c in range(3)] for a in arms]
    path: Floats = np.choose(which[:, None], [np.stack(p, axis=1) for p in parts])
    return path


def _bezier(controls: list[Floats], count: int = 1025) -> Floats:
    """`count` sRGB colours on the Bézier curve of the control colours (sRGB) in OKLab, (count, 3)."""
    t, n = np.linspace(0, 1, count)[:, None], len(controls) - 1
    weights = np.hstack([math.comb(n, i) * t**i * (1 - t) ** (n - i) for i in range(n + 1)])
    return from_oklab(weights @ np.stack([to_oklab(c) for c in controls]))


def _even(path: Floats) -> Floats:
    """The same curve, sampled at equal arc lengths in CIELAB."""
    steps = np.linalg.norm(np.diff(to_cielab(path), axis=0), axis=1)
    length = np.concatenate([[0], np.cumsum(steps)])
    even = np.linspace(0, length[-1], len(path))
    return np.stack([np.interp(even, length, path[:, c]) for c in range(3)], axis=1)


# --- colour spaces: sRGB in [0, 1], last axis 3 ---


def to_oklab(srgb: Floats) -> Floats:
    """sRGB -> OKLab (lightness in [0, 1])."""
    lms = _linear(srgb) @ np.linalg.inv(_LMS_TO_RGB).T
    oklab: Floats = np.cbrt(lms) @ np.linalg.inv(_OKLAB_TO_LMS).T
    return oklab


def from_oklab(oklab: Floats) -> Floats:
    """OKLab -> sRGB, cut to the gamut."""
    linear = np.clip((oklab @ _OKLAB_TO_LMS.T) ** 3 @ _LMS_TO_RGB.T, 0, 1)
    srgb: Floats = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    return srgb


def to_cielab(srgb: Floats) -> Floats:
    """sRGB -> CIELAB under D65 (lightness in [0, 100])."""
    xyz = _linear(srgb) @ (_RGB_TO_XYZ / _RGB_TO_XYZ.sum(axis=1, keepdims=True)).T
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1)


def _linear(srgb: Floats) -> Floats:
    linear: Floats = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    return linear


def _hex(colour: str) -> Floats:
    return np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
