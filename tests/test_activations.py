"""Activation maps and effective receptive fields: the numbers against hooks, definitions and closed forms."""

import numpy as np
import pytest
import torch
from torch import nn

import vizkit
from vizkit.effective import influence, side_that_holds
from vizkit.errors import UsageError
from vizkit.mapstats import map_over, map_picture, statistics, strongest
from vizkit.receptive import unit_boxes
from vizkit.sessions import session


def test_maps_are_what_a_hook_sees(tiny, pixels):
    result = vizkit.activations(tiny, pixels[0], layer="conv2", order="index")
    seen = []
    handle = tiny.conv2.register_forward_hook(lambda _, __, output: seen.append(output))
    with torch.no_grad():
        tiny.eval()(pixels[:1])
    handle.remove()
    torch.testing.assert_close(result.values, seen[0][0])


def test_the_strongest_come_first_with_their_values(tiny, pixels):
    result = vizkit.activations(tiny, pixels[0], layer="relu#1")
    peaks = result.values.flatten(1).amax(1)
    assert peaks.tolist() == sorted(peaks.tolist(), reverse=True)
    for tile, maps in zip(result.tiles, result.values, strict=True):
        assert tile.record["peak"] == pytest.approx(float(maps.max()))
        assert tile.record["mean"] == pytest.approx(float(maps.mean()), abs=1e-6)
        assert tile.caption[0].startswith(f"{tile.record['channel']}: ")


def test_statistics_by_the_definition():
    maps = torch.tensor([[[0.0, 1.0], [2.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]], [[-1.0, -2.0], [-3.0, 0.5]]])
    found = statistics(maps)
    assert (found.zeros, found.dead, found.low, found.high) == (6 / 12, 1, -3.0, 2.0)
    assert found.mean == pytest.approx(-2.5 / 12)
    assert strongest(maps) == [0, 2, 1]


def test_dead_channels_and_zeros_are_in_the_record(tiny, pixels):
    with torch.no_grad():
        tiny.bn1.weight[3] = 0
        tiny.bn1.bias[3] = -1
    said = vizkit.activations(tiny, pixels[0], layer="relu#1").figures()["layers"][0]
    assert said["dead"] >= 1
    assert said["zeros"] > 0


def test_the_sheet_has_a_strip_a_layer(tiny, pixels):
    result = vizkit.activations(tiny, pixels[0])
    labels = [strip.label for strip in result.strips]
    assert len(labels) == len(set(labels)) >= 2
    assert all("dead" in strip.note for strip in result.strips)
    assert len(vizkit.activations(tiny, pixels)) == len(pixels)


def test_overlays_lie_over_the_picture(tiny, pixels):
    result = vizkit.activations(tiny, pixels[0], layer="conv2", view="overlays", count=2)
    assert all(max(t.image.size) == 224 for t in result.tiles)
    assert all(np.ptp(np.asarray(t.image)) > 20 for t in result.tiles)


def test_colours_of_signed_and_unsigned_maps():
    from PIL import Image

    zero = np.asarray(map_picture(torch.zeros(2, 2), 1.0, signed=True))
    assert np.ptp(zero, axis=2).max() <= 4
    assert zero.min() > 200
    dark = np.asarray(map_picture(torch.tensor([[0.0, 1.0]]), 1.0, signed=False)).sum(2)
    assert dark[0, 0] < 60 < dark[0, 1]
    over = map_over(torch.zeros(4, 4), 1.0, Image.new("RGB", (60, 40), "#334455"), signed=False, size=90)
    assert over.size == (90, 60)


def test_layers_without_positions_are_refused(tiny, pixels):
    with pytest.raises(UsageError, match="fc"):
        vizkit.activations(tiny, pixels[0], layer="fc")
    with pytest.raises(UsageError, match="conv"):
        vizkit.activations(tiny, pixels[0], layer="conv9")


# --- effective receptive fields ---


def test_the_influence_of_a_convolution_is_its_weights():
    net = nn.Sequential(nn.Conv2d(3, 2, 3, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = vizkit.wrap(net, size=9)
    x = torch.rand(4, 3, 9, 9)
    with session(net):
        field = influence(model, x, "0", 1, (2, 3), [])
    expected = torch.zeros(9, 9)
    expected[2:5, 3:6] = net[0].weight[1].abs().sum(0)
    torch.testing.assert_close(field, expected.detach())


def test_the_influence_is_the_mean_over_pictures(tiny, pixels):
    model = vizkit.wrap(tiny.eval(), size=24)
    with session(tiny):
        both = influence(model, pixels[:2], "conv2", 0, (5, 6), [])
        alone = [influence(model, pixels[k : k + 1], "conv2", 0, (5, 6), []) for k in range(2)]
    torch.testing.assert_close(both, (alone[0] + alone[1]) / 2)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 1.0])
def test_the_square_that_holds_a_share(share):
    field = torch.rand(11, 14, generator=torch.Generator().manual_seed(3)).square()
    centre = (4.0, 8.5)
    found = side_that_holds(field, share, centre)

    def held(side):
        rows = (torch.arange(11) + 0.5 - centre[0]).abs() <= side / 2 + 1e-9
        columns = (torch.arange(14) + 0.5 - centre[1]).abs() <= side / 2 + 1e-9
        return float(field[rows][:, columns].double().sum() / field.double().sum())

    assert held(found) >= share - 1e-6
    assert found == 0 or held(found - 1) < share


def test_a_field_of_nothing_has_no_size():
    assert side_that_holds(torch.zeros(4, 4), 0.5, (2, 2)) == 0


def test_effective_fields_lie_inside_the_theoretical_ones(tiny, pixels):
    result = vizkit.receptive_field(tiny, pixels[0], unit="conv1:2 conv2:1,5,7 relu#2")
    boxes = unit_boxes(tiny, {n: tiny.get_submodule(n) for n in ("conv1", "conv2")}, (3, 24, 24))
    for strip, field in zip(result.strips, result.values, strict=True):
        left, top, right, bottom = (round(v) for v in strip.tiles[0].record["box"])
        inside = torch.zeros_like(field)
        inside[top:bottom, left:right] = 1
        assert float(field.sum()) > 0
        assert float((field * (1 - inside)).sum()) == 0
    box = result.strips[1].tiles[0].record["box"]
    assert [box[1], box[0], box[3], box[2]] == boxes["conv2"][:, 5, 7].tolist()
    rows = {row["layer"]: row for row in result.figures()["layers"]}
    assert rows["conv1"]["size"] == [3, 3]
    assert rows["conv2"]["stride"] == [2, 2]


def test_random_pictures_repeat_and_differ_by_seed(tiny, pixels):
    first, again, other = (
        vizkit.receptive_field(tiny, pixels[0], unit="conv2", samples=9, seed=s).values for s in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("unit", ["conv2:99", "conv2:1,50,0", "conv2:x", "conv2:1,2", "nothing", "fc"])
def test_units_that_do_not_exist_are_refused(tiny, pixels, unit):
    with pytest.raises(vizkit.VizkitError):
        vizkit.receptive_field(tiny, pixels[0], unit=unit)
