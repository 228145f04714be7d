"""Occlusion: equal to the definition and to Captum, whatever window, stride, shape and measure."""

import captum.attr
import pytest
import torch
from torch import nn

import vizkit
from tests.rewrite import lively
from vizkit.errors import ModelError, UsageError
from vizkit.incremental import Windows
from vizkit.occluding import finer_grid, mean_drop, window_grid, window_mask


def slow(net, image, index, window, stride, fill, mask=None, value=lambda output: output):
    """The definition: for each pixel the mean drop over the windows that cover it."""
    net = net.eval()
    _, height, width = image.shape
    total, count = torch.zeros(height, width), torch.zeros(height, width)
    with torch.no_grad():
        clean = value(net(image[None]))[0, index]
        top = 0
        while True:
            left = 0
            while True:
                hidden = torch.zeros(height, width, dtype=torch.bool)
                for y in range(max(0, top), min(height, top + window)):
                    for x in range(max(0, left), min(width, left + window)):
                        hidden[y, x] = mask is None or bool(mask[y - top, x - left])
                copy = torch.where(hidden, fill, image)
                total += hidden * (clean - value(net(copy[None]))[0, index])
                count += hidden
                if left + window >= width:
                    break
                left += stride
            if top + window >= height:
                break
            top += stride
    return total / count.clamp(min=1)


@pytest.mark.parametrize(("window", "stride"), [(8, 4), (7, 5), (5, 9), (32, 3), (1, 16)])
def test_it_is_the_mean_drop_over_the_windows_that_cover_a_pixel(tiny, pixels, window, stride):
    result = vizkit.occlusion(tiny, pixels[0], target=2, window=window, stride=stride)
    expected = slow(tiny, pixels[0], 2, window, stride, torch.tensor(0.5))
    torch.testing.assert_close(result.values, expected, rtol=1e-4, atol=1e-6)
    assert result.signed


def test_oblong_pictures(tiny):
    image = torch.rand(3, 20, 33, generator=torch.Generator().manual_seed(3))
    result = vizkit.occlusion(tiny, image, target=1, window=6, stride=4, fill="mean")
    expected = slow(tiny, image, 1, 6, 4, image.mean((1, 2))[:, None, None])
    torch.testing.assert_close(result.values, expected, rtol=1e-4, atol=1e-6)


def test_discs_and_other_measures(tiny, pixels):
    result = vizkit.occlusion(
        tiny, pixels[0], target=3, window=9, stride=5, shape="disc", measure="probability", fill=0.0
    )
    mask = window_mask(9, "disc")
    assert 0.7 < float(mask.float().mean()) < 0.86
    expected = slow(tiny, pixels[0], 3, 9, 5, torch.tensor(0.0), mask, lambda o: o.softmax(1))
    torch.testing.assert_close(result.values, expected, rtol=1e-4, atol=1e-7)
    ranked = vizkit.occlusion(tiny, pixels[0], target=3, window=9, stride=5, measure="rank")
    rank = slow(tiny, pixels[0], 3, 9, 5, torch.tensor(0.5), value=lambda o: -o.argsort(1, True).argsort(1))
    torch.testing.assert_close(ranked.values, rank.float())


def small_transformer():
    from vizkit.zoo.torchvision_models import import_torchvision

    models = import_torchvision().models
    return models.VisionTransformer(64, 16, num_layers=24, num_heads=4, hidden_dim=96, mlp_dim=384)


@pytest.mark.parametrize("name", ["resnet18", "vgg11_bn", "efficientnet_lite0", "densenet121", "transformer"])
def test_captum_agrees(name):
    window, stride = 20, 12
    if name == "transformer":
        module = small_transformer().eval()
    else:
        own = name == "efficientnet_lite0"
        module = vizkit.load_model(name, random_weights=not own, device="cpu").module
        module = module if own else lively(module)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.ndim > 1 and not bool(parameter.any()):
                parameter.normal_(std=0.02)
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    theirs = captum.attr.Occlusion(module).attribute(
        image, (3, window, window), strides=(3, stride, stride), baselines=0.5, target=7
    )[0, 0]
    result = vizkit.occlusion(module, image[0], target=7, window=window, stride=stride)
    assert float((result.values - theirs).norm() / theirs.norm()) < 1e-4
    inference = result.details["inference"]
    assert inference.startswith("every window" if name == "transformer" else "exact incremental")
    dense = vizkit.occlusion(module, image[0], target=7, window=window, stride=stride, incremental=False)
    assert float((dense.values - theirs).norm() / theirs.norm()) < 1e-4
    assert dense.details["inference"].startswith("every window through the whole net")


def test_several_targets_take_one_pass_and_units_are_targets(tiny, pixels):
    passes = []
    handle = tiny.register_forward_hook(lambda *_: passes.append(1))
    targets = [0, "1 vs 2", "conv2:3", "conv2:3,max", lambda output: output[:, 4]]
    together = vizkit.occlusion(tiny, pixels, target=targets, window=8, stride=8, incremental=False)
    several = len(passes)
    handle.remove()
    for k, result in enumerate(together):
        image, target = divmod(k, 5)
        alone = vizkit.occlusion(tiny, pixels[image], target=targets[target], window=8, stride=8)
        torch.testing.assert_close(result.values, alone.values, rtol=1e-3, atol=1e-6)
    assert several < 2 * 5 * 16
    with pytest.raises(UsageError, match="that of a class"):
        vizkit.occlusion(tiny, pixels[0], target="conv2:3", measure="probability")


def test_a_function_that_takes_one_picture(tiny, pixels):
    result = vizkit.occlusion(tiny, pixels[0], target=lambda output: output[0, 2], window=8, stride=8)
    torch.testing.assert_close(
        result.values, vizkit.occlusion(tiny, pixels[0], target=2, window=8, stride=8).values
    )


def test_coarse_to_fine_adds_windows_where_it_matters(tiny, pixels):
    coarse = vizkit.occlusion(tiny, pixels[0], target=2, window=8, stride=8)
    fine = vizkit.occlusion(tiny, pixels[0], target=2, window=8, stride=8, refine=2, share=0.1)
    everywhere = vizkit.occlusion(tiny, pixels[0], target=2, window=8, stride=2)
    assert coarse.details["windows"] < fine.details["windows"] < everywhere.details["windows"]
    y, x = divmod(int(coarse.values.abs().argmax()), 32)
    region = slice(max(0, y - 3), y + 4), slice(max(0, x - 3), x + 4)
    gap = [(m.values[region] - everywhere.values[region]).abs().mean() for m in (coarse, fine)]
    assert gap[1] < gap[0]
    all_of_it = vizkit.occlusion(tiny, pixels[0], target=2, window=8, stride=8, refine=3, share=1.0)
    dense = vizkit.occlusion(tiny, pixels[0], target=2, window=8, stride=1)
    torch.testing.assert_close(all_of_it.values, dense.values, rtol=1e-3, atol=1e-6)


def test_finer_windows_stand_beside_the_strongest():
    tops, lefts = window_grid((32, 32), 8, 8)
    windows = Windows(tops, lefts, 8, 8)
    drops = torch.zeros(1, 16)
    drops[0, 5] = -3.0  # at 8, 8
    assert sorted(zip(*(c.tolist() for c in finer_grid(windows, drops, 8, 0.01)), strict=True)) == [
        (4, 4), (4, 8), (4, 12), (8, 4), (8, 12), (12, 4), (12, 8), (12, 12)
    ]  # fmt: skip


def test_superpixels(tiny, pixels):
    result = vizkit.occlusion(tiny, pixels[0], target=1, shape="superpixels", pieces=6)
    assert result.details["superpixels"] == len(result.values.unique()) <= 12
    level = result.values == result.values[0, 0]
    tiny.eval()
    with torch.no_grad():
        hidden = torch.where(level, torch.tensor(0.5), pixels[0])
        drop = tiny(pixels[:1])[0, 1] - tiny(hidden[None])[0, 1]
    torch.testing.assert_close(result.values[0, 0], drop)


def test_uncovered_pixels_are_zero():
    windows = Windows(torch.tensor([0, 6]), torch.tensor([0, 6]), 2, 2)
    values = mean_drop(windows, torch.tensor([[1.0, 2.0]]), (8, 8))[0]
    assert float(values.sum()) == 1 * 4 + 2 * 4
    assert float(values[3:5].abs().sum()) == 0


def test_progress_and_the_batch(tiny, pixels):
    told = []
    one = vizkit.occlusion(
        tiny, pixels[0], window=8, stride=4, batch=3, on_step=lambda *step: told.append(step)
    )
    assert told[-1] == (49, 49)
    assert told == sorted(told)
    other = vizkit.occlusion(tiny, pixels[0], window=8, stride=4)
    torch.testing.assert_close(one.values, other.values, rtol=1e-4, atol=1e-6)


class Greedy(nn.Module):
    """Runs out of memory with more than so many pictures."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.conv, self.most = nn.Conv2d(3, 4, 3), most

    def forward(self, x):
        if len(x) > self.most:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")
        return self.conv(x).relu().mean((2, 3))


def test_memory_that_runs_out_halves_the_batch(pixels):
    torch.manual_seed(0)
    net = Greedy(2)
    with torch.no_grad():
        free = Greedy(99)
        free.load_state_dict(net.state_dict())
    options = {"target": 1, "window": 8, "stride": 8, "incremental": False}
    tight = vizkit.occlusion(net, pixels[0], **options)
    torch.testing.assert_close(tight.values, vizkit.occlusion(free, pixels[0], **options).values)
    with pytest.raises(ModelError, match="out of memory"):
        vizkit.occlusion(Greedy(0), pixels[0], **options)


def test_wrong_windows_are_refused(tiny, pixels):
    with pytest.raises(UsageError, match="a window of 40 px hides all"):
        vizkit.occlusion(tiny, pixels[0], window=40)
    with pytest.raises(UsageError, match="unknown fill"):
        vizkit.occlusion(tiny, pixels[0], fill="gray-ish")
    with pytest.raises(UsageError, match="stride"):
        vizkit.occlusion(tiny, pixels[0], stride=0)


# --- nets that have led to wrong numbers ---


def plain_net():
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, 2, 1),
        nn.ReLU(),
    ]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)).eval()


CHANGES = {
    "values": lambda net: net[0].weight.data.mul_(3),
    "stride": lambda net: setattr(net[3], "stride", (1, 1)),
    "eps": lambda net: setattr(net[1], "eps", 1.0),
    "hook": lambda net: net[3].register_forward_hook(lambda _m, _i, output: output * 2 - 0.1),
    "layer": lambda net: net.__setitem__(4, nn.Tanh()),
    "forward": lambda net: setattr(net, "forward", lambda x, old=net.forward: old(x.flip(3)) * 2),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_net_that_was_changed_is_not_answered_from_memory(change, pixels):
    net = plain_net()
    model = vizkit.wrap(net, size=32)
    options = {"target": 0, "window": 8, "stride": 4}
    vizkit.occlusion(model, pixels[0], **options)
    with torch.no_grad():
        CHANGES[change](net)
    found = vizkit.occlusion(model, pixels[0], **options)
    expected = slow(net, pixels[0], 0, 8, 4, torch.tensor(0.5))
    torch.testing.assert_close(found.values, expected, rtol=1e-4, atol=1e-6)


class Tokens(nn.Module):
    """A convolution's positions as a sequence, and something that minds the batch's size or layout."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.conv = kind, nn.Conv2d(3, 16, 4, 4)
        self.head, self.lstm = nn.Linear(16, 5), nn.LSTM(16, 5, batch_first=True)
        self.norm = nn.BatchNorm2d(16, track_running_stats=False)

    def forward(self, x):
        maps = self.conv(x)
        tokens, count = maps.flatten(2).transpose(1, 2), len(x)
        if self.kind == "lstm":
            return self.lstm(tokens)[0][:, -1]
        if self.kind == "index_add":
            index = torch.arange(count).repeat_interleave(tokens.shape[1])
            return self.head(torch.zeros(count, 16).index_add(0, index, tokens.flatten(0, 1)))
        if self.kind == "select":
            return self.head(tokens.mean(1)).index_select(0, torch.arange(count))
        if self.kind == "sequence first":
            return self.head(tokens.transpose(0, 1).relu().mean(0))
        if self.kind == "micro-batches":
            return torch.cat([self.head(part.relu().mean((2, 3))) for part in maps.split(4)])
        if self.kind == "batch statistics":
            return self.head(self.norm(maps).relu().mean((2, 3)))
        if self.kind == "size one":
            return self.head(maps.relu().mean((2, 3))) * (2 if count == 1 else 1)
        if self.kind == "eye":
            return torch.eye(count) @ self.head(maps.relu().mean((2, 3)))
        return self.head((10 * maps.relu()).exp().mean((2, 3)).log() / 10)


KINDS = (
    *(
        "lstm",
        "index_add",
        "select",
        "sequence first",
        "micro-batches",
        "batch statistics",
        "size one",
        "eye",
    ),
    "log-sum-exp",
)


@pytest.mark.parametrize("kind", KINDS)
def test_nets_that_mind_the_batch(kind):
    torch.manual_seed(0)
    net = Tokens(kind).eval()
    image = torch.rand(3, 32, 32) * 0.5
    image[:, 4:8, 4:8] = 3.0
    found = vizkit.occlusion(vizkit.wrap(net, size=32), image, target=0, window=8, stride=3)
    expected = slow(net, image, 0, 8, 3, torch.tensor(0.5))
    torch.testing.assert_close(found.values, expected, rtol=1e-4, atol=1e-5)


class Writing(nn.Module):
    """Normalises its own input in place."""

    def __init__(self):
        super().__init__()
        self.net = plain_net()

    def forward(self, x):
        return self.net(x.sub_(0.5).mul_(3))


@pytest.mark.parametrize("name", ["occlusion", "saliency", "grad_cam", "rise"])
def test_a_net_that_writes_into_its_input(name, pixels):
    before = pixels.clone()
    options = {"rise": {"masks": 20}}.get(name, {})
    found = getattr(vizkit, name)(Writing(), pixels[0], target=1, **options).values
    assert torch.equal(before, pixels)
    wrapped = vizkit.wrap(plain_net(), mean=[0.5], std=[1 / 3])
    expected = getattr(vizkit, name)(wrapped, pixels[0], target=1, **options).values
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)


def test_scores_that_are_not_finite_end_in_an_error(tiny, pixels):
    clean = float(vizkit.saliency(tiny, pixels[0], target=0).target_score)
    with pytest.raises(ModelError, match="NaN or infinite where a part"):
        vizkit.occlusion(tiny, pixels[0], window=8, target=lambda output: (output[:, 0] - clean).log())


def test_a_single_output_has_the_logistic_functions_probability(pixels):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1))
    result = vizkit.rise(net, pixels[0], masks=30)
    assert bool(result.values.any())
    assert result.prediction[0].probability == pytest.approx(
        1 / (1 + 2.718281828 ** -result.prediction[0].score)
    )


def test_numbers_and_fills_out_of_range(tiny, pixels):
    for wrong in ({"fill": 1e39}, {"fill": float("inf")}, {"fill": True}, {"stride": 10**20}):
        with pytest.raises(UsageError):
            vizkit.occlusion(tiny, pixels[0], **wrong)
    import numpy as np

    vizkit.occlusion(tiny, pixels[0], window=np.int64(16))
    with pytest.raises(ModelError, match="meta device"):
        vizkit.occlusion(nn.Sequential(nn.Conv2d(3, 2, 3, device="meta")), pixels[0])
