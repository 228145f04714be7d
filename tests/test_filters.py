"""Filters: banks, orders and spectra against their definitions; the technique on odd networks."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import vizkit
from vizkit import kernels
from vizkit.errors import ModelError, UsageError


def bank_of(module, shape=(3, 24, 24)):
    return kernels.filter_bank("x", module, shape)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_a_bank_is_what_each_output_weighs(groups):
    conv = nn.Conv2d(4, 8, (3, 5), groups=groups, bias=False)
    bank = bank_of(conv)
    assert bank.shape == (8, 4 // groups, 3, 5)
    x = torch.randn(1, 4, 3, 5)
    per_group = x.reshape(groups, 4 // groups, 3, 5)
    for k, answer in enumerate(conv(x).flatten().tolist()):
        assert float((bank[k] * per_group[k // (8 // groups)]).sum()) == pytest.approx(answer, abs=1e-5)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_transposed_bank_is_what_one_pixel_is_spread_into(groups):
    conv = nn.ConvTranspose2d(4, 6, 3, groups=groups, bias=False)
    bank = bank_of(conv)
    assert bank.shape == (6, 4 // groups, 3, 3)
    for channel in range(4):
        one = torch.zeros(1, 4, 1, 1)
        one[0, channel] = 1
        spread = conv(one)[0]
        group, inside = divmod(channel, 4 // groups)
        for output in range(6):
            expected = bank[output, inside] if output // (6 // groups) == group else torch.zeros(3, 3)
            torch.testing.assert_close(spread[output], expected)


def test_a_linear_layer_that_reads_pictures_has_pictures_for_filters():
    layer = nn.Linear(3 * 4 * 5, 7)
    torch.testing.assert_close(bank_of(layer, (3, 4, 5)), layer.weight.view(7, 3, 4, 5))
    assert bank_of(nn.Linear(10, 7), (3, 4, 5)).shape == (7, 10, 1, 1)


def test_orders():
    bank = torch.randn(12, 3, 3, 3)
    norms = bank.flatten(1).norm(dim=1)
    by_norm = kernels.order_of(bank, "norm")
    assert norms[by_norm].tolist() == sorted(norms.tolist(), reverse=True)
    assert kernels.order_of(bank, "index") == list(range(12))
    assert sorted(kernels.order_of(bank, "similarity")) == list(range(12))


def test_similar_filters_stand_side_by_side():
    generator = torch.Generator().manual_seed(0)
    kinds = torch.randn(4, 1, 3, 5, 5, generator=generator)
    noise = 0.05 * torch.randn(4, 5, 3, 5, 5, generator=generator)
    bank = (kinds + noise).reshape(20, 3, 5, 5)
    kind = torch.arange(20) // 5
    shuffled = torch.randperm(20, generator=generator)
    order = kernels.order_of(bank[shuffled], "similarity")
    runs = kind[shuffled][order].tolist()
    assert sum(a != b for a, b in itertools.pairwise(runs)) == 3


def test_grey_is_zero():
    values = torch.tensor([-2.0, 0.0, 1.0])
    assert kernels.as_grey(values, 2.0).tolist() == [0.0, 0.5, 0.75]
    assert kernels.as_grey(torch.zeros(2), 0.0).tolist() == [0.5, 0.5]


def test_the_spectrum_is_the_sum_of_the_definition():
    one = torch.randn(2, 5, 5, dtype=torch.float64).float()
    found = kernels.spectrum(one)
    size = kernels.SPECTRUM
    y, x = np.mgrid[:5, :5]
    for row, column in ((size // 2, size // 2), (3, 20), (31, 0)):
        v, u = (row - size // 2) / size, (column - size // 2) / size
        waves = np.exp(-2j * np.pi * (v * y + u * x))
        expected = np.sqrt(sum(abs((channel.numpy() * waves).sum()) ** 2 for channel in one))
        assert float(found[row, column]) == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize(("degrees", "cycles"), [(0, 0.25), (90, 0.25), (45, 0.2), (135, 0.2), (30, 0.3)])
def test_the_dominant_frequency_of_stripes(degrees, cycles):
    angle = np.radians(degrees)
    y, x = np.mgrid[:16, :16]
    across = x * -np.sin(angle) - y * np.cos(angle)  # stripes at this angle, counted against the clock
    stripes = np.cos(2 * np.pi * cycles * across)
    found = kernels.dominant(kernels.spectrum(torch.from_numpy(stripes).float()[None]))
    assert found[0] == pytest.approx(cycles, abs=0.04)
    assert min(abs(found[1] - degrees), 180 - abs(found[1] - degrees)) < 12


def test_a_plain_filter_prefers_no_frequency():
    assert kernels.dominant(kernels.spectrum(torch.ones(3, 7, 7))) == (0.0, 0.0)


# --- the technique ---


class Deep(nn.Module):
    """The first convolution is deep inside, and registered last."""

    def __init__(self, channels):
        super().__init__()
        self.head = nn.Linear(6, 2)
        self.late = nn.Conv2d(4, 6, 3)
        self.inner = nn.Sequential(nn.Sequential(nn.Identity(), nn.Conv2d(channels, 4, 3)))

    def forward(self, x):
        return self.head(self.late(F.relu(self.inner(x))).mean((2, 3)))


@pytest.mark.parametrize("channels", [1, 3, 4, 9])
def test_the_first_convolution_wherever_it_is(channels):
    net = Deep(channels)
    result = vizkit.filters(vizkit.wrap(net, channels=channels, size=16), order="index")
    assert result.provenance.layer == "inner.0.1"
    torch.testing.assert_close(result.values, net.inner[0][1].weight.detach())
    tiles = 4 if channels in (1, 3) else 4 * channels
    assert len(result.tiles) == tiles
    assert result.picture(width=500).width == 500


def test_colours_are_shown_only_of_the_pictures_own(tiny):
    own = vizkit.filters(tiny, order="index")
    pixels = own.pictures
    weight = tiny.conv1.weight.detach()
    expected = 0.5 + 0.5 * weight / weight.abs().amax((1, 2, 3), keepdim=True)
    torch.testing.assert_close(pixels, expected, atol=0.5 / 255 + 1e-6, rtol=0)
    together = vizkit.filters(tiny, order="index", scale="all").pictures
    torch.testing.assert_close(
        together, 0.5 + 0.5 * weight / weight.abs().max(), atol=0.5 / 255 + 1e-6, rtol=0
    )
    deep = vizkit.filters(tiny, layer="conv2", order="index")
    assert all(np.ptp(np.asarray(tile.image), axis=2).max() == 0 for tile in deep.tiles)


def test_dead_filters_are_named(tiny):
    with torch.no_grad():
        tiny.conv1.weight[5] = 0
    assert vizkit.filters(tiny).figures()["dead"] == [5]


def test_frequencies_and_matrices_are_drawn(tiny):
    assert all(
        "c/px" in t.caption[0] or ":" in t.caption[0] for t in vizkit.filters(tiny, frequency=True).tiles
    )
    matrix = vizkit.filters(tiny, layer="fc")
    assert len(matrix.tiles) == 1
    assert matrix.tiles[0].image.size == (8, 5)


def test_what_has_no_filters_is_refused(tiny):
    with pytest.raises(UsageError, match="has no filters"):
        vizkit.filters(tiny, layer="relu")
    with pytest.raises(ModelError, match="no convolution"):
        vizkit.filters(vizkit.wrap(nn.Sequential(nn.Flatten(), nn.Softmax(1)), size=8))
