"""Receptive fields against closed forms and an independent recurrence."""

import random

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.nets import Apply, conv, squeeze_excite
from vizkit import receptive
from vizkit.receptive import ReceptiveField, receptive_fields
from vizkit.zoo.torchvision_models import import_torchvision


def plain_fields(layers: list[nn.Module]) -> list[tuple[int, int]]:
    """Field and jump after each layer of a chain, by the recurrence of Araujo, Norris & Sim 2019."""
    size, jump, out = 1, 1, []
    for layer in layers:
        if isinstance(layer, nn.Conv2d | nn.MaxPool2d):
            kernel, stride = (v if isinstance(v, int) else v[0] for v in (layer.kernel_size, layer.stride))
            size, jump = size + (kernel - 1) * jump, jump * stride
        out.append((size, jump))
    return out


def fields_of(module: nn.Module, size: int = 224) -> dict[str, ReceptiveField | None]:
    leaves = {name: m for name, m in module.named_modules() if not list(m.children())}
    return receptive_fields(module, leaves, (3, size, size))


def vgg16() -> nn.Sequential:
    layers: list[nn.Module] = []
    before = 3
    for width, count in ((8, 2), (16, 2), (16, 3), (16, 3), (16, 3)):
        for _ in range(count):
            layers += [nn.Conv2d(before, width, 3, padding=1), nn.ReLU(inplace=True)]
            before = width
        layers.append(nn.MaxPool2d(2, 2))
    return nn.Sequential(*layers)


def test_vgg16_layer_by_layer() -> None:
    net = vgg16()
    truth = plain_fields(list(net))
    assert truth[-2][0] == 196
    assert truth[-1][0] == 212
    for (size, jump), found in zip(truth, fields_of(net).values(), strict=True):
        assert found == ReceptiveField(size, size, (jump, jump), whole=False)


def test_alexnet() -> None:
    shapes = ((11, 4, 2), (3, 2, 0), (5, 1, 2), (3, 2, 0), (3, 1, 1), (3, 1, 1), (3, 1, 1), (3, 2, 0))
    layers: list[nn.Module] = []
    for i, (kernel, stride, padding) in enumerate(shapes):
        pool = i in (1, 3, 7)
        layers.append(nn.MaxPool2d(kernel, stride) if pool else nn.Conv2d(3, 3, kernel, stride, padding))
    net = nn.Sequential(*layers)
    assert plain_fields(layers)[-1] == (195, 32)
    assert list(fields_of(net).values())[-1] == ReceptiveField(195, 195, (32, 32), whole=False)


def test_field_larger_than_every_shorter_strip() -> None:
    net = nn.Sequential(
        *[nn.Conv2d(3, 3, 3, 2, 1) for _ in range(4)], *[nn.Conv2d(3, 3, 7, 1, 3) for _ in range(40)]
    )
    found = list(fields_of(net, 64).values())[-1]
    assert found == ReceptiveField(31 + 40 * 6 * 16, 31 + 40 * 6 * 16, (16, 16), whole=False)


def test_pooled_layers_are_whole_and_the_rest_is_not() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    found = list(fields_of(net, 64).values())
    assert found[0] == ReceptiveField(3, 3, (2, 2), whole=False)
    assert found[1:] == [ReceptiveField(64, 64, (0, 0), whole=True)] * 3


def test_network_of_one_size_only() -> None:
    net = nn.Sequential(
        nn.Conv2d(1, 4, 5),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 4, 5),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64, 10),
    )
    leaves = dict(net.named_children())
    found = list(receptive_fields(net, leaves, (1, 28, 28)).values())
    assert found[3] == ReceptiveField(16, 16, (4, 4), whole=False)
    assert found[5] == ReceptiveField(28, 28, (0, 0), whole=True)


def test_squeeze_excite_keeps_the_stride_of_the_grid() -> None:
    net = nn.Sequential(nn.Conv2d(3, 2, 7, 4, 3), Apply(squeeze_excite, conv(2, 1, 1), conv(1, 2, 1)))
    assert receptive_fields(net, {"1": net[1]}, (3, 64, 96))["1"] == ReceptiveField(
        64, 96, (4, 4), whole=True
    )


def test_adaptive_pooling_counts_at_the_own_size() -> None:
    net = nn.Sequential(nn.Conv2d(3, 2, 3, 2, 1), nn.AdaptiveAvgPool2d(4))
    assert receptive_fields(net, {"1": net[1]}, (3, 64, 64))["1"] == ReceptiveField(
        17, 17, (16, 16), whole=False
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_precisions(dtype: torch.dtype) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4)).to(dtype)
    assert receptive_fields(net, {"1": net[1]}, (3, 400, 400))["1"] == ReceptiveField(
        3, 3, (2, 2), whole=False
    )
    assert net[0].weight.dtype == dtype


def test_upsampling_halves_the_stride() -> None:
    net = nn.Sequential(nn.Upsample(scale_factor=2), nn.Identity())
    assert receptive_fields(net, {"1": net[1]}, (3, 32, 32))["1"] == ReceptiveField(
        1, 1, (0.5, 0.5), whole=False
    )


def test_channels_last_output_is_read_as_a_grid() -> None:
    net = Apply(lambda x, a, b: b(a(x).permute(0, 2, 3, 1)), conv(3, 24, 4, stride=4), nn.LayerNorm(24))
    found = fields_of(net, 64)["layers.1"]
    assert found == ReceptiveField(4, 4, (4, 4), whole=False)


def test_tokens_of_a_transformer_see_everything() -> None:
    def tokens(x: Tensor, patch: nn.Module, block: nn.Module) -> Tensor:
        return block(patch(x).flatten(2).transpose(1, 2))  # type: ignore[no-any-return]

    block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    net = Apply(tokens, conv(3, 8, 8, stride=8), block)
    found = receptive_fields(net, {"patch": net.layers[0], "block": block}, (3, 32, 32))
    assert found["patch"] == ReceptiveField(8, 8, (8, 8), whole=False)
    assert found["block"] == ReceptiveField(32, 32, (0, 0), whole=True)


def test_operation_without_a_rule_gives_none_only_behind_it() -> None:
    net = Apply(
        lambda x, a, b, c: b(torch.linalg.matrix_exp(a(x))) + c(x), conv(3, 3, 3), nn.ReLU(), conv(3, 3, 3)
    )
    found = fields_of(net, 16)
    assert found["layers.1"] is None
    assert found["layers.0"] == found["layers.2"] == ReceptiveField(3, 3, (1, 1), whole=False)


def test_layer_that_does_not_depend_on_the_input_has_no_field() -> None:
    net = Apply(lambda x, a: x + a(torch.ones(1, 3, 8, 8)), nn.Identity())
    assert fields_of(net, 8) == {}


def test_decision_by_value_stops_the_look() -> None:
    net = Apply(lambda x, a, b: b(x) if a(x).sum() > 0 else x, nn.ReLU(), nn.ReLU())
    assert fields_of(net, 8)["layers.0"] == ReceptiveField(1, 1, (1, 1), whole=False)


class Messy(nn.Module):
    """Changes its buffers, draws random numbers, sets a gradient, and fails on its `fail`-th call."""

    def __init__(self, fail: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.drop = nn.Dropout()
        self.register_buffer("calls", torch.zeros(1))
        self.register_buffer("mean", torch.zeros(4))
        self.fail, self.count = fail, 0
        self.drop.eval()
        self.conv.bias.requires_grad_(False)
        self.conv.weight.grad = torch.ones_like(self.conv.weight)

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        self.calls = self.calls + 1
        torch.rand(1), random.random(), np.random.rand()
        y = self.conv(x)
        self.mean.mul_(0.5).add_(y.mean((0, 2, 3)))
        self.conv.weight.requires_grad_(False)
        if self.count == self.fail:
            raise KeyError("injected")
        return y


def state(module: nn.Module) -> list[object]:
    tensors = [(n, t.clone(), t.requires_grad) for n, t in module.state_dict(keep_vars=True).items()]
    grads = [None if p.grad is None else p.grad.clone() for p in module.parameters()]
    modes = [(m.training, len(m._forward_hooks), len(m._forward_pre_hooks)) for m in module.modules()]
    rng = [torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()]
    return [repr(tensors), repr(grads), modes, repr(rng[0].tolist()), rng[1], rng[2]]


@pytest.mark.parametrize("fail", [0, 1, 3, 6])
def test_module_is_left_as_it_was(fail: int) -> None:
    net = Messy(fail)
    before, pointer = state(net), net.mean.data_ptr()
    receptive_fields(net, {"conv": net.conv}, (3, 16, 16))
    assert state(net) == before
    assert net.mean.data_ptr() == pointer


def test_progress_counts_up_to_its_total() -> None:
    steps: list[tuple[int, int]] = []
    net = nn.Sequential(nn.Conv2d(3, 4, 3))
    receptive_fields(net, {"0": net[0]}, (3, 16, 16), lambda done, total: steps.append((done, total)))
    total = 2 * (1 + len(receptive.STRIPS))
    assert steps == [(i, total) for i in range(1, total + 1)]


def resnet_field(net: nn.Module) -> int:
    """The field of a ResNet's last stage by recurrence over its main path, where all larger kernels lie."""
    layers = [net.conv1, net.maxpool]
    for stage in (net.layer1, net.layer2, net.layer3, net.layer4):
        layers += [m for block in stage for name, m in block.named_children() if name.startswith("conv")]
    return plain_fields(layers)[-1][0]


@pytest.mark.parametrize(("name", "size", "last"), [("resnet18", 435, "conv2"), ("resnet50", 427, "conv3")])
def test_resnets(name: str, size: int, last: str) -> None:
    net = getattr(import_torchvision().models, name)(weights=None)
    block = net.layer4[-1]
    found = receptive_fields(net, {"last": getattr(block, last), "stage": net.layer4}, (3, 224, 224))
    assert resnet_field(net) == size
    assert found["last"] == found["stage"] == ReceptiveField(size, size, (32, 32), whole=False)


# The sizes are those of Araujo et al., table 1, where torchvision builds the same net.
SLOW = ("swin_t",)
MARKS = ((), pytest.mark.slow)
ZOO = {
    "googlenet": ("inception5b.branch3.1.conv", None),
    "inception_v3": ("Mixed_7c", 1311),
    "densenet121": ("features.norm5", 2071),
    "shufflenet_v2_x0_5": ("conv5", None),
    "squeezenet1_1": ("features", None),
    "mobilenet_v2": ("features", 491),
    "mobilenet_v3_small": ("features", "whole"),
    "efficientnet_b0": ("features", "whole"),
    "swin_t": ("features", None),
    "vit_b_32": ("encoder", "whole"),
}


@pytest.mark.parametrize("name", [pytest.param(n, marks=MARKS[n in SLOW]) for n in ZOO])
def test_torchvision_nets(name: str) -> None:
    extra = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    net = getattr(import_torchvision().models, name)(weights=None, **extra).eval()
    layer, size = ZOO[name]
    edge = 299 if name == "inception_v3" else 224
    found = receptive_fields(net, dict(net.named_modules()), (3, edge, edge))
    assert all(f for n, f in found.items() if "cpb_mlp" not in n)
    assert found[layer].whole == (size == "whole")
    if isinstance(size, int):
        assert found[layer].height == found[layer].width == size


def test_units_of_the_kth_call() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.relu = nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 5, 2), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.relu(self.b(self.relu(self.a(x))))

    net = Twice()
    found = receptive.unit_boxes(net, {"relu#1": net.relu, "relu#2": net.relu}, (3, 16, 16))
    assert found["relu#1"].shape == (4, 14, 14)
    assert found["relu#1"][:, 3, 4].tolist() == [3, 4, 6, 7]
    assert found["relu#2"].shape == (4, 5, 5)
    assert found["relu#2"][:, 1, 2].tolist() == [2, 4, 9, 11]
