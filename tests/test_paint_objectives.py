"""Objectives against their definitions, their algebra, and their gradients."""

import pytest
import torch

from vizkit.errors import UsageError
from vizkit.paint import objectives as o
from vizkit.paint.grams import colour_scales, gram, masked_gram, smooth, style_loss, style_of
from vizkit.paint.seeing import Seen
from vizkit.paint.statistics import moments
from vizkit.targets import ClassTarget


def rand(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def seen(picture=None, output=None, **layers):
    picture = rand(2, 3, 6, 5) if picture is None else picture
    return Seen(picture, picture, layers, output, output)


def test_values_are_those_of_the_definitions():
    maps, output = rand(2, 4, 3, 5, seed=1).float(), rand(2, 7, seed=2).float()
    s = seen(output=output, a=maps)
    torch.testing.assert_close(o.channel("a", 2)(s), maps[:, 2].mean((1, 2)))
    torch.testing.assert_close(o.channel("a", [2, 3])(s), torch.stack([maps[0, 2].mean(), maps[1, 3].mean()]))
    torch.testing.assert_close(o.unit("a", 1)(s), maps[:, 1, 1, 2])
    torch.testing.assert_close(o.unit("a", 1, (2, 4))(s), maps[:, 1, 2, 4])
    torch.testing.assert_close(o.energy("a")(s), maps.square().mean((1, 2, 3)))
    torch.testing.assert_close(o.class_logit([3])(s), output[:, 3])
    torch.testing.assert_close(o.class_logit([3, 5])(s), torch.stack([output[0, 3], output[1, 5]]))
    torch.testing.assert_close(o.class_probability([3])(s), output.softmax(1)[:, 3])
    torch.testing.assert_close(o.class_probability([3], log=True)(s), output.log_softmax(1)[:, 3])
    torch.testing.assert_close(o.of_target(ClassTarget((4,)))(s), output[:, 4])
    vector = torch.tensor([1.0, 0, -2, 0.5])
    dots = torch.einsum("nchw,c->nhw", maps, vector)
    torch.testing.assert_close(o.direction("a", vector)(s), dots.mean((1, 2)))
    cosines = dots / maps.norm(dim=1) / vector.norm()
    torch.testing.assert_close(o.cosine("a", vector)(s), cosines.mean((1, 2)))
    away = (maps - maps[:1]).square().sum((1, 2, 3)) / maps[:1].square().sum()
    torch.testing.assert_close(o.content("a", maps[:1])(s), -away)
    guide = rand(4, 6, seed=5).float()
    best = torch.einsum("ncp,cq->nqp", maps.flatten(2), guide).amax(1).mean(1)
    torch.testing.assert_close(o.guide("a", guide)(s), best)


def test_measures_of_the_picture_are_those_of_the_definitions():
    x = rand(2, 3, 6, 5)
    s = seen(x)
    total = torch.zeros(2, dtype=torch.float64)
    for row in range(5):
        for column in range(4):
            here = x[:, :, row, column]
            right, below = x[:, :, row, column + 1] - here, x[:, :, row + 1, column] - here
            total += (right**2 + below**2 + 1e-8).sqrt().sum(1)
    torch.testing.assert_close(o.total_variation()(s), total / (3 * 5 * 4))
    torch.testing.assert_close(o.norm(4)(s), (2 * x - 1).abs().pow(4).mean((1, 2, 3)))
    mean, covariance = o.colour_statistics(x)
    for n in range(2):
        torch.testing.assert_close(mean[n], x[n].flatten(1).mean(1))
        torch.testing.assert_close(covariance[n], torch.cov(x[n].flatten(1), correction=0))
    assert float(o.colours(mean[0], covariance[0])(s)[0]) == pytest.approx(0, abs=1e-12)
    assert float(o.colours(mean[0], covariance[0])(s)[1]) < 0


def test_diversity_is_the_mean_cosine_of_gram_matrices():
    maps = rand(3, 4, 5, 5, seed=3).float()
    grams = [m.flatten(1) @ m.flatten(1).T for m in maps]
    cosine = [[torch.cosine_similarity(a.flatten(), b.flatten(), dim=0) for b in grams] for a in grams]
    wanted = torch.stack([-(cosine[k][(k + 1) % 3] + cosine[k][(k + 2) % 3]) / 2 for k in range(3)])
    torch.testing.assert_close(o.diversity("a")(seen(rand(3, 3, 4, 4), a=maps)), wanted)
    alone = o.diversity("a")(seen(rand(1, 3, 4, 4), a=maps[:1]))
    assert alone.tolist() == [0.0]


def test_the_algebra_makes_new_objectives_and_leaves_the_old():
    s = seen(rand(2, 3, 4, 4).float(), a=rand(2, 4, 3, 3, seed=1).float())
    first, second = o.channel("a", 0), o.channel("a", 1)
    before = first.terms
    mixed = 2 * first - second / 4 + 3
    torch.testing.assert_close(mixed(s), 2 * first(s) - second(s) / 4 + 3)
    torch.testing.assert_close(sum([first, second])(s), first(s) + second(s))
    torch.testing.assert_close((-first)(s), -first(s))
    assert first.terms is before
    assert mixed.layers == ("a",)
    assert not mixed.output
    assert (first + o.class_logit([0])).output
    assert set(mixed.parts(s)) == {"channel", "constant"}


def test_views_of_one_picture_are_averaged():
    maps = rand(4, 2, 3, 3, seed=1).float()  # two pictures, two views of each, pictures first
    values = o.channel("a", 0)(seen(rand(2, 3, 4, 4), a=maps))
    torch.testing.assert_close(values[0], (maps[0, 0].mean() + maps[2, 0].mean()) / 2)


@pytest.mark.parametrize(
    "make",
    [
        lambda: o.channel("a", 1),
        lambda: o.direction("a", torch.tensor([1.0, -1, 0.5], dtype=torch.float64), cosine_power=1),
        lambda: o.cosine("a", torch.tensor([1.0, -1, 0.5], dtype=torch.float64)),
        lambda: o.energy("a"),
        lambda: o.diversity("a"),
        lambda: o.content("a", rand(1, 3, 3, 3, seed=9)),
        lambda: o.pooled_content("a", rand(1, 3, 3, 3, seed=9)),
        lambda: o.total_variation(2),
        lambda: o.norm(6),
    ],
)
def test_gradients(make, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "float", lambda self: self)  # gradcheck needs double precision
    goal = make()

    def value(picture, maps):
        return goal(Seen(picture, picture, {"a": maps}))

    inputs = rand(2, 3, 4, 4, seed=1).requires_grad_(), (rand(2, 3, 3, 3, seed=2) + 0.2).requires_grad_()
    torch.autograd.gradcheck(lambda p, m: value(p, m) + 0 * (p.sum() + m.sum()), inputs)


def test_wrong_channels_and_shapes_are_said():
    s = seen(a=rand(2, 4, 3, 3).float(), v=rand(2, 4).float(), output=rand(2, 5).float())
    with pytest.raises(UsageError, match="4 channels"):
        o.channel("a", 4)(s)
    with pytest.raises(UsageError, match="no positions"):
        o.unit("t", 0)(seen(t=rand(2, 4, 2, 2, 2).float()))
    with pytest.raises(UsageError, match="3 x 3 positions"):
        o.unit("a", 0, (3, 0))(s)
    with pytest.raises(UsageError, match="the direction 2"):
        o.direction("a", torch.ones(2))(s)
    with pytest.raises(UsageError, match="sizes differ"):
        o.content("a", rand(1, 4, 2, 2))(s)
    with pytest.raises(UsageError, match="class 5 is out of range"):
        o.class_logit([5])(s)


# --- style ---


def test_gram_matrices_are_means_of_products():
    maps = rand(2, 3, 4, 5)
    wanted = torch.einsum("nchw,ndhw->ncd", maps, maps) / 20
    torch.testing.assert_close(gram(maps), wanted)
    mask = torch.zeros(4, 5, dtype=torch.float64)
    mask[:2] = 1
    torch.testing.assert_close(masked_gram(maps, mask), gram(maps[:, :, :2]))
    with pytest.raises(UsageError, match="mask is empty"):
        masked_gram(maps, torch.zeros(4, 5))


def test_gradients_written_out_are_right():
    maps = rand(2, 3, 4, 5).requires_grad_()
    assert torch.autograd.gradcheck(gram, maps)
    assert torch.autograd.gradcheck(moments, maps)
    last = maps.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    (slope,) = torch.autograd.grad(gram(last)[:, 0].sum(), last)
    assert slope.is_contiguous(memory_format=torch.channels_last)
    (wanted,) = torch.autograd.grad(torch.einsum("nchw,ndhw->ncd", maps, maps)[:, 0].sum() / 20, maps)
    torch.testing.assert_close(slope, wanted)


def test_moments_are_those_of_torch():
    maps = rand(3, 4, 5, 6)
    variance, mean = torch.var_mean(maps, dim=(0, 2, 3), correction=0)
    torch.testing.assert_close(moments(maps), (mean, variance))


def test_a_style_is_at_no_distance_from_itself_and_mixes_by_weight():
    class Fake:
        def __call__(self, picture):
            return Seen(picture, picture, {"a": picture * 2})

    first, second = rand(1, 3, 16, 16, seed=1).float(), rand(1, 3, 20, 12, seed=2).float()
    style = style_of(Fake(), [first], [1.0])
    s = Seen(first, first, {"a": first * 2})
    assert float(style_loss(style, {"a": 1.0})(s)[0]) == pytest.approx(0, abs=1e-9)
    other = Seen(second, second, {"a": second * 2})
    grams = [gram(p * 2) for p in (first, second)]
    wanted = -(grams[1] - grams[0]).square().sum() / grams[0].square().sum()
    torch.testing.assert_close(style_loss(style, {"a": 3.0})(other)[0], wanted)
    mixed = style_of(Fake(), [first, second], [3, 1])
    torch.testing.assert_close(mixed.grams["a"], 0.75 * grams[0] + 0.25 * grams[1])


def test_smoothing_evens_out_peaks_and_keeps_the_mean():
    maps = torch.zeros(1, 2, 4, 4)
    maps[0, 0, 1, 1] = 100
    even = smooth(maps)
    assert float(even.mean()) == pytest.approx(float(maps.abs().mean()), rel=1e-4)
    assert float(even.max() / even.mean()) < float(maps.max() / maps.mean())


def test_colours_at_several_scales_hold_low_frequencies():
    x = torch.linspace(0, 1, 64).expand(1, 3, 64, 64).contiguous()
    shuffled = x[..., torch.randperm(64, generator=torch.Generator().manual_seed(0))]
    (_, fine), *_, (_, coarse) = colour_scales(x)
    (_, fine2), *_, (_, coarse2) = colour_scales(shuffled)
    torch.testing.assert_close(fine, fine2)
    assert float(coarse2.mean()) < 0.5 * float(coarse.mean())
