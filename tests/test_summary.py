"""Summaries: what is said of channels, against the index and the definition."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import vizkit
from tests.slow_index import photo_folder
from vizkit.errors import UsageError
from vizkit.methods.summary import chance_of_common


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    from tests.conftest import TinyNet

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("summary")
    photo_folder(folder / "photos", 15)
    net = TinyNet().eval()
    with torch.no_grad():
        net.bn1.weight[2] = 0
        net.bn1.bias[2] = -1
    model = vizkit.wrap(net, size=32, labels=list("abcde"))
    vizkit.scan(model, folder / "photos", folder / "index", layers=["relu#1", "conv2"])
    return vizkit.Index(folder / "index")


def test_rows_say_what_the_index_holds(index):
    (layer,) = vizkit.summary(index, layers="conv2", count=5).layers
    rows = index.rows("conv2")
    assert sorted(c.number for c in layer.channels) == list(range(8))
    for channel in layer.channels:
        k = channel.number
        images = rows.highest_images[k, :5]
        assert [p.image for p in channel.patches] == index.names(images)
        assert channel.largest == pytest.approx(float(rows.highest_values[k, 0]))
        assert channel.mean == pytest.approx(float(rows.mean[k]))
        folders = [index.classes[index.folder[i]] for i in images]
        assert channel.folder.share == max(folders.count(f) for f in folders) / 5
        assert folders.count(channel.folder.name) / 5 == channel.folder.share
        labels = [index.labels[index.top_classes[i, 0]] for i in images]
        assert labels.count(channel.label.name) / 5 == channel.label.share
        assert channel.median <= channel.p99


def test_pure_channels_come_first_and_dead_ones_last(index):
    (layer,) = vizkit.summary(index, layers="relu#1").layers
    alive = [c for c in layer.channels if not c.dead]
    shares = [c.folder.share for c in alive]
    assert shares == sorted(shares, reverse=True)
    assert 2 in [c.number for c in layer.channels[len(alive) :]]


def test_layers_are_chosen_listed_or_all(index):
    assert [x.name for x in vizkit.summary(index).layers] == [index.layers[-1].name]
    assert [x.name for x in vizkit.summary(index, layers="conv2, relu#1").layers] == ["conv2", "relu#1"]
    assert [x.name for x in vizkit.summary(index, layers="all").layers] == [e.name for e in index.layers]
    with pytest.raises(UsageError, match="did you mean"):
        vizkit.summary(index, layers="conv3")


def test_the_default_layer_tells_pictures_apart(index, monkeypatch):
    from vizkit.scanning.index import Index

    rows = Index.rows

    def saturated(self, name):
        found = rows(self, name)
        if name == index.layers[-1].name:
            return replace(found, highest_values=np.full_like(found.highest_values, 6.0))
        return found

    monkeypatch.setattr(Index, "rows", saturated)
    assert vizkit.summary(index).layers[0].name == index.layers[-2].name


@pytest.mark.parametrize(("first", "second", "count"), [(6, 4, 3), (2, 9, 5), (3, 3, 6)])
def test_chance_is_the_hypergeometric_mean(first, second, count):
    folder = np.array([0] * first + [1] * second)
    total = math.comb(first + second, count)
    expected = sum(
        max(a, count - a) * math.comb(first, a) * math.comb(second, count - a) / total
        for a in range(max(0, count - second), min(first, count) + 1)
    )
    assert chance_of_common(folder, count) == pytest.approx(expected / count, abs=0.02)


def test_equal_patches_are_kept_once(index):
    result = vizkit.summary(index, layers="conv2", count=5)
    shown = {p.patch for c in result.layers[0].channels for p in c.patches}
    assert shown == set(range(len(result.patches)))
    assert len(result.patches) <= 8 * 5


def test_it_is_a_page_or_numbers_but_no_picture(index, tmp_path):
    result = vizkit.summary(index)
    with pytest.raises(UsageError, match=r"\.html"):
        result.picture()
    with pytest.raises(UsageError, match=r"\.html"):
        result.save(tmp_path / "x.png")
    assert result._repr_png_() is None
    result.save(tmp_path / "x.json")
    assert result.values.shape == (8, 6)
