"""Saliency: equal to the definition and to Captum, on hostile models too, with nothing left behind."""

import pytest
import torch
from torch import nn

import vizkit
from tests.conftest import TinyNet
from vizkit.errors import ImageError, ModelError, UsageError, WeightsError
from vizkit.methods.saliency import over_channels
from vizkit.zoo.torchvision_models import import_torchvision, models

import_torchvision()

NETS = [
    ("resnet18", 64),
    ("vgg11_bn", 64),
    ("googlenet", 64),
    ("inception_v3", 128),
    ("densenet121", 64),
    ("mobilenet_v2", 64),
    ("squeezenet1_1", 64),
    ("shufflenet_v2_x1_0", 64),
]


def captums(net, pixels, target):
    captum = pytest.importorskip("captum.attr", reason="needs the extra test (captum)")
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return (
            captum.Saliency(net).attribute(pixels.clone().requires_grad_(), target=target, abs=False).detach()
        )


def assert_same(ours, theirs):
    scale = theirs.abs().max()
    assert scale > 0
    assert (ours - theirs).abs().max() <= 1e-6 * scale


@pytest.mark.parametrize(("name", "size"), NETS)
def test_saliency_is_captums_on_torchvision(name, size):
    torch.manual_seed(0)
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    net = models().get_model_builder(name)(weights=None, **options).eval()
    pixels = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    results = vizkit.saliency(net, pixels, target=[3, 500])
    for k, target in enumerate((3, 500)):
        theirs = captums(net, pixels, target)
        for i in range(2):
            assert_same(results[2 * i + k].attribution, theirs[i])
            assert_same(results[2 * i + k].values, theirs[i].abs().amax(0))


def test_saliency_is_captums_on_timm():
    timm = pytest.importorskip("timm", reason="needs the extra timm")
    torch.manual_seed(0)
    net = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    pixels = torch.rand(1, 3, 96, 96)
    result = vizkit.saliency(net, pixels, target=7)[0]
    assert_same(result.attribution, captums(net, pixels, 7)[0])


def test_saliency_on_the_default_model_is_the_gradient_to_the_pixels(lite0):
    pixels = torch.rand(3, 224, 224)
    result = vizkit.saliency(lite0, pixels, target="tabby")
    leaf = pixels[None].clone().requires_grad_()
    normalised = (leaf - 127 / 255) / (128 / 255)
    (expected,) = torch.autograd.grad(lite0.module(normalised)[0, 281], leaf)
    assert_same(result.attribution, expected[0])
    assert result.target_index == 281
    assert result.provenance.target == "tabby"


def test_over_channels():
    attribution = torch.tensor([[[[1.0, -5.0]], [[2.0, 3.0]], [[-4.0, 1.0]]]])
    assert over_channels(attribution, signed=False).tolist() == [[[4.0, 5.0]]]
    assert over_channels(attribution, signed=True).tolist() == [[[-1.0, -1.0]]]


def test_signed_and_times_input(tiny, pixels):
    plain = vizkit.saliency(tiny, pixels[0], target=1)
    product = vizkit.saliency(tiny, pixels[0], target=1, times_input=True, signed=True)
    torch.testing.assert_close(product.attribution, plain.attribution * pixels[0])
    torch.testing.assert_close(product.values, (plain.attribution * pixels[0]).sum(0))
    assert product.signed
    assert not plain.signed
    assert plain.values.min() >= 0


def test_a_batch_equals_one_by_one_and_shapes_may_differ(tiny, pixels):
    other = torch.rand(3, 20, 28)
    together = vizkit.saliency(tiny, [*pixels, other, pixels[0]])
    for result, image in zip(together, [*pixels, other, pixels[0]], strict=True):
        alone = vizkit.saliency(tiny, image)
        torch.testing.assert_close(result.values, alone.values, rtol=1e-5, atol=1e-7)
        assert result.provenance.target == alone.provenance.target
        assert result.values.shape == image.shape[1:]


def test_one_gives_one_and_sequences_give_lists_images_first(tiny, pixels):
    assert isinstance(vizkit.saliency(tiny, pixels[0]), vizkit.Heatmap)
    assert len(vizkit.saliency(tiny, pixels)) == 2
    assert len(vizkit.saliency(tiny, pixels[0], target=[0, 1, 2])) == 3
    both = vizkit.saliency(tiny, [pixels[0], pixels[1]], target=[0, 1])
    assert [r.target_index for r in both] == [0, 1, 0, 1]
    torch.testing.assert_close(both[3].attribution, vizkit.saliency(tiny, pixels[1], target=1).attribution)


@pytest.mark.parametrize("average", ["smoothgrad", "vargrad", "squaregrad"])
def test_noisy_copies_are_averaged_as_their_papers_say(tiny, pixels, average):
    result = vizkit.saliency(
        tiny, pixels[0], target=2, samples=7, noise=0.2, seed=5, batch=3, average=average
    )
    net = tiny.eval()
    deviation = 0.2 * float(pixels[0].max() - pixels[0].min())
    gradients = []
    for k in range(7):
        noise = torch.randn((3, 32, 32), generator=torch.Generator().manual_seed(5 * 1_000_003 + k))
        leaf = (pixels[0] + deviation * noise)[None].requires_grad_()
        gradients.append(torch.autograd.grad(net(leaf)[0, 2], leaf)[0][0])
    stacked = torch.stack(gradients)
    expected = {
        "smoothgrad": stacked.mean(0),
        "vargrad": stacked.var(0, correction=0),
        "squaregrad": stacked.square().mean(0),
    }[average]
    torch.testing.assert_close(result.attribution, expected, rtol=1e-4, atol=1e-7)


def test_smoothgrad_repeats_by_seed_depends_on_it_and_not_on_the_batch(tiny, pixels):
    first, again, other = (vizkit.saliency(tiny, pixels[1], samples=4, seed=s).values for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    in_batch = vizkit.saliency(tiny, pixels, samples=4, seed=1)[1].values
    torch.testing.assert_close(in_batch, first, rtol=1e-5, atol=1e-7)


def test_smoothgrad_explains_the_clean_pictures_class(pixels):
    class Fickle(nn.Module):  # the top class of a noisy copy is another
        def forward(self, x):
            rough = (x[:, :, 1:] - x[:, :, :-1]).abs().mean((1, 2, 3))
            return torch.stack([0.1 + 0 * rough, rough], 1)

    smooth = torch.full((3, 16, 16), 0.5)
    smooth[0, 0, 0] = 1.0
    result = vizkit.saliency(Fickle(), smooth, samples=3)
    assert result.target_index == 0
    assert not result.values.any()


def test_progress_is_reported_to_the_end(tiny, pixels):
    for options in ({}, {"samples": 5}):
        steps = []
        vizkit.saliency(tiny, pixels, on_step=lambda *s, steps=steps: steps.append(s), **options)
        assert steps[-1][0] == steps[-1][1] > 0
        assert steps == sorted(steps)


# --- nothing is left behind ---


def test_nothing_is_left_behind(tiny, pixels, trace):
    tiny.train()
    tiny.conv2.eval()
    tiny.fc.weight.requires_grad_(False)
    before = trace(tiny)
    given = pixels.clone()
    vizkit.saliency(tiny, given, target=["conv1:2", 1, "relu#1:0"], samples=2)
    assert trace(tiny) == before
    assert torch.equal(given, pixels)
    assert not given.requires_grad


@pytest.mark.parametrize("call", range(0, 30, 3))
def test_nothing_is_left_behind_when_an_operator_fails(tiny, pixels, trace, call):
    """An exception injected at the n-th operator call."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Failing(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            Failing.count += 1
            if Failing.count == 12 + call:
                raise ZeroDivisionError
            return function(*args, **(kwargs or {}))

    tiny.train()
    before = trace(tiny)
    with pytest.raises((ZeroDivisionError, ModelError)), Failing():  # inside the net it is the net's failure
        vizkit.saliency(tiny, pixels[0], target="conv2:1")
    assert trace(tiny) == before


# --- hostile models ---


class Detaching(nn.Module):
    def forward(self, x):
        return x.detach().mean((2, 3))


class Ignoring(nn.Module):
    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.ones(3))

    def forward(self, x):
        return self.bias.expand(len(x), 3).clone() + 0 * torch.rand(1, requires_grad=True)


class Broken(nn.Module):
    def forward(self, x):
        return x.mean((2, 3)) * float("nan")


class Root(nn.Module):
    def forward(self, x):
        return (x * 0).sum((2, 3)).sqrt()  # an infinite gradient


class Crashing(nn.Module):
    def forward(self, x):
        return self.layr4(x)


class Maps(nn.Module):
    def forward(self, x):
        return x.flatten(2) * 2


@pytest.mark.parametrize(
    ("net", "error", "words"),
    [
        (Detaching(), ModelError, "has no gradient"),
        (Ignoring(), ModelError, "does not depend on the pixels"),
        (Broken(), ModelError, "NaN or infinite"),
        (Root(), ModelError, "NaN or infinite"),
        (Crashing(), ModelError, "Crashing fails on an input of shape (1, 3, 32, 32)"),
        (Maps(), ModelError, "not (N, classes)"),
    ],
)
def test_models_that_cannot_be_explained_say_why(net, error, words, pixels):
    with pytest.raises(error) as caught:
        vizkit.saliency(net, pixels[0])
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["alexnet", "vgg11"])
def test_a_picture_that_is_too_small_is_told_the_size(name):
    net = models().get_model_builder(name)(weights=None)
    with pytest.raises(ImageError, match=r"the picture is 8x8 px; .* needs at least (\d+) px") as caught:
        vizkit.saliency(net, torch.rand(3, 8, 8))
    size = int(str(caught.value).split("at least ")[1].split()[0])
    vizkit.saliency(net, torch.rand(3, size, size))
    with pytest.raises(ImageError):
        vizkit.saliency(net, torch.rand(3, size - 1, size - 1))


def test_half_precision_and_other_channels_and_no_parameters():
    assert vizkit.saliency(TinyNet().bfloat16(), torch.rand(3, 16, 16)).values.dtype == torch.float32
    result = vizkit.saliency(TinyNet(channels=7), torch.rand(7, 16, 16))
    assert result.attribution.shape == (7, 16, 16)
    assert result.picture(width=300).width == 300

    class Mean(nn.Module):
        def forward(self, x):
            return x.mean((2, 3))

    torch.testing.assert_close(
        vizkit.saliency(Mean(), torch.rand(3, 4, 4)).values, torch.full((4, 4), 1 / 16)
    )


def test_a_map_of_zeros_is_said():
    class Constant(nn.Module):
        def forward(self, x):
            return 0 * x.mean((2, 3))

    result = vizkit.saliency(Constant(), torch.rand(3, 8, 8))
    assert any("zero everywhere" in w for w in result.provenance.warnings)
    result.picture(width=300)


def test_callables_reach_any_output():
    class Detector(nn.Module):
        def forward(self, x):
            return [{"boxes": i.sum((1, 2))[None], "scores": i.mean()[None]} for i in x]

    result = vizkit.saliency(Detector(), torch.rand(3, 8, 8), target=lambda raw: raw[0]["scores"][0])
    torch.testing.assert_close(result.values, torch.full((8, 8), 1 / 192))
    assert result.prediction == ()
    with pytest.raises(ModelError, match="without a tensor"):
        vizkit.saliency(Detector(), torch.rand(3, 8, 8))


def test_a_function_that_gives_one_number_is_called_with_one_image_at_a_time(tiny, pixels):
    together = vizkit.saliency(tiny, pixels, target=lambda raw: raw[:, 1].mean())
    alone = [vizkit.saliency(tiny, image, target=1) for image in pixels]
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one.values, other.values)
        assert one.target_score == pytest.approx(other.target_score, abs=1e-6)
    with pytest.raises(UsageError, match=r"a tensor \(2,\), not \(2, 5\)"):
        vizkit.saliency(tiny, pixels, target=lambda raw: raw)


def test_a_failure_that_is_not_the_size_is_not_called_so(pixels):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    net[0].register_full_backward_hook(lambda *_: None)
    with pytest.raises(ModelError, match="Sequential fails on an input of shape"):
        vizkit.saliency(net, pixels[0])


def test_what_forward_changes_in_the_module_is_taken_back(pixels, trace):
    class Restless(TinyNet):
        def forward(self, x):
            self.register_buffer("late", torch.ones(1))
            self.seen = x.detach()
            self.extra = nn.Linear(2, 2)
            self.conv2.weight = nn.Parameter(self.conv2.weight.detach() * 1)
            self.register_forward_hook(lambda *_: None)
            return super().forward(x)

    net = Restless()
    before = trace(net)
    vizkit.saliency(net, pixels[0])
    assert trace(net) == before


@pytest.mark.filterwarnings("ignore")  # TorchScript is on its way out
def test_modules_that_cannot_be_kept_as_they_are_are_refused(pixels):
    traced = torch.jit.trace(TinyNet().eval(), torch.rand(1, 3, 16, 16))
    for net, words in ((traced, "TorchScript"), (nn.Sequential(nn.LazyConv2d(3, 3)), "lazy layer")):
        with pytest.raises(ModelError, match=words):
            vizkit.saliency(net, pixels[0])


def test_ties_are_broken_alike_everywhere():
    class Even(nn.Module):
        def forward(self, x):
            return x.mean((1, 2, 3))[:, None].expand(-1, 9) * 1

    result = vizkit.saliency(Even(), torch.rand(3, 8, 8))
    assert [p.index for p in result.prediction] == [0, 1, 2, 3, 4]
    assert result.target_index == 0


def test_the_number_of_labels_must_fit(tiny, pixels):
    with pytest.raises(UsageError, match="2 class names for a model with 5 classes"):
        vizkit.saliency(vizkit.wrap(tiny, labels=["a", "b"]), pixels[0])


def test_memory_running_out_halves_the_batch():
    class Limited(TinyNet):
        largest = 0

        def forward(self, x):
            if len(x) > 1:
                raise RuntimeError(
                    "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"
                )
            Limited.largest = max(Limited.largest, len(x))
            return super().forward(x)

    images = torch.rand(5, 3, 16, 16)
    assert len(vizkit.saliency(Limited(), images, batch=4)) == 5
    assert Limited.largest == 1

    class Full(nn.Module):
        def forward(self, x):
            raise RuntimeError("CUDA out of memory. Tried to allocate 9 GiB")

    with pytest.raises(ModelError, match="out of memory with one picture at a time: CUDA out of memory"):
        vizkit.saliency(Full(), images)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"samples": -1}, "at least 0"),
        ({"samples": 1.5}, "without a fraction"),
        ({"noise": float("nan")}, "0 to 10"),
        ({"batch": 0}, "at least 1"),
        ({"sampels": 3}, "did you mean 'samples'"),
        ({"noise": "much"}, "not a number"),
        ({"signed": "yes"}, "not True or False"),
        ({"seed": -1}, "seed=-1 is out of range"),
        ({"target": []}, "list of targets is empty"),
    ],
)
def test_options_are_checked(tiny, pixels, options, words):
    with pytest.raises(UsageError) as caught:
        vizkit.saliency(tiny, pixels[0], **options)
    assert words in str(caught.value)


def test_models_are_taken_by_name_and_as_modules(pixels):
    with pytest.raises(UsageError, match="did you mean"):
        vizkit.saliency("resnet19", pixels[0])
    with pytest.raises(WeightsError):
        vizkit.saliency("resnet18", pixels[0])
    with pytest.raises(UsageError, match="not int"):
        vizkit.saliency(3, pixels[0])
