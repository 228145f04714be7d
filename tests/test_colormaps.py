"""The colour tables, judged by scikit-image's CIELAB instead of our own."""

import numpy as np
import pytest
from skimage.color import rgb2lab

from vizkit import colormaps
from vizkit.errors import UsageError

SEQUENTIAL, DIVERGING = ("ember", "gray"), ("tide", "tide-dark")

# Machado, Oliveira & Fernandes 2009, severity 1.0, on linear RGB.
COLOUR_BLIND = {
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.01182, 0.04294, 0.968881],
    ],
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.3039],
    ],
}


def lab(table):
    return rgb2lab(np.asarray(table)[None] / 255)[0]


def seen_by(kind, table):
    srgb = np.asarray(table) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    linear = np.clip(linear @ np.array(COLOUR_BLIND[kind]).T, 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("name", colormaps.NAMES)
def test_table_is_256_read_only_bytes(name):
    table = colormaps.colours(name)
    assert table.shape == (256, 3)
    assert table.dtype == np.uint8
    assert colormaps.colours(name) is table
    with pytest.raises(ValueError, match="read-only"):
        table[0] = 0


@pytest.mark.parametrize("name", colormaps.NAMES)
def test_steps_are_perceptually_even(name):
    exact = lab(colormaps._walk(name) * 255)
    steps = np.linalg.norm(np.diff(exact, axis=0), axis=1)
    if name in DIVERGING:  # the middle step turns a corner between two arms, so its chord is shorter
        steps = np.delete(steps, 127)
    assert np.abs(steps / steps.mean() - 1).max() < 0.02
    rounded = lab(colormaps.colours(name))[::15]  # single steps of bytes are dominated by rounding
    coarse = np.linalg.norm(np.diff(rounded, axis=0), axis=1)
    coarse = np.delete(coarse, 8) if name in DIVERGING else coarse
    assert np.abs(coarse / coarse.mean() - 1).max() < 0.12


@pytest.mark.parametrize("name", SEQUENTIAL)
def test_sequential_maps_get_lighter_all_the_way(name):
    lightness = lab(colormaps._walk(name) * 255)[:, 0]
    assert lightness[0] < 6
    assert lightness[-1] > 94
    assert np.diff(lightness).min() > 0.08
    assert abs(lightness[128] - 50) < 5  # half the value is half as light


@pytest.mark.parametrize(("name", "middle", "end"), [("tide", 96, 31), ("tide-dark", 5, 69)])
def test_diverging_maps_are_symmetric_about_a_neutral_middle(name, middle, end):
    colours = lab(colormaps._walk(name) * 255)
    lightness = colours[:, 0]
    assert np.abs(lightness - lightness[::-1]).max() < 2
    assert lightness[127] == pytest.approx(middle, abs=2)
    assert lightness[0] == pytest.approx(end, abs=2)
    assert np.hypot(colours[127:129, 1], colours[127:129, 2]).max() < 3
    away = np.diff(lightness[128:]) * np.sign(end - middle)
    assert away.min() > 0


@pytest.mark.parametrize("kind", COLOUR_BLIND)
@pytest.mark.parametrize("name", DIVERGING)
def test_diverging_ends_differ_for_colour_blind_eyes(name, kind):
    colours = lab(seen_by(kind, colormaps.colours(name)))
    ends = np.linalg.norm(colours[:64] - colours[:-65:-1], axis=1)  # equal |value|, other sign
    assert ends.min() > 25
    assert ends[0] > 40


def test_blue_is_low_and_red_is_high():
    for name in DIVERGING:
        low, high = colormaps.colours(name)[[0, 255]].astype(int)
        assert low[2] > low[0] + 80
        assert high[0] > high[2] + 80


def test_gray_is_neutral_and_spans_black_to_white():
    table = colormaps.colours("gray").astype(int)
    assert np.ptp(table, axis=1).max() <= 1
    assert table[0].tolist() == [0, 0, 0]
    assert table[255].tolist() == [255, 255, 255]


@pytest.mark.parametrize("name", colormaps.NAMES)
def test_ends_are_the_written_control_colours(name):
    written = [colormaps._ARMS[name][0][0], colormaps._ARMS[name][-1][-1]]
    drawn = ["#" + bytes(c).hex() for c in colormaps.colours(name)[[0, 255]]]
    assert drawn == written


def test_colour_spaces_agree_with_scikit_image():
    rgb = np.random.default_rng(0).random((500, 3))
    assert np.abs(colormaps.to_cielab(rgb) - lab(rgb * 255)).max() < 0.02
    assert np.abs(colormaps.from_oklab(colormaps.to_oklab(rgb)) - rgb).max() < 1e-6
    assert colormaps.to_oklab(np.ones(3)) == pytest.approx([1, 0, 0], abs=1e-6)
    red = colormaps.to_oklab(np.array([1.0, 0, 0]))
    assert red == pytest.approx([0.6280, 0.2249, 0.1258], abs=1e-3)  # Ottosson's table


def test_unknown_name_is_answered_with_a_suggestion():
    with pytest.raises(UsageError, match="did you mean 'ember'"):
        colormaps.colours("embers")
    with pytest.raises(UsageError, match="use one of ember, gray"):
        colormaps.colours("viridis")
