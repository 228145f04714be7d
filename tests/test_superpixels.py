import pytest
import torch
from scipy import ndimage

from vizkit.superpixels import occluded_by, superpixels


@pytest.fixture
def blocks():
    """Four flat colours in the quarters of a picture of 32 x 48."""
    picture = torch.zeros(3, 32, 48)
    picture[0, :16, :24] = 1
    picture[1, :16, 24:] = 1
    picture[2, 16:, :24] = 1
    return picture


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
@pytest.mark.parametrize("count", [1, 6, 40])
def test_labels_are_connected_pieces_numbered_without_gaps(channels, count):
    picture = torch.rand(channels, 30, 40, generator=torch.Generator().manual_seed(0))
    labels = superpixels(picture, count)
    assert labels.shape == (30, 40)
    assert labels.dtype == torch.int64
    numbers = labels.unique().tolist()
    assert numbers == list(range(len(numbers)))
    assert len(numbers) <= 1.5 * count + 1
    for number in numbers:
        assert ndimage.label((labels == number).numpy())[1] == 1
    assert torch.equal(labels, superpixels(picture, count))


@pytest.mark.parametrize("scale", [1.0, 40.0])
@pytest.mark.parametrize("shift", [0.0, -3.0])
def test_pieces_keep_to_one_colour(blocks, scale, shift):
    labels = superpixels(blocks * scale + shift, 24)
    assert labels.max() >= 3
    for number in labels.unique():
        inside = blocks[:, labels == number]
        assert float((inside - inside.mean(1, keepdim=True)).abs().max()) < 1e-6


def test_a_picture_without_contrast_a_tiny_one_and_the_callers_tensor():
    flat = superpixels(torch.full((3, 20, 20), 0.3), 16)
    assert 4 <= len(flat.unique()) <= 25
    assert superpixels(torch.rand(3, 2, 2), 100).shape == (2, 2)
    assert superpixels(torch.rand(3, 1, 1), 5).tolist() == [[0]]
    leaf = torch.rand(3, 9, 9, requires_grad=True)
    before = leaf.detach().clone()
    superpixels(leaf, 4)
    assert torch.equal(leaf.detach(), before)


def test_the_chosen_pieces_are_filled(blocks):
    labels = superpixels(blocks, 12)
    fill = torch.rand(3, 32, 48)
    copies = occluded_by(blocks, fill, labels, [0, 2, [1, 3], []])
    assert copies.shape == (4, 3, 32, 48)
    for copy, numbers in zip(copies, ([0], [2], [1, 3], []), strict=True):
        for number in labels.unique().tolist():
            inside = labels == number
            source = fill if number in numbers else blocks
            assert torch.equal(copy[:, inside], source[:, inside])
