import os

import numpy as np
import pytest
import torch
from PIL import Image

import vizkit
from vizkit.errors import ImageError, UsageError
from vizkit.evaluation.judging import mask_file
from vizkit.masks import mask_of, read_mask


def test_pictures_arrays_and_files_give_the_same_mask(tmp_path):
    mask = np.zeros((6, 9), bool)
    mask[1:4, 2:7] = True
    picture = Image.fromarray(mask.astype(np.uint8) * 255)
    picture.save(tmp_path / "m.png")
    np.save(tmp_path / "m.npy", mask)
    sources = [mask, mask.astype(float) * 3, torch.from_numpy(mask), picture]
    for source in [*sources, tmp_path / "m.png", str(tmp_path / "m.npy")]:
        assert torch.equal(read_mask(source), torch.from_numpy(mask))


def test_a_mask_of_the_photograph_goes_through_the_models_crop(tiny):
    model = vizkit.wrap(tiny, size=32, resize=32)
    mask = np.zeros((64, 128), bool)
    mask[:, 64:] = True  # the right half; the crop shows columns 32 to 96
    seen = mask_of(mask, model)
    assert seen.shape == (32, 32)
    assert bool(seen[:, 16:].all())
    assert not bool(seen[:, :16].any())
    exact = torch.rand(32, 32) > 0.5
    assert torch.equal(mask_of(exact, model), exact)
    assert torch.equal(mask_of(mask, vizkit.wrap(tiny)), torch.from_numpy(mask))


def test_what_is_no_mask_is_refused(tmp_path, tiny):
    (tmp_path / "bad.npy").write_bytes(b"nothing")
    for wrong, words in [
        (np.zeros((3, 4, 5)), r"\(3, 4, 5\)"),
        (np.zeros((3, 4)), "empty"),
        (str(tmp_path / "none.npy"), r"none\.npy"),
        (str(tmp_path / "bad.npy"), "cannot read"),
        ("none.png", r"none\.png"),
    ]:
        with pytest.raises(UsageError, match=words):
            read_mask(wrong)
    outside = np.zeros((64, 128), bool)
    outside[:, :10] = True
    with pytest.raises(UsageError, match="outside"):
        mask_of(outside, vizkit.wrap(tiny, size=32, resize=32))


def header(shape, dtype="|b1", version=1):
    """The first bytes of a .npy file that promises an array."""
    said = repr({"descr": dtype, "fortran_order": False, "shape": shape}).encode() + b"\n"
    return b"\x93NUMPY" + bytes([version, 0]) + len(said).to_bytes(2 if version == 1 else 4, "little") + said


EMPTY_ZIP = b"PK\5\6" + bytes(18)


@pytest.mark.parametrize(
    "data",
    [
        EMPTY_ZIP,
        b"PK\3\4" + bytes(40),
        b"\x80\4N.",
        header((10**20 - 1, 1)),
        header((1_000_000, 1_000_000)),
        header((-1, -8)) + bytes(8),
        header((8, 8), "|O") + bytes(512),
        header((8, 8), version=9) + bytes(64),
        header((2,) * 64) + bytes(64),
        b"\x93NUMPY\1\0\5\0((((\n",
        b"\x93NUMPY\1\0\xff\x20" + b"(" * 8447,
        b"\x93NUMPY\1\0\x10\0{'descr': '\\d'}\n",
    ],
    ids=lambda d: repr(d)[:50],
)
@pytest.mark.filterwarnings("error")
def test_npy_files_are_believed_no_further_than_they_reach(tmp_path, data):
    (tmp_path / "m.npy").write_bytes(data)
    with pytest.raises(UsageError) as told:
        read_mask(tmp_path / "m.npy")
    assert len(str(told.value)) < 300 + len(str(tmp_path))


def test_npy_files_of_either_order_and_version_are_read(tmp_path):
    mask = np.arange(12).reshape(3, 4) > 5
    for number, array in enumerate((mask, np.asfortranarray(mask), mask.astype(">f8"))):
        np.save(tmp_path / f"{number}.npy", array)
        assert torch.equal(read_mask(tmp_path / f"{number}.npy"), torch.from_numpy(mask))
    (tmp_path / "2.npy").write_bytes(header((3, 4), version=2) + mask.tobytes() + b"\nvizkit")
    assert torch.equal(read_mask(tmp_path / "2.npy"), torch.from_numpy(mask))


def test_masks_that_are_no_files_are_named(tmp_path):
    (tmp_path / "a.npy").mkdir()
    (tmp_path / "b.npy").symlink_to("none")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "c.npy")
    (tmp_path / "d").mkdir()
    for name in ("a", "b", "c"):
        if os.path.lexists(tmp_path / f"{name}.npy"):
            with pytest.raises(UsageError, match=rf"{name}\.npy"):
                read_mask(tmp_path / f"{name}.npy")
            with pytest.raises(ImageError, match=rf"{name}\.npy"):
                mask_file(tmp_path, f"{name}.jpg")
    assert mask_file(tmp_path, "d") is None
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    assert mask_file(tmp_path, "a.jpg") == tmp_path / "a.png"
