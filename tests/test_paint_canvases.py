"""Canvases, views and regularisers."""

import numpy as np
import pytest
import scipy.ndimage
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vizkit.paint.canvases import (
    Fourier,
    Latent,
    Phases,
    Pixels,
    flat,
    fourier_scale,
    frequencies,
    noise,
    resized,
)
from vizkit.paint.photographs import COLOURS
from vizkit.paint.regularizers import Classic, blurred, zeroed
from vizkit.paint.scales import laid_over
from vizkit.paint.transforms import Views, sampling_grid


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def smooth_picture(rows, columns, count=1):
    y, x = torch.meshgrid(torch.linspace(0, 3, rows), torch.linspace(0, 4, columns), indexing="ij")
    one = torch.stack([0.5 + 0.3 * (x + y).sin(), 0.5 + 0.2 * x.cos(), 0.5 + 0.25 * y.sin()])
    return one.expand(count, 3, rows, columns).clone()


@pytest.mark.parametrize("size", [(16, 16), (17, 24), (33, 21)])
@pytest.mark.parametrize("margin", [0.0, 0.1])
def test_a_series_begins_with_its_picture(size, margin):
    start = smooth_picture(*size)
    canvas = Fourier(start, noise=0, margin=margin)
    torch.testing.assert_close(canvas.picture(), start, atol=1e-4, rtol=0)
    assert canvas.size == size


def test_a_series_that_grows_shows_the_same_picture():
    start = smooth_picture(40, 60)
    grown = Fourier(start, noise=0, margin=0.2).grown((80, 120))
    assert grown.size == (80, 120)
    wanted = resized(start, (80, 120))
    inner = (slice(None), slice(None), slice(12, -12), slice(12, -12))
    assert float((grown.picture().detach() - wanted)[inner].abs().mean()) < 0.02
    shrunk = grown.grown((40, 60))
    assert float((shrunk.picture().detach() - start)[..., 6:-6, 6:-6].abs().mean()) < 0.02


def test_what_was_painted_is_laid_over_the_photograph_at_another_size():
    photo = smooth_picture(48, 64)
    for kind in (Pixels, lambda start: Fourier(start, noise=0)):
        canvas = kind(resized(photo, (24, 32)))
        untouched = laid_over(canvas, lambda size, kind=kind: kind(resized(photo, size)), (48, 64))
        assert float((untouched.picture().detach() - photo).abs().max()) < 5e-3
        with torch.no_grad():
            canvas.parameters[0].mul_(0.8)
        changed = laid_over(canvas, lambda size, kind=kind: kind(resized(photo, size)), (48, 64))
        moved = resized(canvas.picture().detach(), (48, 64)) - resized(resized(photo, (24, 32)), (48, 64))
        own = (changed.picture().detach() - photo).clamp(-1, 1)
        assert float((own - moved).abs().mean()) < 0.3 * float(moved.abs().mean())


def test_a_coarse_beginning_has_no_high_frequencies():
    canvas = Fourier(flat(1, (64, 64)), noise=1.0, generator=generator(), coarse=0.05)

    def roughness(share):
        canvas.advance(share)
        spectrum = torch.fft.rfft2(canvas.picture().detach().logit()).abs().square()
        high = frequencies((64, 64)) > 0.2
        return float(spectrum[..., high].sum() / spectrum.sum())

    assert roughness(0.0) < 1e-6 < roughness(0.5) < roughness(1.0)


def test_scales_fall_off_as_photographs_do():
    scale, f = fourier_scale((64, 64), 1.2), frequencies((64, 64))
    torch.testing.assert_close(scale[0, 8] / scale[0, 16], (f[0, 16] / f[0, 8]) ** 1.2)
    rms = [
        float(fourier_scale(size, d).square().mean().sqrt())
        for size in ((64, 64), (100, 40))
        for d in (0.5, 2)
    ]
    assert rms == pytest.approx([rms[0]] * 4)


@pytest.mark.parametrize("size", [(32, 32), (31, 48)])
def test_phases_keep_the_contrast_of_a_photograph(size):
    canvas = Phases(2, size, contrast=0.8, generator=generator())
    picture = canvas.picture()
    assert picture.shape == (2, 3, *size)
    plain = torch.einsum("ij,njhw->nihw", torch.linalg.inv(COLOURS), picture.detach().logit() - canvas.mean)
    assert plain.std(dim=(2, 3)).mean() == pytest.approx(0.8, rel=0.15)
    picture.sum().backward()
    assert bool(canvas.parameters[0].grad.isfinite().all())


def test_pixels_and_codes_are_put_back_into_their_range():
    pixels = Pixels(noise(1, (4, 4), generator=generator()))
    with torch.no_grad():
        pixels.parameters[0].add_(5)
    pixels.settle()
    assert float(pixels.picture().detach().max()) == 1
    latent = Latent(
        torch.full((2, 3), 9.0), lambda z: z[:, :, None, None].expand(2, 3, 5, 6).sigmoid(), reach=2
    )
    latent.settle()
    assert float(latent.parameters[0].detach().max()) == 2
    assert latent.size == (5, 6)


# --- views ---


def test_without_movement_a_view_is_the_picture():
    picture = smooth_picture(20, 30)
    assert Views()(picture, generator()) is picture
    still = Views(scale=(1.0, 1.0), jitter=1e-9)(picture, generator())
    torch.testing.assert_close(still, picture, atol=1e-4, rtol=0)
    assert Views(size=(10, 12))(picture, generator()).shape == (1, 3, 10, 12)


def test_views_are_crops_rotations_and_mirrors_in_one():
    maps = Views(rotate=180, scale=(0.5, 0.9), mirror=True).matrices(500, (40, 40), generator())
    sizes = maps[:, :, :2].det().abs().sqrt()
    assert 0.5 <= float(sizes.min()) < 0.55 and 0.85 < float(sizes.max()) <= 0.9
    signs = maps[:, :, :2].det().sign()
    assert 0.4 < float((signs < 0).float().mean()) < 0.6
    # no crop looks further out than the picture's half sides plus what rotation adds
    assert float(maps[:, :, 2].abs().max()) <= 0.5


def test_rotation_is_one_in_pixels_whatever_the_proportions():
    (matrix,) = Views(rotate=30).matrices(1, (20, 60), generator(3))
    to_pixels = torch.diag(torch.tensor([30.0, 10.0]))
    turned = to_pixels @ matrix[:, :2] @ torch.linalg.inv(to_pixels)
    torch.testing.assert_close(turned @ turned.T, torch.eye(2), atol=1e-5, rtol=0)


def test_a_grid_is_that_of_affine_grid():
    maps = Views(rotate=40, scale=(0.5, 1.2), jitter=0.2, mirror=True).matrices(3, (20, 30), generator())
    wanted = torch.nn.functional.affine_grid(maps, [3, 3, 7, 9], align_corners=False)
    torch.testing.assert_close(sampling_grid(maps, (7, 9)), wanted)


def test_views_repeat_with_the_seed_and_differ_without():
    picture, views = smooth_picture(24, 24, 2), Views(count=3, rotate=10, jitter=0.1, noise=0.01)
    first, again = views(picture, generator(1)), views(picture, generator(1))
    assert first.shape == (6, 3, 24, 24)
    assert torch.equal(first, again)
    assert not torch.equal(first, views(picture, generator(2)))


def test_rolled_views_hold_the_same_pixels():
    picture = torch.rand(1, 3, 9, 7, generator=generator())
    rolled = Views(roll=True)(picture, generator(4))
    assert torch.equal(rolled.flatten().sort().values, picture.flatten().sort().values)
    assert not torch.equal(rolled, picture)


# --- regularisers ---


def test_blur_is_the_gaussian_filter():
    for size in ((30, 25), (140, 300), (129, 6)):  # also more than a tile, and less than the kernel
        x = torch.rand(1, 3, *size, generator=generator(), dtype=torch.float64)
        radius = min(5, min(size) - 1)
        wanted = [scipy.ndimage.gaussian_filter(c, 1.7, mode="mirror", radius=radius) for c in x[0].numpy()]
        np.testing.assert_allclose(blurred(x, 1.7)[0].numpy(), wanted, atol=1e-12)
    assert blurred(x, 0) is x


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 99), st.integers(0, 5))
def test_zeroing_takes_the_smallest_share(percentile, seed):
    x = torch.rand(2, 3, 10, 10, generator=generator(seed)) + 0.1
    importance = x.norm(dim=1)
    kept = zeroed(x, importance, percentile).abs().sum(1) > 0
    for n in range(2):
        assert abs(int((~kept[n]).sum()) - percentile) <= 1
        assert float(importance[n][~kept[n]].max()) <= float(importance[n][kept[n]].min())


def test_the_classic_recipe_acts_around_grey():
    picture, gradient = torch.full((1, 3, 8, 8), 0.9), torch.ones(1, 3, 8, 8)
    assert torch.allclose(Classic(decay=0.25)(picture, gradient, 1), torch.full_like(picture, 0.8))
    assert torch.allclose(Classic(blur=1.0, every=2)(picture, gradient, 1), picture)
    spot = torch.full((1, 3, 9, 9), 0.5)
    spot[..., 4, 4] = 1.0
    soft = Classic(blur=1.0, every=2)(spot, torch.ones_like(spot), 2)
    assert float(soft[0, 0, 4, 4]) < 0.7
    gradient = torch.zeros(1, 3, 8, 8)
    gradient[..., :4] = 1.0
    weak = Classic(weak=40)(picture, gradient, 1)
    assert float(weak[..., :4].min()) == pytest.approx(0.9)
