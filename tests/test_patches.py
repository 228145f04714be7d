"""Patches: which, where, what value and which pixels, against maps computed picture by picture."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import vizkit
from tests.slow_index import photo_folder
from vizkit.errors import ModelError, UsageError
from vizkit.hooks import capture
from vizkit.receptive import unit_boxes
from vizkit.scanning import photographs
from vizkit.scanning.index import LayerEntry, LayerRows
from vizkit.scanning.photographs import Photographs
from vizkit.scanning.winners import Patch, field_of, framed, overlap, read_unit, strongest, unlike


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model, an index of 15 pictures and their folder."""
    from tests.conftest import TinyNet

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("patches")
    model = vizkit.wrap(TinyNet().eval(), size=32, labels=list("abcde"))
    photo_folder(folder / "photos", 15)
    vizkit.scan(model, folder / "photos", folder / "index", layers=["relu#1", "conv2"], features=["relu#2"])
    return model, vizkit.Index(folder / "index"), folder / "photos"


def maps_of(model, index, photos, layer):
    """(N, C, h, w) by one picture at a time."""
    found = []
    for k in range(index.count):
        pixels = model.prepare(photos / index.name(k)).pixels[None]
        with torch.no_grad(), capture(model.module, [layer.partition("#")[0]]) as captured:
            model(pixels)
        found.append(captured[layer][0])
    return torch.stack(found)


@pytest.mark.parametrize("lowest", [False, True])
def test_patches_are_the_extremes_of_all_maps(made, lowest):
    model, index, photos = made
    sign = -1 if lowest else 1
    maps = sign * maps_of(model, index, photos, "conv2")
    boxes = unit_boxes(model.module, {"conv2": model.module.conv2}, (3, 32, 32))["conv2"]
    rows = index.rows("conv2")
    for channel in range(8):
        best = maps[:, channel].flatten(1).amax(1).sort(descending=True, stable=True)
        found = strongest(index, rows, channel, lowest=lowest)[:9]
        assert [p.image for p in found] == best.indices[:9].tolist()
        for patch, value in zip(found, best.values.tolist(), strict=False):
            assert patch.value == pytest.approx(sign * value, abs=1e-5)
            y, x = patch.place
            assert float(maps[patch.image, channel, y, x]) == pytest.approx(value, abs=1e-5)
            top, left, bottom, right = boxes[:, y, x].tolist()
            # What the picture's border cuts off is a part of the field all the same.
            assert patch.box[0] <= left < right <= patch.box[2]
            assert patch.box[1] <= top < bottom <= patch.box[3]
            assert patch.box[2] - patch.box[0] == 7
            assert patch.box[3] - patch.box[1] == 7


def test_crops_are_the_photographs_pixels(made):
    _, index, photos = made
    shown = Photographs(index)
    view = index.view(3)
    whole = Image.open(photos / index.name(3)).convert("RGB")
    box = (4.0, 8.0, 20.0, 24.0)
    scale = (view[2] - view[0]) / 32
    part = tuple(view[k % 2] + v * scale for k, v in enumerate(box))
    expected = whole.resize((64, 64), Image.Resampling.BICUBIC, box=part)
    crop = shown.crop(3, box, 64)
    assert np.abs(np.asarray(crop, int) - np.asarray(expected, int)).mean() < 2


def test_outside_of_what_the_net_sees_is_grey(made):
    _, index, _ = made
    crop = np.asarray(Photographs(index).crop(0, (-16.0, 0.0, 16.0, 32.0), 64))
    assert (crop[:, :30] == 128).all()
    assert np.ptp(crop[:, 34:]) > 10


def test_several_patches_of_one_picture(made):
    model, index, photos = made
    result = vizkit.patches(index, "conv2:1", model=model, count=6, per_image=3)
    maps = maps_of(model, index, photos, "conv2")[:, 1]
    rows = index.rows("conv2")
    candidates = []
    for image in range(index.count):
        chosen = []
        for place in maps[image].flatten().argsort(descending=True, stable=True).tolist():
            box, _ = field_of(rows, place, (32, 32))
            if all(overlap(box, other) < 0.3 for other, _ in chosen):
                chosen.append((box, float(maps[image].flatten()[place])))
            if len(chosen) == 3:
                break
        candidates += [value for _, value in chosen]
    best = sorted(candidates, reverse=True)[:6]
    assert result.values[0].tolist() == pytest.approx(best, abs=1e-5)
    per_picture = [tile.record["image"] for tile in result.tiles]
    assert len(set(per_picture)) < len(per_picture)


def test_unlike_patches_are_of_unlike_pictures(made):
    _, index, _ = made
    found = strongest(index, index.rows("conv2"), 0)
    few = unlike(index, found, 4)
    assert len(few) == 4
    assert [found.index(p) for p in few] == sorted(found.index(p) for p in few)
    assert found[0] in few
    assert unlike(index, found, 99) == found


def test_a_whole_layer_shows_the_most_selective_channels(made):
    _, index, _ = made
    result = vizkit.patches(index, "conv2", channels=5, count=4)
    assert len(result.strips) == 5
    rows = index.rows("conv2")
    high = (rows.highest_values[:, :9].mean(1) - rows.mean) / rows.std
    expected = [str(k) for k in np.argsort(-high, kind="stable")[:5]]
    assert [strip.label for strip in result.strips] == expected


def test_guided_strips_stand_under_the_patches(made):
    model, index, _ = made
    result = vizkit.patches(index, "conv2:2", model=model, count=3, guided=True)
    assert len(result.strips) == 2
    pictures = [np.asarray(tile.image, int) for tile in result.strips[1].tiles]
    assert all(abs(np.median(p) - 128) < 20 for p in pictures)
    assert all(np.ptp(p) > 100 for p in pictures)


def test_context_shows_more_and_frames_the_field():
    patch = Patch(0, (1, 1), 1.0, (10.0, 10.0, 50.0, 50.0), whole=False)
    assert framed(patch) == ((10.0, 10.0, 50.0, 50.0), None)
    assert framed(patch, 2) == ((-10.0, -10.0, 70.0, 70.0), (20.0, 20.0, 60.0, 60.0))
    tiny = Patch(0, (1, 1), 1.0, (10.0, 10.0, 13.0, 13.0), whole=False)
    box, frame = framed(tiny)
    assert box[2] - box[0] == 24
    assert frame[2] - frame[0] == 3


@pytest.mark.parametrize("place", range(25))
def test_fields_at_the_border_keep_their_size(place):
    y, x = np.mgrid[:5, :5] * 4
    fields = np.stack([(y - 2).clip(0), (x - 2).clip(0), (y + 5).clip(max=18), (x + 5).clip(max=18)])
    entry = LayerEntry("a", 1, 5, 5, lowest=False, features=False)
    rows = LayerRows(entry, *[None] * 10, fields=fields)
    box, whole = field_of(rows, place, (18, 18))
    top, left = 4 * (place // 5) - 2, 4 * (place % 5) - 2
    assert box == (left, top, left + 7, top + 7)
    assert not whole


def test_moved_and_changed_photographs(made, tmp_path):
    _, index, photos = made
    moved = tmp_path / "moved"
    shutil.copytree(photos, moved)
    first = strongest(index, index.rows("conv2"), 0)[0].image
    (moved / index.name(first)).write_bytes(b"changed")
    result = vizkit.patches(index, "conv2:0", photos=str(moved))
    assert "shown as thumbnails" in result.provenance.warnings[0]
    whole = vizkit.patches(index, "conv2:0")
    assert not whole.provenance.warnings
    np.testing.assert_array_equal(result.values.numpy(), whole.values.numpy())


def test_wrong_requests(made, tiny):
    _, index, _ = made
    with pytest.raises(UsageError, match="channels 0 to 7"):
        read_unit(index, "conv2:8")
    with pytest.raises(UsageError, match="did you mean 'conv2'"):
        vizkit.patches(index, "conv3")
    with pytest.raises(UsageError, match="never below zero"):
        vizkit.patches(index, "relu#1:0", lowest=True)
    with pytest.raises(UsageError, match="name a layer"):
        vizkit.patches(index, [])
    with torch.no_grad():
        tiny.fc.weight += 1
    with pytest.raises(ModelError, match="not those that the index was made with"):
        vizkit.patches(index, "conv2:0", model=vizkit.wrap(tiny, size=32), guided=True)


def test_a_folder_is_scanned_on_the_way(made):
    model, index, photos = made
    there = vizkit.patches(index, "conv2:3", count=5).values
    torch.testing.assert_close(vizkit.patches(photos, "conv2:3", model=model, count=5).values, there)


def test_a_unit_that_sees_nothing_is_a_grey_square():
    picture = Image.new("RGB", (40, 30), "red")
    for box in ((5, 5, 5, 9), (7, 3, 2, 9), (4, 9, 8, 2)):
        cut = photographs._cut(picture, box, (0, 0, 40, 30), 12)
        assert cut.size == (12, 12)
        assert cut.getcolors() == [(144, (128, 128, 128))]
