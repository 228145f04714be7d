"""capture and relu_rule: right, and gone without a trace."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vizkit.errors import UsageError
from vizkit.hooks import capture, relu_rule

# --- capture ---


def test_capture_survives_the_in_place_relu_behind_the_layer(tiny, pixels):
    tiny.eval()
    expected = tiny.bn1(tiny.conv1(pixels))
    with capture(tiny, ["bn1"]) as outputs:
        tiny(pixels)
    assert (outputs["bn1"] < 0).any()
    torch.testing.assert_close(outputs["bn1"], expected)


def test_capture_is_in_the_graph_and_changes_no_number(tiny, pixels):
    tiny.eval()
    expected = tiny(pixels)
    with capture(tiny, ["conv2", "relu"]) as outputs:
        output = tiny(pixels)
    torch.testing.assert_close(output, expected, rtol=0, atol=0)
    (gradient,) = torch.autograd.grad(output[:, 1].sum(), outputs["relu"])
    # the score is linear behind the last ReLU: mean over positions, then the weights of class 1
    share = tiny.fc.weight[1] / (16 * 16)
    torch.testing.assert_close(gradient, share[None, :, None, None].expand_as(gradient))


def test_capture_names_the_calls_of_a_reused_layer(tiny, pixels):
    tiny.eval()
    with capture(tiny, ["relu"]) as outputs:
        tiny(pixels)
    first = F.relu(tiny.bn1(tiny.conv1(pixels)))
    torch.testing.assert_close(outputs["relu#1"], first)
    torch.testing.assert_close(outputs["relu#2"], F.relu(first + tiny.conv2(first)))
    assert outputs["relu"] is outputs["relu#2"]


def test_capture_detached_records_only_what_lies_above(tiny, pixels):
    tiny.eval()
    leaf = pixels.clone().requires_grad_()
    with capture(tiny, ["bn1"], detach=True) as outputs:
        output = tiny(leaf)
    below, above = torch.autograd.grad(output.sum(), [leaf, outputs["bn1"]], allow_unused=True)
    assert below is None
    assert above.abs().sum() > 0


class Pair(nn.Module):
    def forward(self, x):
        return {"a": x * 2, "b": x}


def test_capture_reads_and_replaces_the_first_tensor_of_a_container():
    net = nn.ModuleDict({"pair": Pair()})
    with capture(net, ["pair"]) as outputs:
        result = net["pair"](torch.ones(2))
    assert outputs["pair"].tolist() == [2, 2]
    assert result["a"].tolist() == [2, 2]
    assert result["a"] is not outputs["pair"]
    assert result["b"].tolist() == [1, 1]


def test_capture_leaves_no_hook_after_an_exception_or_an_unknown_name(tiny, pixels, trace):
    before = trace(tiny)
    tiny.eval()
    with pytest.raises(ZeroDivisionError), capture(tiny, ["conv1", "fc"]):
        raise ZeroDivisionError(tiny(pixels))
    tiny.train()
    with pytest.raises(UsageError, match="conv1"), capture(tiny, ["conv1", "conv3"]):
        pass
    assert trace(tiny) == before


# --- relu_rule ---


def spelled(kind):
    """The same rectifier in every spelling."""
    return {
        "module": nn.ReLU(),
        "module in place": nn.ReLU(inplace=True),
        "F.relu": F.relu,
        "F.relu in place": lambda x: F.relu(x, inplace=True),
        "torch.relu": torch.relu,
        "torch.relu_": torch.relu_,
        "method": lambda x: x.relu(),
        "method in place, value unused": lambda x: (x.relu_(), x)[1],
        "clamp": lambda x: x.clamp(min=0),
        "clamp positional": lambda x: torch.clamp(x, 0),
        "clamp_": lambda x: (x.clamp_(min=0), x)[1],
        "clamp_min": lambda x: x.clamp_min(0),
        "relu6": nn.ReLU6(),
        "F.relu6": F.relu6,
        "hardtanh": nn.Hardtanh(0, 6, inplace=True),
        "clamp to 6": lambda x: x.clamp(0, 6),
    }[kind]


class Spelled(nn.Module):
    def __init__(self, kind):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Linear(6, 20), nn.Linear(20, 20), nn.Linear(20, 3)
        self.act = spelled(kind)

    def forward(self, x):
        return self.c(self.act(4 * self.b(self.act(4 * self.a(x)))))


def by_hand(net, x, rule, top):
    """Forward and backward written out: the oracle."""
    a = 4 * net.a(x)
    ha = a.clamp(0, top)
    b = 4 * net.b(ha)
    gradient = net.c.weight[1].expand(len(x), -1)
    for value, layer in ((b, net.b), (a, net.a)):
        gradient = gradient.clamp(min=0)
        if rule == "guided":
            gradient = gradient * ((value > 0) & (value < top))
        gradient = 4 * gradient @ layer.weight
    return gradient


SPELLINGS = [
    "module",
    "module in place",
    "F.relu",
    "F.relu in place",
    "torch.relu",
    "torch.relu_",
    "method",
    "method in place, value unused",
    "clamp",
    "clamp positional",
    "clamp_",
    "clamp_min",
    "relu6",
    "F.relu6",
    "hardtanh",
    "clamp to 6",
]


@pytest.mark.parametrize("rule", ["guided", "deconvnet"])
@pytest.mark.parametrize("kind", SPELLINGS)
def test_relu_rule_in_every_spelling(kind, rule):
    net = Spelled(kind).requires_grad_(False)
    x = torch.randn(7, 6, generator=torch.Generator().manual_seed(2))
    plain = x.clone().requires_grad_()
    output = net(plain)
    (ordinary,) = torch.autograd.grad(output[:, 1].sum(), plain)
    leaf = x.clone().requires_grad_()
    with relu_rule(rule) as mode:
        ruled = net(leaf)
    torch.testing.assert_close(ruled, output)
    (gradient,) = torch.autograd.grad(ruled[:, 1].sum(), leaf)
    top = 6.0 if "6" in kind or kind == "hardtanh" else float("inf")
    torch.testing.assert_close(gradient, by_hand(net, x, rule, top), rtol=1e-5, atol=1e-6)
    assert (gradient - ordinary).abs().max() > 1e-3  # the rule did something
    assert mode.relus == 2
    assert mode.others == {}


def test_relu_rule_counts_smooth_activations_and_leaves_other_clamps_alone():
    x = torch.randn(50, requires_grad=True)
    with relu_rule("guided") as mode:
        y = F.silu(x) + F.gelu(x) + x.clamp(-1, 1) + F.hardtanh(x) + F.leaky_relu(x) + x.clamp(max=0)
    assert mode.relus == 0
    assert mode.others == {"silu": 1, "gelu": 1, "leaky_relu": 1}
    expected = F.silu(x) + F.gelu(x) + x.clamp(-1, 1) + F.hardtanh(x) + F.leaky_relu(x) + x.clamp(max=0)
    torch.testing.assert_close(y, expected)


def test_relu_rule_is_over_after_the_block_and_after_an_exception():
    for fails in (False, True):
        try:
            with relu_rule("deconvnet"):
                if fails:
                    raise ZeroDivisionError
        except ZeroDivisionError:
            pass
        x = torch.tensor([1.0], requires_grad=True)
        (gradient,) = torch.autograd.grad(-F.relu(x).sum(), x)
        assert gradient.item() == -1
