"""Pictures in rows as drawn: sizes, places, squares that stay squares, captions that fit."""

import numpy as np
import pytest
from PIL import Image

from vizkit.fingerprint import Fingerprint
from vizkit.grids import columns_of, outline
from vizkit.pictures import Pictures, Strip, Tile
from vizkit.results import Provenance


def pictures(strips, **options):
    made = Provenance("patches", "net", Fingerprint({}), "x", "y", title="patches: what drives a channel")
    return Pictures(made, strips, "A heading", **options)


def tile(colour, size=(8, 8), *caption, **options):
    return Tile(Image.new("RGB", size, colour), caption, **options)


def areas(page, colour):
    """Bounding box of the pixels that have exactly this colour: left, top, right, bottom."""
    hits = (np.asarray(page) == np.array(colour)).all(2)
    rows, columns = np.flatnonzero(hits.any(1)), np.flatnonzero(hits.any(0))
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1


@pytest.mark.parametrize("width", [240, 700, 1600])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_tile_is_there_at_its_place(width, theme):
    colours = [(200, 30 + 20 * k, 10) for k in range(6)]
    page = pictures([Strip([tile(c) for c in colours])], columns=3).picture(width=width, theme=theme)
    assert page.width == width
    boxes = [areas(page, c) for c in colours]
    assert {b[2] - b[0] for b in boxes} == {b[3] - b[1] for b in boxes}
    assert len({b[1] for b in boxes[:3]}) == 1
    assert boxes[0][2] < boxes[1][0]
    assert boxes[0][3] <= boxes[3][1]
    assert all(b[0] >= 0 and b[2] <= width and b[3] <= page.height for b in boxes)


def test_pixels_of_filters_stay_squares_of_one_size():
    board = Image.fromarray((np.indices((7, 7)).sum(0) % 2 * 255).astype(np.uint8)).convert("RGB")
    page = pictures([Strip([Tile(board)] * 5)], enlarge="crisp").picture(width=600)
    left, top, right, bottom = areas(page, (0, 0, 0))
    values = np.asarray(page)[top:bottom, left:right, 0]
    assert set(np.unique(values)) <= {0, 255} | set(range(200, 256))
    line = np.flatnonzero(np.diff(values[1, :90].astype(int)))
    assert len(set(np.diff(line[:5]))) == 1


def test_aligned_strips_share_columns_and_have_labels_on_the_left():
    strips = [
        Strip([tile((10, 200, 30)), tile((10, 30, 200))], "one", "a note"),
        Strip([tile((200, 9, 9))], "two"),
    ]
    page = pictures(strips, aligned=True).picture(width=800)
    first, second, below = (areas(page, c) for c in ((10, 200, 30), (10, 30, 200), (200, 9, 9)))
    assert first[0] == below[0] > 0.15 * 800
    assert second[0] > first[2]
    assert below[1] >= first[3]


def test_long_and_strange_captions_do_not_leave_their_cells():
    strips = [
        Strip([tile((1, 2, 3), (30, 30), "a very long caption " * 9, "\x1b[31m\udcff") for _ in range(8)])
    ]
    page = np.asarray(pictures(strips).picture(width=400))
    assert (page[:, -8:] == page[0, -1]).all()


def test_nothing_to_show_is_still_a_page():
    page = pictures([Strip([], "none", "no two pictures are the same")]).picture(width=300)
    assert page.width == 300
    assert len(np.unique(np.asarray(page))) > 5


def test_frames_stand_out_and_small_fields_stay_visible():
    for colour in ("#000000", "#ffffff", "#808080"):
        picture = Image.new("RGB", (90, 90), colour)
        outline(picture, (30.0, 30.0, 60.0, 60.0))
        pixels = np.asarray(picture)
        assert (pixels[34:56, 34:56] == pixels[45, 45]).all()
        assert len(np.unique(pixels)) >= 2
    tiny = Image.new("RGB", (90, 90), "#808080")
    outline(tiny, (45.0, 45.0, 46.0, 46.0))
    assert (np.asarray(tiny)[45, 45] == 128).all()
    assert (np.asarray(tiny) == 255).any()


@pytest.mark.parametrize("count", [1, 5, 10, 11, 32, 64, 256, 4096])
def test_columns_make_even_lines(count):
    columns = columns_of(count)
    assert 1 <= columns <= 32
    assert count <= 10 or (-count % columns) / columns < 0.5
    if count in (32, 64, 256):
        assert count % columns == 0


def test_pictures_as_one_tensor():
    result = pictures([Strip([tile("#ff0000", (4, 2)), tile("#0000ff", (2, 6))])])
    assert result.pictures.shape == (2, 3, 6, 4)
    assert result.pictures[0, 0, 2:4].min() == 1
    assert result.pictures[0, 0, 0, 0] == 0.5
    assert result.values is not None
