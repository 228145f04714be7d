import numpy as np
import pytest
import torch
from PIL import Image

import vizkit
from vizkit.errors import UsageError
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
