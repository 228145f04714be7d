"""Class activation maps: the maths against slow loops and Captum, the layer's choice on every kind of net."""

import captum.attr
import numpy as np
import pytest
import torch
from torch import nn

import vizkit
from tests.rewrite import lively
from vizkit import cams
from vizkit.errors import ModelError, UsageError
from vizkit.spatial import as_maps, token_grid
from vizkit.zoo.torchvision_models import import_torchvision

ALL = ["gradcam", "gradcam++", "hirescam", "layercam", "xgradcam", "eigencam", "scorecam", "ablationcam"]


@pytest.fixture
def maps():
    generator = torch.Generator().manual_seed(0)
    return torch.rand(2, 5, 3, 4, generator=generator), torch.randn(2, 5, 3, 4, generator=generator)


def slow(variant, a, g):
    """One image, written out from the papers' sums."""
    k, h, w = a.shape
    out = np.zeros((h, w))
    for c in range(k):
        for y in range(h):
            for x in range(w):
                weight = {
                    "gradcam": lambda c=c: g[c].sum() / (h * w),
                    "xgradcam": lambda c=c: sum(
                        a[c, i, j] / a[c].sum() * g[c, i, j] for i in range(h) for j in range(w)
                    ),
                    "hirescam": lambda c=c, y=y, x=x: g[c, y, x],
                    "layercam": lambda c=c, y=y, x=x: max(g[c, y, x], 0),
                    "gradcam++": lambda c=c: sum(
                        g[c, i, j] ** 2
                        / (2 * g[c, i, j] ** 2 + a[c].sum() * g[c, i, j] ** 3)
                        * max(g[c, i, j], 0)
                        for i in range(h)
                        for j in range(w)
                    ),
                }[variant]()
                out[y, x] += weight * a[c, y, x]
    return out


@pytest.mark.parametrize("variant", ["gradcam", "gradcam++", "hirescam", "layercam", "xgradcam"])
def test_the_sums_are_those_of_the_papers(variant, maps):
    a, g = (m.double() for m in maps)
    function = {"gradcam++": cams.gradcam_plus_plus}.get(variant) or getattr(cams, variant)
    for n, result in enumerate(function(a, g)):
        np.testing.assert_allclose(result, slow(variant, a[n].numpy(), g[n].numpy()), rtol=1e-9)


def test_zero_maps_and_gradients_give_zero_not_nan(maps):
    a, g = maps
    for function in (cams.gradcam_plus_plus, cams.xgradcam):
        assert not bool(function(a * 0, g).any())
        assert not bool(function(a, g * 0).any())


def test_eigencam_is_numpys_first_principal_component(maps):
    a = maps[0]
    for n, result in enumerate(cams.eigencam(a)):
        flat = a[n].flatten(1).T.numpy()
        right = np.linalg.svd(flat)[2][0]
        expected = (flat @ right).reshape(3, 4)
        np.testing.assert_allclose(result, expected * np.sign(expected.sum()), rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "layer"), [("resnet18", "layer4"), ("vgg11_bn", "features.27"), ("googlenet", "inception5b")]
)
def test_captum_agrees_on_grad_cam_and_guided_grad_cam(name, layer):
    module = lively(vizkit.load_model(name, random_weights=True, device="cpu").module).double()
    pixels = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(2))
    target, part = pixels.double(), module.get_submodule(layer)
    peer = captum.attr.LayerGradCam(module, part)
    signed = name == "googlenet"  # this random one has no positive part
    theirs = peer.attribute(target, target=3, relu_attributions=not signed).detach()
    theirs = captum.attr.LayerAttribution.interpolate(theirs, (96, 96), "bilinear")[:, 0]
    for ours, wanted in zip(
        vizkit.grad_cam(module, pixels, target=3, layer=layer, signed=signed), theirs, strict=True
    ):
        assert float((ours.values - wanted).norm() / wanted.norm()) < 1e-5
        assert ours.provenance.layer == ours.as_dict()["layer"] == layer
    if signed:
        return  # there Captum's guided backprop is the plain gradient
    guided = captum.attr.GuidedGradCam(module, part)
    with pytest.warns(UserWarning, match="hooks"):
        theirs = guided.attribute(target.requires_grad_(), target=3, interpolate_mode="bilinear").detach()
    for ours, wanted in zip(
        vizkit.guided_grad_cam(module, pixels, target=3, layer=layer), theirs, strict=True
    ):
        assert float((ours.attribution - wanted).norm() / wanted.norm()) < 1e-5


def test_scorecam_and_ablationcam_equal_slow_loops(tiny, pixels):
    tiny.eval()
    model = vizkit.wrap(tiny)
    image, layer = pixels[0], "conv2"
    with vizkit.capture(tiny, [layer]) as captured, torch.no_grad():
        clean = tiny(pixels[:1])[0]
    maps = captured[layer][0].detach()
    score = torch.zeros(16, 16)
    ablation = torch.zeros(16, 16)
    with torch.no_grad():
        black = tiny(torch.zeros(1, 3, 32, 32)).softmax(1)[0, 2]
        for k in range(8):
            big = nn.functional.interpolate(maps[None, k : k + 1], (32, 32), mode="bilinear")[0, 0]
            mask = (big - big.min()) / (big.max() - big.min())
            score += (tiny((image * mask)[None]).softmax(1)[0, 2] - black) * maps[k]
            hook = tiny.conv2.register_forward_hook(
                lambda _m, _i, o, k=k: torch.cat([o[:, :k], o[:, k : k + 1] * 0, o[:, k + 1 :]], 1)
            )
            without = tiny(image[None])[0, 2]
            hook.remove()
            ablation += (clean[2] - without) / clean[2].abs() * maps[k]
    for variant, wanted in (("scorecam", score), ("ablationcam", ablation)):
        big = nn.functional.interpolate(wanted[None, None], (32, 32), mode="bilinear")[0, 0]
        options = {"target": 2, "layer": layer, "variant": variant, "signed": True, "batch": 3}
        torch.testing.assert_close(vizkit.grad_cam(model, image, **options).values, big, rtol=1e-4, atol=1e-6)


class Joined(nn.Module):
    """What lies below the layer is joined to it by cat: one picture cannot stand for several."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 6, 3, padding=1)
        self.fc = nn.Linear(10, 3)

    def forward(self, x):
        below = self.first(x)
        return self.fc(torch.cat([below, self.second(below.relu())], 1).relu().mean((2, 3)))


def test_ablation_falls_back_to_whole_batches(pixels):
    torch.manual_seed(0)
    net = Joined().eval()
    result = vizkit.grad_cam(net, pixels[0], target=1, layer="second", variant="ablationcam", signed=True)
    expected = torch.zeros(32, 32)
    with torch.no_grad():
        clean = net(pixels[:1])[0, 1]
        maps = net.second(net.first(pixels[:1]).relu())[0]
        for k in range(6):
            weight = net.second.weight[k].clone(), net.second.bias[k].clone()
            net.second.weight[k], net.second.bias[k] = 0, 0
            expected += (clean - net(pixels[:1])[0, 1]) / clean.abs() * maps[k]
            net.second.weight[k], net.second.bias[k] = weight
    torch.testing.assert_close(result.values, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("variant", ALL)
def test_every_variant_is_finite_unsigned_by_default_and_leaves_nothing(variant, tiny, pixels, trace):
    tiny.train()
    before = trace(tiny)
    for signed in (False, True):
        results = vizkit.grad_cam(tiny, pixels, target=[0, 3], variant=variant, signed=signed)
        assert len(results) == 4
        for result in results:
            assert result.values.shape == (32, 32)
            assert signed or float(result.values.min()) >= 0
            assert result.provenance.layer == "relu"
            assert result.details["grid"] == [16, 16]
    assert trace(tiny) == before


def test_only_the_most_active_channels(tiny, pixels):
    told = []
    vizkit.grad_cam(
        tiny, pixels[0], variant="scorecam", channels=3, on_step=lambda *step: told.append(step), batch=2
    )
    assert told == [(2, 3), (3, 3)]


CHOICES = {
    "resnet18": "layer4",
    "vgg11": "features.19",
    "alexnet": "features.11",
    "densenet121": "features",
    "squeezenet1_1": "classifier.2",
    "googlenet": "inception5b",
    "mobilenet_v3_small": "features",
    "shufflenet_v2_x0_5": "conv5",
    "mnasnet0_5": "layers",
    "regnet_x_400mf": "trunk_output",
    "efficientnet_b0": "features",
    "convnext_tiny": "features",
    "swin_t": "permute",
    "vit_b_32": "encoder.layers.encoder_layer_11.ln_1",
}


@pytest.mark.parametrize("name", CHOICES)
def test_the_layer_is_chosen_by_itself(name):
    model = vizkit.load_model(name, random_weights=True, device="cpu")
    with torch.no_grad():
        for parameter in model.module.parameters():
            if parameter.ndim > 1 and not bool(parameter.any()):
                parameter.normal_(std=0.02)  # the head of a vision transformer starts at zero
    size = 224 if name == "vit_b_32" else 96
    result = vizkit.grad_cam(model.module, torch.rand(3, size, size), signed=True)
    assert result.provenance.layer == CHOICES[name]
    assert bool(result.values.any())
    if name == "vit_b_32":
        assert result.details["grid"] == [7, 7]


def test_the_embedded_default_and_timm(lite0, sample):
    result = vizkit.grad_cam(lite0, sample("chelsea.png"))
    assert result.provenance.layer == "_act1"
    assert result.details["grid"] == [7, 7]
    import_torchvision()
    timm = pytest.importorskip("timm", reason="timm is not installed")
    deit = timm.create_model("deit_tiny_distilled_patch16_224", pretrained=False).eval()
    result = vizkit.grad_cam(deit, torch.rand(3, 224, 224))
    assert result.provenance.layer == "blocks.11.norm1"
    assert result.details["grid"] == [14, 14]


def test_the_choice_is_remembered_per_size_and_forgotten_with_the_layer(tiny, pixels):
    runs = []
    handle = tiny.register_forward_hook(lambda *_: runs.append(1))
    vizkit.grad_cam(tiny, pixels[0])
    first = len(runs)
    vizkit.grad_cam(tiny, pixels[0])
    assert len(runs) - first == 1
    handle.remove()
    tiny.relu = nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU())
    assert vizkit.grad_cam(tiny, pixels[0]).provenance.layer == "relu"


def test_positions_are_recognised_or_refused():
    size = (224, 224)
    assert as_maps(torch.zeros(1, 7, 7, 768), size).shape == (1, 768, 7, 7)
    assert as_maps(torch.zeros(1, 768, 7, 7), size).shape == (1, 768, 7, 7)
    assert as_maps(torch.zeros(1, 12, 197, 64), size) is None
    assert as_maps(torch.zeros(1, 512, 1, 1), size) is None
    assert as_maps(torch.zeros(1, 512), size) is None
    assert as_maps(torch.zeros(1, 32, 10, 20), (160, 320)).shape == (1, 32, 10, 20)
    assert token_grid(197, size) == (14, 14)
    assert token_grid(198, size) == (14, 14)
    assert token_grid(201, size) == (14, 14)
    assert token_grid(50, (224, 448)) == (5, 10)
    assert token_grid(201, (160, 320), [(10, 20)]) == (10, 20)
    assert token_grid(7, (224, 224), []) == (2, 2)
    tokens = torch.arange(2 * 17 * 3.0).reshape(2, 17, 3)
    maps = as_maps(tokens, (64, 64))
    assert torch.equal(maps[1, :, 2, 3], tokens[1, 1 + 2 * 4 + 3])


def test_layers_without_positions_are_refused(tiny, pixels):
    with pytest.raises(UsageError, match="'fc' gives 5 numbers, in which no grid"):
        vizkit.grad_cam(tiny, pixels[0], layer="fc")
    with pytest.raises(UsageError, match="did you mean 'conv1'"):
        vizkit.grad_cam(tiny, pixels[0], layer="convv1")
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 4))
    with pytest.raises(ModelError, match="no layer of Sequential has positions"):
        vizkit.grad_cam(flat, pixels[0])
    with pytest.raises(ModelError, match="does not depend on"):
        vizkit.grad_cam(tiny, pixels[0], target="conv1:2", layer="conv2")


def test_the_call_of_a_reused_layer_can_be_named(tiny, pixels):
    first = vizkit.grad_cam(tiny, pixels[0], layer="relu#1", target=1)
    last = vizkit.grad_cam(tiny, pixels[0], layer="relu#2", target=1)
    assert not torch.equal(first.values, last.values)
    assert torch.equal(last.values, vizkit.grad_cam(tiny, pixels[0], layer="relu", target=1).values)
    with pytest.raises(UsageError, match="'relu#3' does not run"):
        vizkit.grad_cam(tiny, pixels[0], layer="relu#3")
