"""Pictures of ideas: the numbers on them are right, and they are drawn."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

import vizkit
from vizkit.cli.main import call
from vizkit.errors import UsageError
from vizkit.ideas import (
    TITLES,
    activations,
    dropout,
    graph,
    initialisation,
    normalisation,
    optimisers,
    regions,
    search,
)


@pytest.mark.parametrize("name", TITLES)
def test_pictures_are_drawn_in_both_themes(name):
    light, dark = (np.asarray(vizkit.lab(name, width=500, theme=t)) for t in ("light", "dark"))
    assert light.shape[1] == 500
    assert light.shape == dark.shape
    assert light.mean() > 150 > dark.mean()
    assert len(np.unique(light.reshape(-1, 3), axis=0)) > 50


def test_the_command(tmp_path, capsys):
    out = tmp_path / "graph.webp"
    assert call(["lab", "graph", "-o", str(out), "--width", "640"]) == 0
    with Image.open(out) as image:
        assert image.size == (640, 320)
    assert call(["lab"]) == 0
    assert "optimisers" in capsys.readouterr().out
    assert call(["lab", "optimizers"]) == 2
    assert "did you mean 'optimisers'" in capsys.readouterr().err
    with pytest.raises(UsageError, match="there is no picture"):
        vizkit.lab("nonsense")


def test_slopes_of_activations():
    x, y, slope = activations.curves("sigmoid")
    torch.testing.assert_close(slope, y * (1 - y))
    x, y, slope = activations.curves("maxout of x / 2 and -x - 1")
    assert torch.equal(y, torch.maximum(x / 2, -x - 1))
    # between the samples the slope is that of the values
    for name in activations.FUNCTIONS:
        x, y, slope = activations.curves(name, points=4001)
        steps = (y[2:] - y[:-2]) / (x[2:] - x[:-2])
        assert float((steps - slope[1:-1]).abs().median()) < 1e-4


def test_he_keeps_the_scale_of_relu_nets_both_ways():
    forward, backward = initialisation.spreads("he", "ReLU")
    assert 0.3 < forward[-1] / forward[0] < 3
    assert 0.3 < backward[0] / backward[-1] < 3
    small, _ = initialisation.spreads("small", "ReLU")
    assert small[-1] < 1e-20
    # the deviation of He times 1.5 grows by 1.5 a layer
    large, _ = initialisation.spreads("large", "ReLU")
    assert (large[-1] / forward[-1]) == pytest.approx(1.5**initialisation.DEPTH, rel=1e-2)


def test_what_is_filled_is_what_torch_normalises_together():
    shape = (normalisation.EXAMPLES, normalisation.CHANNELS, normalisation.PLACES)
    layers = {
        "batch": torch.nn.BatchNorm1d(shape[1]),
        "layer": torch.nn.LayerNorm(shape[1:]),
        "instance": torch.nn.InstanceNorm1d(shape[1]),
        "group": torch.nn.GroupNorm(2, shape[1]),
    }
    for kind, layer in layers.items():
        x = torch.randn(shape, requires_grad=True)
        # what a value depends on is what it is normalised with
        (slope,) = torch.autograd.grad(layer(x)[0, -1, 0] ** 2, x)
        assert np.array_equal((slope != 0).numpy(), normalisation.sharing(kind)), kind


def test_paths_are_the_update_rules():
    path = optimisers.path("bowl", "sgd", steps=5)
    place = torch.tensor(optimisers.STARTS["bowl"], dtype=torch.float64)
    for step in range(6):
        torch.testing.assert_close(path[step], place)
        place = place - optimisers.RATES["bowl"]["sgd"] * torch.stack([place[0], 40 * place[1]])
    for surface, function in optimisers.SURFACES.items():
        for name in optimisers.RATES[surface]:
            path = optimisers.path(surface, name)
            assert float(function(path[-1])) < float(function(path[0]))


def test_dropconnects_rule_is_nearer_to_the_mean_than_scaled_weights():
    found = dropout.outputs_at_test()
    moments, scaled = ((found[k] - found["sampled"]).abs().mean() for k in ("moments", "scaled"))
    assert float(moments) < 0.3 * float(scaled)
    units, weights = dropout.masks("dropout")
    assert 0 < int(units[1].sum()) < len(units[1])
    assert not bool(weights[1][:, ~units[1]].any())


def test_random_search_sees_more_of_what_matters():
    assert len(np.unique(search.trials("grid")[:, 0].round(6))) == 3
    assert len(np.unique(search.trials("random")[:, 0])) == 9
    mean = np.mean([search.best_of("random", seed) for seed in range(300)])
    assert mean > search.best_of("grid") + 0.3


def test_one_neighbour_knows_its_own_points():
    places, labels = regions.points()
    scores = {n: m.fit(places, labels).score(places, labels) for n, m in regions.classifiers().items()}
    assert scores["1 nearest neighbour"] == 1
    assert scores["linear softmax"] < scores["5 nearest neighbours"]


def test_the_graphs_gradients_are_those_of_the_chain_rule():
    found = graph.nodes()
    w0, x0, w1, x1, w2 = (graph.GIVEN[n] for n in ("w0", "x0", "w1", "x1", "w2"))
    f = 1 / (1 + math.exp(-(w0 * x0 + w1 * x1 + w2)))
    slope = f * (1 - f)
    assert found["sigmoid"].value == pytest.approx(f)
    wanted = {"w0": x0, "x0": w0, "w1": x1, "x1": w1, "w2": 1, "sum": 1, "w0 x0": 1}
    for name, factor in wanted.items():
        assert found[name].gradient == pytest.approx(slope * factor)
    assert found["sigmoid"].gradient == 1
