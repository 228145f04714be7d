"""The session: the network in a known state inside, as it was outside."""

import random
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import nn

from vizkit.sessions import device_of, first_tensor, named_tensors, parts_of, seeded, session


def disturb(module):
    """Put the module into a state that is nobody's default."""
    module.train()
    module.relu.eval()
    module.conv1.weight.requires_grad_(False)
    module.fc.weight.grad = torch.ones_like(module.fc.weight)
    return module


class Counting(nn.Module):
    """Changes a buffer in place, replaces another and draws random numbers, also in eval mode."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(1))
        self.register_buffer("last", torch.zeros(1))
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        self.calls += 1
        self.last = x.detach().mean()[None]
        random.random()
        np.random.rand()
        return self.fc(x + 0 * torch.rand(1))


@pytest.mark.parametrize("fails", [False, True])
def test_session_restores_everything(tiny, pixels, trace, fails):
    disturb(tiny)
    before = trace(tiny)
    with pytest.raises(ZeroDivisionError) if fails else nullcontext(), session(tiny):
        assert not any(m.training for m in tiny.modules())
        assert not any(p.requires_grad for p in tiny.parameters())
        tiny.train()
        tiny(pixels)
        tiny.fc.bias.grad = torch.zeros(5)
        if fails:
            raise ZeroDivisionError
    assert trace(tiny) == before


def test_session_restores_buffers_and_random_state():
    net = Counting()
    state = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    last = net.last
    with session(net):
        net(torch.ones(2, 4))
        assert net.calls.item() == 1
    assert net.calls.item() == 0
    assert net.last is last
    assert last.item() == 0
    after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    assert after == state


def test_session_gives_gradients_inside_no_grad_and_inference_mode(tiny, pixels):
    for context in (torch.no_grad, torch.inference_mode):
        with context(), session(tiny):
            leaf = pixels.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(tiny(leaf).sum(), leaf)
        assert gradient.abs().sum() > 0


def test_session_makes_a_model_from_inference_mode_differentiable(pixels):
    with torch.inference_mode():
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten()).eval()
    weight = net[0].weight
    with session(net):
        leaf = pixels.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(net(leaf).square().sum(), leaf)
    assert gradient.abs().sum() > 0
    assert net[0].weight is weight


def test_session_works_without_parameters_and_with_shared_modules():
    with session(nn.Identity()):
        pass
    shared = nn.Linear(3, 3)
    net = nn.Sequential(shared, shared).train()
    with session(net):
        assert not shared.training
    assert shared.training


def test_seeded_repeats_and_restores():
    state = torch.get_rng_state()
    draws = []
    for _ in range(2):
        with seeded(3):
            draws.append((torch.rand(2).tolist(), random.random()))
    assert draws[0] == draws[1]
    assert torch.equal(torch.get_rng_state(), state)


class Aliased(nn.Module):
    """Holds its buffer by a second name and writes to it there."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(2))
        self.same = self.seen

    def forward(self, x):
        self.same += x
        return x


@pytest.mark.parametrize("fails", [False, True])
def test_session_puts_back_a_buffer_written_by_another_name(fails):
    net = Aliased()
    with pytest.raises(ZeroDivisionError) if fails else nullcontext(), session(net):
        net(torch.ones(2))
        if fails:
            raise ZeroDivisionError
    assert net.seen is net.same
    assert net.seen.tolist() == [0, 0]


BUFFERS = {
    "number": torch.tensor(3),
    "another": torch.tensor(4),
    "fraction": torch.tensor(0.5),
    "vector": torch.arange(3.0),
    "empty": torch.zeros(0),
    "longer": torch.arange(5.0),
    "precise": torch.arange(2, dtype=torch.float64),
    "matrix": torch.arange(6.0).reshape(2, 3).T,
    "flags": torch.tensor([True, False]),
    "imaginary": torch.tensor([1 + 2j]),
}


@pytest.mark.parametrize("directly", [False, True])
def test_session_keeps_buffers_of_every_kind(directly):
    """Copied and put back many at a time, each stays what it is: type, shape, layout, value."""
    net = nn.Module()
    for name, value in BUFFERS.items():
        net.register_buffer(name, value.clone())
    held = dict(net.named_buffers())
    with torch.no_grad(), session(net):
        for name, value in BUFFERS.items():
            copy = getattr(net, name)
            assert copy is not held[name]
            assert (copy.dtype, copy.shape, copy.stride()) == (value.dtype, value.shape, value.stride())
            assert torch.equal(copy, value)
            with torch.no_grad():
                (held[name] if directly else copy).fill_(7)
                copy.resize_(1000).fill_(7)  # its memory is its own
        assert directly or all(torch.equal(v, BUFFERS[name]) for name, v in held.items())
    for name, value in BUFFERS.items():
        assert getattr(net, name) is held[name]
        assert torch.equal(held[name], value)


def test_session_keeps_shared_buffers_shared():
    net = nn.ModuleList([Counting(), Counting()])
    net[1].calls = net[0].calls
    with session(net):
        assert net[1].calls is net[0].calls
    assert net[1].calls is net[0].calls


def test_session_on_a_device_without_autocast():
    with torch.device("meta"):
        net = nn.Linear(2, 3)
    with session(net):
        assert net(torch.ones(1, 2, device="meta")).shape == (1, 3)


# --- questions about a module ---


def test_parts_are_those_of_modules_in_its_order(tiny):
    net = nn.Sequential(tiny, nn.Sequential(tiny.relu, nn.Identity()), tiny.fc)
    assert parts_of(net) == list(net.modules())


def test_named_tensors_have_the_names_that_torch_gives(tiny):
    """Also what is shared, under its first name, and what is None."""
    net = nn.Sequential(tiny, nn.Sequential(tiny.conv1, nn.BatchNorm1d(2)), nn.Linear(2, 2, bias=False), tiny)
    net[2].weight = net[1][1].weight
    net.register_buffer("nothing", None)
    net.register_buffer("twice", net[1][1].running_mean)
    expected = dict(net.named_parameters()) | dict(net.named_buffers())
    found = named_tensors(net)
    assert found.keys() == expected.keys()
    assert all(found[name] is expected[name] for name in found)


def test_device_of_parameters_of_buffers_and_of_nothing():
    with torch.device("meta"):
        assert device_of(nn.Linear(2, 3)).type == "meta"
        assert device_of(nn.BatchNorm2d(2, affine=False)).type == "meta"
    assert device_of(nn.ReLU()).type == "cpu"


def test_first_tensor():
    a, b = torch.zeros(1), torch.ones(1)
    for output in (a, (a, b), [None, a], {"x": 1, "y": a}):
        assert first_tensor(output) is a
    deep = ([{"x": a}], b)
    assert first_tensor(deep) is b
    assert first_tensor(deep, nested=True) is a
    assert first_tensor("no tensor") is first_tensor([[a]]) is None
