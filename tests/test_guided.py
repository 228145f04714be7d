"""Guided backprop and the deconvnet against nets that were rewritten by hand (well, by torch.fx)."""

import captum.attr
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import vizkit
from tests.rewrite import class_gradient, lively, rewritten
from vizkit.errors import ModelError

METHODS = {"guided": vizkit.guided_backprop, "deconvnet": vizkit.deconvnet}
NETS = {
    "resnet18": 17,
    "vgg11_bn": 10,
    "googlenet": 57,
    "inception_v3": 94,
    "densenet121": 121,
    "mobilenet_v2": 35,
    "squeezenet1_1": 26,
    "alexnet": 7,
    "shufflenet_v2_x1_0": 37,
    "efficientnet_lite0": 33,
}


@pytest.fixture(scope="module", params=NETS)
def net(request):
    """(name, module in double precision, pixels)."""
    own = {} if request.param == "efficientnet_lite0" else {"random_weights": True}
    module = vizkit.load_model(request.param, device="cpu", **own).module
    module = lively(module).double() if own else module.double()
    size = 96 if request.param == "inception_v3" else 64
    return request.param, module, torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("rule", METHODS)
def test_it_equals_the_rewritten_net(net, rule):
    name, module, pixels = net
    explicit, count = rewritten(module, rule)
    assert count == NETS[name]
    expected = class_gradient(explicit, pixels.double(), 3)
    results = METHODS[rule](module, pixels, target=3)
    for result, wanted in zip(results, expected, strict=True):
        gap = (result.attribution - wanted).norm() / wanted.norm()
        assert float(gap) < 1e-6
        assert not result.provenance.warnings
    plain = class_gradient(module, pixels.double(), 3)
    assert float((plain - expected).norm() / expected.norm()) > 0.1  # the rule changes something


@pytest.mark.parametrize("name", ["alexnet", "vgg11_bn", "resnet18", "squeezenet1_1"])
def test_captum_agrees_where_it_sees_the_relus(name):
    module = lively(vizkit.load_model(name, random_weights=True, device="cpu").module)
    pixels = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    peers = {"guided": captum.attr.GuidedBackprop, "deconvnet": captum.attr.Deconvolution}
    for rule, peer in peers.items():
        with pytest.warns(UserWarning, match="hooks"):
            theirs = peer(module).attribute(pixels.clone().requires_grad_(), target=3)[0].detach()
        ours = METHODS[rule](module, pixels[0], target=3).attribution
        assert float((ours - theirs).norm() / theirs.norm()) < 1e-5


class Spellings(nn.Module):
    """One ReLU object in two branches, re-used in sequence, in place, clamp, hardtanh."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3 if k == 0 else 6, 6, 3, padding=1) for k in range(6))
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(6, 4)

    def forward(self, x):
        first, second = self.convs[0](x), self.convs[0](x.flip(3))
        x = self.relu(first) + self.relu(second)
        x = self.relu(self.relu(self.convs[1](x)) - 0.1)
        x = self.convs[2](x).clamp(min=0)
        x = F.hardtanh(self.convs[3](x), 0, 1)
        x = self.convs[4](x).relu_()
        x = torch.clamp_min(self.convs[5](x), 0)
        return self.fc(x.mean((2, 3)))


class Explicit(Spellings):
    def __init__(self, rule: str) -> None:
        super().__init__()
        from tests.rewrite import Rectified

        self.r, self.t = Rectified(rule), Rectified(rule, 1.0)

    def forward(self, x):
        x = self.r(self.convs[0](x)) + self.r(self.convs[0](x.flip(3)))
        x = self.r(self.r(self.convs[1](x)) - 0.1)
        x = self.r(self.convs[2](x))
        x = self.t(self.convs[3](x))
        x = self.r(self.convs[4](x))
        return self.fc(self.r(self.convs[5](x)).mean((2, 3)))


@pytest.mark.parametrize("rule", METHODS)
def test_every_spelling_and_every_reuse(rule, pixels):
    torch.manual_seed(4)
    net = Spellings().double()
    explicit = Explicit(rule).double()
    explicit.load_state_dict(net.state_dict())
    for convolution in net.convs:
        convolution.weight.data.mul_(3)
    explicit.load_state_dict(net.state_dict())
    expected = class_gradient(explicit, pixels.double(), 1)
    assert bool(expected.any())
    for result, wanted in zip(METHODS[rule](net, pixels, target=1), expected, strict=True):
        torch.testing.assert_close(result.attribution, wanted.float(), rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("rule", METHODS)
def test_units_and_peaks_are_targets(rule, tiny, pixels):
    tiny.eval()
    maps = tiny.conv2(tiny.relu(tiny.bn1(tiny.conv1(pixels))))
    results = METHODS[rule](tiny, pixels, target="conv2:3,max")
    for n, result in enumerate(results):
        place = int(maps[n, 3].argmax())
        y, x = divmod(place, maps.shape[3])
        same = METHODS[rule](tiny, pixels[n], target=f"conv2:3,{y},{x}")
        torch.testing.assert_close(result.attribution, same.attribution)
        rows, columns = result.values.nonzero(as_tuple=True)
        # the unit sees 7 x 7 pixels around (2 y, 2 x)
        assert rows.min() >= 2 * y - 3
        assert rows.max() <= 2 * y + 3
        assert columns.min() >= 2 * x - 3
        assert columns.max() <= 2 * x + 3


class Smooth(nn.Module):
    def __init__(self, *activations) -> None:
        super().__init__()
        self.parts = nn.Sequential(nn.Conv2d(3, 4, 3), *activations)

    def forward(self, x):
        return self.parts(x).mean((2, 3))


@pytest.mark.parametrize("rule", METHODS)
def test_a_net_without_relus_is_refused_with_a_suggestion(rule, pixels):
    with pytest.raises(ModelError, match=r"no ReLU.*2 silu, 1 gelu.*saliency"):
        METHODS[rule](Smooth(nn.SiLU(), nn.GELU(), nn.SiLU()), pixels[0])
    with pytest.raises(ModelError, match="no activation"):
        METHODS[rule](Smooth(), pixels[0])
    mixed = METHODS[rule](Smooth(nn.ReLU(), nn.Hardswish()), pixels[0])
    assert mixed.provenance.warnings == (
        "only the 1 ReLUs follow the rule; 1 hardswish keep their own gradient",
    )


@pytest.mark.parametrize("rule", METHODS)
def test_noisy_copies_follow_the_rule_too(rule, tiny, pixels):
    torch.manual_seed(0)
    result = METHODS[rule](tiny, pixels[0], target=1, samples=3, noise=0.1, seed=2)
    explicit, _ = rewritten(tiny.eval(), rule)
    span = float(pixels[0].max() - pixels[0].min())
    draws = [torch.Generator().manual_seed(2 * 1_000_003 + k) for k in range(3)]
    noisy = torch.stack([pixels[0] + 0.1 * span * torch.randn((3, 32, 32), generator=g) for g in draws])
    torch.testing.assert_close(
        result.attribution, class_gradient(explicit, noisy, 1).mean(0), rtol=1e-4, atol=1e-7
    )
