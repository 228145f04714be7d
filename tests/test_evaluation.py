"""`vizkit.evaluate`: closed forms on nets that are linear in the pixels, and what a table promises."""

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import vizkit
from vizkit.errors import ImageError, UsageError
from vizkit.evaluation import impute
from vizkit.evaluation.judging import Judge
from vizkit.evaluation.metrics import METRICS
from vizkit.evaluation.pixelflips import rise_blur
from vizkit.evaluation.protocol import Protocol, protocol_of
from vizkit.evaluation.subject import Subject
from vizkit.evaluation.summing import mean_and_error
from vizkit.fills import gaussian_blur
from vizkit.specs import heatmap_methods

SIZE = 12
QUICK = {"perturbations": 8, "samples": 2, "percentages": (50,)}


class Linear(nn.Module):
    """Two classes; the logit of class 0 is the sum of weight x pixel, that of class 1 is 0."""

    def __init__(self):
        super().__init__()
        weight = torch.randn(3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
        self.weight = nn.Parameter(weight)

    def forward(self, x):
        score = (x * self.weight).sum((1, 2, 3))
        return torch.stack([score, torch.zeros_like(score)], 1)


@pytest.fixture
def net():
    return Linear()


@pytest.fixture
def pictures():
    return torch.rand(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(5))


def gradient(model, image, target):
    """The exact attribution of the linear net's score, over channels."""
    return model.module.weight.detach().sum(0)


def contribution(model, image, target):
    return (model.module.weight.detach() * image).sum(0)


def backwards(model, image, target):
    return -contribution(model, image, target)


def score(raw):
    return raw[:, 0]


def row(table, name):
    return next(r for r in table.rows if r.name == name)


def mean(table, name, column):
    return row(table, name).cells[column].mean


# --- closed forms ---


def test_deletion_and_insertion_of_a_linear_score(net, pictures):
    options = {"deletion_fill": "zero", "insertion_fill": "zero"}
    table = vizkit.evaluate(
        net,
        pictures[0],
        target=score,
        methods=[contribution],
        metrics="insertion,deletion",
        options=options,
        steps=SIZE * SIZE,
    )
    parts = contribution(vizkit.wrap(net), pictures[0], 0).flatten().double().sort(descending=True).values
    coming = torch.cat([torch.zeros(1).double(), parts.cumsum(0)])
    going = float(coming[-1]) - coming
    for column, curve in (("insertion", coming), ("deletion", going)):
        area = np.trapezoid(curve, dx=1 / 144)
        assert mean(table, "contribution", column) == pytest.approx(area, rel=1e-4)
    curve = next(c for c in table.curves if (c.row, c.column) == ("contribution", "insertion"))
    np.testing.assert_allclose(curve.y, coming, atol=1e-3)
    assert curve.x[-1] == 1


def test_the_measure_is_the_classes_probability(net, pictures):
    table = vizkit.evaluate(net, pictures[0], methods=[contribution], metrics="deletion", steps=4)
    curve = table.curves[0]
    output = net(pictures[:1]).detach()
    assert curve.y[0] == pytest.approx(float(output.softmax(1).max()), rel=1e-5)
    grey = net(torch.full_like(pictures[:1], 0.5)).detach().softmax(1)[0, output.argmax()]
    assert curve.y[-1] == pytest.approx(float(grey), rel=1e-5)
    assert table.entries[0]["confidence"] == pytest.approx(curve.y[0])


def test_the_true_contribution_beats_its_opposite_and_chance(net, pictures):
    table = vizkit.evaluate(
        net,
        pictures,
        target=0,
        methods=[contribution, backwards],
        metrics="insertion,deletion,road,road_least",
        options={"percentages": (30, 60)},
        steps=12,
    )
    for column in table.columns:
        order = [mean(table, n, column.name) for n in ("contribution", "random", "backwards")]
        assert order == sorted(order, reverse=column.better == "higher"), column.name


@pytest.mark.parametrize("perturbation", ["gaussian", "square"])
def test_the_exact_map_has_no_infidelity(net, pictures, perturbation):
    """Noise is foretold by the gradient, removal to black by gradient times input."""
    exact = {"gaussian": gradient, "square": contribution}[perturbation]
    options = {"perturbation": perturbation, "deletion_fill": "zero"}
    table = vizkit.evaluate(
        net, pictures, target=score, methods=[exact, backwards], metrics="infidelity", options=options
    )
    assert mean(table, exact.__name__, "infidelity") == pytest.approx(0, abs=1e-6)
    assert mean(table, "random", "infidelity") > 0.1


def test_a_registered_methods_attribution_is_what_infidelity_looks_at(net, pictures):
    table = vizkit.evaluate(
        net,
        pictures[0],
        target=score,
        methods="saliency",
        metrics="infidelity",
        options={"perturbation": "gaussian"},
    )
    assert mean(table, "saliency", "infidelity") == pytest.approx(0, abs=1e-6)


def test_drop_and_increase_are_those_of_the_kept_picture(net, pictures):
    table = vizkit.evaluate(net, pictures[:1], target=0, methods=[contribution], metrics="drop,increase")
    values = contribution(vizkit.wrap(net), pictures[0], 0).clamp(min=0)
    kept = pictures[0] * values / values.max()
    whole, left = net(torch.stack([pictures[0], kept])).detach().softmax(1)[:, 0].tolist()
    assert mean(table, "contribution", "drop") == pytest.approx(max(0, whole - left) / whole, abs=1e-6)
    assert mean(table, "contribution", "increase") == float(left > whole)


def test_sensitivity_runs_the_method_again_on_noisy_pictures(net, pictures):
    seen = []

    def constant(model, image, target):
        seen.append(image)
        return gradient(model, image, target)

    options = QUICK | {"radius": 0.05}
    table = vizkit.evaluate(
        net, pictures[0], methods=[constant, contribution], metrics=["sensitivity"], options=options
    )
    assert mean(table, "constant", "sensitivity") == 0
    assert 0 < mean(table, "contribution", "sensitivity") < 1
    assert torch.equal(seen[0], pictures[0])
    assert len(seen) == 3
    assert 0 < float((seen[1] - pictures[0]).abs().max()) <= 0.05 + 1e-6


@pytest.mark.parametrize(("fill", "blur"), [("rise", rise_blur), ("blur", lambda p: gaussian_blur(p, 1.2))])
def test_insertion_starts_from_a_blurred_picture(net, pictures, fill, blur):
    options = {"insertion_fill": fill}
    table = vizkit.evaluate(
        net, pictures[0], target=score, methods=[corner], metrics="insertion", options=options, steps=2
    )
    ends = net(torch.stack([blur(pictures[:1])[0], pictures[0]])).detach()[:, 0].tolist()
    assert (table.curves[0].y[0], table.curves[0].y[-1]) == pytest.approx(ends, rel=1e-4)


@pytest.mark.parametrize(("column", "least"), [("road", False), ("road_least", True)])
def test_road_is_the_mean_over_the_percentages(net, pictures, column, least):
    options = {"percentages": (25, 75), "noise": 0.05}
    table = vizkit.evaluate(
        net, pictures[0], target=score, methods=[contribution], metrics=column, options=options, seed=2
    )
    model = vizkit.wrap(net)
    seed = Subject(model, pictures[0], score, protocol=protocol_of(options), seed=2).seed("road")
    values = contribution(model, pictures[0], 0)
    slow = []
    for count in (36, 108):
        limit = values.flatten().sort(descending=not least).values[count - 1]
        removed = values <= limit if least else values >= limit
        slow.append(float(net(impute(pictures[0], removed, noise=0.05, seed=seed)[None]).detach()[0, 0]))
    assert mean(table, "contribution", column) == pytest.approx(np.mean(slow), rel=1e-4)


def test_the_noise_of_sensitivity_is_the_seeds(net, pictures):
    asked = {"methods": [contribution], "metrics": "sensitivity", "options": QUICK}
    first, again, other = (
        mean(vizkit.evaluate(net, pictures[0], seed=s, **asked), "contribution", "sensitivity")
        for s in (1, 1, 2)
    )
    assert first == again != other


# --- masks ---


@pytest.fixture
def masks():
    mask = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    mask[:4, :4] = True
    return [mask, mask.flip(0), mask.flip(1)]


def corner(model, image, target):
    values = torch.zeros(SIZE, SIZE)
    values[0, 0], values[11, 11] = 3, 1
    return values


def test_pointing_with_masks_of_every_kind(net, pictures, masks, tmp_path):
    photos, folder = tmp_path / "photos", tmp_path / "masks"
    photos.mkdir()
    folder.mkdir()
    for k, (picture, mask) in enumerate(zip(pictures, masks, strict=True)):
        Image.fromarray((picture.permute(1, 2, 0) * 255).byte().numpy()).save(photos / f"p{k}.png")
        np.save(folder / f"p{k}.npy", mask.numpy())
    model = vizkit.wrap(net, size=SIZE)
    asked = {"methods": [corner], "metrics": "pointing,energy", "options": {"tolerance": 0}}
    by_name = {f"p{k}": mask for k, mask in enumerate(masks)}
    tables = [
        vizkit.evaluate(model, pictures, masks=masks, **asked),
        vizkit.evaluate(
            model, list(pictures), masks=lambda p: masks[0] if p is None else _of(p, pictures, masks), **asked
        ),
        vizkit.evaluate(model, photos, masks=folder, **asked),
        vizkit.evaluate(model, photos, masks=by_name, **asked),
    ]
    for table in tables:
        assert mean(table, "corner", "pointing") == pytest.approx(1 / 3)
        assert mean(table, "corner", "energy") == pytest.approx((3 / 4 + 0 + 0) / 3)


def _of(picture, pictures, masks):
    return next(m for p, m in zip(pictures, masks, strict=True) if torch.equal(p, picture))


def test_pictures_without_a_mask_do_not_count(net, pictures, masks):
    given = [masks[0], None, None]
    table = vizkit.evaluate(net, pictures, masks=given, methods=[corner], metrics="pointing")
    assert row(table, "corner").cells["pointing"].count == 1
    assert any("2 of 3 pictures have no mask" in n for n in table.notes)


def test_without_masks_the_measures_that_need_them_are_left_out_and_it_is_said(net, pictures):
    table = vizkit.evaluate(net, pictures[0], methods=[corner], options=QUICK, steps=2)
    quick = [m.name for m in METRICS.values() if not m.needs_mask and not m.costly]
    assert [c.name for c in table.columns] == quick
    assert any("need masks" in n for n in table.notes)
    with pytest.raises(UsageError, match="give masks"):
        vizkit.evaluate(net, pictures[0], metrics="pointing")


def test_bad_masks(net, pictures, masks):
    with pytest.raises(UsageError, match="2 masks for 3 pictures"):
        vizkit.evaluate(net, pictures, masks=masks[:2], methods=[corner])
    with pytest.raises(ImageError, match="empty"):
        vizkit.evaluate(net, pictures[0], masks=[torch.zeros(SIZE, SIZE)], methods=[corner])
    with pytest.raises(UsageError, match="the mask is"):
        vizkit.evaluate(net, pictures[0], masks=[torch.ones(3, 3)], methods=[corner])
    with pytest.raises(UsageError, match="not a folder"):
        vizkit.evaluate(net, pictures[0], masks="no/such", methods=[corner])


# --- tables ---


def test_means_and_errors_are_those_of_the_entries(net, pictures):
    table = vizkit.evaluate(net, pictures, methods=[contribution], metrics="deletion,drop", steps=6)
    for name in ("contribution", "random", "sobel"):
        for column in ("deletion", "drop"):
            numbers = [e["values"][column] for e in table.entries if e["method"] == name]
            cell = row(table, name).cells[column]
            assert cell.count == len(numbers) == 3
            assert cell.mean == pytest.approx(np.mean(numbers))
            assert cell.error == pytest.approx(np.std(numbers, ddof=1) / math.sqrt(3))


def test_numbers_that_are_not_there_do_not_count():
    cell = mean_and_error([1.0, None, 3.0])
    assert (cell.mean, cell.error, cell.count) == (2.0, pytest.approx(1.0), 2)
    assert mean_and_error([None]).mean is None
    assert mean_and_error([4.0]).error is None


def test_the_controls_are_always_there_and_differ_from_picture_to_picture(net, pictures):
    table = vizkit.evaluate(net, pictures, methods=[corner], metrics="deletion", steps=3)
    assert [(r.name, r.control) for r in table.rows] == [("corner", False), ("random", True), ("sobel", True)]
    judge = Judge(net, methods=[corner])
    random = judge.contenders[1]
    first, second = (judge.subject(p) for p in pictures[:2])
    maps = [random.explain(s, s.pixels).values for s in (first, second, judge.subject(pictures[0]))]
    assert not torch.equal(maps[0], maps[1])
    assert torch.equal(maps[0], maps[2])


def test_numbers_do_not_depend_on_the_other_pictures(net, pictures):
    asked = {"methods": ["saliency:samples=3"], "options": QUICK, "steps": 5, "metrics": "all", "seed": 3}
    together = vizkit.evaluate(net, pictures, **asked)
    alone = vizkit.evaluate(net, pictures[2], **asked)
    for entry in alone.entries:
        other = next(
            e for e in together.entries if e["picture"] == "picture 3" and e["method"] == entry["method"]
        )
        assert entry["values"] == other["values"]
    assert vizkit.evaluate(net, pictures, **asked).to_json() == together.to_json()
    seeded = vizkit.evaluate(net, pictures[2], **(asked | {"seed": 4}))
    assert seeded.entries[-2]["values"] != alone.entries[-2]["values"], "the random map"


def test_json_markdown_and_csv(net, pictures):
    table = vizkit.evaluate(net, pictures, methods=[contribution, backwards], metrics="deletion", steps=3)
    record = json.loads(table.to_json())
    assert next(iter(record)) == "vizkit"
    assert len(record["entries"]) == 12
    assert record["provenance"]["options"]["steps"] == 3
    assert record["provenance"]["weights"] == vizkit.wrap(net).fingerprint.hex
    assert "entries" not in table.as_dict()
    best = min(("contribution", "backwards"), key=lambda n: mean(table, n, "deletion"))
    lines = table.to_markdown().splitlines()
    assert lines[0].split() == ["|", "method", "|", "deletion", "↓", "|"]
    assert [line.split()[1] for line in lines if "**" in line] == [best]
    assert len({len(line) for line in lines[:6]}) == 1
    head, first = (line.split(",") for line in table.to_csv().splitlines()[:2])
    assert head == ["method", "control", "deletion", "deletion_se", "deletion_n", "note"]
    assert float(first[2]) == mean(table, "contribution", "deletion")
    assert first[4] == "3"


# --- methods ---


def test_every_technique_that_gives_heat_maps_is_there_by_itself(tiny, pixels):
    table = vizkit.evaluate(tiny, pixels[0], metrics="drop")
    names = [r.name.partition(":")[0] for r in table.rows]
    assert names == [*heatmap_methods(), "random", "sobel"]
    assert all(r.note or r.cells["drop"].count == 1 for r in table.rows)
    assert mean(table, "saliency", "drop") is not None


def test_a_refusal_has_a_row_with_the_reason(pixels):
    smooth = nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    table = vizkit.evaluate(smooth, pixels, methods="guided_backprop,saliency", metrics="drop")
    refused = row(table, "guided_backprop")
    assert "no ReLU" in refused.note
    assert refused.cells["drop"].count == 0
    assert row(table, "saliency").cells["drop"].count == 2
    assert "guided_backprop: refused: " in table.to_markdown()
    assert table.picture(width=400).mode == "RGB"


def test_options_in_a_name_reach_the_method(tiny, pixels):
    plain, other = "saliency", "saliency:times_input=yes,signed=true"
    table = vizkit.evaluate(tiny, pixels[0], methods=[plain, other], metrics="infidelity", options=QUICK)
    title = "saliency:times_input=True,signed=True"
    assert mean(table, title, "infidelity") != mean(table, plain, "infidelity")


def test_a_registered_function_is_its_name(tiny, pixels):
    table = vizkit.evaluate(tiny, pixels[0], methods=vizkit.saliency, metrics="drop")
    assert [r.name for r in table.rows] == ["saliency", "random", "sobel"]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"methods": "salency"}, "did you mean 'saliency'"),
        ({"methods": "saliency:sample=3"}, "did you mean 'samples'"),
        ({"methods": []}, "list of methods is empty"),
        ({"methods": ["saliency", "saliency"]}, "twice"),
        ({"methods": [3]}, "a name or a function"),
        ({"metrics": "inserton"}, "did you mean 'insertion'"),
        ({"metrics": []}, "list of measures is empty"),
        ({"options": {"stepz": 3}}, "did you mean 'steps'"),
        ({"options": {"steps": 0}}, "at least 1"),
        ({"options": {"percentages": (100,)}}, "below 100"),
        ({"options": {"perturbation": "round"}}, "square or gaussian"),
        ({"options": {"deletion_fill": "gray1"}, "metrics": "deletion"}, "did you mean"),
        ({"steps": 145}, "more than the picture has"),
        ({"target": [0, 1]}, "one target"),
        ({"target": 2}, "out of range|changed|classes"),
        ({"seed": -1}, "seed"),
        ({"methods": [lambda model, image, target: torch.ones(3)]}, "a map over the model's input"),
        ({"methods": [lambda model, image, target: 3]}, "Heatmap or a tensor"),
        ({"methods": "saliency:samples=-1"}, "out of range"),
    ],
)
def test_wrong_requests_say_what_is_right(net, pictures, asked, message):
    with pytest.raises(UsageError, match=message):
        vizkit.evaluate(net, pictures, **({"methods": "saliency"} | asked))


def test_settings_may_be_text():
    assert protocol_of({"percentages": "20 50", "steps": "7", "radius": "0.5"}) == Protocol(
        steps=7, percentages=(20.0, 50.0), radius=0.5
    )
    for wrong in ({"steps": "2.5"}, {"steps": True}, {"radius": "wide"}, {"percentages": "a"}):
        with pytest.raises(UsageError):
            protocol_of(wrong)


def test_a_net_is_left_as_it_was_also_by_a_users_own_function(tiny, pixels, trace):
    def careless(model, image, target):
        model.module.train()
        leaf = image.clone().requires_grad_()
        model(leaf[None])[0, target].backward()
        return leaf.grad.abs().sum(0) + torch.rand(image.shape[1:])

    def failing(model, image, target):
        careless(model, image, target)
        raise RuntimeError("on purpose")

    tiny.train()
    before = trace(tiny)
    vizkit.evaluate(tiny, pixels[0], methods=["saliency", careless], metrics="all", options=QUICK, steps=3)
    assert trace(tiny) == before
    table = vizkit.evaluate(tiny, pixels[0], methods=[failing, "saliency"], metrics="drop")
    assert table.rows[0].note == "the method fails: RuntimeError: on purpose"
    assert table.rows[1].cells["drop"].count == 1
    assert trace(tiny) == before


def test_steps_are_told(tiny, pixels):
    told = []
    vizkit.evaluate(
        tiny, pixels, methods="saliency", metrics="drop", on_step=lambda k, n: told.append((k, n))
    )
    assert told == [(k, 6) for k in range(1, 7)]


def test_memory_stays_flat(tiny, pixels):
    """No more perturbed pictures at a time than a batch."""
    subject = Subject(vizkit.wrap(tiny), pixels[0])
    sizes = []
    subject.scores(11, lambda start, count: sizes.append(count) or pixels[:1].expand(count, -1, -1, -1))
    assert sum(sizes) == 11
    assert max(sizes) <= 4
