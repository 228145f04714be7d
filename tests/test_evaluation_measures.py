"""Each measure against its definition written out, a closed form, or another library."""

import captum.metrics
import numpy as np
import pytest
import skimage.filters
import torch
from scipy.ndimage import gaussian_filter
from scipy.stats import spearmanr

import vizkit
from vizkit.errors import UsageError
from vizkit.evaluation import (
    area,
    confidence_increase,
    drop,
    edge_map,
    energy_inside,
    flipped,
    impute,
    infidelity,
    kept_picture,
    max_sensitivity,
    pixel_order,
    pointing_hit,
    random_map,
    schedule,
    squares,
)
from vizkit.evaluation.pixelflips import rise_blur
from vizkit.evaluation.randomising import randomised, stages_of


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- insertion and deletion ---


def test_pixels_are_ordered_by_value_and_equal_ones_by_no_place():
    values = noise(5, 7)
    assert pixel_order(values).tolist() == sorted(range(35), key=lambda k: -values.flatten()[k])
    flat = pixel_order(torch.zeros(20, 20))
    assert sorted(flat.tolist()) == list(range(400))
    assert torch.equal(flat, pixel_order(torch.ones(20, 20)))
    rows = flat[:100] // 20
    assert 6 < float(rows.double().mean()) < 13, "the first quarter must not be the top of the picture"


def test_equal_values_keep_their_shuffled_order_beside_others():
    values = torch.zeros(6, 6)
    values[3, 4] = 1
    flat = [k for k in pixel_order(torch.zeros(6, 6)).tolist() if k != 22]
    assert pixel_order(values).tolist() == [22, *flat]


def test_a_step_of_rise_is_a_row():
    assert schedule(224 * 224, 224).tolist() == list(range(0, 224 * 224 + 1, 224))
    assert schedule(10, 4).tolist() == [0, 2, 5, 8, 10]


def test_pixels_are_replaced_one_after_the_other():
    start, other, order = noise(2, 3, 4), noise(2, 3, 4, seed=1), pixel_order(noise(3, 4, seed=2))
    for counts in ([0, 5, 12], torch.tensor([1])):
        made = flipped(start, other, order, counts)
        for picture, count in zip(made, counts, strict=True):
            slow = start.clone()
            for k in order[: int(count)].tolist():
                slow[:, k // 4, k % 4] = other[:, k // 4, k % 4]
            assert torch.equal(picture, slow)


def test_the_area_is_the_trapezoids():
    assert area([1, 0], [0, 10]) == 0.5
    assert area([0.3] * 4, [0, 1, 2, 3]) == pytest.approx(0.3)
    curve, counts = noise(8).tolist(), [0, 3, 6, 9, 12, 15, 18, 20]
    assert area(curve, counts) == pytest.approx(np.trapezoid(curve, np.array(counts) / 20))


def test_the_blur_of_rise_is_a_gaussian_cut_at_one_deviation():
    pixels = noise(1, 2, 30, 26)
    slow = np.stack([gaussian_filter(p.numpy(), 5, mode="nearest", truncate=1) for p in pixels[0]])
    np.testing.assert_allclose(rise_blur(pixels)[0], slow, atol=1e-6)  # deviations in float32


# --- drop and increase ---


def test_drop_and_increase():
    assert drop(0.8, 0.2) == pytest.approx(0.75)
    assert drop(0.2, 0.8) == 0
    assert drop(0.0, 0.1) is None
    assert drop(-1.0, 0.1) is None
    assert [confidence_increase(0.5, k) for k in (0.4, 0.5, 0.6)] == [0, 0, 1]


def test_the_kept_picture_is_the_picture_times_the_stretched_map():
    pixels, values = noise(3, 4, 5), noise(4, 5, seed=1).abs() + 0.2
    slow = pixels.clone()
    for y in range(4):
        for x in range(5):
            slow[:, y, x] *= (values[y, x] - values.min()) / (values.max() - values.min())
    torch.testing.assert_close(kept_picture(pixels, values), slow)
    assert not kept_picture(pixels, torch.full((4, 5), 3.0)).any()
    against = torch.where(values > 1, values, -values)
    torch.testing.assert_close(kept_picture(pixels, against), pixels * against.clamp(min=0) / values.max())


# --- infidelity and sensitivity ---


class Bent(torch.nn.Module):
    def forward(self, x):
        flat = x.flatten(1)
        return torch.stack([flat.square().sum(1), flat.sum(1)], 1)


@pytest.mark.parametrize("normalize", [False, True])
def test_infidelity_is_captums(normalize):
    pixels, attribution, shifts = noise(1, 2, 4, 4), noise(1, 2, 4, 4, seed=1), noise(20, 2, 4, 4, seed=2)
    net = Bent()
    theirs = captum.metrics.infidelity(
        net,
        lambda x: (shifts, x - shifts),
        pixels,
        attribution,
        target=0,
        n_perturb_samples=20,
        max_examples_per_batch=20,
        normalize=normalize,
    )
    drops = net(pixels)[:, 0] - net(pixels - shifts)[:, 0]
    ours = infidelity((shifts * attribution).sum((1, 2, 3)), drops, normalize=normalize)
    assert ours == pytest.approx(float(theirs))


def test_infidelity_by_hand():
    drops = torch.tensor([1.0, 2.0, 4.0])
    assert infidelity(7 * drops, drops) == pytest.approx(0)
    assert infidelity(-7 * drops, drops) == pytest.approx(0), "the scale may turn the map round"
    assert infidelity(2 * drops, drops, normalize=False) == pytest.approx(float(drops.square().mean()))
    assert infidelity(torch.zeros(3), drops) == pytest.approx(7)


def test_squares_are_squares_inside_and_the_seeds_own():
    masks = squares((24, 40), 200, seed=3)
    sides = set()
    for mask in masks:
        rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
        assert len(rows) == len(columns)
        assert int(mask.sum()) == len(rows) ** 2, "no holes"
        assert int(rows[-1] - rows[0]) == len(rows) - 1
        sides.add(len(rows))
    assert min(sides) >= 3
    assert max(sides) <= 12
    assert len(sides) > 5
    touched = masks.any(0)
    assert float(touched.float().mean()) > 0.95
    assert all(bool(edge.any()) for edge in (touched[0], touched[-1], touched[:, 0], touched[:, -1]))
    assert torch.equal(squares((24, 40), 10, seed=3), masks[:10])
    assert not torch.equal(squares((24, 40), 200, seed=4), masks)


def test_max_sensitivity_is_captums_for_the_same_noise():
    pixels, weights = noise(2, 5, 5).float(), noise(5, 5, seed=1).float()

    def explain(x):
        return (x**3).sum(0) * weights

    ours = max_sensitivity(explain, pixels, radius=0.1, samples=6, seed=4)
    generator = torch.Generator().manual_seed(4)
    draws = [(2 * torch.rand(pixels.shape, generator=generator) - 1) * 0.1 for _ in range(6)]
    theirs = captum.metrics.sensitivity_max(
        lambda batch: (torch.stack([explain(x) for x in batch[0]]),),
        pixels[None],
        lambda batch, radius: (batch[0] + torch.stack(draws),),
        n_perturb_samples=6,
    )
    assert ours == pytest.approx(float(theirs), rel=1e-5)


def test_max_sensitivity_of_maps_that_do_not_change_and_of_none():
    pixels = torch.rand(1, 4, 4)
    assert max_sensitivity(lambda x: torch.ones(4, 4), pixels) == 0
    assert max_sensitivity(lambda x: torch.zeros(4, 4), pixels) is None
    seen = []
    max_sensitivity(lambda x: seen.append(x) or torch.ones(2), pixels, clean=torch.ones(2), radius=0.3)
    shifts = torch.stack(seen) - pixels
    assert len(seen) == 10
    assert 0.25 < float(shifts.abs().max()) <= 0.3 + 1e-6
    assert abs(float(shifts.mean())) < 0.05


# --- pointing ---


@pytest.mark.parametrize("tolerance", [0, 1, 2.5])
def test_the_pointing_game_measures_distances(tolerance):
    mask = torch.zeros(9, 9, dtype=torch.bool)
    mask[2:4, 5] = True
    for y in range(9):
        for x in range(9):
            values = torch.zeros(9, 9)
            values[y, x] = 1
            near = any((y - a) ** 2 + (x - 5) ** 2 <= tolerance**2 for a in (2, 3))
            assert pointing_hit(values, mask, tolerance) == near


def test_the_energy_inside_counts_what_is_positive():
    mask = torch.tensor([[True, False], [True, False]])
    assert energy_inside(torch.tensor([[1.0, 2], [-5, 1]]), mask) == pytest.approx(1 / 4)
    assert energy_inside(-torch.ones(2, 2), mask) is None


# --- ROAD ---


def slow_imputation(picture, holes):
    """The definition as a dense system: every hole is the weighted mean of the neighbours it has."""
    height, width = holes.shape
    matrix, known = np.eye(height * width), picture.reshape(len(picture), -1).T.copy()
    for y, x in zip(*np.nonzero(holes), strict=True):
        around = {
            (y + a, x + b): 1 / 6 if a * b == 0 else 1 / 12
            for a in (-1, 0, 1)
            for b in (-1, 0, 1)
            if (a or b) and 0 <= y + a < height and 0 <= x + b < width
        }
        known[y * width + x] = 0
        for (i, j), weight in around.items():
            matrix[y * width + x, i * width + j] = -weight / sum(around.values())
    return np.linalg.solve(matrix, known).T.reshape(picture.shape)


@pytest.mark.parametrize("share", [0.2, 0.6, 0.95])
def test_imputation_solves_the_equations_of_the_paper(share):
    picture = noise(3, 7, 8)
    holes = torch.rand(7, 8, generator=torch.Generator().manual_seed(1)) < share
    assert bool(holes[0].any()), "also at the edge"
    filled = impute(picture, holes, noise=0)
    np.testing.assert_allclose(filled, slow_imputation(picture.numpy(), holes.numpy()), atol=1e-9)
    assert torch.equal(filled[:, ~holes], picture[:, ~holes])


def test_a_slope_is_filled_in_exactly():
    slope = torch.arange(12.0)[:, None] * 0.05 + torch.arange(12.0)[None] * 0.02
    holes = torch.zeros(12, 12, dtype=torch.bool)
    holes[3:9, 2:10] = True
    torch.testing.assert_close(impute(slope[None], holes, noise=0)[0], slope)


def test_the_noise_is_on_what_is_filled_in():
    holes = torch.zeros(40, 40, dtype=torch.bool)
    holes[4:36, 4:36] = True
    grey = torch.full((3, 40, 40), 0.5)
    filled = impute(grey, holes, noise=0.1, seed=2)
    assert torch.equal(filled[:, ~holes], grey[:, ~holes])
    assert float(filled[:, holes].std()) == pytest.approx(0.1, rel=0.1)
    assert torch.equal(filled, impute(grey, holes, noise=0.1, seed=2))
    assert not torch.equal(filled, impute(grey, holes, noise=0.1, seed=3))


def test_nothing_and_everything_removed():
    picture = noise(1, 3, 3)
    assert torch.equal(impute(picture, torch.zeros(3, 3, dtype=torch.bool)), picture)
    with pytest.raises(UsageError, match="every pixel"):
        impute(picture, torch.ones(3, 3, dtype=torch.bool))


# --- controls ---


def test_the_edges_are_scikit_images():
    pixels = noise(3, 9, 12)
    np.testing.assert_allclose(edge_map(pixels), skimage.filters.sobel(pixels.mean(0).numpy()), atol=1e-9)


def test_the_random_map_is_its_seeds():
    first = random_map((6, 5), 1)
    assert first.shape == (6, 5)
    assert torch.equal(first, random_map((6, 5), 1))
    assert not torch.equal(first, random_map((6, 5), 2))


def test_likeness_to_the_map_of_a_random_net(tiny, pixels):
    model = vizkit.wrap(tiny)
    table = vizkit.evaluate(model, [pixels[0]], methods=["saliency"], metrics=["random_head", "random_net"])
    row = {r.name: r.cells for r in table.rows}
    for control in ("random", "sobel"):  # they know nothing of the net, so nothing changes
        assert [c.mean for c in row[control].values()] == pytest.approx([1, 1])
    stages = stages_of(model, pixels[0], 2, "cascading")
    index = vizkit.saliency(model, pixels[0]).target_index
    trained = vizkit.saliency(model, pixels[0], target=index).values
    for name, stage in zip(("random_head", "random_net"), (stages[0], stages[-1]), strict=True):
        forgot = vizkit.saliency(randomised(model, stage.layers, 0), pixels[0], target=index).values
        expected = spearmanr(trained.flatten(), forgot.flatten()).statistic
        assert row["saliency"][name].mean == pytest.approx(expected, abs=1e-6)
