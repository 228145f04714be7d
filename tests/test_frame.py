"""From values to the photograph's frame: geometry against arithmetic."""

import numpy as np
import pytest
import torch

from vizkit.errors import ModelError
from vizkit.frame import coverage, normalise, spread


def place(scaled, box, photo_size, size, fill):
    """The map on the photograph, mixed with `fill` where the box's edge cuts a pixel."""
    share = coverage(box, photo_size, size)
    return spread(scaled, box, photo_size, size) * share + np.float32(fill) * (1 - share)


def grain(size=(224, 224), seed=0):
    """Heavy-tailed noise under smooth bumps, as gradients look."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[: size[0], : size[1]] / max(size)
    bumps = np.exp(-((x - 0.6) ** 2 + (y - 0.4) ** 2) * 20) + 0.1
    return torch.from_numpy((bumps * random.standard_normal(size) ** 3 * 1e-3).astype(np.float32))


# --- normalise ---


@pytest.mark.parametrize("clip", [50, 90, 99.5, 100])
@pytest.mark.parametrize("signed", [True, False])
def test_the_limit_is_the_percentile_of_the_absolute_values(clip, signed):
    values = grain() if signed else grain().abs()
    scaled, limit = normalise(values, clip=clip, signed=signed)
    expected = np.percentile(np.abs(values.numpy().astype(np.float64)), clip)
    assert limit == pytest.approx(expected, rel=1e-9)
    assert np.allclose(scaled, np.clip(values.numpy() / expected, -1, 1), atol=1e-6)
    assert scaled.dtype == np.float32
    beyond = np.mean(np.abs(values.numpy()) > limit)
    assert beyond == pytest.approx(1 - clip / 100, abs=1e-3)


def test_signed_maps_keep_zero_at_zero_and_treat_both_signs_alike():
    values = torch.tensor([[-2.0, -1.0, 0.0, 0.5, 1.0]])
    scaled, limit = normalise(values, clip=100, signed=True)
    assert scaled.tolist() == [[-1.0, -0.5, 0.0, 0.25, 0.5]]
    assert limit == 2
    mirrored, _ = normalise(-values, clip=100, signed=True)
    assert np.array_equal(mirrored, -scaled)


def test_unsigned_maps_start_at_zero_or_at_the_lowest_value():
    assert normalise(torch.tensor([[2.0, 4.0]]), clip=100, signed=False)[0].tolist() == [[0.5, 1.0]]
    scaled, limit = normalise(torch.tensor([[-1.0, 0.0, 3.0]]), clip=100, signed=False)
    assert scaled.tolist() == [[0.0, 0.25, 1.0]]
    assert limit == 3


@pytest.mark.parametrize("signed", [True, False])
def test_maps_without_range_are_safe(signed):
    zero, limit = normalise(torch.zeros(3, 4), clip=99.5, signed=signed)
    assert zero.tolist() == np.zeros((3, 4)).tolist()
    assert limit == 0
    assert normalise(torch.full((2, 2), 5.0), clip=99.5, signed=signed)[0].tolist() == [[1, 1], [1, 1]]
    assert np.isfinite(normalise(torch.full((2, 2), -5.0), clip=99.5, signed=signed)[0]).all()
    huge = torch.tensor([[3e38, -3e38]])
    assert np.isfinite(normalise(huge, clip=99.5, signed=signed)[0]).all()


def test_a_lone_value_is_not_clipped_away():
    values = torch.zeros(100, 100)
    values[3, 4] = 7
    scaled, limit = normalise(values, clip=99.5, signed=False)
    assert limit == 7
    assert scaled[3, 4] == 1
    assert scaled.sum() == 1


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(bad):
    values = grain()
    values[5, 5] = bad
    with pytest.raises(ModelError, match="NaN"):
        normalise(values, clip=99.5, signed=True)


# --- place ---

PLACES = [  # map (h, w), box, photograph, picture
    ((224, 224), (94.25, 18.75, 356.75, 281.25), (451, 300), (1200, 798)),
    ((224, 224), (94.25, 18.75, 356.75, 281.25), (451, 300), (362, 241)),
    ((7, 7), (10.3, 5.9, 90.1, 88.8), (101, 97), (333, 320)),
    ((31, 57), (0.0, 0.0, 641.0, 333.0), (641, 333), (997, 518)),
    ((33, 57), (100.5, 40.25, 500.75, 300.5), (641, 333), (251, 130)),
    ((225, 223), (3.3, 7.7, 595.5, 402.2), (601, 407), (149, 101)),
    ((12, 200), (3.3, 7.7, 595.5, 402.2), (601, 407), (149, 101)),
]


@pytest.mark.parametrize(("shape", "box", "photo", "size"), PLACES)
@pytest.mark.parametrize("at", [(0.5, 0.5), (0.3, 0.65), (0.72, 0.28)])
def test_a_hot_pixel_lands_where_it_belongs(shape, box, photo, size, at):
    row, column = int(at[0] * shape[0]), int(at[1] * shape[1])
    values = np.zeros(shape, np.float32)
    values[row, column] = 1
    placed = place(values, box, photo, size, 0.0).astype(np.float64)
    assert placed.shape == (size[1], size[0])
    x = ((np.arange(size[0]) + 0.5) * placed.sum(0)).sum() / placed.sum()
    y = ((np.arange(size[1]) + 0.5) * placed.sum(1)).sum() / placed.sum()
    true_x = (box[0] + (column + 0.5) * (box[2] - box[0]) / shape[1]) * size[0] / photo[0]
    true_y = (box[1] + (row + 0.5) * (box[3] - box[1]) / shape[0]) * size[1] / photo[1]
    assert x == pytest.approx(true_x, abs=0.1)
    assert y == pytest.approx(true_y, abs=0.1)


@pytest.mark.parametrize(("shape", "box", "photo", "size"), PLACES)
def test_outside_the_box_is_exactly_the_fill(shape, box, photo, size):
    placed = place(np.ones(shape, np.float32), box, photo, size, -3.0)
    x, y = size[0] / photo[0], size[1] / photo[1]
    columns, rows = np.arange(size[0]), np.arange(size[1])
    out_x = (columns + 1 <= box[0] * x) | (columns >= box[2] * x)
    out_y = (rows + 1 <= box[1] * y) | (rows >= box[3] * y)
    inside = np.outer(
        (rows >= box[1] * y) & (rows + 1 <= box[3] * y), (columns >= box[0] * x) & (columns + 1 <= box[2] * x)
    )
    assert (placed[out_y] == -3).all()
    assert (placed[:, out_x] == -3).all()
    assert np.allclose(placed[inside], 1)
    # The edge is mixed by area, so the covered area is the box's to rounding.
    area = ((placed + 3) / 4).sum()
    assert area == pytest.approx((box[2] - box[0]) * x * (box[3] - box[1]) * y, rel=1e-4)


def test_a_map_of_the_same_size_is_copied():
    values = np.random.default_rng(0).random((24, 31)).astype(np.float32)
    placed = place(values, (5, 3, 36, 27), (50, 40), (50, 40), 0.0)
    assert np.allclose(placed[3:27, 5:36], values, atol=1e-6)


def test_a_ramp_stays_a_ramp():
    values = np.tile(np.arange(20, dtype=np.float32), (20, 1)) / 19
    placed = place(values, (0, 0, 20, 20), (20, 20), (200, 200), 0.0)
    expected = np.clip(((np.arange(200) + 0.5) / 10 - 0.5) / 19, 0, 1)
    assert np.abs(placed[100, 20:-20] - expected[20:-20]).max() < 1e-4


def test_enlarging_does_not_ring_beyond_the_values():
    values = np.zeros((9, 9), np.float32)
    values[:, 4:] = 1
    placed = place(values, (0, 0, 9, 9), (9, 9), (333, 333), 0.0)
    assert placed.min() >= 0
    assert placed.max() <= 1


def test_the_border_of_the_map_keeps_its_value_up_to_the_edge():
    values = np.zeros((9, 9), np.float32)
    values[0] = values[-1] = values[:, 0] = values[:, -1] = 1
    placed = place(values, (10, 10, 100, 100), (110, 110), (331, 331), 0.0)
    edge = (placed[31], placed[299], placed[:, 31], placed[:, 299])
    assert min(line[35:295].min() for line in edge) > 0.97


def test_a_box_beyond_the_photograph_is_cut():
    values = np.tile(np.arange(10, dtype=np.float32), (10, 1))
    placed = place(values, (-50, -50, 150, 150), (100, 100), (100, 100), 0.0)
    assert placed[50, 0] == pytest.approx(2.025, abs=0.1)
    assert placed[50, 99] == pytest.approx(6.975, abs=0.1)
    nowhere = place(values, (200, 0, 300, 100), (100, 100), (50, 50), 0.25)
    assert (nowhere == 0.25).all()


def test_a_box_narrower_than_a_pixel_shows_the_maps_mean():
    scaled = np.random.default_rng(0).random((224, 224)).astype(np.float32)
    found = spread(scaled, (262_152, 0, 262_200, 48), (524_352, 48), (64, 1))
    assert found.shape == (1, 64)
    np.testing.assert_allclose(found.max(), scaled.mean(), rtol=0.02)
