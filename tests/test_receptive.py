"""Receptive fields against brute force, closed forms and an independent recurrence."""

import random
from collections.abc import Callable, Iterator
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vizkit import receptive
from vizkit.receptive import ReceptiveField, receptive_fields, unit_boxes

SIZE = 15


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Apply(nn.Module):
    """A module around a function of the input and some layers."""

    def __init__(self, function: Callable[..., Tensor], *layers: nn.Module) -> None:
        super().__init__()
        self.function = function
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.layers)


def conv(*args: int, **kwargs: object) -> nn.Conv2d:
    return nn.Conv2d(*args, **kwargs)  # type: ignore[arg-type]


def chain(*layers: nn.Module) -> Apply:
    return Apply(nn.Sequential(*layers))


def same_padding(x: Tensor, layer: nn.Module) -> Tensor:
    return layer(F.pad(x, (0, 1, 0, 2)))  # type: ignore[no-any-return]


def squeeze_excite(x: Tensor, down: nn.Module, up: nn.Module) -> Tensor:
    gate = up(F.relu(down(x.mean((2, 3), keepdim=True)))).sigmoid()
    return x * gate  # type: ignore[no-any-return]


def in_place(x: Tensor, layer: nn.Module) -> Tensor:
    y = layer(x)
    F.relu(y, inplace=True)
    y[:, :2] += x[:, :1].roll(3, 2)
    return y  # type: ignore[no-any-return]


def into_zeros(x: Tensor, layer: nn.Module) -> Tensor:
    y = torch.zeros(1, 4, SIZE, SIZE)
    y[:, 1:3, :, 2:] = layer(x)[:, :2, :, :-2]
    return y


def attention_over_rows(x: Tensor) -> Tensor:
    rows = x[0].permute(1, 2, 0)
    return F.scaled_dot_product_attention(rows, rows, rows).permute(2, 0, 1)[None]


def manual_attention(x: Tensor) -> Tensor:
    tokens = x[:, :, :, 4].transpose(1, 2)
    weights = (tokens @ tokens.transpose(1, 2)).softmax(-1)
    return x + (weights @ tokens).transpose(1, 2)[..., None]


# fmt: off
NETS: dict[str, Callable[[], nn.Module]] = {
    "plain": lambda: chain(conv(2, 4, 3, padding=1), nn.ReLU(), conv(4, 4, 3, padding=1)),
    "valid": lambda: chain(conv(2, 4, 5), nn.ReLU(inplace=True), conv(4, 3, 2)),
    "stride": lambda: chain(conv(2, 4, 3, stride=2, padding=1), conv(4, 4, 3, stride=2)),
    "dilation": lambda: chain(conv(2, 4, 3, padding=2, dilation=2), conv(4, 4, (1, 3), dilation=(1, 3))),
    "grouped": lambda: chain(
        conv(2, 4, 3, groups=2, padding=1), nn.ChannelShuffle(2), conv(4, 4, 3, groups=4)
    ),
    "asymmetric": lambda: chain(conv(2, 4, (1, 7), padding=(0, 3)), conv(4, 4, (3, 1), stride=(2, 1))),
    "even padding": lambda: chain(conv(2, 4, 4, padding="same"), nn.BatchNorm2d(4)),
    "pad by hand": lambda: Apply(same_padding, conv(2, 3, (4, 3), stride=(2, 1))),
    "reflect": lambda: chain(conv(2, 4, 5, padding=2, padding_mode="reflect")),
    "circular": lambda: chain(conv(2, 4, 3, padding=1, padding_mode="circular")),
    "ceil pool": lambda: chain(nn.MaxPool2d(3, 2, ceil_mode=True), conv(2, 3, 2)),
    "dilated pool": lambda: chain(nn.MaxPool2d(2, 1, padding=1, dilation=3)),
    "average pool": lambda: chain(nn.AvgPool2d(3, 2, 1), nn.AvgPool2d((1, 2), ceil_mode=True)),
    "adaptive": lambda: chain(conv(2, 3, 2), nn.AdaptiveAvgPool2d((4, 3))),
    "adaptive max": lambda: chain(nn.AdaptiveMaxPool2d(4)),
    "transposed": lambda: chain(conv(2, 3, 3, stride=2), nn.ConvTranspose2d(3, 2, 3, 2, 1, 1)),
    "transposed dilated": lambda: chain(nn.ConvTranspose2d(2, 4, (2, 3), 2, groups=2, dilation=2)),
    "nearest": lambda: chain(conv(2, 3, 3, 2), nn.Upsample(scale_factor=2), conv(3, 3, 3)),
    "bilinear": lambda: chain(nn.AvgPool2d(2), nn.Upsample(scale_factor=3, mode="bilinear")),
    "bicubic": lambda: chain(nn.AvgPool2d(2), nn.Upsample(size=(9, 17), mode="bicubic", align_corners=True)),
    "pixel shuffle": lambda: chain(conv(2, 8, 3, stride=2), nn.PixelShuffle(2)),
    "branches": lambda: Apply(
        lambda x, a, b: a(x) + b(F.max_pool2d(x, 3, 1, 1)), conv(2, 3, 1), conv(2, 3, 5, padding=2)
    ),
    "concat": lambda: Apply(
        lambda x, a, b: torch.cat([a(x), b(x), x], 1), conv(2, 3, 3, padding=1), conv(2, 2, 1)
    ),
    "residual": lambda: Apply(lambda x, a: F.relu_(x.clone().add_(a(x))), conv(2, 2, 3, padding=1)),
    "squeeze excite": lambda: Apply(squeeze_excite, conv(2, 1, 1), conv(1, 2, 1)),
    "in place": lambda: Apply(in_place, conv(2, 3, 3, padding=1)),
    "into zeros": lambda: Apply(into_zeros, conv(2, 4, 3, padding=1)),
    "split and flip": lambda: Apply(lambda x, a: x.chunk(2, 1)[0].flip(3) * a(x), conv(2, 2, 3, padding=1)),
    "unfold": lambda: Apply(lambda x: F.unfold(x, 3, padding=1).view(1, 18, SIZE, SIZE)),
    "layer norm": lambda: Apply(
        lambda x, a: a(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), nn.LayerNorm(2)
    ),
    "norm over rows": lambda: chain(conv(2, 3, 3), nn.LayerNorm(13)),
    "group norm": lambda: chain(nn.GroupNorm(1, 2)),
    "instance norm": lambda: chain(conv(2, 3, 3), nn.InstanceNorm2d(3)),
    "attention": lambda: Apply(attention_over_rows),
    "matrix attention": lambda: Apply(manual_attention),
    "cumulative": lambda: Apply(lambda x: x.cumsum(3)),
    "linear": lambda: Apply(lambda x, a: a(x), nn.Linear(SIZE, 5)),
    "three-d": lambda: Apply(
        lambda x, a: a(x[:, None])[:, :, 0], nn.Conv3d(1, 3, (2, 3, 2), padding=(0, 1, 0))
    ),
    "activations": lambda: chain(
        nn.Hardswish(), nn.SiLU(), nn.GELU(), nn.PReLU(), nn.ELU(), nn.Softplus(), nn.Hardtanh(0, 9),
        nn.LogSigmoid(), nn.Mish(), nn.LeakyReLU(), nn.Hardsigmoid(), nn.GLU(1), nn.ReLU6(inplace=True),
        nn.Hardswish(inplace=True), nn.RReLU(), nn.Tanh(), nn.Dropout(), nn.LocalResponseNorm(3), nn.SELU(),
    ),
}  # fmt: skip


def positive(module: nn.Module) -> nn.Module:
    """The module in eval mode and double precision, its weights random and positive."""
    for parameter in module.parameters():
        nn.init.uniform_(parameter, 0.1, 1.0)
    return module.eval().double()


def jacobian_boxes(module: nn.Module, repeats: int = 6) -> Tensor:
    """The boxes (4, h, w) by brute force: which outputs change with one input pixel, at random points.

    A change of a pixel is large and goes up, so a maximum sees it whatever wins otherwise.
    """
    sees: Tensor | None = None
    for _ in range(repeats):
        base = torch.rand(1, 2, SIZE, SIZE, dtype=torch.float64) + 0.5
        with torch.no_grad():
            before = module(base)
            changed = [_changes(module, base, before, y, x) for y in range(SIZE) for x in range(SIZE)]
        now = torch.stack(changed).view(SIZE, SIZE, *before.shape[2:])
        sees = now if sees is None else sees | now
    assert sees is not None
    return _boxes(sees)


def _changes(module: nn.Module, base: Tensor, before: Tensor, y: int, x: int) -> Tensor:
    bumped = base.clone()
    bumped[:, :, y, x] += 3 + torch.rand(2, dtype=torch.float64)
    return (module(bumped) != before).any(1)[0]


def _boxes(sees: Tensor) -> Tensor:
    rows, columns = sees.any(1), sees.any(0)
    far = torch.arange(SIZE, dtype=torch.float32).view(-1, 1, 1)

    def low(line: Tensor) -> Tensor:
        return torch.where(line, far, torch.inf).amin(0)

    def high(line: Tensor) -> Tensor:
        return torch.where(line, far, -torch.inf).amax(0) + 1

    return torch.stack([low(rows), low(columns), high(rows), high(columns)])


@pytest.mark.filterwarnings("ignore:Using padding='same' with even")
@pytest.mark.parametrize("name", NETS)
def test_every_unit_matches_brute_force(name: str) -> None:
    torch.manual_seed(0)
    net = NETS[name]()
    ours = unit_boxes(net, {"": net}, (2, SIZE, SIZE))[""]
    if name == "into zeros":
        torch.set_default_dtype(torch.float64)
    try:
        truth = jacobian_boxes(positive(net))
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(ours, truth)


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


def test_boxes_of_units_are_cut_at_the_border() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1))
    box = unit_boxes(net, {"0": net[0]}, (3, 8, 9))["0"]
    assert box.shape == (4, 8, 9)
    assert box[:, 0, 0].tolist() == [0, 0, 2, 2]
    assert box[:, 4, 8].tolist() == [3, 7, 6, 9]


@pytest.fixture(scope="session")
def torchvision() -> ModuleType:
    """torchvision, whose import fails beside a torch of another build until two operations are declared."""
    try:
        import torchvision
    except RuntimeError:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision
    return torchvision


def resnet_field(net: nn.Module) -> int:
    """The field of a ResNet's last stage by recurrence over its main path, where all larger kernels lie."""
    layers = [net.conv1, net.maxpool]
    for stage in (net.layer1, net.layer2, net.layer3, net.layer4):
        layers += [m for block in stage for name, m in block.named_children() if name.startswith("conv")]
    return plain_fields(layers)[-1][0]


@pytest.mark.parametrize(("name", "size", "last"), [("resnet18", 435, "conv2"), ("resnet50", 427, "conv3")])
def test_resnets(torchvision: ModuleType, name: str, size: int, last: str) -> None:
    net = getattr(torchvision.models, name)(weights=None)
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
def test_torchvision_nets(torchvision: ModuleType, name: str) -> None:
    extra = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    net = getattr(torchvision.models, name)(weights=None, **extra).eval()
    layer, size = ZOO[name]
    edge = 299 if name == "inception_v3" else 224
    found = receptive_fields(net, dict(net.named_modules()), (3, edge, edge))
    assert all(f for n, f in found.items() if "cpb_mlp" not in n)
    assert found[layer].whole == (size == "whole")
    if isinstance(size, int):
        assert found[layer].height == found[layer].width == size
