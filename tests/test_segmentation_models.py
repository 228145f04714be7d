"""Segmentation nets and detectors: a class over its pixels or over a mask, or any function of the output."""

import numpy as np
import pytest
import torch
from torch import nn

import vizkit
from tests.rewrite import lively
from vizkit.errors import UsageError


@pytest.fixture(scope="module")
def lraspp():
    model = vizkit.load_model("lraspp_mobilenet_v3_large", random_weights=True, device="cpu")
    lively(model.module)
    return model


def test_torchvisions_segmentation_models_load_with_their_labels(lraspp, photo):
    assert lraspp.labels[:2] == ("__background__", "aeroplane")
    assert len(lraspp.labels) == 21
    assert lraspp.preprocessing.size is None
    prepared = lraspp.prepare(photo)  # 90 x 60 px
    assert prepared.pixels.shape == (3, 520, 780)
    assert prepared.box == (0, 0, 90, 60)


@pytest.mark.parametrize("name", ["fcn_resnet50", "deeplabv3_mobilenet_v3_large"])
def test_published_weights_fit_the_built_net(name):
    with torch.device("meta"):
        module = vizkit.zoo.find(name).build(None)
    assert any(key.startswith("aux_classifier") for key in module.state_dict())


@pytest.mark.parametrize("method", ["saliency", "guided_backprop", "grad_cam"])
def test_a_class_over_its_pixels_is_explained(lraspp, method):
    pixels = torch.rand(3, 64, 96, generator=torch.Generator().manual_seed(0))
    lraspp.module.eval()
    with torch.no_grad():
        output = lraspp(pixels[None])[0]
    winners = output.argmax(0)
    index = int(winners.flatten().mode().values)
    result = getattr(vizkit, method)(lraspp, pixels, target=index)
    assert result.values.shape == (64, 96)
    assert bool(result.values.any())
    assert result.target_score == pytest.approx(float(output[index][winners == index].mean()), rel=1e-4)
    share = float((winners == index).float().mean())
    assert f"in {100 * share:.1f} % of the picture" in result.provenance.target


def test_a_mask_chooses_the_pixels(lraspp, tmp_path):
    pixels = torch.rand(3, 64, 96, generator=torch.Generator().manual_seed(0))
    mask = np.zeros((64, 96), bool)
    mask[10:20, 30:50] = True
    with torch.no_grad():
        output = lraspp(pixels[None])[0]
    result = vizkit.saliency(lraspp, pixels, target=vizkit.region(mask, "dog"))
    dog = lraspp.labels.index("dog")
    assert result.target_score == pytest.approx(float(output[dog][torch.from_numpy(mask)].mean()), rel=1e-4)
    assert result.provenance.target.startswith("dog in 3.3 %")
    np.save(tmp_path / "m.npy", mask)
    same = vizkit.saliency(lraspp, pixels, target=f"dog in {tmp_path / 'm.npy'}")
    assert torch.equal(same.values, result.values)
    with pytest.raises(UsageError, match="segmentation"):
        vizkit.saliency(
            nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), torch.rand(3, 2, 2), target=np.ones((2, 2))
        )


class Detector(nn.Module):
    """Like torchvision's: a list of dicts, one an image."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 8, stride=8)

    def forward(self, x):
        maps = self.conv(x).flatten(2)
        return [{"scores": m.amax(1).sigmoid(), "labels": m.argmax(1)} for m in maps]


def test_detectors_are_explained_by_a_function(pixels):
    torch.manual_seed(0)
    net = Detector()
    score = lambda out: torch.stack([d["scores"][1] for d in out])  # noqa: E731
    results = vizkit.saliency(net, pixels, target=score)
    for n, result in enumerate(results):
        leaf = pixels[n : n + 1].clone().requires_grad_()
        (expected,) = torch.autograd.grad(net(leaf)[0]["scores"][1], leaf)
        torch.testing.assert_close(result.attribution, expected[0])
    alone = vizkit.saliency(net, pixels, target=lambda out: out[0]["scores"][1], samples=2)
    assert len(alone) == 2
    with pytest.raises(UsageError, match="the target function fails"):
        vizkit.saliency(net, pixels[0], target=lambda out: out["scores"])
