"""Targets: what they score, and how a wrong one is answered."""

import pytest
import torch

from vizkit.errors import ModelError, UsageError
from vizkit.hooks import capture
from vizkit.targetspecs import parse_target, region
from vizkit.units import UnitTarget
from vizkit.zoo.embedded import imagenet_labels

LABELS = ("tabby", "tiger cat", "tiger", "crane bird", "crane", "a vs b", "conv: odd")


def score(target, net, pixels):
    layers = [name.partition("#")[0] for name in target.layers]
    with torch.no_grad(), capture(net, layers) as captured:
        raw = net(pixels)
    return target.fix(raw, captured).score(raw, raw, captured)


@pytest.mark.parametrize(
    ("spec", "index"),
    [
        (3, 3),
        ("3", 3),
        ("tabby", 0),
        ("TABBY", 0),
        ("tiger", 2),
        ("tiger cat", 1),
        ("cat", 1),
        ("tab", 0),
        ("bird", 3),
        ("crane", 4),
        ("a vs b", 5),
        ("conv: odd", 6),
        (" tabby ", 0),
    ],
)
def test_class_by_index_and_name(tiny, spec, index):
    target = parse_target(spec, tiny, LABELS)
    assert target.class_index(0) == index
    assert target.describe(0, LABELS) == LABELS[index]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (-1, "class -1 is out of range; the model's classes are 0 to 6"),
        (7, "0 to 6"),
        ("7", "0 to 6"),
        ("-1", "0 to 6"),
        ("tabyb", "did you mean 'tabby'"),
        ("ti", "'ti' fits 2 classes: tiger cat (1), tiger (2)"),
        ("", "empty"),
        ("tabby vs ", "empty"),
        ("conv9:3", "no layer"),
        ("conv1:-3", "negative"),
        ("conv1:2,-1,0", "negative"),
        (1.5, "not float"),
        (True, "not bool"),
    ],
)
def test_wrong_targets_are_usage_errors(tiny, spec, words):
    with pytest.raises(UsageError) as error:
        parse_target(spec, tiny, LABELS)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("conv1:8", "8 channels (0 to 7), not 8"),
        ("conv1:0,16,0", "16 x 16 positions; 16,0 is outside"),
        ("fc:1,0,0", "no positions"),
    ],
)
def test_units_outside_the_layer(tiny, pixels, spec, words):
    with pytest.raises(UsageError) as error:
        score(parse_target(spec, tiny, None), tiny, pixels)
    assert words in str(error.value)


def test_scores_are_what_they_say(tiny, pixels):
    tiny.eval()
    with torch.no_grad():
        output = tiny(pixels)
        maps = tiny.conv1(pixels)
    best = output.argmax(1)
    torch.testing.assert_close(score(parse_target(None, tiny, None), tiny, pixels), output.amax(1))
    torch.testing.assert_close(score(parse_target(2, tiny, None), tiny, pixels), output[:, 2])
    difference = score(parse_target("1 vs 2", tiny, None), tiny, pixels)
    torch.testing.assert_close(difference, output[:, 1] - output[:, 2])
    torch.testing.assert_close(
        score(parse_target("conv1:4", tiny, None), tiny, pixels), maps[:, 4].mean((1, 2))
    )
    torch.testing.assert_close(score(parse_target("conv1:4,3,5", tiny, None), tiny, pixels), maps[:, 4, 3, 5])
    torch.testing.assert_close(score(parse_target("fc:1", tiny, None), tiny, pixels), output[:, 1])
    mixed = score(parse_target("conv1:4 vs 0", tiny, None), tiny, pixels)
    torch.testing.assert_close(mixed, maps[:, 4].mean((1, 2)) - output[:, 0])
    fixed = parse_target(None, tiny, None).fix(output, {})
    assert [fixed.class_index(i) for i in range(2)] == best.tolist()
    assert fixed.of_image(1).class_index(0) == best[1]


def test_the_calls_of_a_reused_layer(tiny, pixels):
    tiny.eval()
    first = tiny.relu(tiny.bn1(tiny.conv1(pixels)))[:, 2].mean((1, 2))
    torch.testing.assert_close(score(parse_target("relu#1:2", tiny, None), tiny, pixels), first)
    assert not torch.allclose(score(parse_target("relu:2", tiny, None), tiny, pixels), first)


def test_functions(tiny, pixels):
    target = parse_target(lambda raw: raw.square().sum(1), tiny, None)
    torch.testing.assert_close(score(target, tiny.eval(), pixels), tiny(pixels).square().sum(1))
    with pytest.raises(UsageError, match="the target function fails: IndexError: "):
        score(parse_target(lambda raw: raw[:, 5], tiny, None), tiny, pixels)
    with pytest.raises(UsageError, match="must give a tensor, not float"):
        score(parse_target(lambda raw: 1.5, tiny, None), tiny, pixels)


def test_numpy_integers_are_indices_and_double_names_are_not_guessed(tiny):
    np = pytest.importorskip("numpy")
    assert parse_target(np.int64(2), tiny, LABELS).class_index(0) == 2
    with pytest.raises(UsageError, match=r"fits 2 classes: crane \(0\), crane \(2\)"):
        parse_target("crane", tiny, ["crane", "x", "crane"])


@pytest.mark.parametrize("spec", ["relu#3:0", "unused:0"])
def test_units_that_did_not_run(tiny, pixels, spec):
    tiny.unused = torch.nn.Identity()
    with pytest.raises(UsageError, match="does not run"):
        score(parse_target(spec, tiny, None), tiny, pixels)
    for wrong in ("relu#0:0", "relu#x:0", "relu#:0"):
        with pytest.raises(UsageError, match="number of the layer's call"):
            parse_target(wrong, tiny, None)


def test_channels_last_are_recognised_in_square_maps():
    maps = torch.rand(2, 6, 6, 9)
    captured = {"a": maps}
    expected = maps[..., 4].mean((1, 2))
    torch.testing.assert_close(UnitTarget("a", 4).score(None, None, captured), expected)
    torch.testing.assert_close(UnitTarget("a", 4, (2, 3)).score(None, None, captured), maps[:, 2, 3, 4])
    tokens = torch.rand(2, 17, 8)
    torch.testing.assert_close(UnitTarget("a", 3).score(None, None, {"a": tokens}), tokens[..., 3].mean(1))
    for odd in (torch.rand(3), torch.ones(2, 3, dtype=torch.int64)):
        with pytest.raises(UsageError, match="no channels to choose"):
            UnitTarget("a", 0).score(None, None, {"a": odd})


def test_class_out_of_range_without_labels_is_found_at_the_output(tiny, pixels):
    with pytest.raises(UsageError, match="0 to 4"):
        score(parse_target(5, tiny, None), tiny, pixels)


def test_a_class_needs_a_classifier(tiny):
    with pytest.raises(ModelError, match=r"\(2, 3, 4\), not \(N, classes\)"):
        parse_target(0, tiny, None).score(torch.zeros(2, 3, 4), None, {})


SCENE = torch.randn(2, 4, 6, 8, generator=torch.Generator().manual_seed(3))
VOC = ["__background__", "cat", "dog", "bird"]


@pytest.mark.parametrize("measure", ["score", "probability", "rank"])
def test_a_class_of_a_segmentation_is_its_mean_over_its_own_pixels(tiny, measure):
    values = {
        "score": SCENE,
        "probability": SCENE.softmax(1),
        "rank": -(SCENE[:, :, None] < SCENE[:, None]).sum(2).float(),
    }[measure]
    target = parse_target("dog", tiny, VOC).fix(SCENE, {})
    expected = [values[n, 2][SCENE[n].argmax(0) == 2].mean() for n in range(2)]
    torch.testing.assert_close(target.measure(measure, SCENE, None, {}), torch.stack(expected))
    alone = target.of_image(1).measure(measure, SCENE[1:], None, {})  # the pixels stay those of image 1
    torch.testing.assert_close(alone[0], expected[1])


def test_the_top_class_of_a_segmentation_is_the_largest_that_is_not_background(tiny):
    scene = torch.zeros(1, 4, 4, 4)
    scene[0, 0], scene[0, 3, 0, :2], scene[0, 1, 3, 3] = 1, 5, 5
    target = parse_target(None, tiny, VOC).fix(scene, {})
    assert target.class_index(0) == 3
    assert target.describe(0, VOC) == "bird in 12.5 % of the picture"
    assert parse_target(None, tiny, None).fix(scene, {}).class_index(0) == 0
    assert parse_target(None, tiny, VOC).fix(scene[:, :1], {}).class_index(0) == 0


def test_masks_choose_the_pixels_and_the_class_in_them(tiny):
    scene = torch.zeros(1, 4, 4, 4)
    scene[0, 2, :2], scene[0, 1, 2:] = 1, 1
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[4:6] = True  # the third row of the output
    read = {"m.png": mask}.__getitem__
    for spec in ("in m.png", region("m.png")):
        target = parse_target(spec, tiny, VOC, read).fix(scene, {})
        assert target.class_index(0) == 1
        assert target.masks[0].nonzero()[:, 0].unique().tolist() == [2]
    dog = parse_target("dog in m.png", tiny, VOC, read).fix(scene, {})
    assert float(dog.score(scene, None, {})) == 0
    assert parse_target(mask.numpy(), tiny, VOC, torch.from_numpy).fix(scene, {}).class_index(0) == 1
    with pytest.raises(UsageError, match="segmentation"):
        parse_target("dog in m.png", tiny, VOC, read).score(torch.zeros(1, 4), None, {})
    with pytest.raises(UsageError, match="one class"):
        parse_target("conv1:2 in m.png", tiny, VOC, read)


def test_the_peak_of_a_channel_stays_where_it_was_in_the_clean_picture(tiny, pixels):
    with torch.no_grad(), capture(tiny, ["conv1"]) as captured:
        output = tiny(pixels)
    maps = captured["conv1"]
    target = parse_target("conv1:3,max", tiny, None)
    torch.testing.assert_close(target.score(output, output, captured), maps[:, 3].flatten(1).amax(1))
    fixed = target.fix(output, captured).of_image(1)
    place = int(maps[1, 3].argmax())
    torch.testing.assert_close(
        fixed.score(output, output, {"conv1": maps.neg()}), -maps[:, 3].flatten(1)[:, place]
    )
    assert fixed.describe(0, None) == "conv1:3,max"


def test_every_imagenet_label_is_found_by_itself(tiny):
    labels = imagenet_labels()
    assert len(labels) == 1000
    assert [parse_target(label, tiny, labels).class_index(0) for label in labels] == list(range(1000))
