"""Layers, losses, initialisers, optimisers and schedules against definitions and torch."""

import math

import pytest
import torch
from torch import nn

import vizkit
from vizkit.errors import UsageError, VizkitError
from vizkit.nets import NETS, make_net
from vizkit.nets.layers import DropConnect, FractionalPool, HierarchicalSoftmax, Maxout
from vizkit.training.descent import OPTIMISERS, SCHEDULES, make_optimiser, rate_at, scaled_rate
from vizkit.training.initialisers import INITIALISERS, initialise
from vizkit.training.losses import loss_at_start, make_loss, multiclass_hinge, penalty


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# --- layers ---


def test_maxout_is_the_largest_of_its_pieces():
    layer = Maxout(5, 3, pieces=4).double()
    x = rand(7, 5)
    rows = layer.linear.weight.view(3, 4, 5)
    wanted = torch.stack(
        [(x @ rows[k].T + layer.linear.bias.view(3, 4)[k]).max(1).values for k in range(3)], 1
    )
    torch.testing.assert_close(layer(x), wanted)
    assert torch.autograd.gradcheck(layer, x.requires_grad_())


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.Tanh(), nn.Sigmoid()])
def test_dropconnect_in_evaluation_is_the_mean_over_masks(activation):
    torch.manual_seed(0)
    layer = DropConnect(64, 6, drop=0.4, activation=activation)
    x = torch.randn(3, 64)
    with torch.no_grad():
        wanted = torch.stack([layer.train()(x) for _ in range(6000)]).mean(0)
        found = layer.eval()(x)
        plain = activation(nn.functional.linear(x, 0.6 * layer.weight, 0.6 * layer.bias))
    assert float((found - wanted).abs().max()) < 0.02
    if isinstance(activation, nn.ReLU):
        assert float((plain - wanted).abs().max()) > 0.05  # dropout's rule is another


def test_dropconnect_drops_weights_of_each_example():
    torch.manual_seed(0)
    layer = DropConnect(200, 50, drop=0.25, activation=nn.Identity()).train()
    nn.init.ones_(layer.weight)
    nn.init.zeros_(layer.bias)
    sums = layer(torch.ones(20, 200)).detach()
    assert float(sums.mean()) == pytest.approx(150, rel=0.02)
    assert float(sums.std()) == pytest.approx(math.sqrt(200 * 0.25 * 0.75), rel=0.1)
    assert not torch.equal(sums[0], sums[1])


@pytest.mark.parametrize("classes", [2, 3, 8, 13])
def test_hierarchical_softmax_is_a_distribution(classes):
    layer = HierarchicalSoftmax(6, classes).double()
    x = rand(5, 6)
    logs = layer(x)
    torch.testing.assert_close(logs.exp().sum(1), torch.ones(5, dtype=torch.float64))
    labels = torch.arange(5) % classes
    wanted = -logs.gather(1, labels[:, None]).mean()
    torch.testing.assert_close(layer.loss(x, labels), wanted)
    # by hand: the product of decisions along the path of each class
    decided = torch.sigmoid(layer.decisions(x))
    for k in range(classes):
        product = torch.ones(5, dtype=torch.float64)
        for node, sign in zip(layer.nodes[k].tolist(), layer.signs[k].tolist(), strict=True):
            if sign:
                product = product * (decided[:, node] if sign > 0 else 1 - decided[:, node])
        torch.testing.assert_close(logs[:, k].exp(), product)


# --- losses ---


def test_the_hinge_is_the_textbooks_sum():
    scores, labels = rand(6, 4), torch.tensor([0, 1, 2, 3, 1, 2])
    for squared in (False, True):
        total = 0.0
        for s, y in zip(scores.tolist(), labels.tolist(), strict=True):
            for j in range(4):
                if j != y:
                    short = max(0.0, s[j] - s[y] + 1.5)
                    total += short**2 if squared else short
        found = multiclass_hinge(scores, labels, margin=1.5, squared=squared)
        assert float(found) == pytest.approx(total / 6)
        power = 2 if squared else 1
        theirs = nn.MultiMarginLoss(p=power, margin=1.5)(scores, labels)
        torch.testing.assert_close(found, 4 * theirs)


@pytest.mark.parametrize("name", ["cross_entropy", "hinge", "squared_hinge", "bce"])
def test_losses_begin_where_they_should(name):
    scores, labels = torch.zeros(8, 7), torch.arange(8) % 7
    assert float(make_loss(name)(scores, labels)) == pytest.approx(loss_at_start(name, 7), rel=1e-5)


def test_wrong_losses_are_said():
    with pytest.raises(UsageError, match="did you mean 'hinge'"):
        make_loss("hing")
    with pytest.raises(UsageError, match="smoothing"):
        make_loss("hinge", smoothing=0.1)
    with pytest.raises(UsageError, match=r"in \[0, 1\)"):
        make_loss("cross_entropy", smoothing=1)


def test_the_elastic_net_leaves_biases_and_norms_alone():
    net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    weight = net[0].weight
    wanted = 0.1 * weight.abs().sum() + 0.01 * weight.square().sum()
    torch.testing.assert_close(penalty(net, l1=0.1, l2=0.01), wanted)


# --- initialisers, optimisers, schedules ---


def test_initialisers_have_the_variance_that_they_promise():
    torch.manual_seed(0)
    wanted = {
        "torch": 1 / (3 * 400),
        "zeros": 0,
        "small": 1e-4,
        "lecun": 1 / 400,
        "xavier": 2 / (400 + 600),
        "xavier_uniform": 2 / (400 + 600),
        "he": 2 / 400,
        "he_uniform": 2 / 400,
        "orthogonal": 2 / 600,
    }
    assert set(wanted) == set(INITIALISERS)
    for name, variance in wanted.items():
        layer = initialise(nn.Linear(400, 600), name, bias=0.01)
        assert float(layer.weight.detach().var()) == pytest.approx(variance, rel=0.03, abs=1e-9), name
        assert bool((layer.bias == 0.01).all())


def test_a_last_layer_of_zeros_gives_the_loss_of_equal_scores():
    net = initialise(make_net("simple", channels=1, classes=5, side=12), "he", last="zeros").eval()
    scores = net(torch.rand(4, 1, 12, 12)).detach()
    assert float(make_loss("cross_entropy")(scores, torch.arange(4))) == pytest.approx(math.log(5))


@pytest.mark.parametrize("name", OPTIMISERS)
def test_optimisers_are_torchs_own(name):
    ours, theirs = nn.Linear(3, 2), nn.Linear(3, 2)
    theirs.load_state_dict(ours.state_dict())
    kind, settings = OPTIMISERS[name]
    first = make_optimiser(ours, name, rate=0.05)
    second = kind(theirs.parameters(), lr=0.05, weight_decay=0.0, **settings)
    x = rand(6, 3).float()
    for _ in range(4):
        for net, optimiser in ((ours, first), (theirs, second)):
            optimiser.zero_grad()
            net(x).square().sum().backward()
            optimiser.step()
    torch.testing.assert_close(ours.weight, theirs.weight)


def test_decay_is_for_weights_alone():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    groups = make_optimiser(net, "sgd", rate=0.1, decay=0.01).param_groups
    assert [(g["weight_decay"], len(g["params"])) for g in groups] == [(0.01, 1), (0.0, 3)]
    with pytest.raises(UsageError, match="did you mean 'adam'"):
        make_optimiser(net, "adan", rate=0.1)
    with pytest.raises(UsageError, match="refuses"):
        make_optimiser(net, "adam", rate=0.1, momentum=0.9)


def test_schedules_rise_and_fall():
    for name in SCHEDULES:
        rates = [rate_at(name, k, 100, warmup=0.2) for k in range(100)]
        assert rates[:20] == pytest.approx([(k + 1) / 21 for k in range(20)])
        assert rates[20] == 1.0
        assert all(0 <= r <= 1 for r in rates)
    assert rate_at("linear", 75, 100) == pytest.approx(0.25)
    assert rate_at("cosine", 50, 100) == pytest.approx(0.5)
    assert rate_at("exponential", 50, 100) == pytest.approx(0.1)
    assert rate_at("inverse", 50, 100) == pytest.approx(1 / 5.5)
    assert [round(rate_at("step", k, 99), 6) for k in (0, 32, 33, 66)] == [1, 1, 0.1, 0.01]
    assert [rate_at("snapshots", k, 100) for k in (0, 20, 40, 60, 80)] == [1.0] * 5
    assert rate_at("snapshots", 19, 100) < 0.01
    assert scaled_rate(0.1, 512) == pytest.approx(0.2)
    with pytest.raises(UsageError, match="did you mean 'cosine'"):
        rate_at("cosin", 0, 10)


# --- nets ---

PUBLISHED = {
    "lenet5": (1, 10, 28, 61_706),
    "nin": (3, 10, 32, 966_986),
    "allconv": (3, 10, 32, 1_369_738),
    "resnet20": (3, 10, 32, 269_722),
    "wrn-28-10": (3, 10, 32, 36_479_194),
    "resnext29": (3, 10, 32, 34_426_698),
    "densenet": (3, 10, 32, 769_162),
    "squeezenet": (3, 1000, 224, 1_248_424),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_parameter_counts(name):
    channels, classes, side, count = PUBLISHED[name]
    net = make_net(name, channels=channels, classes=classes, side=side)
    assert sum(p.numel() for p in net.parameters()) == count


@pytest.mark.parametrize("name", [n for n in NETS if n not in ("wrn-28-10", "resnext29")])
def test_nets_take_small_pictures(name):
    for channels, side in ((1, 8), (3, 32)):
        torch.manual_seed(0)
        net = make_net(name, channels=channels, classes=7, side=side)
        loss = nn.functional.cross_entropy(net(torch.rand(4, channels, side, side)), torch.arange(4))
        loss.backward()
        assert math.isfinite(float(loss.detach()))
        moved = [p.grad is not None for p in net.parameters()]
        assert all(moved) or name in ("stochastic-depth", "fractalnet")
        assert net.eval()(torch.rand(1, channels, side, side)).shape == (1, 7)
    with pytest.raises(UsageError, match="did you mean 'resnet9'"):
        make_net("resnet8", channels=1, classes=2, side=8)


def test_fractals_drop_paths_in_training_alone():
    torch.manual_seed(0)
    net = make_net("fractalnet", channels=1, classes=3, side=16)
    x = torch.rand(2, 1, 16, 16)
    outputs = {tuple(net(x).flatten().tolist()) for _ in range(8)}
    assert len(outputs) > 2
    net.eval()
    assert torch.equal(net(x), net(x))


def test_untrained_nets_are_looked_into_by_name():
    model = vizkit.load_model("net:lenet5", random_weights=True)
    rows = {row.name: row for row in vizkit.list_layers(model.module, model.input_shape)}
    assert rows["0"].shape == (6, 28, 28)
    assert (rows["3"].field.height, rows["3"].field.width) == (14, 14)
    assert sum(p.numel() for p in model.module.parameters()) == 61_706 + 2 * 6 * 25  # three channels, not one
    with pytest.raises(UsageError, match="did you mean 'lenet5'"):
        vizkit.load_model("net:lenet", random_weights=True)
    with pytest.raises(VizkitError, match="train it"):
        vizkit.load_model("net:lenet5")


def test_a_tree_of_decisions_stands_in_for_the_last_layer():
    net = make_net("simple+hierarchical", channels=1, classes=7, side=8).eval()
    logs = net(torch.randn(5, 1, 8, 8))
    torch.testing.assert_close(logs.exp().sum(1), torch.ones(5))
    labels = torch.tensor([0, 1, 2, 3, 6])
    features = torch.randn(5, 128)
    torch.testing.assert_close(
        net[-1].loss(features, labels), nn.functional.cross_entropy(net[-1](features), labels)
    )
    with pytest.raises(UsageError, match="hierarchical"):
        make_net("simple+tree", channels=1, classes=7, side=8)
    with pytest.raises(UsageError, match="does not end"):
        make_net("nin+hierarchical", channels=1, classes=7, side=8)


def test_fractional_pools_draw_windows_that_cover_the_maps_and_repeat_in_evaluation():
    pool = FractionalPool()
    x = torch.rand(3, 4, 20, 20)
    torch.manual_seed(0)
    drawn = [pool(x) for _ in range(2)]
    assert drawn[0].shape == (3, 4, 14, 14)
    assert not torch.equal(*drawn)
    pool.eval()
    assert torch.equal(pool(x), pool(x))
    # every value of a pooled map is one of the map, and the largest of all is among them
    for made in (*drawn, pool(x)):
        assert bool(torch.isin(made, x).all())
        torch.testing.assert_close(made.amax((2, 3)), x.amax((2, 3)))
