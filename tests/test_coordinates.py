"""Networks on coordinates: every unit against brute force, what has no rule, and nobody else looks on."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.nets import Apply, conv, squeeze_excite
from vizkit.coordinate_rules import RULES
from vizkit.receptive import ReceptiveField, receptive_fields, unit_boxes

SIZE = 15


def chain(*layers: nn.Module) -> Apply:
    return Apply(nn.Sequential(*layers))


def same_padding(x: Tensor, layer: nn.Module) -> Tensor:
    return layer(F.pad(x, (0, 1, 0, 2)))  # type: ignore[no-any-return]


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


def test_boxes_of_units_are_cut_at_the_border() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1))
    box = unit_boxes(net, {"0": net[0]}, (3, 8, 9))["0"]
    assert box.shape == (4, 8, 9)
    assert box[:, 0, 0].tolist() == [0, 0, 2, 2]
    assert box[:, 4, 8].tolist() == [3, 7, 6, 9]


# --- what cannot be known, and why ---


def noted(net: nn.Module, size: int = 8) -> tuple[dict[str, ReceptiveField | None], dict[str, str]]:
    """The fields and notes of all leaves of a net."""
    notes: dict[str, str] = {}
    leaves = {name: m for name, m in net.named_modules() if not list(m.children())}
    return receptive_fields(net, leaves, (3, size, size), notes=notes), notes


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (torch.linalg.matrix_exp, "no rule for aten.linalg_matrix_exp"),
        (lambda x: F.grid_sample(x, torch.zeros(1, 4, 4, 2)), "no rule for aten.grid_sampler_2d"),
        (lambda x: torch.zeros(1, 3, 8, 8).half().copy_(x), "no rule for writing into torch.float16"),
    ],
)
def test_an_operation_without_a_rule_is_named(function: Callable[[Tensor], Tensor], reason: str) -> None:
    net = Apply(lambda x, a, b: b(function(a(x))), nn.ReLU(), nn.ReLU())
    fields, notes = noted(net)
    assert fields == {"layers.0": ReceptiveField(1, 1, (1, 1), whole=False), "layers.1": None}
    assert notes == {"layers.1": reason}


def test_a_decision_by_value_is_named() -> None:
    fields, notes = noted(Apply(lambda x, a, b: b(x * a(x).sum().item()), nn.ReLU(), nn.ReLU()))
    assert list(fields) == ["layers.0"]
    assert list(notes) == ["layers.1"]
    assert notes["layers.1"].startswith("the network decides by the values")


def only_eight(x: Tensor, before: nn.Module, behind: nn.Module) -> Tensor:
    y = before(x)
    assert y.shape[2:] == (8, 8)
    return behind(y)  # type: ignore[no-any-return]


@pytest.mark.parametrize("edge", [8, 9])
def test_sizes_that_the_net_refuses_are_no_news(edge: int) -> None:
    fields, notes = noted(Apply(only_eight, nn.ReLU(), nn.ReLU()), edge)
    assert list(fields) == ["layers.0", "layers.1"][: 2 if edge == 8 else 1]
    assert notes == {}


def broken_rule(above: int) -> Callable[..., Tensor]:
    """A rule that fails where the picture is more than `above` pixels high or wide."""

    def rule(x: Tensor, **_: object) -> Tensor:
        if max(x.shape[2:]) > above:
            raise KeyError("broken rule")
        return x.clone()

    return rule


def test_an_error_on_coordinates_only_is_no_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    net = nn.Sequential(nn.ReLU(), nn.ZeroPad2d(0), nn.Hardswish())
    monkeypatch.setitem(RULES, "hardswish", broken_rule(0))
    fields, notes = noted(net)
    assert list(fields) == ["0", "1"]
    assert notes == {"2": "KeyError: 'broken rule'"}


def test_an_odd_error_in_a_strip_is_noted_beside_the_field(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RULES, "hardswish", broken_rule(100))
    fields, notes = noted(nn.Sequential(nn.Hardswish()))
    assert fields == {"0": ReceptiveField(1, 1, (1, 1), whole=False)}
    assert notes == {"0": "KeyError: 'broken rule'"}


# --- the user's hooks ---


@pytest.mark.parametrize("fails", [False, True])
def test_hooks_of_the_user_see_no_coordinates(fails: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if fails:
        monkeypatch.setitem(RULES, "convolution", broken_rule(0))
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU())
    seen: list[float] = []

    def look(module: nn.Module, inputs: tuple[Tensor], *_: object) -> None:
        seen.append(inputs[0].abs().max().item())

    def hooks() -> list[object]:
        return [list(h.items()) for m in net.modules() for h in (m._forward_pre_hooks, m._forward_hooks)]

    handles = [net.register_forward_pre_hook(look), net.register_forward_hook(look)]
    handles.append(net[0].register_forward_hook(look, with_kwargs=True, always_call=True))
    before = hooks()
    receptive_fields(net, {"0": net[0]}, (3, 16, 16))
    assert hooks() == before
    assert seen == [0] * 3 * fails  # no more than one pass of zeros, to see whether the net refuses
    for handle in handles:
        handle.remove()
    assert not any(hooks())
