"""The picture reader: hostile files, exact pixels, and silence on stderr."""

import contextlib
import io
import os
import random
import socket
import struct
import subprocess
import sys
import threading
import time
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from vizkit import decoding, images, pixels
from vizkit.errors import ImageError, UsageError
from vizkit.images import FORMATS, load_image, read_image, to_tensor

ROOT = Path(__file__).resolve().parents[1]
Y, X = np.mgrid[:24, :40]
RGB = np.dstack([X * 6, Y * 10, X + Y]).astype(np.uint8)
GREY = (X * 5 + Y).astype(np.uint8)


def encoded(pixels, form="PNG", **options):
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def pixels_of(source, **options):
    return np.asarray(read_image(source, **options).image)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_header(width, height, *, depth=8, colour=2):
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)


def bomb(width, height, **kind):
    """The start of a PNG of any size: all that is needed to know how large it is."""
    return png_header(width, height, **kind) + chunk(b"IDAT", b"x")


def run_python(code, *, shell_suffix="", arguments=(), **options):
    """Run `code` in a fresh interpreter from the checkout root."""
    command = [sys.executable, *arguments, "-c", code]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    if shell_suffix:
        command = ["sh", "-c", f'exec "$@" {shell_suffix}', "sh", *command]
    return subprocess.run(command, capture_output=True, timeout=60, env=environment, **options)


# --- hostile input: the kind of error, a part of the message ---

NOISE = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
JPEG = encoded(RGB, "JPEG", quality=95)
CUT_JPEG = encoded(NOISE, "JPEG", quality=95)[:2000]
PNG = encoded(NOISE)
GIF = encoded(Image.fromarray(RGB).quantize(), "GIF")


def png_with_wrong_sum():
    at = PNG.rindex(b"IEND") - 8
    return PNG[:at] + bytes([PNG[at] ^ 1]) + PNG[at + 1 :]


def png_with_wrong_zlib():
    return png_header(9, 9) + chunk(b"IDAT", b"x\x9c" + b"\xff" * 90) + chunk(b"IEND", b"")


def png_text_bomb():
    text = b"Comment\0\0" + zlib.compress(bytes(80_000_000))
    return png_header(4, 4) + chunk(b"zTXt", text) + chunk(b"IEND", b"")


CONTENT = {
    "empty": (b"", "empty file (0 bytes)"),
    "text": (b"just some words\nin lines\n", "looks like text (25 bytes, starts with b'just some wo')"),
    "bytes": (bytes(range(128, 200)), "no known picture format (72 bytes"),
    "html": (b"\n<!DOCTYPE html><html><body>404</body>", "a web page (HTML)"),
    "html without doctype": (b"<html><body>404</body></html>", "a web page (HTML)"),
    "pdf": (b"%PDF-1.7\n%\xe2\xe3", "a PDF document"),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG drawing"),
    "svg with prolog": (b'<?xml version="1.0"?>\n<!-- x -->\n<svg width="1"/>', "an SVG drawing"),
    "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript (EPS), which is never opened"),
    "zip": (b"PK\x03\x04" + bytes(30), "an archive"),
    "mp4": (b"\0\0\0\x18ftypisom" + bytes(20), "a film"),
    "jpeg header cut": (JPEG[:3], "a JPEG whose header is cut short"),
    "jpeg header cut later": (
        JPEG[:200],
        "a JPEG whose header is cut short or damaged (200 bytes, starts with b'\\xff",
    ),
    "png header cut": (PNG[:20], "a PNG whose header is cut short"),
    "gif header cut": (GIF[:8], "a GIF whose header is cut short"),
    "bmp header cut": (encoded(RGB, "BMP")[:20], "a BMP whose header is cut short"),
    "tiff of an unknown kind": (
        b"II*\0\x08\0\0\0\0\0\0\0\0\0",
        "a TIFF that is damaged or of an unknown kind",
    ),
    "truncated jpeg": (CUT_JPEG, "pass --allow-truncated"),
    "truncated png": (PNG[: len(PNG) // 2], "pass --allow-truncated"),
    "truncated gif": (GIF[: len(GIF) // 2 + 400], "image file is truncated"),
    "truncated webp": (encoded(RGB, "WEBP")[:60], "get a fresh copy"),
    "truncated tiff": (encoded(RGB, "TIFF")[:2000], "image file is truncated"),
    "truncated bmp": (encoded(RGB, "BMP")[:2000], "image file is truncated"),
    "truncated ppm": (encoded(RGB, "PPM")[:2000], "image file is truncated"),
    "png wrong checksum": (png_with_wrong_sum(), "wrong checksum in part 'IDAT'"),
    "png wrong zlib": (png_with_wrong_zlib(), "damaged, cut short or unsupported"),
    "png text bomb": (png_text_bomb(), "Decompressed data too large for PngImagePlugin"),
    "above the limit": (
        bomb(8001, 8000),
        "8001 x 8000 = 64,008,000 pixels, the limit is 64,000,000; shrink it, or raise the limit "
        "with --max-pixels",
    ),
    "bomb 13000": (bomb(13_000, 13_000), "13000 x 13000 = 169,000,000 pixels"),
    "bomb 60000": (bomb(60_000, 60_000), "3,600,000,000 pixels, the limit is 64,000,000"),
    "no pixels": (bomb(0, 5), "a PNG whose header is cut short or damaged"),
    "all NaN": (
        encoded(np.full((3, 3), np.nan, np.float32), "TIFF"),
        "none of its values is a finite number",
    ),
}


@pytest.mark.parametrize("kind", CONTENT)
def test_unusable_content_is_an_image_error(kind, tmp_path):
    content, fragment = CONTENT[kind]
    path = tmp_path / "x.jpg"
    path.write_bytes(content)
    started = time.process_time()
    with pytest.raises(ImageError) as failure:
        read_image(path)
    assert time.process_time() - started < 5
    message = str(failure.value)
    assert failure.value.exit_code == 3
    assert fragment in message
    assert repr(str(path)) in message
    assert "\n" not in message
    with pytest.raises(ImageError):
        read_image(content)


WITHOUT_HEIF = """
import sys
sys.modules["pillow_heif"] = None  # as if it were not installed
import vizkit
from vizkit.errors import ImageError
try:
    vizkit.read_image(b"\\0\\0\\0\\x18ftypheic\\0\\0\\0\\0mif1heic")
except ImageError as error:
    print(error)
"""


def test_heic_without_the_plugin_names_the_extra():
    done = subprocess.run([sys.executable, "-c", WITHOUT_HEIF], capture_output=True, text=True, check=True)
    assert "heif extra: pip install 'vizkit[heif]'" in done.stdout


def test_heic_with_the_plugin(tmp_path):
    plugin = pytest.importorskip("pillow_heif", reason="needs the extra heif")
    heif = plugin.from_pillow(Image.new("RGB", (64, 48), (200, 30, 90)))
    heif.save(tmp_path / "x.heic", quality=95)
    photo = read_image(tmp_path / "x.heic")
    assert photo.image.size == (64, 48)
    difference = np.abs(np.asarray(photo.image, dtype=int) - (200, 30, 90))
    assert difference.max() <= 6


def test_never_opens_what_is_not_on_the_list(tmp_path):
    assert not {"EPS", "PDF", "WMF", "FPX", "PSD", "DDS", "SPIDER"} & set(FORMATS)
    assert {"JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "MPO"} <= set(FORMATS)
    tga = encoded(RGB, "TGA")
    assert Image.open(io.BytesIO(tga)).size == (40, 24)
    with pytest.raises(ImageError, match="no known picture format"):
        read_image(tga)


def make_missing(folder):
    (folder / "kitten.jpg").write_bytes(JPEG)
    return folder / "kiten.jpg"


def make_dangling(folder):
    (folder / "x.jpg").symlink_to(folder / "gone.jpg")
    return folder / "x.jpg"


def make_loop(folder):
    (folder / "a.jpg").symlink_to(folder / "b.jpg")
    (folder / "b.jpg").symlink_to(folder / "a.jpg")
    return folder / "a.jpg"


def make_fifo(folder):
    os.mkfifo(folder / "x.png")
    return folder / "x.png"


def make_socket(folder):
    with socket.socket(socket.AF_UNIX) as server:
        previous = Path.cwd()
        os.chdir(folder)  # the name of a socket may not be long
        try:
            server.bind("s.png")
        finally:
            os.chdir(previous)
    return folder / "s.png"


def make_file_as_folder(folder):
    (folder / "a.jpg").write_bytes(JPEG)
    return folder / "a.jpg" / "b.jpg"


SOURCES = {
    "missing": (make_missing, UsageError, "did you mean 'kitten.jpg'?"),
    "missing folder": (lambda f: f / "no" / "x.jpg", UsageError, "nor a folder"),
    "dangling link": (make_dangling, UsageError, "which does not exist"),
    "folder": (lambda f: f, UsageError, "is a folder, not a picture"),
    "file as a folder": (make_file_as_folder, UsageError, "there is no file"),
    "name too long": (lambda f: f / ("x" * 300), UsageError, "there is no file"),
    "NUL in the name": (lambda f: "a\0b.jpg", UsageError, "there is no file"),
    "empty name": (lambda f: "", UsageError, "there is no file"),
    "address": (lambda f: "https://example.org/cat.jpg", UsageError, "download the picture first"),
    "number": (lambda f: 7, UsageError, "cannot read a picture from a int"),
    "link loop": (make_loop, ImageError, "a link that leads back to itself"),
    "fifo": (make_fifo, ImageError, "a pipe or a device"),
    "socket": (make_socket, ImageError, "a pipe or a device"),
    "device": (lambda f: "/dev/zero", ImageError, "a pipe or a device"),
    "newline in a name": (lambda f: f / "a\n\x1b[31mb.jpg", UsageError, r"a\n\x1b[31mb.jpg"),
    "undecodable name": (lambda f: os.fsencode(f).decode() + "/\udcff.jpg", UsageError, r"\udcff.jpg"),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_unusable_source(kind, tmp_path):
    make, error, fragment = SOURCES[kind]
    source = make(tmp_path)
    failures = []

    def attempt():
        try:
            read_image(source)
        except (ImageError, UsageError) as failure:
            failures.append(failure)

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(5)
    assert not thread.is_alive(), "blocked"
    assert [type(f) for f in failures] == [error]
    assert failures[0].exit_code == {UsageError: 2, ImageError: 3}[error]
    assert fragment in str(failures[0])
    assert str(failures[0]).isprintable()


def test_unreadable_file():
    code = """
import os, sys, tempfile
from vizkit.errors import ImageError
from vizkit.images import read_image
with tempfile.TemporaryDirectory() as folder:
    os.chmod(folder, 0o755)
    path = os.path.join(folder, "x.png")
    open(path, "wb").close()
    os.chmod(path, 0)
    if os.geteuid() == 0:
        os.seteuid(65534)
    try:
        read_image(path)
    except ImageError as error:
        print(error)
    os.seteuid(os.getuid())
"""
    result = run_python(code)
    assert b"Permission denied; check its permissions" in result.stdout, result.stderr


@pytest.mark.parametrize(
    ("options", "fragment"),
    [
        ({"frame": 1}, "no frame 1 in picture; it has only frame 0"),
        ({"frame": -1}, "frame must be a whole number"),
        ({"frame": 1.5}, "frame must be a whole number"),
        ({"max_pixels": 0}, "max_pixels must be a whole number"),
        ({"background": "wite"}, "unknown background colour 'wite'; did you mean 'white'"),
        ({"background": "#12"}, "unknown background colour"),
        ({"background": (1, 2, 3)}, "unknown background colour"),
    ],
)
def test_wrong_options(options, fragment):
    with pytest.raises(UsageError) as failure:
        read_image(PNG, **options)
    assert fragment in str(failure.value)


def test_limit_is_read_from_the_options_and_stands_before_decoding():
    with pytest.raises(ImageError, match=r"40 x 24 = 960 pixels, the limit is 959"):
        read_image(JPEG, max_pixels=959)
    assert read_image(JPEG, max_pixels=960).image.size == (40, 24)
    with pytest.raises(ImageError, match=r"pixels, the limit is 178,956,970; shrink it$"):
        read_image(bomb(60_000, 60_000), max_pixels=10**11)
    with pytest.raises(ImageError, match="the limit is 5"):
        read_image(GIF, max_pixels=5, frame=9)  # no looking for frames in what is too large
    # Between Pillow's warning and its refusal: the warning must not reach anyone.
    with pytest.raises(ImageError, match="allow-truncated"):
        read_image(bomb(10_000, 9_000, depth=1, colour=0), max_pixels=10**8)


def test_a_page_larger_than_the_first_is_refused(tmp_path):
    small, large = Image.new("L", (8, 8)), Image.new("L", (80, 80))
    data = encoded(small, "TIFF", save_all=True, append_images=[large])
    assert read_image(data, max_pixels=100).image.size == (8, 8)
    with pytest.raises(ImageError, match="80 x 80"):
        read_image(data, frame=1, max_pixels=100)


def test_computing_time_is_limited(monkeypatch):
    slow = b"P3 500 500 255 " + b"1 2 3 " * 250_000
    assert read_image(slow).image.size == (500, 500)
    monkeypatch.setattr(images, "MAX_SECONDS", 0.01)
    with pytest.raises(ImageError, match="takes too long to decode"):
        read_image(slow, allow_truncated=True)


def test_no_memory(monkeypatch):
    def load(_self):
        raise MemoryError

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    with pytest.raises(ImageError, match="not enough memory"):
        read_image(PNG)


@pytest.mark.parametrize("error", [MemoryError(), OSError("out of memory error when reading image file")])
def test_where_memory_has_run_out_no_picture_is_called_bad(monkeypatch, error):
    def load(_self):
        raise error

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    monkeypatch.setattr("vizkit.decoding.starved", lambda: True)
    with pytest.raises(MemoryError, match="cannot read"):
        read_image(PNG)


def test_a_bug_is_not_called_a_bad_picture(monkeypatch):
    def broken(*_):
        raise AttributeError("bug")

    monkeypatch.setattr(pixels, "_to_rgb", broken)
    with pytest.raises(AttributeError, match="bug"):
        read_image(PNG)


# --- damaged pictures on request ---


@pytest.mark.parametrize("form", ["JPEG", "PNG", "BMP", "TIFF", "PPM"])
def test_truncated_is_accepted_on_request(form):
    noise = np.random.default_rng(1).integers(0, 256, (64, 64), dtype=np.uint8)
    whole = encoded(np.dstack([noise] * 3), form)
    photo = read_image(whole[: len(whole) // 2], allow_truncated=True)
    expected = pixels_of(whole)
    rows = (np.asarray(photo.image) == expected).all(axis=(1, 2))
    rows = rows[::-1] if form == "BMP" else rows  # stored from the bottom up
    assert 16 <= rows.sum() <= 40
    assert rows[:16].all()
    assert len(photo.warnings) == 1
    assert "only partly decoded" in photo.warnings[0]
    assert read_image(whole, allow_truncated=True).warnings == ()


def test_cut_progressive_jpeg_shows_its_coarse_scans():
    noise = np.random.default_rng(5).integers(0, 60, (192, 320, 3))
    rough = np.kron(RGB // 2, np.ones((8, 8, 1), np.uint8)) + noise
    whole = encoded(rough.astype(np.uint8), "JPEG", progressive=True, quality=90)
    photo = read_image(whole[: len(whole) // 2], allow_truncated=True)
    error = np.abs(np.asarray(photo.image).astype(int) - pixels_of(whole))
    assert error[-50:].mean() < 20  # also below where a plain JPEG would be cut
    assert "partly decoded" in photo.warnings[0]


def test_wrong_checksum_is_accepted_on_request():
    photo = read_image(png_with_wrong_sum(), allow_truncated=True)
    assert (np.asarray(photo.image) == pixels_of(PNG)).all()
    assert "wrong checksum" in photo.warnings[0]


def test_accepting_damage_in_one_thread_does_not_accept_it_in_another():
    whole = encoded(np.random.default_rng(2).integers(0, 256, (200, 200, 3), dtype=np.uint8), "JPEG")
    cut = whole[: len(whole) // 2]
    accepted = []

    def tolerant():
        for _ in range(60):
            read_image(cut, allow_truncated=True)

    def strict():
        for _ in range(60):
            with contextlib.suppress(ImageError):
                accepted.append(read_image(cut))

    threads = [threading.Thread(target=work) for work in (tolerant, strict, tolerant, strict)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert accepted == []
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


# --- exact pixels ---


def test_plain_rgb_is_exact_and_detached():
    photo = read_image(encoded(RGB))
    assert (np.asarray(photo.image) == RGB).all()
    assert (photo.name, photo.path, photo.warnings, photo.notes) == ("picture", None, (), ())
    assert type(photo.image) is Image.Image
    assert photo.image.info == {}


@pytest.mark.parametrize("form", ["PNG", "GIF", "TIFF", "BMP", "PPM", "WEBP"])
def test_grey(form):
    assert (
        pixels_of(encoded(GREY, form, **({"lossless": True} if form == "WEBP" else {}))) == GREY[..., None]
    ).all()


def test_one_bit():
    bits = (X + Y) % 3 == 0
    assert (pixels_of(encoded(bits)) == bits[..., None] * np.uint8(255)).all()


def cmyk_oracle(cmyk):
    values = cmyk.astype(float)
    return np.rint((255 - values[..., :3]) * (255 - values[..., 3:]) / 255)


def test_cmyk():
    cmyk = np.dstack([X * 6, Y * 10, X + Y, X * 2]).astype(np.uint8)
    image = Image.frombytes("CMYK", (40, 24), cmyk.tobytes())
    assert np.abs(pixels_of(encoded(image, "TIFF")) - cmyk_oracle(cmyk)).max() <= 1
    jpeg = encoded(image, "JPEG", quality=98, subsampling=0)
    assert b"Adobe" in jpeg  # Adobe stores these inverted
    assert np.abs(pixels_of(jpeg) - cmyk_oracle(cmyk)).mean() < 3


def test_palette_and_its_transparency():
    indices = ((X // 5) % 4).astype(np.uint8)
    colours = np.array([[255, 0, 0], [0, 200, 0], [0, 0, 100], [9, 8, 7]], np.uint8)
    image = Image.fromarray(indices)
    image.putpalette(colours.tobytes())
    assert (pixels_of(encoded(image)) == colours[indices]).all()
    photo = read_image(encoded(image, transparency=1), background="#102030")
    colours[1] = (16, 32, 48)
    assert (np.asarray(photo.image) == colours[indices]).all()
    assert "transparent parts are laid on #102030" in photo.warnings[0]
    half = encoded(image, transparency=bytes([255, 255, 0, 255]))
    colours[1:3] = [[0, 200, 0], [255, 255, 255]]
    assert (pixels_of(half) == colours[indices]).all()


def over(colours, alpha, background):
    weight = alpha[..., None].astype(float) / 255
    return np.rint(colours * weight + np.array(background, float) * (1 - weight))


@pytest.mark.parametrize(("background", "value"), [("white", (255,) * 3), ("#ff8000", (255, 128, 0))])
def test_alpha_is_laid_on_the_background(background, value):
    alpha = (X * 6 + Y).astype(np.uint8)
    photo = read_image(encoded(np.dstack([RGB, alpha])), background=background)
    assert np.abs(np.asarray(photo.image) - over(RGB, alpha, value)).max() <= 1
    assert photo.warnings == (
        f"transparent parts are laid on {background} (--background chooses another colour)",
    )
    la = Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(alpha)])
    grey = over(np.dstack([GREY] * 3), alpha, value)
    assert np.abs(pixels_of(encoded(la), background=background) - grey).max() <= 1


def test_opaque_alpha_changes_nothing():
    photo = read_image(encoded(np.dstack([RGB, np.full_like(GREY, 255)])))
    assert (np.asarray(photo.image) == RGB).all()
    assert photo.warnings == ()


def test_transparent_colour_of_a_png_without_alpha():
    grey = pixels_of(encoded(GREY, transparency=7), background="black")
    assert (grey == np.where(GREY == 7, 0, GREY)[..., None]).all()
    assert (GREY == 7).any()


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_by_its_depth(form):
    deep = (X * 1600 + Y * 100).astype(np.uint16)
    photo = read_image(encoded(deep, form))
    assert (np.asarray(photo.image) == np.rint(deep / 65535 * 255)[..., None]).all()
    assert photo.warnings == ("65535 of its grey values is shown as white, in 256 steps",)
    dark = read_image(encoded((deep // 1000).astype(np.uint16), form))
    assert np.asarray(dark.image).max() == 0  # the depth counts, not the range


def test_16_bit_pgm_is_scaled_by_its_depth():
    dark = GREY.astype(">u2").tobytes()
    assert (pixels_of(b"P5 40 24 65535 " + dark) == np.rint(GREY / 257)[..., None]).all()


def test_transparency_of_16_bit_grey_is_named():
    data = encoded((X * 1600).astype(np.uint16))
    marked = data[:33] + chunk(b"tRNS", b"\0\0") + data[33:]
    assert "its transparent grey is shown as a grey" in read_image(marked).warnings


def test_12_bit_and_signed_tiff():
    tifffile = pytest.importorskip("tifffile", reason="tifffile is not installed")
    signed = (X * 800).astype(np.int16)
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, signed)
    assert (pixels_of(buffer.getvalue()) == np.rint(signed / 32767 * 255)[..., None]).all()
    packed = np.array([[0, 1, 2047, 4095]], np.uint16)
    values = b"\x00\x00\x01\x7f\xff\xff"  # four numbers of 12 bits
    assert [int.from_bytes(values, "big") >> s & 0xFFF for s in (36, 24, 12, 0)] == packed[0].tolist()
    tags = [(256, 4), (257, 1), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 1), (279, 6)]
    entries = b"".join(struct.pack("<HHII", tag, 4 if tag in (273, 279) else 3, 1, v) for tag, v in tags)
    data = b"II*\0" + struct.pack("<I", 14) + values + struct.pack("<H", 9) + entries + bytes(4)
    assert (pixels_of(data)[..., 0] == np.rint(packed / 4095 * 255)).all()


@pytest.mark.parametrize(
    ("scale", "white"), [(1, 255), (200, 65535), (9_000_000, 2**31 - 1), (17_000_000, 2**32 - 1)]
)
def test_32_bit_integers_are_scaled_by_the_depth_they_need(scale, white):
    tifffile = pytest.importorskip("tifffile", reason="tifffile is not installed")
    values = GREY.astype(np.uint32) * np.uint32(scale)
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values)
    photo = read_image(buffer.getvalue())
    assert (np.asarray(photo.image) == np.rint(values / white * 255)[..., None]).all()
    assert photo.warnings[0].startswith(f"{white} of its grey values is shown as white")


def test_negative_integers_are_stretched():
    values = X.astype(np.int32) * 100 - 1000
    photo = read_image(encoded(values, "TIFF"))
    assert (np.asarray(photo.image) == np.rint((values + 1000) / 3900 * 255)[..., None]).all()
    assert photo.warnings == ("its values from -1000 to 2900 are stretched from black to white",)


def test_floats_from_0_to_1_are_shown_as_they_are():
    values = (X / 80).astype(np.float32)
    photo = read_image(encoded(values, "TIFF"))
    assert (np.asarray(photo.image) == np.rint(values.astype(float) * 255)[..., None]).all()
    assert photo.warnings == ()


def test_other_floats_are_stretched_over_their_range():
    values = (X * 3 - 7.5).astype(np.float32)
    values[0, 0], values[0, 1], values[0, 2] = np.nan, np.inf, -np.inf
    values[1, 1:2].view(np.uint32)[:] = 0x7FA00000  # a NaN that signals
    photo = read_image(encoded(values, "TIFF"))
    with np.errstate(invalid="ignore"):
        expected = np.rint((values.astype(float) + 7.5) / 117 * 255)
    expected[0, :3], expected[1, 1] = (0, 255, 0), 0
    assert (np.asarray(photo.image) == expected[..., None]).all()
    assert "4 values are not finite" in photo.warnings[0]
    assert photo.warnings[1] == "its values from -7.5 to 109.5 are stretched from black to white"
    assert pixels_of(encoded(np.full((2, 2), 7, np.float32), "TIFF")).max() == 0


def test_16_bit_rgb_keeps_its_high_bytes():
    rows = b"".join(b"\0" + (RGB[y] * 257.0).astype(">u2").tobytes() for y in range(24))
    data = png_header(40, 24, depth=16) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    assert (pixels_of(data) == RGB).all()


def test_lab():
    from skimage.color import lab2rgb

    lab = np.zeros((1, 5, 3))
    lab[0] = [[100, 0, 0], [0, 0, 0], [50, 40, 20], [70, -30, 30], [50, 0, 0]]
    stored = np.rint(lab * [2.55, 1, 1]).astype(int).astype(np.uint8)
    image = Image.frombytes("LAB", (5, 1), stored.tobytes())
    expected = lab2rgb(lab) * 255
    for source in (image, encoded(image, "TIFF")):
        assert np.abs(pixels_of(source) - expected).max() < 8  # skimage has another white


def test_hsv_and_ycbcr():
    import colorsys

    hsv = Image.frombytes("HSV", (2, 1), bytes([0, 255, 200, 85, 128, 255]))
    expected = [colorsys.hsv_to_rgb(h / 255, s / 255, v / 255) for h, s, v in [(0, 255, 200), (85, 128, 255)]]
    assert np.abs(pixels_of(hsv)[0] - np.array(expected) * 255).max() <= 2
    y, cb, cr = 120.0, 90.0, 200.0
    rgb = [y + 1.402 * (cr - 128), y - 0.344136 * (cb - 128) - 0.714136 * (cr - 128), y + 1.772 * (cb - 128)]
    ycc = Image.frombytes("YCbCr", (1, 1), bytes([120, 90, 200]))
    assert np.abs(pixels_of(ycc)[0, 0] - np.array(rgb)).max() <= 1


ORIENTED = {
    1: RGB,
    2: RGB[:, ::-1],
    3: RGB[::-1, ::-1],
    4: RGB[::-1],
    5: RGB.transpose(1, 0, 2),
    6: np.rot90(RGB, -1),
    7: RGB[::-1, ::-1].transpose(1, 0, 2),
    8: np.rot90(RGB, 1),
}


@pytest.mark.parametrize("value", ORIENTED)
@pytest.mark.parametrize("form", ["PNG", "TIFF", "TIFF lzw", "WEBP", "PIL"])
def test_orientation(form, value):
    exif = Image.Exif()
    exif[274] = value
    options = {"WEBP": {"lossless": True}, "TIFF lzw": {"compression": "tiff_lzw"}}.get(form, {})
    data = encoded(RGB, "PNG" if form == "PIL" else form.split()[0], exif=exif, **options)
    photo = read_image(Image.open(io.BytesIO(data)) if form == "PIL" else data)
    assert (np.asarray(photo.image) == ORIENTED[value]).all()
    assert [f"orientation {value} asks" in w for w in photo.warnings] == ([] if value == 1 else [True])
    assert (pixels_of(photo.image) == ORIENTED[value]).all()  # a second reading turns nothing


def test_orientation_in_jpeg_and_16_bit():
    exif = Image.Exif()
    exif[274] = 6
    plain, turned = encoded(RGB, "JPEG"), encoded(RGB, "JPEG", exif=exif)
    assert (pixels_of(turned) == np.rot90(pixels_of(plain), -1)).all()
    deep = (X * 1600).astype(np.uint16)
    photo = read_image(encoded(deep, "TIFF", exif=exif))
    assert (np.asarray(photo.image)[..., 0] == np.rot90(np.rint(deep / 257), -1)).all()
    assert len(photo.warnings) == 2


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    "exif",
    [
        b"garbage",
        b"Exif\0\0",
        b"Exif\0\0II*\0\xff\xff\xff\xff",
        b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12\x01\x03\0\xff\xff\xff\xff\0\0\0\0",
        b"Exif\0\0II*\0\x08\0\0\0\x01\0" + b"\x12\x01\x03\0\x01\0\0\0\x63\0\0\0" + bytes(4),
        b"Exif\0\0MM\0*" + b"\xff" * 60,
    ],
)
def test_broken_exif_does_not_spoil_a_picture(form, exif):
    photo = read_image(encoded(RGB, form, exif=exif))
    assert photo.image.size == (40, 24)
    assert photo.warnings == ()


# --- frames ---


FRAMES = [np.full((8, 8, 3), v, np.uint8) for v in (10, 120, 250)]
STACKS = {
    "GIF": {},
    "PNG": {},
    "WEBP": {"lossless": True},
    "TIFF": {},
    "MPO": {"quality": 100},
}


@pytest.mark.parametrize("form", STACKS)
def test_frames(form):
    rest = [Image.fromarray(frame) for frame in FRAMES[1:]]
    data = encoded(FRAMES[0], form, save_all=True, append_images=rest, **STACKS[form])
    for number, frame in enumerate(FRAMES):
        photo = read_image(data, frame=number)
        assert np.abs(np.asarray(photo.image).astype(int) - frame).max() <= (form == "MPO")
        assert photo.warnings == (f"only frame {number} of its 3 is used (--frame chooses another)",)
    with pytest.raises(UsageError, match="no frame 3 in picture; it has 3 frames, numbered 0 to 2"):
        read_image(data, frame=3)


# --- sources ---


def test_path_name_and_notes(tmp_path):
    for name in ("a b.png", "-x.png", "new\nline.png", "é.png", "\udcff.png"):
        path = os.path.join(tmp_path, name)
        Path(path).write_bytes(encoded(RGB))
        photo = read_image(path)
        assert photo.path == path
        assert photo.name == name.replace("\n", r"\n").replace("\udcff", r"\udcff")
        assert photo.notes == ()
    wrong = tmp_path / "photo.JPG"
    wrong.write_bytes(encoded(RGB))
    photo = read_image(wrong)
    assert photo.notes == ("the name ends in .JPG but the file is PNG",)
    assert photo.warnings == ()
    (tmp_path / "none").write_bytes(encoded(RGB, icc_profile=b"x" * 200))
    assert read_image(tmp_path / "none").notes == ("its colour profile is not applied",)


def test_bytes_bear_the_name_that_they_are_given(tmp_path):
    assert read_image(encoded(RGB), name="a\nb.png").name == r"a\nb.png"
    assert read_image(encoded(RGB), name="").name == "picture"
    with pytest.raises(ImageError, match=r"^cannot read standard input: it is an empty file"):
        read_image(b"", name="standard input")
    with pytest.raises(UsageError, match="no frame 7 in standard input"):
        read_image(encoded(RGB), name="standard input", frame=7)
    (tmp_path / "own.png").write_bytes(encoded(RGB))
    assert read_image(tmp_path / "own.png", name="other").name == "own.png"


READ_STDIN = """
from vizkit.images import ImageError, UsageError, read_image
try:
    photo = read_image("-")
    print(photo.name, photo.path, photo.image.getpixel((3, 2)))
except (ImageError, UsageError) as error:
    print(type(error).__name__, error)
"""


def test_standard_input():
    assert run_python(READ_STDIN, input=encoded(RGB)).stdout == b"standard input None (18, 20, 5)\n"
    empty = run_python(READ_STDIN, input=b"").stdout
    assert empty.startswith(b"ImageError cannot read standard input: it is an empty file (0 bytes)")
    closed = run_python(READ_STDIN, shell_suffix="<&-").stdout
    assert closed.startswith(b"UsageError there is no picture on standard input")


def test_pil_image_is_left_as_it_was():
    image = Image.open(
        io.BytesIO(encoded(FRAMES[0], "TIFF", save_all=True, append_images=[Image.fromarray(FRAMES[2])]))
    )
    image.seek(1)
    photo = read_image(image)
    assert (np.asarray(photo.image) == FRAMES[2]).all()
    assert image.tell() == 1
    photo.image.putpixel((0, 0), (1, 2, 3))
    assert image.getpixel((0, 0)) == (250, 250, 250)
    with pytest.raises(UsageError, match=r"seek\(\) first"):
        read_image(image, frame=1)
    with pytest.raises(ImageError, match="has no pixels"):
        read_image(Image.new("RGB", (0, 4)))
    with pytest.raises(ImageError, match="truncated"):
        read_image(Image.open(io.BytesIO(CUT_JPEG)))


def test_load_image():
    import torch

    tensor = load_image(encoded(RGB))
    assert tensor.dtype == torch.float32
    assert tensor.is_contiguous()
    assert (tensor.numpy() == RGB.transpose(2, 0, 1).astype(np.float32) / np.float32(255)).all()
    assert load_image(encoded(np.zeros((1, 1), np.uint8))).shape == (3, 1, 1)
    with pytest.raises(ImageError, match="the limit is 5"):
        load_image(PNG, max_pixels=5)


def test_to_tensor_in_strips(monkeypatch):
    tall = np.random.default_rng(3).integers(0, 256, (9000, 1000, 3), dtype=np.uint8)
    assert (to_tensor(Image.fromarray(tall)).numpy() * 255 == tall.transpose(2, 0, 1)).mean() > 0.5
    assert np.abs(to_tensor(Image.fromarray(tall)).numpy() * 255 - tall.transpose(2, 0, 1)).max() < 0.01


# --- silence ---


def noisy_tiff():
    data = bytearray(
        encoded(
            np.random.default_rng(4).integers(0, 256, (60, 60), dtype=np.uint8),
            "TIFF",
            compression="tiff_lzw",
        )
    )
    data[400:900] = b"\xff" * 500
    return bytes(data)


READ = """
import sys
from vizkit.errors import ImageError
from vizkit.images import read_image
try:
    print(read_image(sys.argv[1]).image.getpixel((3, 2)))
except ImageError as error:
    print(error)
"""


def test_libtiff_is_silent(tmp_path):
    bad, good = tmp_path / "bad.tif", tmp_path / "good.tif"
    bad.write_bytes(noisy_tiff())
    good.write_bytes(encoded(RGB, "TIFF", compression="tiff_lzw"))
    loud = run_python(f"from PIL import Image\nImage.open({str(bad)!r}).load()")
    assert b"tempfile.tif:" in loud.stderr, "this file does not make libtiff speak"
    result = run_python(READ.replace("sys.argv[1]", repr(str(bad))))
    assert result.stderr == b""
    assert b"decoder error" in result.stdout
    for path, text in ((bad, b"decoder error"), (good, b"(18, 20, 5)")):
        code = READ.replace("sys.argv[1]", repr(str(path)))
        assert text in run_python(code, shell_suffix="2>&-").stdout
        assert text in run_python(code, shell_suffix="0<&- 2>&-").stdout


def test_stderr_is_given_back(tmp_path, capfd):
    with pytest.raises(ImageError):
        read_image(noisy_tiff())
    os.write(2, b"still here")
    assert capfd.readouterr().err == "still here"


def test_overlapping_threads_share_the_silence(capfd):
    os.write(2, b"1")
    with decoding._without_stderr:
        with decoding._without_stderr:
            os.write(2, b"2")
        os.write(2, b"3")
    os.write(2, b"4")
    assert capfd.readouterr().err == "14"


def test_pillow_logs_nothing_to_stderr(tmp_path):
    path = tmp_path / "x.tif"
    entry = struct.pack("<HHII", 277, 3, 1, 200)
    sized = struct.pack("<HHII", 256, 3, 1, 4) + struct.pack("<HHII", 257, 3, 1, 4)
    path.write_bytes(b"II*\0\x08\0\0\0\x03\0" + sized + entry + bytes(4))
    loud = run_python(f"from PIL import Image\nImage.open({str(path)!r})")
    assert b"More samples per pixel" in loud.stderr
    result = run_python(READ.replace("sys.argv[1]", repr(str(path))))
    assert result.stderr == b""
    assert b"a TIFF that is damaged" in result.stdout


def test_warnings_of_pillow_stay_inside_and_filters_are_restored():
    before = list(warnings.filters)
    big = Image.new("1", (9500, 9500))
    data = encoded(big)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Image.open(io.BytesIO(data))
    assert [w.category for w in caught] == [Image.DecompressionBombWarning]
    assert read_image(data, max_pixels=10**8).image.size == (9500, 9500)  # pytest makes warnings errors
    assert list(warnings.filters) == before


def test_import_is_light():
    code = (
        "import sys, vizkit.images\nprint([m for m in ('torch', 'numpy', 'torchvision') if m in sys.modules])"
    )
    assert run_python(code).stdout == b"[]\n"


# --- random damage ---


def mutated(data, rng):
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = rng.randrange(min(len(data), rng.choice((64, 400, 10**6))))
        kind = rng.random()
        if kind < 0.7:
            data[at] = rng.randrange(256)
        elif kind < 0.8 and len(data) > 9:
            del data[at : at + rng.randrange(1, 9)]
        elif kind < 0.9:
            data[at:at] = rng.randbytes(rng.randrange(1, 9))
        else:
            del data[at + 1 :]
    return bytes(data)


def test_random_mutations_end_in_a_picture_or_an_image_error(capfd):
    exif = Image.Exif()
    exif[274] = 6
    image = Image.fromarray(RGB)
    starts = [
        encoded(RGB, "JPEG", exif=exif),
        encoded(RGB, exif=exif),
        encoded(image.quantize(), transparency=1),
        encoded(RGB, "GIF", save_all=True, append_images=[image.rotate(9)]),
        encoded(RGB, "WEBP"),
        encoded(RGB, "TIFF", compression="tiff_lzw", exif=exif),
        encoded((X / 9).astype(np.float32), "TIFF"),
        encoded(RGB, "BMP"),
    ] + ([encoded(RGB, "AVIF")] if "AVIF" in FORMATS else [])
    for start in starts:
        read_image(start)
    rng = random.Random(20)
    pictures, messages = 0, []
    started = time.process_time()
    for turn in range(1600):
        data = mutated(bytearray(starts[turn % len(starts)]), rng)
        try:
            read_image(data, allow_truncated=turn % 3 == 0)
            pictures += 1
        except ImageError as error:
            messages.append(str(error))
    assert time.process_time() - started < 15
    assert pictures > 200
    assert len(messages) > 200
    assert all(message.isprintable() for message in messages)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("turned", [False, True])
def test_jpegs_are_decoded_no_larger_than_asked_for(tmp_path, turned):
    y, x = np.mgrid[:600, :800]
    smooth = np.dstack([x * 255 / 800, y * 255 / 600, (x + y) * 255 / 1400]).astype(np.uint8)
    exif = Image.Exif()
    exif[274] = 6 if turned else 1
    path = tmp_path / "a.jpg"
    Image.fromarray(smooth).save(path, quality=95, exif=exif)
    whole, small = read_image(path), read_image(path, shorter=140)
    assert small.size == whole.size == ((600, 800) if turned else (800, 600))
    assert 140 <= min(small.image.size) < 280
    again = whole.image.resize(small.image.size, Image.Resampling.BOX)
    difference = np.abs(np.asarray(again, int) - np.asarray(small.image, int))
    assert difference.mean() < 1.5
    assert read_image(path, shorter=600).image.size == whole.image.size
    Image.fromarray(smooth).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", shorter=100).image.size == (800, 600)
