"""Cutting out: seeds by percentile, GrabCut on pictures whose object is known, what happens without one."""

import builtins
import json

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch import nn

import vizkit
from vizkit.errors import UsageError
from vizkit.grabcut import BACKGROUND, FOREGROUND, Recipe, cut_out, overlap, seeds_of, thresholds, tidy
from vizkit.methods.segment import segment
from vizkit.segmentation_drawing import _ramp

pytest.importorskip("cv2")

WHOLE = (0.0, 0.0, 160.0, 120.0)


def disc(size=(160, 120), centre=(90, 55), radius=30):
    y, x = np.mgrid[: size[1], : size[0]] + 0.5
    return (x - centre[0]) ** 2 + (y - centre[1]) ** 2 <= radius**2


def photo_of(mask):
    """A reddish object on bluish ground, both with noise."""
    noise = np.random.default_rng(0).normal(0, 18, (*mask.shape, 3))
    colours = np.where(mask[..., None], (190, 80, 60), (70, 110, 160))
    return Image.fromarray(np.clip(colours + noise, 0, 255).astype(np.uint8))


def map_of(mask, blur=12, share=1.0):
    return gaussian_filter(mask.astype(np.float32), blur) * share


class Reddish(nn.Module):
    """Two classes: how red the picture is against how blue, seen through a convolution with positions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 5, padding=2, stride=2, bias=False)
        with torch.no_grad():
            self.conv.weight.zero_()
            self.conv.weight[0, 0], self.conv.weight[0, 2] = 0.04, -0.04
            self.conv.weight[1] = -self.conv.weight[0]

    def forward(self, x):
        return torch.relu(self.conv(x)).mean((2, 3)) * 10


@pytest.fixture
def model():
    return vizkit.wrap(Reddish(), labels=["red thing", "blue thing"], name="reddish")


# --- the pieces ---


def test_seeds_are_percentiles():
    values = np.random.default_rng(1).random((40, 50)).astype(np.float32)
    low, high = thresholds(values, 30, 95)
    seeds = seeds_of(values, low, high)
    assert (seeds == FOREGROUND).mean() == pytest.approx(0.05, abs=0.002)
    assert (seeds == BACKGROUND).mean() == pytest.approx(0.30, abs=0.002)
    assert values[seeds == FOREGROUND].min() > values[seeds == 0].max()
    assert values[seeds == BACKGROUND].max() < values[seeds == 0].min()
    assert not seeds_of(np.ones((4, 4), np.float32), 1.0, 1.0).any()
    with pytest.raises(UsageError, match="must be more than"):
        thresholds(values, 60, 60)


def test_one_piece_without_holes():
    mask = np.zeros((20, 20), bool)
    mask[2:10, 2:10], mask[5:7, 5:7], mask[15:18, 15:18] = True, False, True
    whole = tidy(mask, largest=True, holes=True)
    assert whole.sum() == 64 and not whole[15:].any()
    assert tidy(mask, largest=True, holes=False).sum() == 60
    assert tidy(mask, largest=False, holes=False).sum() == 69
    assert not tidy(np.zeros((3, 3), bool), largest=True, holes=True).any()


def test_overlap_is_intersection_over_union():
    a, b = np.zeros((10, 10), bool), np.zeros((10, 10), bool)
    a[:6], b[3:] = True, True
    assert overlap(a, b) == pytest.approx(0.3)
    assert overlap(a, a) == 1 and overlap(a, ~a) == 0
    assert overlap(a, np.kron(b, np.ones((3, 3), bool))) == pytest.approx(0.3)
    assert overlap(~a & a, ~a & a) == 1
    with pytest.raises(UsageError, match="20 x 10 pixels, the photograph 10 x 10"):
        overlap(a, np.ones((10, 20), bool))


@pytest.mark.parametrize("firm", ["background", "both", "none"])
@pytest.mark.parametrize("scale", [1, 8])
def test_a_disc_is_cut_out(firm, scale):
    size, centre, radius = (160 * scale, 120 * scale), (90 * scale, 55 * scale), 30 * scale
    mask = disc(size, centre, radius)
    box = (0.0, 0.0, float(size[0]), float(size[1]))
    cut = cut_out(photo_of(mask), box, map_of(disc()), Recipe(firm=firm))
    assert not cut.notes
    assert cut.mask.shape == cut.seeds.shape == mask.shape
    assert overlap(cut.mask, mask) > 0.95
    again = cut_out(photo_of(mask), box, map_of(disc()), Recipe(firm=firm))
    assert np.array_equal(cut.mask, again.mask)


def test_a_map_that_is_off_still_finds_the_disc():
    cut = cut_out(photo_of(disc()), WHOLE, map_of(disc(centre=(80, 48), radius=20)), Recipe())
    assert overlap(cut.mask, disc()) > 0.95


def test_beyond_what_the_network_sees():
    mask, box = disc(centre=(60, 60), radius=40), (40.0, 0.0, 160.0, 120.0)
    seen = map_of(mask)[:, 40:]
    whole = cut_out(photo_of(mask), box, seen, Recipe())
    inside = cut_out(photo_of(mask), box, seen, Recipe(beyond=False))
    assert overlap(whole.mask, mask) > 0.95
    assert not inside.mask[:, :40].any()
    assert inside.mask[:, 40:].sum() == pytest.approx(mask[:, 40:].sum(), rel=0.05)
    assert not whole.seeds[:, :39].any()


@pytest.mark.parametrize(
    ("photo", "values", "words"),
    [
        (photo_of(disc()), np.ones((120, 160), np.float32), "the map is flat"),
        (photo_of(disc()), np.zeros((120, 160), np.float32), "the map is flat"),
        (Image.new("RGB", (160, 120), "#808080"), map_of(disc()), "no object in these colours"),
        (photo_of(disc()).resize((1, 1)), np.zeros((1, 1), np.float32), "the map is flat"),
        (photo_of(disc()).resize((2, 1)), np.array([[0, 1]], np.float32), None),
        (photo_of(disc()).resize((3, 3)), np.random.default_rng(0).random((3, 3)).astype(np.float32), None),
    ],
)
def test_without_seeds_or_colours_there_is_a_warning_and_no_traceback(photo, values, words):
    cut = cut_out(photo, (0.0, 0.0, *map(float, photo.size)), values, Recipe())
    assert cut.mask.shape == (photo.height, photo.width)
    assert words is None or (words in cut.notes[0] and cut.by == "threshold")
    if words and "colours" in words:
        assert cut.mask[55, 90] and not cut.mask[5, 5]


# --- the technique ---


def test_the_object_of_a_network(model, tmp_path):
    mask = disc()
    Image.fromarray(mask).save(tmp_path / "truth.png")
    result = vizkit.segment(model, photo_of(mask), target=0, truth=tmp_path / "truth.png")
    assert result.mask.shape == (120, 160) and result.mask.dtype == torch.bool
    assert result.truth_iou > 0.95
    assert result.iou(mask) == result.truth_iou == result.iou(torch.from_numpy(mask))
    assert set(result.seeds.unique().tolist()) == {0, 1, 2}
    assert torch.equal(result.values, result.mask.float())
    record = json.loads(result.to_json())
    assert record["iou"] == result.truth_iou
    assert record["share"] == pytest.approx(mask.mean(), rel=0.05)
    assert record["map"]["method"] == "grad_cam" == result.heatmap.provenance.method
    assert record["provenance"]["method"] == "segment"
    assert record["target"] == "red thing"
    assert record["by"] == "grabcut"
    assert record["provenance"]["options"]["truth"].endswith("truth.png")
    same = vizkit.segment(model, photo_of(mask), target=0, truth=mask)  # an array as an option
    assert same.truth_iou == result.truth_iou
    assert same.provenance.settings == ("truth ndarray 120 x 160",)


@pytest.mark.parametrize(
    "name", ["saliency:samples=4", "saliency", "integrated-gradients", "grad_cam:signed=true"]
)
def test_other_maps_give_the_seeds(model, name):
    result = vizkit.segment(model, photo_of(disc()), target=0, method=name)
    assert result.heatmap.provenance.method == name.partition(":")[0].replace("-", "_")
    assert result.mask.shape == (120, 160)


def test_what_saliency_is_asked_for_by_itself(model):
    made = vizkit.segment(model, photo_of(disc()), method="saliency").heatmap.provenance
    assert made.options["samples"] == 16
    made = vizkit.segment(model, photo_of(disc()), method="saliency:noise=0.2").heatmap.provenance
    assert made.options["samples"] == 0


def test_what_gives_no_seeds_is_refused(model):
    picture = photo_of(disc())
    for wrong, words in [
        ({"method": "segment"}, "does not give heat maps"),
        ({"method": "grad_kam"}, "did you mean 'grad_cam'"),
        ({"method": "saliency:nosuch=1"}, "no option 'nosuch'"),
        ({"foreground_above": 20.0}, "must be more than"),
        ({"foreground_above": 200.0}, "out of range"),
        ({"truth": np.ones((9, 9))}, "9 x 9 pixels"),
    ]:
        with pytest.raises(UsageError, match=words):
            vizkit.segment(model, picture, **wrong)


def test_without_opencv_it_says_what_to_install(model, monkeypatch):
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name == "cv2":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(UsageError, match=r"pip install 'vizkit\[segment\]'"):
        segment(model, photo_of(disc()))


def test_several_pictures_and_targets(model):
    photos = [photo_of(disc()), photo_of(disc(centre=(50, 60)))]
    results = vizkit.segment(model, photos, target=[0, 1])
    assert [r.provenance.target for r in results] == ["red thing", "blue thing"] * 2
    assert results[2].iou(disc(centre=(50, 60))) > 0.95


# --- pictures ---


@pytest.fixture
def result(model):
    return vizkit.segment(model, photo_of(disc()), target=0)


def test_the_cutout_is_transparent_around_the_object(result, tmp_path):
    cutout = result.cutout()
    assert cutout.mode == "RGBA" and cutout.size == (160, 120)
    alpha = np.asarray(cutout)[..., 3]
    inside, outside = (
        gaussian_filter(disc().astype(float), 2) > 0.98,
        gaussian_filter(disc().astype(float), 2) < 0.02,
    )
    assert (alpha[inside] > 250).all() and (alpha[outside] < 5).all()
    assert (np.asarray(cutout)[..., :3][alpha == 0] == 0).all()  # nothing hides in what is transparent
    colours = np.asarray(cutout.convert("RGB")).astype(int) - np.asarray(result.photo).astype(int)
    assert np.abs(colours[inside]).max() == 0
    for name in ("cut.png", "cut.webp", "cut.jpg"):
        result.save(tmp_path / name, layout="cutout", width=160)
    with Image.open(tmp_path / "cut.png") as opened:
        assert opened.mode == "RGBA"
    with Image.open(tmp_path / "cut.jpg") as opened:
        assert min(opened.getpixel((2, 2))) > 245  # on white


def test_the_outline_keeps_the_object_and_fades_the_rest(result):
    outline = np.asarray(result.outline()).astype(int)
    photo = np.asarray(result.photo).astype(int)
    assert outline.shape == photo.shape
    assert np.abs(outline - photo)[50:60, 85:95].max() == 0
    spread = np.ptp(outline, axis=2)
    assert spread[:20, :20].mean() < 0.5 * np.ptp(photo, axis=2)[:20, :20].mean()
    edge = gaussian_filter(disc().astype(float), 1.0)
    assert np.abs(outline - photo)[(edge > 0.4) & (edge < 0.6)].mean() > 40


def test_every_layout_width_and_theme(result):
    for width in (64, 160, 300, 700):
        for theme in ("light", "dark"):
            assert result.picture(width=width, theme=theme).width == width
            for layout, mode in (("overlay", "RGB"), ("map", "RGB"), ("cutout", "RGBA")):
                picture = result.picture(layout=layout, width=width, theme=theme)
                assert picture.mode == mode and picture.size == (width, round(width * 0.75))
    black_and_white = np.asarray(result.picture(layout="map", width=160))
    assert set(np.unique(black_and_white)) == {0, 255}
    assert overlap(black_and_white[..., 0] > 0, disc()) > 0.95
    with pytest.raises(UsageError, match="layout"):
        result.picture(layout="mask")
    heat = result.heatmap
    with pytest.raises(UsageError, match="layout"):
        heat.picture(layout="cutout")


def test_a_lines_thickness_is_what_was_asked_for():
    """Across a straight edge, blurred as the mask is, the line's opacity adds up to its width."""
    from scipy.special import ndtr

    for width, deviation in ((2.0, 2.0), (6.6, 3.0)):
        distance = np.arange(-30, 30, 0.05)
        grey = np.round(255 * ndtr(distance / deviation)).astype(int)
        assert np.array(_ramp(width, deviation))[grey].sum() / 255 * 0.05 == pytest.approx(width, rel=0.15)


def test_the_command_writes_cutouts(tmp_path, sample):
    from click.testing import CliRunner

    from vizkit.cli.generate import command_for

    path = tmp_path / "two.png"
    args = [
        sample("coffee.png"),
        "-o",
        str(path),
        "--layout",
        "cutout",
        "--width",
        "200",
        "-t",
        "espresso",
        "-t",
    ]
    done = CliRunner().invoke(command_for("segment"), [*args, "cup", "-q"], standalone_mode=False)
    assert not done.exception, done.output
    with Image.open(path) as opened:
        assert opened.mode == "RGBA" and opened.width == 200
    assert "cutout" in CliRunner().invoke(command_for("segment"), ["--help"]).output
    assert "cutout" not in CliRunner().invoke(command_for("saliency"), ["--help"]).output


def test_photographs(lite0, sample):
    """The espresso is found in its cup: a circle that was measured by hand in the photograph."""
    result = vizkit.segment(lite0, sample("coffee.png"))
    y, x = np.mgrid[:400, :600]
    cup = ((x - 290) / 118) ** 2 + ((y - 112) / 97) ** 2 <= 1
    assert result.iou(cup) > 0.8
