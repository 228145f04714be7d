"""RISE against the definition written out, and on nets whose truth is known."""

import math

import numpy as np
import pytest
import torch
from skimage.transform import resize
from torch import nn

import vizkit
from vizkit.errors import UsageError
from vizkit.methods.rise import Masks, bilinear, correlation


class Linear(nn.Module):
    """Scores that are linear in the pixels: the mean over the masked picture, weighed."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x):
        return torch.einsum("nchw,khw->nk", x, self.weight)


def by_definition(net, picture, target, masks, fill=0.5, measure="probability"):
    """One mask after the other, in float64."""
    total = kept = torch.zeros(picture.shape[1:], dtype=torch.float64)
    values = []
    for mask in masks:
        with torch.no_grad():
            scores = net((picture * mask + fill * (1 - mask))[None])[0]
        read = {
            "probability": scores.softmax(0)[target],
            "score": scores[target],
            "rank": -(scores > scores[target]).sum(),
        }
        value = float(read[measure])
        values.append(value)
        total = total + value * mask.double()
        kept = kept + mask.double()
    return total / kept, float(np.mean(values))


@pytest.mark.parametrize("measure", ["probability", "score", "rank"])
def test_it_is_the_definition(tiny, pixels, measure):
    tiny.eval()
    grids = Masks((32, 32), 4, 0.4, 7)
    expected, mean = by_definition(tiny, pixels[0], 2, [grids[k] for k in range(60)], 0.25, measure)
    options = {"masks": 60, "cells": 4, "keep": 0.4, "fill": 0.25, "measure": measure, "seed": 7}
    raw = vizkit.rise(tiny, pixels[0], target=2, signed=False, **options)
    torch.testing.assert_close(raw.values.double(), expected, rtol=1e-5, atol=1e-6)
    assert raw.details["mean_measure"] == pytest.approx(mean, rel=1e-5)
    signed = vizkit.rise(tiny, pixels[0], target=2, **options)
    assert signed.signed and not raw.signed
    torch.testing.assert_close(signed.values.double(), expected - mean, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("size", "cells"), [((32, 32), 7), ((30, 45), 7), ((24, 24), 5), ((3, 4), 8)])
def test_masks_are_enlarged_grids_at_a_random_place(size, cells):
    grids = Masks(size, cells, 0.5, 3)
    for k in range(5):
        generator = torch.Generator().manual_seed(3 * 1_000_003 + k)
        grid = (torch.rand(cells, cells, generator=generator) < 0.5).double().numpy()
        steps = [math.ceil(side / cells) for side in size]
        y, x = (int(torch.randint(step, (), generator=generator)) for step in steps)
        large = resize(grid, [(cells + 1) * s for s in steps], order=1, mode="edge", anti_aliasing=False)
        expected = large[y : y + size[0], x : x + size[1]]
        np.testing.assert_allclose(grids[k].numpy(), expected, atol=1e-6)
    assert grids[2].shape == size
    assert torch.equal(grids[2], Masks(size, cells, 0.5, 3)[2])
    assert not torch.equal(grids[2], grids[3]) or min(size) < 4


def test_masks_keep_the_share_asked_for_everywhere():
    mean = torch.stack([Masks((28, 28), 7, 0.3, 0)[k] for k in range(3000)]).mean(0)
    assert float((mean - 0.3).abs().max()) < 0.04
    weights = bilinear(7, 32)
    torch.testing.assert_close(weights.sum(1), torch.ones(32))


def test_a_linear_nets_map_is_its_weights():
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    bump = torch.exp(-((y - 10) ** 2 + (x - 20) ** 2) / 60)
    net = Linear(torch.stack([bump, torch.ones(32, 32)]))
    result = vizkit.rise(net, torch.ones(1, 32, 32), target=0, fill="zero", measure="score", masks=3000)
    assert correlation(result.values, bump) > 0.85
    row, column = divmod(int(result.values.argmax()), 32)
    assert abs(row - 10) <= 2 and abs(column - 20) <= 2
    assert result.details["repeat_correlation"] > 0.9


def test_the_batch_size_several_targets_and_other_pictures_change_nothing(tiny, pixels):
    one = vizkit.rise(tiny, pixels[0], target=1, masks=37, batch=1)
    for batch in (2, 5, 64):
        again = vizkit.rise(tiny, pixels[0], target=1, masks=37, batch=batch)
        torch.testing.assert_close(again.values, one.values, rtol=1e-5, atol=1e-7)
    both = vizkit.rise(tiny, pixels, target=[0, 1], masks=37)
    torch.testing.assert_close(both[1].values, one.values, rtol=1e-5, atol=1e-7)
    other = vizkit.rise(tiny, pixels[0], target=1, masks=37, seed=1)
    assert not torch.allclose(other.values, one.values, atol=1e-6)


def test_memory_does_not_grow_and_running_out_of_it_changes_nothing(tiny, pixels):
    expected = vizkit.rise(tiny, pixels[0], target=1, masks=40)
    largest = []

    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = tiny

        def forward(self, x):
            largest.append(len(x))
            if len(x) > 3:
                raise torch.OutOfMemoryError("out of memory")
            return self.net(x)

    result = vizkit.rise(Small(), pixels[0], target=1, masks=40, batch=16)
    assert max(largest) == 16
    torch.testing.assert_close(result.values, expected.values, rtol=1e-5, atol=1e-7)


def test_how_far_it_has_converged_is_said(tiny, pixels):
    few = vizkit.rise(tiny, pixels[0], target=1, masks=8)
    many = vizkit.rise(tiny, pixels[0], target=1, masks=1500)
    assert few.details["repeat_correlation"] < many.details["repeat_correlation"]
    assert any("8 masks leave noise" in w for w in few.provenance.warnings)
    assert not any("noise" in w for w in many.provenance.warnings)
    again = vizkit.rise(tiny, pixels[0], target=1, masks=1500, seed=9)
    measured = correlation(many.values, again.values)
    assert measured == pytest.approx(many.details["repeat_correlation"], abs=0.1)


def test_a_score_that_nothing_changes_gives_zeros_not_noise():
    net = Linear(torch.zeros(2, 16, 16))
    result = vizkit.rise(net, torch.rand(3, 16, 16), target=0, masks=50)
    assert float(result.values.abs().max()) < 1e-6
    assert result.details["half_correlation"] is None
    raw = vizkit.rise(net, torch.rand(3, 16, 16), target=0, masks=50, signed=False)
    torch.testing.assert_close(raw.values, torch.full((16, 16), 0.5))


def test_a_constant_in_the_score_adds_no_noise(tiny, pixels):
    options = {"measure": "score", "masks": 200}
    plain = vizkit.rise(tiny, pixels[0], target=lambda output: output[:, 1], **options)
    lifted = vizkit.rise(tiny, pixels[0], target=lambda output: output[:, 1] + 30, **options)
    torch.testing.assert_close(lifted.values, plain.values, rtol=1e-3, atol=2e-6)


def test_steps_are_told_and_units_need_the_score(tiny, pixels):
    steps = []
    vizkit.rise(tiny, pixels[0], masks=10, batch=4, on_step=lambda *s: steps.append(s))
    assert steps == [(4, 10), (8, 10), (10, 10)]
    with pytest.raises(UsageError, match="probability"):
        vizkit.rise(tiny, pixels[0], target="conv2:3", masks=4)
    unit = vizkit.rise(tiny, pixels[0], target="conv2:3", masks=4, measure="score")
    assert unit.values.shape == (32, 32)


def test_any_number_of_channels():
    from tests.conftest import TinyNet

    result = vizkit.rise(TinyNet(channels=5), torch.rand(5, 20, 30), masks=6)
    assert result.values.shape == (20, 30)
