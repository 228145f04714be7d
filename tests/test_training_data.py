"""Data sets in memory: every source, splits, statistics, augmentation."""

import gzip
import pickle
import struct
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

import vizkit
from vizkit.errors import UsageError
from vizkit.sessions import seeded
from vizkit.training.archives import read_idx
from vizkit.training.augment import Augment, by_policy, jittered, mixed_labels, shifted
from vizkit.training.datasets import load_data
from vizkit.training.imagestats import image_stats
from vizkit.training.splits import folds, split
from vizkit.zoo.torchvision_models import transforms


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def idx(path, array, packed=False):
    data = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(data) if packed else data)


@pytest.fixture
def mnist(tmp_path):
    rng = np.random.default_rng(0)
    for part, count in (("train", 20), ("t10k", 10)):
        idx(tmp_path / f"{part}-images-idx3-ubyte.gz", rng.integers(0, 256, (count, 9, 7), np.uint8), True)
        idx(tmp_path / f"{part}-labels-idx1-ubyte", np.arange(count, dtype=np.uint8) % 3)
    return tmp_path


def pictures(folder, sizes):
    for k, (name, size) in enumerate(sizes):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (k * 20 % 255, 50, 90)).save(path)


# --- sources ---


def test_digits_are_at_hand():
    data = load_data("digits")
    assert len(data.train) + len(data.test) == 1797
    assert data.train.images.shape[1:] == (1, 8, 8)
    assert data.train.images.dtype == torch.uint8
    assert int(data.train.images.max()) == 255
    assert sum(data.train.counts().values()) == len(data.train)


def test_idx_files_packed_and_not(mnist):
    data = load_data(mnist)
    assert data.train.images.shape == (20, 1, 9, 7)
    assert data.test.labels.tolist() == [k % 3 for k in range(10)]
    assert data.train.classes == ("0", "1", "2")
    again = np.random.default_rng(0).integers(0, 256, (20, 9, 7), np.uint8)
    assert torch.equal(data.train.images[:, 0], torch.from_numpy(again))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "no IDX file"),
        (b"\0\0\x08\x03\0\0", "no IDX file"),
        (b"\0\0\x0d\x01\0\0\0\x01\0", "no IDX file"),
        (struct.pack(">HBBI", 0, 8, 1, 5) + b"abc", "damaged: 3 bytes for 5"),
        (struct.pack(">HBBI", 0, 8, 1, 0), "damaged: 0 bytes for 0"),
        (struct.pack(">HBB4I", 0, 8, 4, *4 * [1 << 31]), "damaged: 0 bytes"),  # 0 in 64 bits
        (struct.pack(">HBB", 0, 8, 200) + bytes(800), "no IDX file"),
    ],
)
def test_damaged_idx_files_are_named(tmp_path, data, said):
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(data)
    with pytest.raises(UsageError, match=said):
        read_idx(path)


def test_damaged_packing_is_said(tmp_path):
    whole = gzip.compress(struct.pack(">HBBI", 0, 8, 1, 5) + b"abcde")
    for cut in (whole[:-9], whole[:10] + b"\xff" + whole[11:], whole[:20]):
        (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(cut)
        with pytest.raises(UsageError, match="cannot read"):
            read_idx(tmp_path / "train-labels-idx1-ubyte.gz")


def test_idx_files_that_do_not_fit(mnist):
    idx(mnist / "train-labels-idx1-ubyte", np.zeros(5, np.uint8))
    with pytest.raises(UsageError, match="do not fit together"):
        load_data(mnist)
    (mnist / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(UsageError, match="not both"):
        load_data(mnist)


def test_cifar_as_folder_and_archive(tmp_path):
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 256, (6, 3072), np.uint8)
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in ("data_batch_1", "data_batch_2", "test_batch"):
        held = {b"data": rows, b"labels": list(range(4, 10))}
        (folder / name).write_bytes(pickle.dumps(held, protocol=2))
    data = load_data(folder)
    assert data.train.images.shape == (12, 3, 32, 32)
    assert data.train.classes[5] == "dog"
    assert torch.equal(data.test.images[0].flatten(), torch.from_numpy(rows[0]))
    packed = tmp_path / "cifar.tar.gz"
    with tarfile.open(packed, "w:gz") as archive:
        archive.add(folder, "cifar-10-batches-py")
    assert torch.equal(load_data(packed).train.images, data.train.images)


def test_cifar_in_binary_rows(tmp_path):
    rows = np.random.default_rng(0).integers(0, 256, (4, 3073), np.uint8)
    rows[:, 0] = [0, 1, 2, 9]
    (tmp_path / "data_batch_1.bin").write_bytes(rows.tobytes())
    data = load_data(tmp_path)
    assert data.train.labels.tolist() == [0, 1, 2, 9]
    assert torch.equal(data.train.images[1].flatten(), torch.from_numpy(rows[1, 1:]))
    (tmp_path / "data_batch_1.bin").write_bytes(b"12345")
    with pytest.raises(UsageError, match="damaged"):
        load_data(tmp_path)


ROWS = np.zeros((2, 3072), np.uint8)


@pytest.mark.parametrize(
    ("batch", "said"),
    [
        (pickle.dumps([1, 2]), "no batch of CIFAR"),
        (pickle.dumps({b"data": ROWS, b"labels": [1]}), "no label for each"),
        (pickle.dumps({b"data": ROWS, b"labels": [1, -1]}), "no numbers of classes"),
        (pickle.dumps({b"data": ROWS, b"labels": [1, 1 << 40]}), "no numbers of classes"),
        (pickle.dumps({b"data": ROWS, b"labels": [0.5, 1]}), "no batch"),
        (pickle.dumps({b"data": ROWS.tolist(), b"labels": [1, 2]}), "no array of bytes"),
        (pickle.dumps({b"data": ROWS[:, :7], b"labels": [1, 2]}), "no batch"),
        (b"\x80\x02}r" + struct.pack("<I", 1 << 31) + b".", "remembers more than there is"),
        (b"\x80\x02c_codecs\nencode\nX\x01\0\0\0aX\x03\0\0\0hex\x86R.", "would encode to hex"),
        (b"\x80\x02cnumpy\nndarray\n(J\xff\xff\xff\x7fttR.", "no batch"),
        (b"\x80", "no batch"),
        (b"", "no batch"),
    ],
    ids=range(12),
)
def test_batches_are_believed_no_further_than_they_fit(tmp_path, batch, said):
    (tmp_path / "data_batch_1").write_bytes(batch)
    with pytest.raises(UsageError, match=said):
        load_data(tmp_path)


def test_damaged_archives_are_said(tmp_path):
    packed = tmp_path / "cifar.tar.gz"
    (tmp_path / "data_batch_1").write_bytes(pickle.dumps({b"data": ROWS, b"labels": [1, 2]}))
    with tarfile.open(packed, "w:gz") as archive:
        archive.add(tmp_path / "data_batch_1", "data_batch_1")
    whole = packed.read_bytes()
    for damaged in (whole[:-40], whole[:60] + bytes(20) + whole[80:]):
        packed.write_bytes(damaged)
        with pytest.raises(UsageError):
            load_data(packed)


def test_a_pickle_that_runs_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            import os

            return os.system, ("touch /tmp/never",)

    (tmp_path / "data_batch_1").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(UsageError, match="it would call"):
        load_data(tmp_path)


def test_image_folders_of_one_size_and_of_several(tmp_path):
    pictures(tmp_path, [("a/1.png", (10, 8)), ("a/2.png", (10, 8)), ("b/x/3.png", (10, 8))])
    data = load_data(tmp_path)
    assert data.train.images.shape == (3, 3, 8, 10)
    assert data.train.classes == ("a", "b")
    assert data.train.labels.tolist() == [0, 0, 1]
    pictures(tmp_path, [("b/4.png", (40, 30))])
    (tmp_path / "b" / "5.png").write_bytes(b"no picture")
    data = load_data(tmp_path)
    assert data.train.images.shape == (4, 3, 64, 64)
    assert len(data.skipped) == 1
    assert "5.png" in data.skipped[0]
    assert load_data(tmp_path, size=16).train.images.shape[2:] == (16, 16)


def test_image_folders_with_parts(tmp_path):
    parts = [("train/a/1.png", (9, 9)), ("train/b/2.png", (9, 9)), ("val/b/3.png", (30, 20))]
    pictures(tmp_path, parts)
    data = load_data(tmp_path)
    assert data.test.labels.tolist() == [1]
    assert data.test.images.shape[2:] == data.train.images.shape[2:]
    pictures(tmp_path, [("val/c/4.png", (9, 9))])
    with pytest.raises(UsageError, match="class 'c'"):
        load_data(tmp_path)


def test_what_is_no_data_set(tmp_path):
    pictures(tmp_path, [("a/1.png", (9, 9))])
    with pytest.raises(UsageError, match="1 classes"):
        load_data(tmp_path)
    with pytest.raises(UsageError, match="no file"):
        load_data(tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="neither a folder nor"):
        load_data(tmp_path / "file")


# --- splits ---


def test_splits_keep_the_share_of_each_class():
    labels = torch.tensor([0] * 50 + [1] * 30 + [2] * 20)
    kept, held = split(labels, 0.1, seed=3)
    assert sorted(kept.tolist() + held.tolist()) == list(range(100))
    assert torch.bincount(labels[held]).tolist() == [5, 3, 2]
    assert torch.equal(split(labels, 0.1, seed=3)[1], held)
    assert not torch.equal(split(labels, 0.1, seed=4)[1], held)
    for bad in (0, 1, -0.5, float("nan")):
        with pytest.raises(UsageError, match="share"):
            split(labels, bad)
    with pytest.raises(UsageError, match="leaves 0 to learn from"):
        split(labels, 0.9999999)
    with pytest.raises(UsageError, match="class 1 has 1"):
        split(torch.tensor([0, 0, 1]), 0.5)


@pytest.mark.parametrize("seed", [2**63 - 1, 10**30, -1])
def test_any_whole_number_is_a_seed(seed):
    labels = torch.arange(60) % 3
    assert len(split(labels, 0.2, seed=seed)[1]) == 12
    assert len(folds(labels, 3, seed=seed)) == 3
    with seeded(seed):
        assert torch.rand(1).shape == (1,)


def test_folds_hold_each_picture_out_once():
    labels = torch.arange(60) % 3
    found = folds(labels, 5)
    assert sorted(torch.cat([held for _, held in found]).tolist()) == list(range(60))
    for kept, held in found:
        assert not set(kept.tolist()) & set(held.tolist())
        assert torch.bincount(labels[held]).tolist() == [4, 4, 4]
    with pytest.raises(UsageError, match="two folds"):
        folds(labels, 1)


# --- statistics ---


def test_statistics_are_those_of_numpy():
    images = torch.randint(0, 256, (30, 3, 5, 4), generator=generator(), dtype=torch.uint8)
    stats = image_stats(images)
    values = images.double().numpy() / 255
    colours = values.transpose(1, 0, 2, 3).reshape(3, -1)
    np.testing.assert_allclose(stats.mean.numpy(), colours.mean(1), rtol=1e-6)
    np.testing.assert_allclose(stats.std.numpy(), colours.std(1), rtol=1e-6)
    np.testing.assert_allclose(stats.picture.numpy(), values.mean(0), rtol=1e-6)
    covariance = np.cov(colours, bias=True)
    axes = stats.axes.double().numpy()
    np.testing.assert_allclose(axes @ np.diag(stats.variances.double()) @ axes.T, covariance, atol=1e-7)
    assert stats.variances.tolist() == sorted(stats.variances.tolist(), reverse=True)


# --- augmentation ---


def test_alternating_flips_show_both_sides_in_two_epochs():
    batch = torch.rand(200, 1, 4, 4, generator=generator())
    numbers = torch.arange(200)
    first, second = (Augment(flip="alternating")(batch, numbers, epoch, generator()) for epoch in (0, 1))
    flipped = [not torch.equal(a, b) for a, b in zip(first, batch, strict=True)]
    assert 60 < sum(flipped) < 140
    assert torch.equal(second, first.flip(3))
    third = Augment(flip="alternating")(batch, numbers, 2, generator(5))
    assert torch.equal(third, first)
    coins = Augment(flip="random")(batch, numbers, 0, generator(1))
    assert 60 < sum(not torch.equal(a, b) for a, b in zip(coins, batch, strict=True)) < 140


def test_shifts_move_by_whole_pixels():
    batch = torch.rand(50, 2, 9, 8, generator=generator())
    single = batch[:, :, :1, :1]
    assert torch.equal(shifted(single, 1, generator(1)), single)
    moved = shifted(batch, 2, generator(1))
    padded = torch.nn.functional.pad(batch, [2] * 4, "reflect")
    places = set()
    for new, old in zip(moved, padded, strict=True):
        spots = [(r, c) for r in range(5) for c in range(5) if torch.equal(old[:, r : r + 9, c : c + 8], new)]
        assert len(spots) == 1
        places.add(spots[0])
    assert len(places) > 15


def test_cutout_blanks_a_square():
    batch = torch.ones(100, 2, 12, 10)
    cut = Augment(cutout=4)(batch, torch.arange(100), 0, generator())
    blank = (cut == 0).all(1)
    assert torch.equal((cut == 0).any(1), blank)
    sizes = blank.sum((1, 2))
    assert int(sizes.max()) == 16
    assert int(sizes.min()) >= 4


def test_colour_jitter_follows_the_principal_axes():
    images = torch.rand(1, 3, 2, 2).expand(20_000, 3, 2, 2)
    axes = torch.linalg.qr(torch.randn(3, 3, generator=generator())).Q
    variances = torch.tensor([0.5, 0.2, 0.01])
    moved = jittered(images, variances, axes, 0.1, generator(2)) - images
    assert float((moved[:, :, 0, 0] - moved[:, :, 1, 1]).abs().max()) < 1e-6
    along = moved[:, :, 0, 0] @ axes
    torch.testing.assert_close(along.std(0), 0.1 * variances, rtol=0.03, atol=1e-5)


@pytest.mark.parametrize("policy", ["trivial", "rand", "auto", "colour", "crop"])
def test_policies_draw_for_each_picture_and_keep_shape_and_kind(policy):
    images = torch.randint(0, 256, (8, 3, 16, 16), generator=torch.Generator().manual_seed(0)).byte()
    torch.manual_seed(1)
    made = by_policy(images, policy)
    torch.manual_seed(1)
    assert torch.equal(made, by_policy(images, policy))
    assert (made.shape, made.dtype) == (images.shape, torch.uint8)
    same = images[:1].expand(16, -1, -1, -1)
    assert len(torch.unique(by_policy(same, policy).flatten(1), dim=0)) > 2
    assert by_policy(images[:, :1], policy).shape == (8, 1, 16, 16)
    assert by_policy(images, "none") is images


@pytest.mark.parametrize("mix", ["mixup", "cutmix"])
def test_mixed_labels_are_shares(mix):
    torch.manual_seed(0)
    batch, labels = torch.randn(16, 3, 8, 8), torch.randint(0, 5, (16,))
    pixels, shares = mixed_labels(batch, labels, 5, mix)
    assert (pixels.shape, shares.shape) == (batch.shape, (16, 5))
    torch.testing.assert_close(shares.sum(1), torch.ones(16))
    # what a label keeps is what its picture keeps
    kept = shares[torch.arange(16), labels]
    assert bool((kept > 0).all())
    assert not torch.equal(pixels, batch)


def test_training_takes_mixed_labels_and_transforms_of_ones_own(tmp_path):
    small = {"net": "linear", "epochs": 2, "report": False}
    made = vizkit.train("digits", tmp_path / "mixed", mix="mixup", policy="colour", **small)
    assert made.test["accuracy"] > 0.5
    own = vizkit.train("digits", tmp_path / "own", transform=transforms().RandomInvert(1.0), **small)
    assert own.test["accuracy"] < made.test["accuracy"]  # it learnt from negatives alone
    with pytest.raises(UsageError, match="mixes labels"):
        vizkit.train("digits", tmp_path / "no", mix="cutmix", loss="hinge", smoothing=0.0, **small)
