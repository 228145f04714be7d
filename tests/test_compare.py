"""compare, specs of techniques, and the sheets they are drawn on."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import vizkit
from vizkit.compounds import Sheet
from vizkit.errors import ModelError, UsageError
from vizkit.sheets import draw_sheet
from vizkit.specs import read_spec, split_specs


def test_specs_are_read_and_refused():
    assert split_specs("saliency, grad_cam:layer=a,variant=layercam,occlusion") == [
        "saliency",
        "grad_cam:layer=a,variant=layercam",
        "occlusion",
    ]
    spec = read_spec("integrated-gradients:steps=8,signed=no,batch=none")
    assert spec.name == "integrated_gradients"
    assert spec.options == {"steps": 8, "signed": False, "batch": None}
    assert spec.title == "integrated_gradients:steps=8,signed=False,batch=None"
    for wrong, words in [
        ("salience", "did you mean 'saliency'"),
        ("compare", "does not give heat maps"),
        ("saliency:sample=3", "did you mean 'samples'"),
        ("saliency:samples", "as in 'grad_cam:variant=layercam'"),
        ("saliency:samples=many", "a whole number"),
        ("saliency:signed=perhaps", "true or false"),
    ]:
        with pytest.raises(UsageError, match=words):
            read_spec(wrong)


def test_each_cell_is_what_the_technique_gives(tiny, pixels):
    names = "saliency,grad_cam:variant=layercam,guided_backprop"
    sheet = vizkit.compare(tiny, pixels[0], target=[1, 3], methods=names)
    assert isinstance(sheet, Sheet)
    assert list(sheet.rows) == ["class 1", "class 3"]
    assert list(sheet.columns) == ["saliency", "grad_cam:variant=layercam", "guided_backprop"]
    for row, target in zip(sheet.cells, (1, 3), strict=True):
        alone = [
            vizkit.saliency(tiny, pixels[0], target=target),
            vizkit.grad_cam(tiny, pixels[0], target=target, variant="layercam"),
            vizkit.guided_backprop(tiny, pixels[0], target=target),
        ]
        for cell, wanted in zip(row, alone, strict=True):
            assert torch.equal(cell.values, wanted.values)
    record = json.loads(sheet.to_json())
    assert [c["column"] for c in record["cells"][:3]] == list(sheet.columns)
    assert record["target"] == "class 1, class 3"
    assert record["provenance"]["method"] == "compare"
    assert sheet.values.shape == (6, 32, 32)


def test_what_does_not_suit_is_shown_with_its_reason(pixels):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    sheet = vizkit.compare(net, pixels[0], methods="saliency,guided_backprop")
    assert "no ReLU" in sheet.cells[0][1]
    assert "refused" in json.loads(sheet.to_json())["cells"][1]
    sheet.picture(width=500)
    with pytest.raises(ModelError, match="no technique suits"):
        vizkit.compare(net, pixels[0], methods="guided_backprop")


def test_own_functions_and_progress(tiny, pixels):
    told = []
    sheet = vizkit.compare(
        tiny,
        list(pixels),
        methods={"mine": lambda model, image, target: vizkit.saliency(model, image, target=target)},
        on_step=lambda *step: told.append(step),
    )
    assert len(sheet) == 2
    assert told == [(1, 2), (2, 2)]
    for wrong in ("", "nothing", []):
        if wrong:
            with pytest.raises(UsageError):
                vizkit.compare(tiny, pixels[0], methods=wrong)


def made(scale, cells, **more):
    """A sheet with these values, drawn without text."""
    photo = vizkit.saliency(nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 2)), torch.rand(3, 8, 8))
    maps = [[replace(photo, values=torch.as_tensor(v, dtype=torch.float32)) for v in row] for row in cells]
    return Sheet(
        provenance=photo.provenance,
        cells=maps,
        rows=[f"row {k}" for k in range(len(cells))],
        columns=[f"column {k}" for k in range(len(cells[0]))],
        photo=photo.photo,
        box=photo.box,
        scale=scale,
        **more,
    )


def panel_means(sheet, width=900):
    """The mean brightness of each cell's map, found by drawing maps alone on an aligned sheet."""
    picture = np.asarray(draw_sheet(sheet, width=width, layout="map").convert("L"), float)
    count = len(sheet.columns)
    from vizkit.sheets import _plan

    plan = _plan(sheet, width)
    return [
        picture[line.top : line.top + plan.cell[1], plan.left(k) : plan.left(k) + plan.cell[0]].mean()
        for line in plan.lines
        for k in range(count)
    ]


def test_own_scales_look_alike_and_a_shared_one_does_not():
    spread = np.full((8, 8), 0.5)
    spread[0, 0] = 1.0
    spot = np.zeros((8, 8))
    spot[3:5, 3:5] = 100.0
    own = panel_means(made("own", [[spread, spread * 1000]], aligned=True))
    assert own[0] == pytest.approx(own[1], abs=0.5)
    shared = panel_means(made("shared", [[spread, spread * 1000, spot]], aligned=True))
    assert shared[0] == pytest.approx(shared[1], abs=0.5)  # multiples of its own mean
    assert shared[0] < own[0] - 20  # beside a concentrated map the spread one is dark


@pytest.mark.parametrize(("signed", "ink"), [(False, "#ffffff"), (True, "#000000")])
def test_a_map_that_is_zero_everywhere_says_so(signed, ink, monkeypatch):
    """It would look like a photograph in the dark, or like an empty page."""
    from vizkit import sheets

    said = []
    monkeypatch.setattr(sheets, "write", lambda _p, _at, text, _s, fill, **_: said.append((text, fill)))
    sheet = made("own", [[np.zeros((8, 8)), np.eye(8)]], aligned=True)
    sheet = replace(sheet, cells=[[replace(m, signed=signed) for m in sheet.cells[0]]])
    draw_sheet(sheet, layout="map")
    assert [fill for text, fill in said if text == "zero everywhere"] == [ink]


@pytest.mark.parametrize("columns", [1, 2, 5, 7, 11, 13])
@pytest.mark.parametrize("width", [64, 300, 1200])
def test_sheets_of_any_shape_can_be_drawn(columns, width):
    sheet = made("own", [[np.eye(8)] * columns] * 2, captions=[["a caption"] * columns] * 2)
    for theme in ("light", "dark"):
        picture = draw_sheet(sheet, width=width, theme=theme)
        assert picture.width == width
        assert picture.mode == "RGB"


def test_the_command_writes_one_sheet(tmp_path, photo):
    from vizkit.cli.main import call

    out = tmp_path / "sheet.png"
    arguments = ["compare", str(photo), "-o", str(out), "--methods", "saliency,grad_cam", "-q"]
    assert call([*arguments, "--random-weights", "--threads", "1"]) == 0
    assert out.stat().st_size > 5000
    assert call([*arguments, "--methods", "salience"]) == 2
