"""Normalisations folded into convolutions while painting: the same numbers, and nothing left behind."""

import pytest
import torch
from torch import nn

import vizkit
from vizkit.paint.folding import fold, folded
from vizkit.paint.seeing import open_eye
from vizkit.sessions import session


class Net(nn.Module):
    """Two convolutions with normalisations; `shared`: the first one's output is also used beside its own."""

    def __init__(self, shared=False):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 5, 3, groups=1)
        self.norm2 = nn.BatchNorm2d(5, affine=False)
        self.head = nn.Linear(5, 2)
        self.shared = shared
        for norm in (self.norm, self.norm2):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)

    def forward(self, x):
        maps = self.first(x)
        x = torch.relu(self.norm(maps))
        x = torch.relu_(self.norm2(self.second(x + maps if self.shared else x)))
        return self.head(x.mean((2, 3)))


@pytest.fixture
def x():
    return torch.rand((2, 3, 12, 12), generator=torch.Generator().manual_seed(1))


def looked(model, layers, x, *, fold_it):
    """(what is seen, gradient to the picture, how many were folded)."""
    with session(model.module), open_eye(model, layers, output=True) as eye:
        leaf = x.clone().requires_grad_()
        if fold_it:
            with folded(model.module, lambda: eye(x), layers) as count:
                seen = eye(leaf)
        else:
            seen, count = eye(leaf), 0
        (gradient,) = torch.autograd.grad(seen.output[:, 0].sum(), leaf)
    return seen, gradient, count


def test_fold_is_the_convolution_and_the_normalisation(x):
    for conv, norm in ((Net().first, Net().norm), (nn.Conv2d(3, 5, 3, stride=2), Net().norm2)):
        norm.eval()
        weight, bias = fold(conv.weight, conv.bias, norm)
        made = nn.functional.conv2d(x, weight, bias, stride=conv.stride)
        torch.testing.assert_close(made, norm(conv(x)))


def test_what_is_seen_is_the_same(x):
    torch.manual_seed(0)
    model = vizkit.wrap(Net(), size=12)
    plain, slope, none = looked(model, ["norm", "norm2"], x, fold_it=False)
    quick, same, count = looked(model, ["norm", "norm2"], x, fold_it=True)
    assert (none, count) == (0, 2)
    torch.testing.assert_close(quick.output, plain.output)
    torch.testing.assert_close(same, slope)
    for name in plain.layers:
        torch.testing.assert_close(quick.layers[name], plain.layers[name])


def test_nothing_is_left_behind(x):
    model = vizkit.wrap(Net(), size=12)
    before = dict(model.module.named_parameters())
    with session(model.module), open_eye(model, ["norm"]) as eye:
        with folded(model.module, lambda: eye(x), []):
            assert model.module.first.weight is not before["first.weight"]
        block = folded(model.module, lambda: eye(x), [])
        with pytest.raises(KeyError), block:
            raise KeyError
    after = dict(model.module.named_parameters())
    assert list(after) == list(before)
    assert all(after[name] is before[name] for name in before)
    assert all("forward" not in part.__dict__ for part in model.module.modules())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.module.modules())


def test_a_convolution_that_is_looked_at_stays(x):
    model = vizkit.wrap(Net(), size=12)
    plain, _, _ = looked(model, ["first"], x, fold_it=False)
    quick, _, count = looked(model, ["first"], x, fold_it=True)
    assert count == 1
    torch.testing.assert_close(quick.layers["first"], plain.layers["first"])


def test_an_output_that_also_goes_elsewhere_is_noticed(x):
    torch.manual_seed(0)
    model = vizkit.wrap(Net(shared=True), size=12)
    plain, slope, _ = looked(model, ["norm"], x, fold_it=False)
    quick, same, count = looked(model, ["norm"], x, fold_it=True)
    assert count == 0
    torch.testing.assert_close(quick.output, plain.output)
    torch.testing.assert_close(same, slope)


def test_the_embedded_net_is_folded_throughout():
    model = vizkit.load_model("efficientnet_lite0")
    x = torch.rand((1, 3, 64, 64), generator=torch.Generator().manual_seed(0))
    norms = sum(isinstance(m, nn.BatchNorm2d) for m in model.module.modules())
    with session(model.module), open_eye(model, [], output=True) as eye:
        plain = eye(x).output
        with folded(model.module, lambda: eye(x), []) as count:
            assert count == norms
            torch.testing.assert_close(eye(x).output, plain, rtol=1e-3, atol=1e-3)
