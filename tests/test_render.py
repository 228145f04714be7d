"""Drawing heat maps: colours against the tables, panels in their places, words inside the canvas."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import skimage
import torch
from PIL import Image, ImageFont

from tests.test_frame import grain
from vizkit import colormaps, page, panels, render, typeset
from vizkit.errors import ModelError, UsageError
from vizkit.fingerprint import Fingerprint
from vizkit.results import DRAWINGS, Heatmap, Prediction, Provenance

TITLE = "saliency: how strongly a small change of each pixel moves the score"
PREDICTION = (Prediction(282, "tiger cat", 9.1, 0.401), Prediction(281, "tabby", 8.9, 0.33))


@pytest.fixture(scope="module")
def cat():
    with Image.open(Path(skimage.__file__).parent / "data" / "chelsea.png") as picture:
        return picture.convert("RGB")


def centre_square(width, height):
    half = min(width, height) * 224 / 256 / 2
    return width / 2 - half, height / 2 - half, width / 2 + half, height / 2 + half


def heat(photo, values=None, **changes):
    made = Provenance(
        "saliency", "efficientnet_lite0", Fingerprint({}), "chelsea.png", "tiger cat", title=TITLE
    )
    made = dataclasses.replace(made, **changes.pop("made", {}))
    signed = changes.get("signed", False)
    values = values if values is not None else (grain() if signed else grain().abs())
    given = {"prediction": PREDICTION, "target_index": 282, "target_probability": 0.401, **changes}
    given.setdefault("box", centre_square(*photo.size))
    return Heatmap(made, values=values, photo=photo, **given)


def pixels(picture):
    return np.asarray(picture).astype(int)


def ink(picture, theme="light"):
    """Where a picture differs from its page."""
    page = pixels(Image.new("RGB", (1, 1), render.THEMES[theme].page))[0, 0]
    return np.abs(pixels(picture) - page).max(axis=2) > 8


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(bad, cat):
    values = grain()
    values[5, 5] = bad
    with pytest.raises(ModelError, match="NaN"):
        render.draw_heatmap(heat(cat, values))


def test_the_result_is_not_changed(cat):
    result = heat(cat, signed=True)
    before, photo = result.values.clone(), result.photo.tobytes()
    for layout in ("figure", "overlay", "map"):
        render.draw_heatmap(result, layout=layout, width=200)
    assert torch.equal(result.values, before)
    assert result.photo.tobytes() == photo


# --- colours ---


@pytest.mark.parametrize(
    ("signed", "theme", "name"),
    [
        (False, "light", "ember"),
        (False, "dark", "ember"),
        (True, "light", "tide"),
        (True, "dark", "tide-dark"),
    ],
)
def test_the_map_has_the_colours_of_its_table(signed, theme, name):
    photo = Image.new("RGB", (100, 80), "#808080")
    values = torch.tensor([[-2.0, 0.0], [1.0, 2.0]]) if signed else torch.tensor([[0.0, 0.5], [1.0, 2.0]])
    result = heat(photo, values, box=(10, 0, 90, 80), signed=signed)
    picture = pixels(render.draw_heatmap(result, layout="map", width=400, theme=theme, clip=100))
    table = colormaps.colours(name).astype(int)
    index = [0, 128, 191, 255] if signed else [0, 64, 128, 255]
    corners = [picture[y, x] for y in (80, 240) for x in (120, 280)]  # the centres of the map's pixels
    for seen, at in zip(corners, index, strict=True):
        assert np.abs(table - seen).sum(axis=1).argmin() == pytest.approx(at, abs=2)
    unseen = pixels(Image.new("RGB", (1, 1), render.THEMES[theme].unseen))[0, 0]
    assert (picture[:, :40] == unseen).all()
    assert (picture[:, 360:] == unseen).all()


def test_a_chosen_colour_map_is_used(cat):
    picture = pixels(render.draw_heatmap(heat(cat, box=(0, 0, 451, 300)), layout="map", colormap="gray"))
    assert np.ptp(picture, axis=2).max() <= 1
    with pytest.raises(UsageError, match="did you mean 'ember'"):
        render.draw_heatmap(heat(cat), colormap="embre")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("signed", [True, False])
def test_the_overlay_shows_the_photograph_where_nothing_matters_and_the_map_where_it_does(signed, theme, cat):
    values = torch.zeros(224, 224)
    values[100:124, 100:124] = 1
    result = heat(cat, values, box=(0, 0, 451, 300), signed=signed)
    zero = heat(cat, torch.zeros(224, 224), box=(0, 0, 451, 300), signed=signed)
    overlay = pixels(render.draw_heatmap(result, layout="overlay", width=451, theme=theme))
    ground = pixels(render.draw_heatmap(zero, layout="overlay", width=451, theme=theme))
    assert overlay.shape == (300, 451, 3)
    assert np.abs(overlay[:120] - ground[:120]).max() <= 3
    grey = pixels(cat.convert("L"))
    assert np.corrcoef(ground.mean(axis=2).ravel(), grey.ravel())[0, 1] > 0.98  # recognisable
    top = colormaps.colours({"light": "tide", "dark": "tide-dark"}[theme] if signed else "ember")[255]
    assert np.abs(overlay[150, 225] - top.astype(int)).max() <= 28
    assert np.abs(ground[150, 225] - top.astype(int)).max() > 40


def test_the_overlay_keeps_map_colours_inside_the_crop(cat):
    result, nothing = heat(cat, torch.ones(224, 224)), heat(cat, torch.zeros(224, 224))
    full, empty = (pixels(render.draw_heatmap(r, layout="overlay", width=902)) for r in (result, nothing))
    changed = (full != empty).any(axis=2)
    left, top, right, bottom = (2 * v for v in result.box)
    rows, columns = np.nonzero(changed)
    assert columns.min() == int(left)
    assert columns.max() == int(np.ceil(right)) - 1
    assert rows.min() == int(top)
    assert rows.max() == int(np.ceil(bottom)) - 1


# --- figures ---


@pytest.mark.parametrize("width", [64, 65, 127, 300, 479, 480, 777, 1200, 3000])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_figures_have_the_asked_width_and_a_clean_margin(width, theme, cat):
    picture = render.draw_heatmap(heat(cat, signed=width % 2 == 0), width=width, theme=theme)
    assert picture.mode == "RGB"
    assert picture.width == width
    marked = ink(picture, theme)
    edge = page.style_of(width).margin - 2
    assert not marked[:edge].any()
    assert not marked[-edge:].any()
    assert not marked[:, :edge].any()
    assert not marked[:, -edge:].any()


@pytest.mark.parametrize("layout", ["overlay", "map"])
@pytest.mark.parametrize("width", [64, 333, 1200])
def test_single_panels_have_the_photographs_proportions(layout, width, cat):
    picture = render.draw_heatmap(heat(cat), layout=layout, width=width)
    assert picture.mode == "RGB"
    assert picture.size == (width, round(width * 300 / 451))


@pytest.mark.parametrize("width", [64, 300, 1200])
def test_there_is_text_in_the_header_and_none_in_the_gap_under_it(width, cat):
    result = heat(cat)
    style = page.style_of(width)
    top = page.plan_of(style, cat.size).corners[0][1]
    marked = ink(render.draw_heatmap(result, width=width))[:top]
    rows = np.nonzero(marked.any(axis=1))[0]
    assert marked.mean() > 0.01
    assert rows.min() < style.margin + style.title
    assert rows.max() < top - 2


def test_words_change_the_header_and_nothing_else(cat):
    one = render.draw_heatmap(heat(cat))
    label = [dataclasses.replace(PREDICTION[0], label="lynx"), PREDICTION[1]]
    two = render.draw_heatmap(heat(cat, prediction=label))
    top = page.plan_of(page.style_of(1200), cat.size).corners[0][1]
    assert (pixels(one)[:top] != pixels(two)[:top]).any()
    assert (pixels(one)[top:] == pixels(two)[top:]).all()


def test_the_panels_of_the_figure_are_the_single_pictures(cat):
    result = heat(cat)
    figure, plan = render.draw_heatmap(result), page.plan_of(page.style_of(1200), cat.size)
    for layout, (x, y) in zip(("map", "overlay"), plan.corners[1:], strict=True):
        panel = render.draw_heatmap(result, layout=layout, width=plan.size[0])
        part = figure.crop((x, y, x + panel.width, y + panel.height))
        assert part.tobytes() == panel.tobytes()


def test_the_frame_marks_the_crop_only_where_there_is_one(cat):
    plan = page.plan_of(page.style_of(1200), cat.size)
    (x, y), size = plan.corners[0], plan.size
    area = (x, y, x + size[0], y + size[1])
    whole = render.draw_heatmap(heat(cat, box=(0, 0, *cat.size))).crop(area)
    plain = cat.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)
    assert whole.tobytes() == plain.tobytes()
    framed = (pixels(render.draw_heatmap(heat(cat)).crop(area)) != pixels(plain)).any(axis=2)
    rows, columns = np.nonzero(framed)
    scale = size[0] / cat.width
    edges = [v * scale for v in centre_square(*cat.size)]
    assert [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] == pytest.approx(edges, abs=1)
    assert framed.mean() < 0.05  # fine


@pytest.mark.parametrize(
    "size", [(2000, 400), (400, 2000), (16, 16), (1, 1), (3, 900), (900, 3), (5000, 10), (10, 5000)]
)
@pytest.mark.parametrize("width", [64, 300, 1200])
def test_odd_photographs_give_a_sensible_figure(size, width, cat):
    picture = render.draw_heatmap(heat(cat.resize(size)), width=width)
    assert picture.width == width
    assert picture.height < 7 * width
    assert ink(picture)[-page.style_of(width).margin + 2 :].sum() == 0


def test_panoramas_are_stacked_and_tall_photographs_stand_in_a_row():
    wide, tall, small = (page.plan_of(page.style_of(1200), s) for s in ((2000, 400), (400, 2000), (16, 16)))
    assert len({x for x, _ in wide.corners}) == 1
    assert len({y for _, y in tall.corners}) == len({y for _, y in small.corners}) == 1
    assert wide.size[0] / wide.size[1] == pytest.approx(5, rel=0.01)
    assert tall.size[1] / tall.size[0] == pytest.approx(5, rel=0.01)
    assert small.size[0] == small.size[1] > 300


@pytest.mark.parametrize(
    "values",
    [
        torch.zeros(8, 8),
        torch.ones(1, 1),
        torch.full((5, 5), -1.0),
        torch.rand(3, 700),
        torch.tensor([[0.0, 1e-42]]),
    ],
)
@pytest.mark.parametrize("signed", [True, False])
def test_odd_maps_are_drawn(values, signed, cat):
    for layout in ("figure", "overlay", "map"):
        assert render.draw_heatmap(heat(cat, values, signed=signed), layout=layout, width=480).width == 480


LABELS = [
    "x" * 200,
    "many short words " * 12,
    "кошка",
    "猫",
    "قط",
    "épée",
    "a\nb\x1b[0m",
    "",
    "\U0001f408 cat",
    "e\u0301\u200d",
]


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("width", [64, 300, 1200])
def test_any_label_and_file_name_fits(label, width, cat):
    said = (dataclasses.replace(PREDICTION[0], label=label),)
    made = {"image": f"{label}.png", "model": label, "layer": label, "target": label}
    for index in (282, 3, None):
        result = heat(cat, prediction=said, made=made, target_index=index)
        picture = render.draw_heatmap(result, width=width)
        marked = ink(picture)
        edge = page.style_of(width).margin // 2
        assert not marked[:, -edge:].any()
        assert not marked[:, :edge].any()


def test_figures_without_matplotlibs_font(monkeypatch, cat):
    monkeypatch.setattr(typeset, "_other_face", lambda: "")
    said = (dataclasses.replace(PREDICTION[0], label="кошка"),)
    assert render.draw_heatmap(heat(cat, prediction=said)).width == 1200


def test_figures_without_freetype(monkeypatch, cat):
    def missing(*_, **__):
        raise ImportError("The _imagingft C module is not installed")

    monkeypatch.setattr(ImageFont, "load_default", missing)
    typeset._font.cache_clear()
    try:
        said = (dataclasses.replace(PREDICTION[0], label="кошка épée"),)
        picture = render.draw_heatmap(heat(cat, prediction=said))
    finally:
        typeset._font.cache_clear()
    assert ink(picture)[:60].any()


def contrast(one, other):
    def luminance(colour):
        srgb = pixels(Image.new("RGB", (1, 1), colour))[0, 0] / 255
        linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
        return linear @ [0.2126, 0.7152, 0.0722]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_stands_out_from_the_page(theme):
    colours = render.THEMES[theme]
    assert contrast(colours.ink, colours.page) >= 7
    assert contrast(colours.soft, colours.page) >= 4.5


def test_pictures_are_the_same_bytes_each_time(cat):
    first = [
        render.draw_heatmap(heat(cat), layout=x, width=640).tobytes() for x in ("figure", "overlay", "map")
    ]
    again = [
        render.draw_heatmap(heat(cat), layout=x, width=640).tobytes() for x in ("figure", "overlay", "map")
    ]
    assert first == again


# --- words ---


def test_the_title_names_what_is_explained(cat):
    assert page.title_of(heat(cat)) == ("tiger cat", "40.1 %")
    other = heat(cat, made={"target": "lynx"}, target_index=287, target_probability=0.032)
    assert page.title_of(other) == ("target: lynx", "3.2 %")
    assert "prediction: tiger cat 40.1 %" in page.subtitles(other)[0]
    pair = heat(
        cat, made={"target": "tabby vs lynx"}, target_index=None, target_probability=None, target_score=1.5
    )
    assert page.title_of(pair) == ("target: tabby vs lynx", "score 1.5")
    unit = heat(cat, made={"target": "conv:3"}, prediction=(), target_index=None, target_probability=None)
    assert page.title_of(unit) == ("conv:3", "")


def test_the_second_line_names_method_model_and_layer(cat):
    lines = page.subtitles(heat(cat, made={"layer": "blocks.7"}))
    assert "efficientnet_lite0  ·  layer blocks.7" in lines[0]
    assert lines[-1] == "saliency"
    assert lines[0].startswith(TITLE)
    own = heat(cat, made={"method": "my_own", "title": "my method: what I like"})
    assert [line.partition("  ·  ")[0] for line in page.subtitles(own)] == [
        "my method: what I like",
        *["my method"] * 4,
    ]


def test_the_footer_carries_the_warnings(cat):
    plain, warned = heat(cat), heat(cat, made={"warnings": ("random weights", "rotated")})
    lines = render._last_lines(panels.heat_of(warned, 99.5, render.THEMES["light"], None))
    assert lines[0].endswith("·  random weights; rotated")
    assert lines[-1] == "random weights"
    assert render.draw_heatmap(plain).tobytes() != render.draw_heatmap(warned).tobytes()


def test_without_a_title_the_second_line_names_the_method(cat):
    lines = page.subtitles(heat(cat, made={"method": "my_own", "title": ""}))
    assert lines[0] == "my own  ·  efficientnet_lite0"
    assert lines[-1] == "my own"


def test_the_legend_gives_the_numbers(cat):
    def ends(values, **more):
        return render._ends(panels.heat_of(heat(cat, values, **more), 100, render.THEMES["light"], None))[0]

    assert ends(torch.tensor([[0.0, 3.1e-3]])) == ("0  little", "much influence  0.0031")
    assert ends(torch.tensor([[-1.0, 4.0]])) == ("-1  little", "much influence  4")
    assert ends(torch.tensor([[-1.0, 4.0]]), signed=True) == ("-4  lowers the score", "raises the score  +4")


@pytest.mark.parametrize(
    ("clip", "words"),
    [
        (99.5, "the 99.5th"),
        (91, "the 91st"),
        (92, "the 92nd"),
        (93, "the 93rd"),
        (11, "the 11th"),
        (99, "the 99th"),
    ],
)
def test_the_footer_says_where_colours_end(clip, words, cat):
    made = panels.heat_of(heat(cat), clip, render.THEMES["light"], None)
    assert (
        render._footers(made)[0] == f"Colours clipped at {words} percentile (|value| up to {made.limit:.2g})"
    )


def test_the_footer_of_unclipped_and_of_empty_maps(cat):
    whole = panels.heat_of(heat(cat), 100, render.THEMES["light"], None)
    assert render._footers(whole)[0].startswith("Colours span all values")
    empty = panels.heat_of(heat(cat, torch.zeros(4, 4)), 99.5, render.THEMES["light"], None)
    assert render._footers(empty) == ["All values are zero"]


@pytest.mark.parametrize(
    ("share", "words"),
    [(0.401, "40.1 %"), (1e-5, "< 0.1 %"), (0.99999, "> 99.9 %"), (1, "100.0 %"), (0, "0.0 %")],
)
def test_probabilities_never_round_to_certainty(share, words):
    assert page.percent(share) == words


# --- options, stacking, hooks ---


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": "figrue"}, "did you mean 'figure'"),
        ({"layout": "poster"}, "use one of figure, overlay, map"),
        ({"theme": "Dark mode"}, "unknown theme"),
        ({"width": 63}, "from 64 to 20000"),
        ({"width": 20_001}, "from 64 to 20000"),
        ({"width": 300.0}, "whole number"),
        ({"width": True}, "whole number"),
        ({"clip": 0}, "percentile"),
        ({"clip": 100.1}, "percentile"),
        ({"clip": float("nan")}, "percentile"),
    ],
)
def test_options_out_of_range_are_refused(options, message, cat):
    with pytest.raises(UsageError, match=message):
        render.draw_heatmap(heat(cat), **options)


def test_pictures_that_would_fill_the_memory_are_refused(cat):
    with pytest.raises(UsageError, match="20000 x 100000 pixels"):
        render.draw_heatmap(heat(cat.resize((100, 500))), layout="map", width=20_000)


def test_stacking_keeps_every_figure(cat):
    figures = [render.draw_heatmap(heat(cat), width=w, theme="dark") for w in (300, 200)]
    tower = render.stack(figures, "dark")
    assert tower.size == (300, figures[0].height + figures[1].height)
    assert tower.crop((0, 0, *figures[0].size)).tobytes() == figures[0].tobytes()
    below = tower.crop((0, figures[0].height, 200, tower.height))
    assert below.tobytes() == figures[1].tobytes()
    assert not ink(tower, "dark")[figures[0].height :, 200:].any()
    with pytest.raises(UsageError, match="no picture"):
        render.stack([], "light")


def test_results_draw_themselves(cat):
    assert DRAWINGS[Heatmap] is render.draw_heatmap
    assert heat(cat).picture(width=300).width == 300
    assert heat(cat)._repr_png_().startswith(b"\x89PNG")


def test_importing_and_drawing_takes_neither_torch_nor_matplotlib():
    code = (
        "import sys, vizkit.render, vizkit.typeset as t; t._other_face();"
        "print([m for m in ('torch', 'matplotlib', 'skimage', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
