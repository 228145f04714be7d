"""Incremental inference against the definition: every perturbed picture through the whole module."""

from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._pytree import tree_map

import vizkit
from tests.nets import Apply
from vizkit.errors import ModelError, UsageError
from vizkit.hooks import capture
from vizkit.incremental import Engine, Windows
from vizkit.sessions import session


def calibrated(module: nn.Module, size: int = 64, channels: int = 3) -> nn.Module:
    """The module with random norms whose statistics fit, so that nothing vanishes or explodes."""
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for norm in norms:
            norm.momentum = None
            norm.weight.uniform_(0.7, 1.3, generator=generator)
            norm.bias.uniform_(-0.3, 0.3, generator=generator)
        module.eval()
        for norm in norms:
            norm.train()
        module(torch.randn(4, channels, size, size, generator=generator))
    return module.eval()


def loaded(name: str, size: int = 64) -> vizkit.VisionModel:
    torch.manual_seed(0)
    model = vizkit.load_model(name, random_weights=True, device="cpu")
    for parameter in model.module.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.05)  # the heads of some nets start at zero
    calibrated(model.module, size)
    return model


def some_windows(size: tuple[int, int], window: int, disc: bool = False) -> Windows:
    """Corners, centre, hanging over every edge, and two that lie outside."""
    h, w = size
    tops = [0, 0, h // 2 - 3, -window // 2, h - window // 2, h - window, 5, h // 3, h + 9, -window]
    lefts = [0, w - window, w // 2 - 5, w // 3, 7, w - 3, -window // 2 - 1, 11, 0, -window]
    mask = None
    if disc:
        line = torch.arange(window) - (window - 1) / 2
        mask = line[:, None] ** 2 + line**2 <= (window / 2) ** 2
    return Windows(torch.tensor(tops), torch.tensor(lefts), window, window, mask)


def brute_force(
    model: vizkit.VisionModel, pixels: torch.Tensor, fill: torch.Tensor, windows: Windows, layers: Any = ()
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The definition, pixel by pixel, one picture at a time."""
    copies = pixels.repeat(len(windows), 1, 1, 1)
    for k in range(len(windows)):
        for i in range(windows.height):
            for j in range(windows.width):
                y, x = int(windows.tops[k]) + i, int(windows.lefts[k]) + j
                inside = 0 <= y < pixels.shape[1] and 0 <= x < pixels.shape[2]
                if inside and (windows.mask is None or windows.mask[i, j]):
                    copies[k, :, y, x] = fill[:, y, x]
    outputs: list[Any] = []
    kept: dict[str, list[torch.Tensor]] = {}
    with session(model.module), torch.no_grad():
        for copy in copies:
            with capture(model.module, layers) as captured:
                outputs.append(model.raw(copy[None]))
            for name, tensor in captured.items():
                kept.setdefault(name, []).append(tensor)
    joined = tree_map(lambda *ts: torch.cat(ts) if isinstance(ts[0], torch.Tensor) else ts[0], *outputs)
    return joined, {name: torch.cat(parts) for name, parts in kept.items()}


def collected(engine: Engine, pixels: Any, fill: Any, windows: Windows) -> tuple[Any, dict[str, Any]]:
    """Outputs and layers in the order of the windows."""
    with session(engine.model.module):
        found = list(engine.run(pixels, fill, windows))
    order = torch.cat([index for index, _, _ in found])
    assert sorted(order.tolist()) == list(range(len(windows)))
    back = order.argsort()
    layers = {k: torch.cat([layer[k] for _, _, layer in found])[back] for k in found[0][2]}
    return torch.cat([output for _, output, _ in found])[back], layers


def pictures(shape: tuple[int, int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(shape, generator=generator), torch.rand(shape, generator=generator)


def check(
    model: vizkit.VisionModel,
    shape: tuple[int, int, int],
    window: int = 9,
    *,
    tolerance: float = 2e-5,
    layers: Any = (),
    windows: Windows | None = None,
    **options: Any,
) -> Engine:
    """Compare with the definition; the engine, to look at what it did."""
    windows = windows or some_windows(shape[1:], window)
    pixels, fill = pictures(shape)
    engine = Engine(model, shape, layers=layers, **options)
    output, captured = collected(engine, pixels, fill, windows)
    expected, expected_layers = brute_force(model, pixels, fill, windows, layers)
    assert set(captured) == set(expected_layers)
    pairs = [(output, expected), *((captured[k], expected_layers[k]) for k in captured)]
    for ours, theirs in pairs:
        assert ours.shape == theirs.shape and ours.dtype == theirs.dtype and not ours.is_inference()
        scale = max(1.0, float(theirs.abs().max()))
        assert float((ours - theirs).abs().max()) <= tolerance * scale, engine.how
    assert float((expected - expected[-1]).abs().max()) > 1e-4  # the windows matter
    return engine


def net(function: Callable[..., Any], *layers: nn.Module, channels: int = 3) -> vizkit.VisionModel:
    module = Apply(function, *layers)
    return vizkit.wrap(calibrated(module, 32, channels))


def head(x: torch.Tensor) -> torch.Tensor:
    return x.mean((2, 3))


# --- whole networks ---


@pytest.mark.parametrize(
    ("name", "saved"),
    [
        ("resnet18", 1.3),
        ("vgg11_bn", 1.4),
        ("mobilenet_v2", 1.2),
        ("googlenet", 1.3),
        ("densenet121", 1.2),
        ("squeezenet1_1", 1.2),
        ("shufflenet_v2_x0_5", 1.2),
        ("mnasnet0_5", 1.2),
        ("regnet_x_400mf", 1.1),
        ("mobilenet_v3_small", 1.0),
    ],
)
def test_a_network_gives_what_the_module_gives(name, saved):
    size = 64 if name == "vgg11_bn" else 96
    engine = check(loaded(name), (3, size, size), 16)
    assert engine.incremental, engine.how
    assert engine.saved > saved
    assert "exact incremental inference" in engine.how


def test_the_default_network_with_its_real_weights(lite0):
    engine = check(lite0, (3, 96, 128), 14)
    assert engine.incremental and engine.saved > 1.1


FAMILIES = (
    *("alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "googlenet"),
    *("inception_v3", "maxvit_t", "mnasnet1_0", "mobilenet_v2", "mobilenet_v3_large", "regnet_y_400mf"),
    *("regnet_x_400mf", "resnet50", "resnext50_32x4d", "shufflenet_v2_x1_0", "squeezenet1_0", "swin_t"),
    *("swin_v2_t", "vgg16", "vit_b_32", "wide_resnet50_2"),
)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_every_torchvision_family(name):
    size = {"maxvit_t": 224, "vit_b_32": 224, "inception_v3": 128}.get(name, 96)
    windows = Windows(torch.tensor([0, 30, size - 11, -9]), torch.tensor([3, 41, size - 20, 50]), 17, 17)
    check(loaded(name, size), (3, size, size), windows=windows, tolerance=1e-4)


@pytest.mark.optional
@pytest.mark.parametrize("name", ["timm:tf_efficientnet_lite0", "timm:resnet10t", "timm:test_convnext"])
def test_timm_networks(name):
    pytest.importorskip("timm")
    engine = check(loaded(name), (3, 96, 96), 12, tolerance=1e-4)
    assert "convnext" in name or engine.incremental


# --- one rule at a time ---


@pytest.mark.parametrize("disc", [False, True])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize(
    ("kernel", "padding", "dilation"), [(3, 1, 1), (5, 0, 1), (3, 2, 2), (2, 1, 1), (1, 0, 1)]
)
def test_convolutions(kernel, padding, dilation, stride, disc):
    torch.manual_seed(0)
    first = nn.Conv2d(3, 6, kernel, stride, padding, dilation)
    second = nn.Conv2d(6, 6, 3, 1, 1, groups=6)
    windows = some_windows((30, 37), 5, disc)
    engine = check(
        net(lambda x, a, b: head(b(a(x).relu()).tanh()), first, second), (3, 30, 37), windows=windows
    )
    assert engine.incremental


@pytest.mark.parametrize("ceil", [False, True])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("include", [False, True])
def test_pools(ceil, stride, include):
    torch.manual_seed(0)

    def forward(x, conv):
        x = conv(x)
        a = F.max_pool2d(x, 3, stride, 1, ceil_mode=ceil)
        b = F.avg_pool2d(x, 3, stride, 1, ceil_mode=ceil, count_include_pad=include)
        return head((a * b).sigmoid())

    assert check(net(forward, nn.Conv2d(3, 4, 3)), (3, 29, 34), 6).incremental


POINTWISE = {
    "in-place": lambda x, y: F.relu_(x) + F.hardswish(y, inplace=True),
    "activations": lambda x, y: F.silu(x) - F.gelu(y) + F.hardsigmoid(x) * F.elu(y) + F.leaky_relu(x, 0.2),
    "clamps": lambda x, y: x.clamp(-0.3, 0.4) + F.relu6(y) + F.hardtanh(x, -0.5, 0.5) + x.clamp(min=0.1),
    "constants": lambda x, y: (
        (x * 2 + 0.3) / 1.7 - y * torch.arange(4.0).view(4, 1, 1) + 1 / (2 + y.sigmoid())
    ),
    "cat": lambda x, y: torch.cat([x, torch.cat([y, x * y], 1).relu()], 1),
    "twice": lambda x, y: torch.add(x, x, alpha=0.5) * x + y**2,
    "slices": lambda x, y: torch.cat([x[:, 1:3].relu(), x, y.chunk(2, 1)[1], y[:, 0].unsqueeze(1)], 1),
    "shuffle": lambda x, y: F.channel_shuffle(torch.cat([x, y], 1), 2),
    "reversed": lambda x, y: x.unflatten(1, (2, 2)).transpose(1, 2).flatten(1, 2) * y,
    "pads": lambda x, y: F.pad(x, (1, 2, 0, 3)) + F.pad(y.relu(), (1, 2, 0, 3), value=0.7),
    "different boxes": lambda x, y: F.max_pool2d(x, 5, 1, 2) + y,
    "overwritten": lambda x, y: x.mul_(2).add_(y).relu_() + y.sub_(0.2),
    "two results": lambda x, y: torch.max(x, y) + torch.where(x > 0, y, x),
}


@pytest.mark.parametrize("name", POINTWISE)
def test_pixelwise_operations(name):
    torch.manual_seed(0)
    convs = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 1)
    model = net(lambda x, a, b: head(POINTWISE[name](a(x), b(x))), *convs)
    check(model, (3, 26, 31), 6)
    engine = Engine(model, (3, 26, 31))
    collected(engine, *pictures((3, 26, 31)), some_windows((26, 31), 6))
    if name not in ("two results",):
        assert engine.incremental, engine.how


def test_norms_in_front_of_and_behind_convolutions():
    torch.manual_seed(0)
    layers = nn.BatchNorm2d(3), nn.Conv2d(3, 6, 3, 2, 1, bias=False), nn.BatchNorm2d(6), nn.BatchNorm2d(6)
    model = net(lambda x, a, b, c, d: head(d(c(b(a(x))).relu_()).sigmoid()), *layers)
    assert check(model, (3, 32, 32)).incremental


@st.composite
def chains(draw: Any) -> list[tuple[Any, ...]]:
    """A few operations with random parameters, over a map of 4 channels."""
    kernel, stride = st.integers(1, 4), st.integers(1, 3)
    conv = st.tuples(
        st.just("conv"), kernel, stride, st.integers(0, 2), st.integers(1, 2), st.sampled_from([1, 4])
    )
    pool = st.tuples(
        st.sampled_from(["max", "avg"]), st.integers(2, 3), stride, st.integers(0, 1), st.booleans()
    )
    other = st.tuples(
        st.sampled_from(["relu_", "residual", "branch", "norm", "pad", "shuffle", "silu", "se"])
    )
    return draw(st.lists(st.one_of(conv, pool, other), min_size=1, max_size=6))


class Chain(nn.Module):
    def __init__(self, steps: list[tuple[Any, ...]]) -> None:
        super().__init__()
        self.stem, self.steps, self.parts = nn.Conv2d(3, 4, 3, padding=1), steps, nn.ModuleList()
        for kind, *values in steps:
            part: nn.Module = nn.Identity()
            if kind == "conv":
                kernel, stride, padding, dilation, groups = values
                part = nn.Conv2d(4, 4, kernel, stride, padding, dilation, groups)
            elif kind == "norm":
                part = nn.BatchNorm2d(4)
            elif kind in ("residual", "branch", "se"):
                part = nn.Conv2d(4, 4, 1 if kind == "se" else 3, padding=0 if kind == "se" else 1)
            self.parts.append(part)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for (kind, *values), part in zip(self.steps, self.parts, strict=True):
            x = self.step(x, kind, values, part)
        return x.sigmoid().mean((2, 3))

    def step(self, x: torch.Tensor, kind: str, values: list[Any], part: nn.Module) -> torch.Tensor:
        if kind in ("conv", "norm"):
            return part(x)
        if kind == "max":
            return F.max_pool2d(x, values[0], values[1], values[2], ceil_mode=values[3])
        if kind == "avg":
            return F.avg_pool2d(
                x, values[0], values[1], values[2], ceil_mode=values[3], count_include_pad=False
            )
        return {
            "relu_": lambda: x.relu_(),
            "residual": lambda: x + part(x).relu_(),
            "branch": lambda: torch.cat([x[:, :2], part(x)[:, 2:]], 1),
            "pad": lambda: F.pad(x, (1, 0, 0, 2), value=0.3),
            "shuffle": lambda: F.channel_shuffle(x, 2),
            "silu": lambda: F.silu(x),
            "se": lambda: x * part(x.mean((2, 3), keepdim=True)).sigmoid(),
        }[kind]()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(
    chains(),
    st.integers(30, 41),
    st.integers(30, 41),
    st.integers(1, 12),
    st.booleans(),
    st.sampled_from([1, 3, 32]),
    st.booleans(),
)
def test_random_networks(steps, height, width, window, disc, chunk, many_groups):
    from vizkit.incremental import groups

    torch.manual_seed(0)
    try:
        model = vizkit.wrap(calibrated(Chain(steps), 36))
        model.raw(torch.zeros(1, 3, height, width))
    except (RuntimeError, ValueError):
        return  # the maps got too small for the next kernel
    windows = some_windows((height, width), window, disc)
    pixels, fill = pictures((3, height, width))
    engine = Engine(model, (3, height, width), chunk=chunk)
    with mock.patch.object(groups, "_CALL", 0 if many_groups else groups._CALL):
        output, _ = collected(engine, pixels, fill, windows)
    expected, _ = brute_force(model, pixels, fill, windows)
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-5)
    assert "differs" not in engine.how and "cannot" not in engine.how


# --- what is yielded ---


@pytest.mark.parametrize("dense", [False, True])
def test_layers_and_their_calls(tiny, dense):
    model = vizkit.wrap(calibrated(tiny, 32))
    engine = check(model, (3, 40, 44), 7, layers=["relu", "conv2", "fc"], dense=dense)
    assert engine.incremental is not dense
    pixels, fill = pictures((3, 40, 44))
    names = collected(engine, pixels, fill, some_windows((40, 44), 7))[1]
    assert {"relu", "relu#1", "relu#2", "conv2#1", "fc"} <= set(names)


def test_an_unknown_layer_is_refused(tiny):
    with pytest.raises(UsageError, match="no layer"):
        Engine(vizkit.wrap(tiny), (3, 32, 32), layers=["nonsense"])


def test_dicts_tuples_and_maps_come_back_as_they_are(tiny):
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = tiny

        def forward(self, x: torch.Tensor) -> dict[str, Any]:
            y = self.net(x)
            return {"logits": y, "more": (y.softmax(1), [self.net.conv1(x)], None, "fine")}

    model = vizkit.wrap(Both(), output="logits")
    pixels, fill = pictures((3, 32, 32))
    windows = some_windows((32, 32), 5)
    engine = Engine(model, (3, 32, 32))
    expected = brute_force(model, pixels, fill, windows)[0]
    with session(model.module):
        for index, output, _ in engine.run(pixels, fill, windows):
            assert list(output) == ["logits", "more"] and isinstance(output["more"], tuple)
            assert output["more"][2:] == (None, "fine")
            torch.testing.assert_close(output["logits"], expected["logits"][index])
            torch.testing.assert_close(output["more"][0], expected["more"][0][index])
            torch.testing.assert_close(output["more"][1][0], expected["more"][1][0][index])
    assert engine.incremental


def test_normalisation_is_in_front(tiny):
    model = vizkit.wrap(tiny, mean=[0.4, 0.5, 0.6], std=[0.2, 0.3, 0.1])
    check(model, (3, 32, 32), 6)


def test_many_windows_few_at_a_time(tiny):
    tops, lefts = (
        t.flatten() for t in torch.meshgrid(torch.arange(-4, 36, 3), torch.arange(-4, 36, 4), indexing="ij")
    )
    windows = Windows(tops, lefts, 5, 8)
    for chunk in (1, 7, None):
        check(vizkit.wrap(tiny), (3, 36, 36), windows=windows, chunk=chunk)


def test_gaps_between_windows_and_single_pixels(tiny):
    line = torch.arange(0, 40, 9)
    windows = Windows(line, line.flip(0), 2, 2)
    check(vizkit.wrap(tiny), (3, 40, 40), windows=windows)


def test_no_windows_give_nothing(tiny):
    none = torch.zeros(0, dtype=torch.int64)
    engine = Engine(vizkit.wrap(tiny), (3, 32, 32))
    assert list(engine.run(*pictures((3, 32, 32)), Windows(none, none, 3, 3))) == []


def test_one_engine_for_many_pictures_and_after_an_exception(tiny):
    model = vizkit.wrap(tiny)
    engine = Engine(model, (3, 32, 32), chunk=2)
    windows = some_windows((32, 32), 6)
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        pixels, fill = torch.rand(3, 32, 32, generator=generator), torch.rand(3, 32, 32, generator=generator)
        with session(model.module):
            broken = engine.run(pixels, fill, windows)
            next(broken)
            broken.close()
        output, _ = collected(engine, pixels, fill, windows)
        torch.testing.assert_close(output, brute_force(model, pixels, fill, windows)[0], rtol=0, atol=1e-5)
    assert len(engine._plans) == 1


def test_one_engine_for_different_windows(tiny):
    model = vizkit.wrap(tiny)
    engine = Engine(model, (3, 32, 32))
    pixels, fill = pictures((3, 32, 32))
    line = torch.arange(-2, 32, 2)
    for windows in (
        some_windows((32, 32), 6),
        Windows(line, line.flip(0), 4, 7),
        Windows(line[:3], line[:3], 4, 7),
        Windows(line - 60, line, 2, 2),
        Windows(torch.zeros(2, dtype=torch.int64), torch.zeros(2, dtype=torch.int64), 32, 32),
        some_windows((32, 32), 6, disc=True),
    ):
        output, _ = collected(engine, pixels, fill, windows)
        torch.testing.assert_close(output, brute_force(model, pixels, fill, windows)[0], rtol=0, atol=1e-5)
        assert engine.incremental or (windows.height == 32 and "too little" in engine.how)


def test_changed_weights_are_noticed(tiny):
    model = vizkit.wrap(tiny)
    engine = Engine(model, (3, 32, 32))
    pixels, fill = pictures((3, 32, 32))
    windows = some_windows((32, 32), 6)
    for tensor in (tiny.conv1.weight, tiny.bn1.running_mean):
        collected(engine, pixels, fill, windows)
        with torch.no_grad():
            tensor.add_(0.3)
        output, _ = collected(engine, pixels, fill, windows)
        torch.testing.assert_close(output, brute_force(model, pixels, fill, windows)[0], rtol=0, atol=1e-5)


def test_memory_errors_pass_through(tiny, monkeypatch):
    from vizkit.incremental import run

    model = vizkit.wrap(tiny)
    engine = Engine(model, (3, 32, 32))
    pixels, fill = pictures((3, 32, 32))
    windows = some_windows((32, 32), 6)

    def fails(*args: Any) -> Any:
        raise torch.OutOfMemoryError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(run.Run, "boxes", fails)
        with pytest.raises(torch.OutOfMemoryError):
            collected(engine, pixels, fill, windows)
    engine.chunk = 1
    assert engine.incremental
    output, _ = collected(engine, pixels, fill, windows)
    torch.testing.assert_close(output, brute_force(model, pixels, fill, windows)[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize("dense", [False, True])
def test_the_module_is_left_alone(tiny, trace, dense):
    tiny.train()
    before = trace(tiny)
    model = vizkit.wrap(tiny)
    collected(Engine(model, (3, 32, 32), dense=dense), *pictures((3, 32, 32)), some_windows((32, 32), 6))
    assert trace(tiny) == before


# --- what cannot be incremental ---


def branching(x: torch.Tensor, conv: nn.Module) -> torch.Tensor:
    x = conv(x)
    return x.mean((2, 3)) if float(x.mean()) > -100 else x.amax((2, 3))


def through_a_view(x: torch.Tensor, conv: nn.Module) -> torch.Tensor:
    x = conv(x)
    x[:, :1] += 1
    return x.mean((2, 3))


def with_the_batch(x: torch.Tensor, conv: nn.Module) -> torch.Tensor:
    return conv(x).mean((2, 3)) * (1 if len(x) == 2 else 1.0)


def mixing(x: torch.Tensor, conv: nn.Module) -> torch.Tensor:
    x = conv(x).mean((2, 3))
    return x - 0 * x.mean(0, keepdim=True)


def noisy(x: torch.Tensor, conv: nn.Module) -> torch.Tensor:
    return conv(x).mean((2, 3)) + 0 * torch.rand(4)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (branching, "depends on the values"),
        (through_a_view, "through a view"),
        (with_the_batch, "batch sizes"),
        (noisy, "random numbers"),
    ],
)
def test_the_reason_for_whole_passes_is_given(function, reason):
    engine = check(net(function, nn.Conv2d(3, 4, 3)), (3, 24, 24), 5)
    assert not engine.incremental and engine.saved == 1.0
    assert reason in engine.how and "every window through the whole net" in engine.how


def test_what_mixes_the_pictures_of_a_batch_does_not_disturb():
    check(net(mixing, nn.Conv2d(3, 4, 3)), (3, 24, 24), 5)


def test_a_transformer_runs_whole():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
    patch = nn.Conv2d(3, 8, 8, 8)
    model = net(lambda x, p, e: e(p(x).flatten(2).transpose(1, 2)).mean(1), patch, layer)
    engine = check(model, (3, 32, 32), 6)
    assert "every window" in engine.how or engine.saved > 1


def test_a_squeeze_and_excite_net_is_incremental_up_to_the_gate():
    def forward(x, a, b, gate):
        x = b(a(x).relu())
        return head((x * gate(x.mean((2, 3), keepdim=True)).sigmoid()).relu())

    convs = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 1, 1), nn.Conv2d(8, 8, 1)
    engine = check(net(forward, *convs), (3, 48, 48), 6)
    assert engine.incremental and engine.saved > 3


def test_a_wrong_rule_is_found_out(tiny, monkeypatch):
    from vizkit.incremental import groups

    monkeypatch.setattr(groups, "_through", lambda op, span, axis: (span // 2).clip(0, op.shape[1 + axis]))
    engine = check(vizkit.wrap(tiny), (3, 32, 32), 6)
    assert "differs" in engine.how and not engine.incremental


def test_other_shapes_and_bad_windows_are_refused(tiny):
    engine = Engine(vizkit.wrap(tiny), (3, 32, 32))
    ok = torch.zeros(1, dtype=torch.int64)
    with pytest.raises(UsageError, match="pictures"):
        next(engine.run(*pictures((3, 30, 32)), Windows(ok, ok, 3, 3)))
    for bad in ((ok, ok[:0], 3, 3), (ok.float(), ok, 3, 3), (ok, ok, 0, 3), (ok, ok, 2, 2, torch.ones(3, 2))):
        with pytest.raises(UsageError):
            Windows(*bad)


# --- precision ---


def test_bfloat16_is_close_or_refused(monkeypatch):
    from vizkit.incremental import checks
    from vizkit.incremental import engine as module

    model = loaded("resnet18")
    pixels, fill = pictures((3, 96, 96))
    windows = some_windows((96, 96), 16)
    if checks.has_bf16(torch.device("cpu")):
        engine = Engine(model, (3, 96, 96), precision="bf16", layers=["layer3"])
        output, layers = collected(engine, pixels, fill, windows)
        expected, _ = brute_force(model, pixels, fill, windows)
        assert output.dtype == torch.float32 and layers["layer3"].dtype == torch.float32
        assert torch.corrcoef(torch.stack([output.flatten(), expected.flatten()]))[0, 1] > 0.999
        assert engine.incremental
    monkeypatch.setattr(module, "has_bf16", lambda device: False)
    with pytest.raises(ModelError, match="bfloat16"):
        Engine(model, (3, 96, 96), precision="bf16")
