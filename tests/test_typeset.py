"""Text: which font, what is cut, and that this Pillow can set it."""

import pytest
from PIL import features

from vizkit.typeset import _set, extent, fit, shorten, wrapped


def test_letters_beyond_pillows_font_come_from_dejavu():
    assert _set("tiger cat", 20)[0].getname()[0] == "Aileron"
    assert _set("кошка", 20)[0].getname()[0] == "DejaVu Sans"
    assert _set("猫", 20)[0].getname()[0] == "DejaVu Sans"


@pytest.mark.parametrize("text", ["x" * 200, "a/long/path/to/some/IMG_1234.jpg", "abc def ghi jkl"])
@pytest.mark.parametrize("room", [0, 3, 20, 60, 110])
def test_shortened_text_keeps_both_ends_and_fits(text, room):
    short = shorten(text, 14, room)
    assert extent(short, 14) <= room
    if short and short != text:
        head, tail = short.split("…")
        assert text.startswith(head)
        assert text.endswith(tail)
    assert shorten(text, 14, 1e6) == text


def test_wrapped_text_keeps_its_words_and_shortens_what_is_too_long():
    text = "integrated gradients of a-name-that-is-longer-than-a-line here"
    room = extent("integrated", 14) + 1
    lines = wrapped(text, 14, room)
    assert lines[:3] == ["integrated", "gradients", "of"]
    assert "…" in lines[3]
    assert all(extent(line, 14) <= room for line in lines)
    assert " ".join(wrapped(text, 14, 1000)) == text
    assert len(wrapped(text, 14, 300)) == 2
    assert wrapped("", 14, room) == [""]


def test_the_first_text_that_fits_is_taken_and_else_the_last_is_shortened():
    texts = ["a very long line", "a line", "line"]
    assert fit(texts, 14, 1e6) == texts[0]
    assert fit(texts, 14, extent("a line", 14)) == "a line"
    assert fit(["a very long line", "another long one"], 14, 60).startswith("a")
    assert "…" in fit(["a very long line", "another long one"], 14, 60)


def test_this_pillow_has_freetype():
    assert features.check("freetype2")  # or the tests above look at the bitmap font
