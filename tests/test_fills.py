import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter

import vizkit
from vizkit.errors import UsageError
from vizkit.fills import fill_of, gaussian_blur


@pytest.fixture
def model(tiny):
    return vizkit.wrap(tiny, size=32)


@pytest.mark.parametrize(
    ("spec", "value"), [("grey", 0.5), ("zero", 0), ("white", 1), (0.25, 0.25), ("0.25", 0.25), (-1, -1)]
)
def test_a_colour_or_a_number(model, pixels, spec, value):
    filled = fill_of(spec, pixels, model)
    assert filled.shape == pixels.shape
    assert bool((filled == value).all())


def test_the_mean_is_each_pictures_own(model, pixels):
    filled = fill_of("mean", pixels, model)
    for k in range(2):
        for c in range(3):
            torch.testing.assert_close(filled[k, c], pixels[k, c].mean().expand(32, 32))


def test_blur_is_scipys(model, pixels):
    expected = np.stack(
        [[gaussian_filter(c, 3.2, mode="nearest", radius=10) for c in p] for p in pixels.double().numpy()]
    )
    np.testing.assert_allclose(fill_of("blur", pixels, model), expected, atol=1e-6)
    torch.testing.assert_close(gaussian_blur(torch.ones(1, 2, 5, 40), 3.0), torch.ones(1, 2, 5, 40))


def test_another_picture_goes_through_the_models_resize_and_crop(model, pixels, photo):
    with Image.open(photo) as opened:
        expected = model.prepare(opened.convert("RGB")).pixels
    for spec in (str(photo), expected):
        torch.testing.assert_close(fill_of(spec, pixels, model)[1], expected)


def test_what_is_no_fill_is_refused(model, pixels, tiny):
    with pytest.raises(UsageError, match="did you mean 'grey'"):
        fill_of("gery", pixels, model)
    with pytest.raises(UsageError, match=r"missing\.png"):
        fill_of("missing.png", pixels, model)
    with pytest.raises(UsageError, match=r"\(3, 16, 16\) at the model's input, not \(3, 32, 32\)"):
        fill_of(torch.zeros(3, 16, 16), pixels, vizkit.wrap(tiny))
