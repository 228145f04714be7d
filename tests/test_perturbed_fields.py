"""Receptive fields of units against brute force: every input pixel is changed, and what moves counts."""

import contextlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.nets import Apply, conv
from vizkit.receptive import unit_boxes
from vizkit.zoo.torchvision_models import import_torchvision


class StoppedError(Exception):
    """All layers looked at have run."""


def averaging(module):
    """All weights positive and of sum 1, so that a larger pixel is larger in all that depends on it."""
    generator = torch.Generator().manual_seed(0)
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            weight = torch.rand(part.weight.shape, generator=generator) + 0.5
            dims = tuple(range(1, weight.ndim))
            part.weight.data = weight / weight.sum(dims, keepdim=True)
            if part.bias is not None:
                part.bias.data.zero_()
        elif isinstance(part, nn.BatchNorm2d):
            part.reset_parameters()
            part.eps = 0.0
    return module.double().eval()


def outputs(module, layers, pixels):
    """What the layers give; the net is stopped behind the last of them."""
    found = {}

    def look(name):
        def hook(_, __, output):
            found[name] = output
            if len(found) == len(layers):
                raise StoppedError

        return hook

    handles = [module.get_submodule(n).register_forward_hook(look(n)) for n in layers]
    with contextlib.suppress(StoppedError):
        module(pixels)
    for handle in handles:
        handle.remove()
    return found


@torch.no_grad()
def moved(module, layers, size, change):
    """{layer: (H, W, h, w) bool}: which units another value of each pixel moves."""
    height, width = size
    clean = torch.full((1, 3, height, width), 0.5, dtype=torch.double)
    base = outputs(module, layers, clean)
    hits = {name: [] for name in layers}
    places = [(y, x) for y in range(height) for x in range(width)]
    for start in range(0, len(places), 128):
        part = places[start : start + 128]
        batch = clean.repeat(len(part), 1, 1, 1)
        for k, (y, x) in enumerate(part):
            batch[k, :, y, x] += change
        for name, output in outputs(module, layers, batch).items():
            # Rounding may differ between batches; what really depends on the pixel moves far more.
            hits[name].append(((output - base[name]).abs() > 1e-12 * base[name].abs().max()).any(1))
    return {n: torch.cat(found).reshape(height, width, *found[0].shape[1:]) for n, found in hits.items()}


def boxes_of(hits):
    """(4, h, w): top, left, bottom, right of the pixels that move each unit, from (H, W, h, w)."""

    def ends(lines):
        return lines.double().argmax(0), lines.shape[0] - lines.flip(0).double().argmax(0)

    (top, bottom), (left, right) = ends(hits.any(1)), ends(hits.any(0))
    return torch.stack([top, left, bottom, right])


def compare(module, layers, size, change):
    module = averaging(module)
    parts = {n: module.get_submodule(n) for n in layers}
    found = unit_boxes(module, parts, (3, *size))
    for name, hits in moved(module, layers, size, change).items():
        truth = boxes_of(hits)
        np.testing.assert_array_equal(found[name].numpy(), truth.numpy(), err_msg=name)


def inception(x, one, three, five, pooled):
    return torch.cat([one(x), three(x), five(x), pooled(F.max_pool2d(x, 3, 1, 1))], 1)


SMALL = {
    "a chain with strides": lambda: nn.Sequential(
        conv(3, 4, 5, 2, 1), nn.ReLU(), conv(4, 4, 3, 3), conv(4, 2, 2)
    ),
    "branches": lambda: nn.Sequential(
        conv(3, 4, 3, 2, 1),
        Apply(inception, conv(4, 2, 1), conv(4, 2, 3, 1, 1), conv(4, 2, 5, 1, 2), conv(4, 2, 1)),
        conv(8, 2, 3),
    ),
    "a residual with stride": lambda: nn.Sequential(
        Apply(
            lambda x, a, b, s: F.relu(b(a(x)) + s(x)),
            conv(3, 4, 3, 2, 1),
            conv(4, 4, 3, 1, 1),
            conv(3, 4, 1, 2),
        ),
        conv(4, 2, 3, 2),
    ),
    "dilated and lopsided": lambda: nn.Sequential(
        conv(3, 4, (1, 5), padding=(0, 2)), conv(4, 4, (4, 1)), conv(4, 2, 3, dilation=(2, 3))
    ),
    "pooling with ceil mode": lambda: nn.Sequential(
        conv(3, 3, 3), nn.MaxPool2d(3, 2, ceil_mode=True), nn.AvgPool2d(2, 2, ceil_mode=True), conv(3, 2, 2)
    ),
    "down and up again": lambda: Apply(
        lambda x, down, up, end: end(torch.cat([x, up(down(x))], 1)),
        conv(3, 4, 4, 4),
        nn.ConvTranspose2d(4, 3, 4, 4),
        conv(6, 2, 3),
    ),
    "nearest upsampling": lambda: nn.Sequential(
        conv(3, 4, 3, 2, 1), nn.Upsample(scale_factor=2), conv(4, 2, 3)
    ),
    "padding by reflection": lambda: nn.Sequential(nn.ReflectionPad2d(2), conv(3, 2, 5), conv(2, 2, 3, 2)),
    "slices and concatenation": lambda: Apply(
        lambda x, a, b: torch.cat([a(x)[:, :, 1:-1, 1:-1], b(x)], 1), conv(3, 2, 1), conv(3, 2, 3)
    ),
    "grouped and pointwise": lambda: nn.Sequential(
        conv(3, 6, 3, 2, 1), conv(6, 6, 3, 1, 1, groups=6), conv(6, 2, 1), nn.AvgPool2d(3, 2)
    ),
}


@pytest.mark.parametrize("name", SMALL)
def test_every_unit_of_small_nets(name):
    module = nn.Sequential(SMALL[name]())
    last = [n for n, m in module.named_modules() if n and not list(m.children())]
    layers = [n for n in last if isinstance(module.get_submodule(n), nn.Conv2d | nn.AvgPool2d | nn.MaxPool2d)]
    layers = ["0"] if "slices" in name or "again" in name else layers
    compare(module, layers, (20, 24) if "again" in name else (21, 26), 1000.0)


ZOO = {
    "resnet18": (["maxpool", "layer1.1", "layer2.0.downsample.0", "layer2.0", "layer2.1.conv2"], 40, 1000.0),
    "resnet50": (["layer1.0.conv2", "layer1.2", "layer2.0"], 40, 1000.0),
    "vgg11_bn": (["features.4", "features.7", "features.11"], 36, 1000.0),
    "alexnet": (["features.2", "features.5"], 67, 1000.0),
    "googlenet": (["maxpool2", "inception3a", "inception3b.branch3.1"], 48, 1000.0),
    "densenet121": (
        ["features.pool0", "features.denseblock1.denselayer3", "features.transition1"],
        36,
        1000.0,
    ),
    "squeezenet1_1": (["features.3", "features.4.expand3x3", "features.6"], 40, 1000.0),
    "mobilenet_v2": (["features.1", "features.2.conv.1", "features.4", "features.5"], 36, 0.3),
    "shufflenet_v2_x0_5": (["stage2.0", "stage2.2", "stage3.0.branch2"], 40, 1000.0),
    "regnet_x_400mf": (["stem", "trunk_output.block1", "trunk_output.block2.block2-0"], 40, 1000.0),
    "mnasnet0_5": (["layers.7", "layers.8.0", "layers.9.0"], 36, 1000.0),
}


@pytest.mark.parametrize(
    "name", [n if n == "resnet18" else pytest.param(n, marks=pytest.mark.slow) for n in ZOO]
)
def test_every_unit_of_real_nets(name):
    layers, side, change = ZOO[name]
    options = {"init_weights": False} if name == "googlenet" else {}
    module = import_torchvision().models.get_model(name, weights=None, **options)
    compare(module, layers, (side, side), change)
