"""Models by name and wrapped: the port, the weights, the preprocessing, the errors."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import vizkit
from vizkit.errors import ImageError, ModelError, UsageError, WeightsError
from vizkit.zoo import efficientnet_lite, embedded, torchvision_models

torchvision_models.import_torchvision()

EXPECTED = {  # what the published weights say of well-known photographs
    "coffee.png": ("espresso", 0.95),
    "chelsea.png": ("tiger cat", 0.40),
    "rocket.jpg": ("missile", 0.27),
    "motorcycle_left.png": ("moped", 0.54),
    "china.jpg": ("palace", 0.30),
    "flower.jpg": ("daisy", 0.32),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_the_port_predicts_what_the_weights_are_known_to_predict(lite0, sample, name):
    label, probability = EXPECTED[name]
    best = vizkit.saliency(lite0, sample(name)).prediction[0]
    assert best.label == label
    assert best.probability == pytest.approx(probability, abs=0.012)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("efficientnet_lite0", 4_652_008), ("efficientnet_lite1", 5_416_680), ("efficientnet_lite2", 6_092_072)],
)
def test_published_parameter_counts(name, parameters):
    # TensorFlow's model card: 4.7 M, 5.4 M, 6.1 M
    assert sum(p.numel() for p in efficientnet_lite.build(name).parameters()) == parameters


def test_layer_shapes(lite0):
    shapes = {r.name: r.shape for r in vizkit.list_layers(lite0.module, (3, 224, 224), fields=False)}
    assert shapes["_conv_stem"] == (32, 112, 112)
    assert shapes["_blocks.0._project_conv"] == (16, 112, 112)
    assert shapes["_blocks.2._project_conv"] == (24, 56, 56)
    assert shapes["_blocks.4._project_conv"] == (40, 28, 28)
    assert shapes["_blocks.7._project_conv"] == (80, 14, 14)
    assert shapes["_blocks.10._project_conv"] == (112, 14, 14)
    assert shapes["_blocks.15._project_conv"] == (320, 7, 7)
    assert shapes["_conv_head"] == (1280, 7, 7)
    assert shapes["_fc"] == (1000,)


def test_the_embedded_net_is_traceable_and_takes_odd_sizes(lite0):
    traced = torch.fx.symbolic_trace(lite0.module)
    for size in (224, 225, 97):
        x = torch.rand(1, 3, size, size + 4)
        with torch.no_grad():
            torch.testing.assert_close(traced(x), lite0.module(x), rtol=0, atol=0)


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [7, 8])
def test_same_padding_is_tensorflows(kernel, stride, size):
    conv = efficientnet_lite.SamePadConv(2, 3, kernel, stride, bias=False)
    x = torch.randn(1, 2, size, size)
    out = -(-size // stride)
    total = max((out - 1) * stride + kernel - size, 0)  # TensorFlow's documented rule
    before, after = total // 2, total - total // 2
    expected = nn.functional.conv2d(
        nn.functional.pad(x, (before, after, before, after)), conv.weight, None, stride
    )
    torch.testing.assert_close(conv(x), expected)


def test_timms_architecture_gives_the_same_logits(lite0):
    timm = pytest.importorskip("timm", reason="needs the extra timm")
    other = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    # both list their tensors in forward order
    ours = [v for k, v in lite0.module.state_dict().items() if "num_batches" not in k]
    theirs = [k for k in other.state_dict() if "num_batches" not in k]
    other.load_state_dict(dict(zip(theirs, ours, strict=True)), strict=False)
    x = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(lite0.module(x), other(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["efficientnet_lite1", "efficientnet_lite2"])
def test_the_larger_members(name, sample):
    if not embedded.is_installed(name):
        pytest.skip(f"needs the extra lite ({name})")
    best = vizkit.saliency(vizkit.load_model(name, device="cpu"), sample("coffee.png")).prediction[0]
    assert best.label == "espresso"
    assert best.probability > 0.5


def test_labels_are_torchvisions():
    weights = torchvision_models.models().get_model_weights("resnet50").DEFAULT
    assert list(embedded.imagenet_labels()) == weights.meta["categories"]


# --- preprocessing ---


@pytest.mark.parametrize("size", [(300, 200), (200, 300), (501, 333), (231, 1000), (60, 40)])
def test_preprocessing_is_torchvisions(size):
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms._presets import ImageClassification

    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 255, (12, 16, 3), dtype=np.uint8))
    picture = coarse.resize(size, Image.Resampling.BICUBIC)
    for mode in (InterpolationMode.BICUBIC, InterpolationMode.BILINEAR):
        preset = ImageClassification(
            crop_size=224, resize_size=256, interpolation=mode, mean=(0, 0, 0), std=(1, 1, 1)
        )
        ours = vizkit.wrap(nn.Identity(), preprocess=preset).prepare(picture)
        difference = (ours.pixels - preset(picture)).abs()
        assert difference.max() <= 2.01 / 255  # one resize with a box instead of two roundings
        assert difference.mean() <= 0.1 / 255
        assert ours.pixels.shape == (3, 224, 224)


def test_the_box_is_where_the_crop_comes_from():
    model = vizkit.wrap(nn.Identity(), size=224, resize=256)
    ramp = np.tile(np.linspace(0, 255, 600).round()[None], (400, 1)).astype(np.uint8)
    prepared = model.prepare(Image.fromarray(np.stack([ramp] * 3, 2)))
    left, top, right, bottom = prepared.box
    assert (top, bottom) == (pytest.approx(25), pytest.approx(375))
    assert right - left == pytest.approx(350, abs=0.6)
    # a pixel's value is its position in the photograph
    seen = prepared.pixels[0, 100] * 600
    expected = left + (torch.arange(224) + 0.5) * (right - left) / 224
    assert (seen - expected).abs().max() < 2.5


def test_large_photographs_are_kept_smaller_with_their_box():
    model = vizkit.wrap(nn.Identity(), size=64)
    prepared = model.prepare(Image.new("RGB", (4096, 2048)))
    assert prepared.photo.size == (2048, 1024)
    assert prepared.box == pytest.approx((512, 0, 1536, 1024))


def test_tensors_of_the_input_size_are_unchanged_others_are_resized():
    model = vizkit.wrap(nn.Conv2d(3, 2, 3), size=32, resize=36)
    given = torch.rand(3, 32, 32) * 7 - 3
    assert torch.equal(model.prepare(given).pixels, given)
    assert model.prepare(torch.rand(3, 50, 80)).pixels.shape == (3, 32, 32)
    assert torch.equal(
        vizkit.wrap(nn.Conv2d(5, 2, 3)).prepare(torch.ones(5, 9, 7)).pixels, torch.ones(5, 9, 7)
    )
    bytes_ = torch.full((3, 32, 32), 255, dtype=torch.uint8)
    assert torch.equal(model.prepare(bytes_).pixels, torch.ones(3, 32, 32))


def test_a_grey_model_takes_a_colour_photograph_and_says_so(photo):
    prepared = vizkit.wrap(nn.Conv2d(1, 2, 3)).prepare(photo)
    assert prepared.pixels.shape == (1, 60, 90)
    assert any("grey" in w for w in prepared.warnings)
    with pytest.raises(ImageError, match=r"has 3 channels, Sequential takes 4; give a tensor \(4, H, W\)"):
        vizkit.saliency(nn.Sequential(nn.Conv2d(4, 2, 3), nn.AdaptiveMaxPool2d(1), nn.Flatten()), photo)
    rearranging = nn.Sequential(
        nn.PixelUnshuffle(2), nn.Conv2d(12, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    assert vizkit.saliency(rearranging, photo).attribution.shape == (3, 60, 90)


@pytest.mark.parametrize(
    ("image", "error", "words"),
    [
        (torch.zeros(32, 32), UsageError, r"\(C, H, W\)"),
        (torch.full((3, 32, 32), float("nan")), ImageError, "NaN"),
        (torch.zeros(2, 50, 50), ImageError, "2 channels, the model takes 3"),
        (np.zeros((5, 5, 3), dtype=np.float32), UsageError, "uint8"),
        (3.5, UsageError, "picture"),
    ],
)
def test_images_that_are_none(image, error, words):
    with pytest.raises(error, match=words):
        vizkit.wrap(nn.Conv2d(3, 2, 3), size=32).prepare(image)


def test_own_preprocessing():
    model = vizkit.wrap(nn.Conv2d(3, 2, 3), preprocess=lambda picture: torch.full((3, 8, 8), -1.0))
    prepared = model.prepare(Image.new("RGB", (20, 20)))
    assert prepared.pixels.shape == (3, 8, 8)
    assert any("own preprocessing" in w for w in prepared.warnings)
    with pytest.raises(UsageError, match="preprocess must give"):
        vizkit.wrap(nn.Identity(), preprocess=lambda picture: 3).prepare(Image.new("RGB", (20, 20)))


def test_normalisation_sits_in_front_of_the_net():
    model = vizkit.wrap(nn.Identity(), mean=[0.5, 0.4, 0.3], std=[0.1, 0.2, 0.3])
    x = torch.rand(2, 3, 4, 4)
    expected = (x - torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)) / torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)
    torch.testing.assert_close(model(x), expected)


# --- outputs ---


class Answers(nn.Module):
    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, x):
        return self.answer(x.flatten(1)[:, :4])


@pytest.mark.parametrize(
    ("answer", "selector", "factor"),
    [
        (lambda y: y, None, 1),
        (lambda y: (y[:, :, None], 2 * y), None, 2),
        (lambda y: {"maps": y[:, :, None], "logits": 3 * y}, None, 3),
        (lambda y: {"a": y, "b": 4 * y}, "b", 4),
        (lambda y: [y, 5 * y], 1, 5),
        (lambda y: [y, y], lambda raw: 6 * raw[0], 6),
    ],
)
def test_output_selectors(answer, selector, factor):
    x = torch.rand(2, 3, 2, 2)
    model = vizkit.wrap(Answers(answer), output=selector)
    torch.testing.assert_close(model(x), factor * x.flatten(1)[:, :4])


@pytest.mark.parametrize(
    ("answer", "selector", "words"),
    [
        (lambda y: {"logits": y}, "logit", "did you mean 'logits'"),
        (lambda y: [y], 3, "no '?3'?"),
        (lambda y: {"a": 3}, "a", "int, not a tensor"),
        (lambda y: ["x"], None, "without a tensor"),
    ],
)
def test_wrong_output_selectors(answer, selector, words):
    with pytest.raises(ModelError, match=words):
        vizkit.wrap(Answers(answer), output=selector)(torch.rand(2, 3, 2, 2))


# --- load_model ---


@pytest.mark.parametrize(
    ("name", "options", "error", "words"),
    [
        ("resnet19", {}, UsageError, "did you mean 'resnet"),
        ("efficientnet_lite9", {}, UsageError, "did you mean 'efficientnet_lite"),
        ("resnet18", {"weights": "nowhere.pt"}, UsageError, "nowhere.pt"),
        ("resnet18", {"weights": "x", "random_weights": True}, UsageError, "exclude"),
        ("efficientnet_lite0", {"classes": 7}, UsageError, "--classes goes with"),
        ("efficientnet_lite0", {"labels": ["a"]}, UsageError, "1 labels for a model with 1000"),
        ("efficientnet_lite0", {"device": "gpu"}, UsageError, "'gpu' cannot be used"),
        ("efficientnet_lite0", {"device": "cuda:77"}, UsageError, "'cuda:77' cannot be used"),
    ],
)
def test_load_model_errors(name, options, error, words):
    with pytest.raises(error) as caught:
        vizkit.load_model(name, **options)
    assert words in str(caught.value)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


def test_torchvision_weights_come_from_the_local_cache_only(cache):
    with pytest.raises(WeightsError, match=r"not on this machine: --download fetches them \(5 MB\)"):
        vizkit.load_model("squeezenet1_1")
    source = vizkit.load_model("squeezenet1_1", random_weights=True, seed=3, device="cpu")
    url = torchvision_models.models().get_model_weights("squeezenet1_1").DEFAULT.url
    torch.save(source.module.state_dict(), cache / url.rsplit("/", 1)[1])
    model = vizkit.load_model("squeezenet1_1", device="cpu")
    for name, tensor in source.module.state_dict().items():
        assert torch.equal(model.module.state_dict()[name], tensor), name
    assert model.labels == embedded.imagenet_labels()
    assert any("not the published one" in w for w in model.warnings)  # the hash in the name is another


def test_a_failed_download_is_one_clear_line(cache, monkeypatch):
    def refuse(*_args, **_options):
        raise OSError("name resolution failed")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    with pytest.raises(WeightsError, match=r"could not download .*name resolution failed; put it into"):
        vizkit.load_model("squeezenet1_1", download=True)
    assert list(cache.iterdir()) == []


def test_own_weights_with_own_classes(tmp_path):
    source = vizkit.load_model("mobilenet_v3_small", random_weights=True, classes=7, seed=5, device="cpu")
    path = tmp_path / "mine.pt"
    torch.save({"state_dict": {f"module.{k}": v for k, v in source.module.state_dict().items()}}, path)
    model = vizkit.load_model(
        "mobilenet_v3_small", weights=path, classes=7, labels=list("abcdefg"), device="cpu"
    )
    assert torch.equal(model.module.classifier[3].weight, source.module.classifier[3].weight)
    assert model.labels == tuple("abcdefg")
    assert any("module." in note for note in model.notes)
    with pytest.raises(WeightsError, match="--classes 7"):
        vizkit.load_model("mobilenet_v3_small", weights=path)


@pytest.mark.parametrize("classes", [0, 10**20, 2.5])
def test_classes_are_a_number_that_there_can_be(classes):
    with pytest.raises(UsageError, match="classes is a whole number"):
        vizkit.load_model("net:resnet9", random_weights=True, classes=classes)


def test_long_labels_are_cut(tmp_path):
    (tmp_path / "labels.txt").write_text("cat\n" + "x" * 1_000_000)
    labels = tmp_path / "labels.txt"
    model = vizkit.load_model("net:lenet5", random_weights=True, classes=2, labels=labels, device="cpu")
    assert [len(label) for label in model.labels] == [3, 200]


@pytest.mark.parametrize("wrong", [{"labels": 3}, {"labels": "cat"}, {"output": []}])
def test_wrap_names_the_argument_that_is_wrong(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        vizkit.wrap(nn.Conv2d(3, 2, 3), **wrong)
    with pytest.raises(UsageError, match="name is"):
        vizkit.load_model(None)


def test_random_weights_repeat_with_the_seed_and_leave_the_generator(trace):
    state = torch.get_rng_state()
    first, second, third = (
        vizkit.load_model("squeezenet1_1", random_weights=True, seed=s, device="cpu") for s in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert first.fingerprint.hex == second.fingerprint.hex != third.fingerprint.hex
    assert any("random weights" in w for w in first.warnings)


def test_timm_models_by_name():
    pytest.importorskip("timm", reason="needs the extra timm")
    model = vizkit.load_model("timm:convnext_atto", random_weights=True, device="cpu")
    assert model.preprocessing.size == (224, 224)
    assert model.preprocessing.mean == pytest.approx((0.485, 0.456, 0.406))
    assert model.labels is not None
    assert len(model.labels) == 1000
    with pytest.raises(UsageError, match="did you mean 'convnext_atto"):
        vizkit.load_model("timm:convnext_ato")


def test_wrap_refuses_what_is_no_module():
    with pytest.raises(UsageError, match=r"torch\.nn\.Module, not str"):
        vizkit.wrap("resnet18")
    with pytest.raises(UsageError, match="go together"):
        vizkit.wrap(nn.Identity(), mean=0.5)


def test_the_fingerprint_follows_the_weights(tiny):
    model = vizkit.wrap(tiny)
    first = model.fingerprint
    assert model.fingerprint is first
    early = first.hex
    with torch.no_grad():
        tiny.fc.weight.add_(1)
    second = model.fingerprint
    assert second is not first
    assert second.hex != early
    unread = model.fingerprint
    with torch.no_grad():
        tiny.fc.weight.sub_(1)
    assert unread.hex == second.hex  # read before the change
    third = model.fingerprint
    with torch.no_grad():
        tiny.fc.bias.add_(1)
    assert third.hex.startswith("unknown")  # not read before the change: it says so
