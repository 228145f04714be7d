"""The loop: the score rises, nothing is left behind, no layer is computed that is not needed."""

import pytest
import torch
from torch import nn

import vizkit
from tests.conftest import TinyNet
from vizkit.errors import ModelError, UsageError
from vizkit.paint import objectives as o
from vizkit.paint.canvases import Fourier, Pixels, flat, noise
from vizkit.paint.loop import Plan, normalised, paint
from vizkit.paint.pooling import averaged_pooling
from vizkit.paint.redirect import redirected_relus
from vizkit.paint.scales import paint_scales, shares, sizes_up_to
from vizkit.paint.seeing import open_eye
from vizkit.paint.statistics import norm_layers, statistics
from vizkit.paint.transforms import Views
from vizkit.sessions import session


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def model(tiny):
    return vizkit.wrap(tiny, size=32)


def grey(count=1, side=32):
    return noise(count, (side, side), generator=generator(), strength=0.05)


# --- seeing ---


class Counting(nn.Module):
    """A chain that counts how often each part runs, one of them twice; the last overwrites in place."""

    def __init__(self):
        super().__init__()
        self.first, self.again, self.last = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4, 2)
        self.relu = nn.ReLU(inplace=True)
        self.ran = []

    def forward(self, x):
        for name in ("first", "again", "again"):
            self.ran.append(name)
            x = self.relu(getattr(self, name)(x))
        self.ran.append("last")
        return self.last(x.mean((2, 3)))


def test_the_pass_ends_at_the_deepest_layer_that_is_needed():
    net = Counting()
    model = vizkit.wrap(net)
    x = torch.rand(1, 3, 12, 12)
    with open_eye(model, ["again#1"]) as eye:
        first = eye(x).layers["again#1"]
        assert net.ran == ["first", "again", "again", "last"]  # the first look counts calls
        net.ran.clear()
        second = eye(x)
        assert net.ran == ["first", "again"]
        assert second.output is None
        torch.testing.assert_close(second.layers["again#1"], first)
        # what comes behind works in place: what was stored must not be overwritten
        torch.testing.assert_close(first, net.again(net.first(x).relu()))
    net.ran.clear()
    with open_eye(model, ["again"], output=True) as eye:
        eye(x)
        assert eye(x).output.shape == (1, 2)
        last_call = eye(x).layers["again"]
    torch.testing.assert_close(last_call, net.again(net.again(net.first(x).relu()).relu()))
    assert not net.first._forward_hooks and not net.again._forward_hooks


def test_before_an_activation_stands_what_goes_into_it(tiny):
    x = torch.rand(1, 3, 16, 16)
    with session(tiny), open_eye(vizkit.wrap(tiny), ["relu#1"], before=True) as eye:
        raw = eye(x).layers["relu#1"]
        torch.testing.assert_close(raw, tiny.bn1(tiny.conv1(x)))
    assert float(raw.min()) < 0
    assert not tiny.relu._forward_pre_hooks


def test_layers_that_are_not_there_are_said(model):
    with pytest.raises(UsageError, match="did you mean"), open_eye(model, ["cnv1"]):
        pass
    with pytest.raises(UsageError, match="number of the layer's call"), open_eye(model, ["relu#0"]):
        pass
    with open_eye(model, ["relu#7"]) as eye, pytest.raises(UsageError, match="does not run 7 times"):
        eye(torch.rand(1, 3, 32, 32))


# --- painting ---


@pytest.mark.parametrize(
    ("optimiser", "rate"), [("adam", 0.02), ("nadam", 0.02), ("normalised", 0.01), ("lbfgs", 0.5)]
)
@pytest.mark.parametrize("kind", [Pixels, Fourier])
def test_the_score_rises(model, optimiser, rate, kind):
    plan = Plan(20, rate, optimiser=optimiser)
    with session(model.module):
        made = paint(model, kind(grey(2)), o.class_logit([1, 3]), plan, generator=generator())
    assert made.history.shape == (20, 2)
    assert bool((made.history[-1] > made.history[0]).all())
    assert 0 <= float(made.pictures.min()) <= float(made.pictures.max()) <= 1
    with torch.no_grad():
        logits = model.module.eval()(made.pictures)
    assert float(logits[0, 1]) > float(made.history[0, 0]) and float(logits[1, 3]) > float(made.history[0, 1])


def test_the_same_seed_gives_the_same_bytes(model):
    def made(seed):
        plan = Plan(5, 0.05, views=Views(count=2, rotate=10, jitter=0.1, noise=0.05))
        with session(model.module):
            return paint(
                model, Fourier(grey()), o.channel("conv2", 1), plan, generator=generator(seed)
            ).pictures

    assert torch.equal(made(1), made(1))
    assert not torch.equal(made(1), made(2))


def test_nothing_is_left_on_the_model(tiny, trace):
    before = trace(tiny)
    model = vizkit.wrap(tiny, size=32)
    with session(tiny):
        plan = Plan(3, 0.05, redirect=2, before=True)
        paint(model, Pixels(grey()), o.channel("relu#1", 1), plan, generator=generator())
    assert trace(tiny) == before


def test_ctrl_c_keeps_the_picture(model):
    def on_step(done, total):
        if done == 4:
            raise KeyboardInterrupt

    with session(model.module):
        made = paint(
            model, Pixels(grey()), o.class_logit([1]), Plan(50, 0.02), generator=generator(), on_step=on_step
        )
    assert made.stopped == "interrupted"
    assert made.steps == 4
    assert not torch.equal(made.pictures, grey())


def test_snapshots_early_ends_and_progress(model):
    told = []
    with session(model.module):
        made = paint(
            model,
            Pixels(grey()),
            o.class_logit([1]),
            Plan(10, 0.02, snapshots=3),
            generator=generator(),
            on_step=lambda done, total: told.append((done, total)),
        )
        ended = paint(
            model,
            Pixels(grey()),
            o.class_logit([1]),
            Plan(100, 0.02),
            generator=generator(),
            stop=lambda seen: float(seen.output[0, 1].detach()) > float(made.history[4, 0]),
        )
        stuck = paint(
            model, Pixels(grey()), o.class_logit([1]), Plan(100, 1e-9, patience=5), generator=generator()
        )
    assert [step for step, _ in made.snapshots] == [3, 7, 10]
    assert torch.equal(made.snapshots[-1][1], made.pictures)
    assert told == [(k, 10) for k in range(1, 11)]
    assert ended.stopped == "the goal was reached" and ended.steps < 10
    assert stuck.stopped == "no progress in 5 steps" and stuck.steps == 10


def test_the_mean_of_iterates_is_unbiased(model):
    with session(model.module):
        plain = paint(model, Pixels(grey()), o.class_logit([1]), Plan(1, 0.02), generator=generator())
        mean = paint(
            model, Pixels(grey()), o.class_logit([1]), Plan(1, 0.02, average=0.9), generator=generator()
        )
    torch.testing.assert_close(plain.pictures, mean.pictures)


def test_what_has_no_gradient_or_is_not_finite_is_said(model):
    class Cut(nn.Module):
        def forward(self, x):
            return x.detach().mean((2, 3))

    cut, goal = vizkit.wrap(Cut()), o.class_logit([1])
    with pytest.raises(ModelError, match="no gradient"):
        paint(cut, Pixels(grey()), goal, Plan(1, 0.1), generator=generator())
    with session(model.module), pytest.raises(ModelError, match="NaN"):
        paint(model, Pixels(grey()), goal * float("nan"), Plan(1, 0.1), generator=generator())


def test_normalised_gradients_have_a_mean_magnitude_of_one():
    gradient = torch.randn(2, 3, 4, 4, generator=generator()) * torch.tensor([1e-6, 1e3]).view(2, 1, 1, 1)
    torch.testing.assert_close(normalised(gradient).abs().mean((1, 2, 3)), torch.ones(2))


# --- ReLUs ---


@pytest.mark.parametrize("relu", [nn.ReLU(), nn.ReLU(inplace=True), nn.ReLU6()])
def test_silent_units_are_woken_by_redirected_gradients(relu):
    net = nn.Sequential(nn.Conv2d(3, 1, 1), relu, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with torch.no_grad():
        net[0].weight.fill_(1.0)
        net[0].bias.fill_(-2.0)  # silent for every grey picture
    x = torch.full((1, 3, 4, 4), 0.5, requires_grad=True)
    (usual,) = torch.autograd.grad(net(x).sum(), x)
    assert not bool(usual.any())
    with redirected_relus():
        (woken,) = torch.autograd.grad(-net(x).sum(), x)  # a loss that is descended
    assert bool((woken < 0).all())
    # where something gets through, the usual rule holds
    bright = torch.full((1, 3, 4, 4), 0.5)
    bright[..., :2] = 0.9
    bright.requires_grad_()
    (wanted,) = torch.autograd.grad(-net(bright).sum(), bright)
    with redirected_relus():
        (found,) = torch.autograd.grad(-net(bright).sum(), bright)
    torch.testing.assert_close(found, wanted)
    assert bool(wanted.any())


def test_average_pooling_stands_in_for_max_pooling():
    x = torch.rand(1, 2, 7, 7)
    for pool in (nn.MaxPool2d(2), nn.MaxPool2d(3, 2, 1), nn.MaxPool2d(2, ceil_mode=True)):
        average = nn.AvgPool2d(
            pool.kernel_size, pool.stride, pool.padding, ceil_mode=pool.ceil_mode, count_include_pad=False
        )
        with averaged_pooling(True):
            found = pool(x)
        torch.testing.assert_close(found, average(x))
        with averaged_pooling(False):
            assert not torch.equal(pool(x), found)


# --- the net's own statistics ---


def test_statistics_are_least_for_a_batch_like_the_training_data():
    torch.manual_seed(0)
    net = TinyNet()
    data = torch.rand(64, 3, 32, 32)
    net.train()
    for _ in range(200):
        net.bn1.momentum = 0.1
        net(data)
    net.eval()
    model = vizkit.wrap(net, size=32)
    goal = statistics(model)
    assert norm_layers(model) == ["bn1"]

    def value(x):
        with torch.no_grad(), open_eye(model, goal.layers) as eye:
            return float(goal(eye(x))[0])

    assert value(data) > -0.01
    assert value(data) > value(data * 0.3) and value(data) > value(torch.rand(64, 3, 1, 1).expand_as(data))
    assert statistics(vizkit.wrap(nn.Conv2d(3, 2, 3))) is None


# --- coarse to fine ---


def test_sizes_and_steps_of_scales():
    assert sizes_up_to((512, 256), smallest=128, ratio=2) == [(128, 64), (256, 128), (512, 256)]
    assert sizes_up_to((100, 100)) == [(100, 100)]
    for count in range(1, 6):
        assert sum(shares(count, 100)) == 100
        assert shares(count, 100) == sorted(shares(count, 100))


@pytest.mark.parametrize("kind", [Pixels, Fourier])
def test_scales_go_on_where_the_last_size_ended(model, kind):
    with session(model.module):
        made = paint_scales(
            vizkit.wrap(model.module),
            kind(grey(1, 16)),
            [(16, 16), (24, 24), (32, 32)],
            lambda size: o.class_logit([1]),
            Plan(24, 0.02, snapshots=4),
            generator=generator(),
        )
    assert made.pictures.shape == (1, 3, 32, 32)
    assert made.history.shape == (24, 1)
    # each size begins above where the first began, and ends above where it began
    starts, ends = made.history[[0, 12, 18], 0], made.history[[11, 17, 23], 0]
    assert bool((ends > starts).all())
    assert bool((starts[1:] > starts[0]).all())
    assert [step for step, _ in made.snapshots][-1] == 24


def test_one_colour_is_one_colour():
    assert flat(2, (3, 4), (0.1, 0.2, 0.3)).unique().tolist() == pytest.approx([0.1, 0.2, 0.3])
