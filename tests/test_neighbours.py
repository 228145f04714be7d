"""Neighbours, purity and duplicates against scikit-learn and brute force."""

import io
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.neighbors import NearestNeighbors

import vizkit
from tests.slow_index import photo, photo_folder
from vizkit.errors import UsageError
from vizkit.scanning.distances import (
    Coarse,
    all_nearest,
    best_purity,
    chance,
    distances,
    nearest,
    nearest_to_each,
    purity,
)
from vizkit.scanning.index import CELL, cell_sums


@pytest.mark.parametrize("metric", ["l2", "cosine"])
@pytest.mark.parametrize("count", [1, 10, 200])
def test_nearest_are_scikit_learns(metric, count):
    rows = np.random.default_rng(0).normal(size=(300, 40)).astype(np.float32)
    model = NearestNeighbors(n_neighbors=count, metric="euclidean" if metric == "l2" else "cosine")
    far, near = model.fit(rows.astype(np.float64)).kneighbors()
    np.testing.assert_array_equal(all_nearest(rows, count, metric), near)
    for k in (0, 7, 299):
        numbers, found = nearest(rows, rows[k], count, metric, k)
        np.testing.assert_array_equal(numbers, near[k])
        np.testing.assert_allclose(found, far[k], atol=1e-12)


@pytest.mark.parametrize("metric", ["l2", "cosine"])
@pytest.mark.parametrize("kind", ["far from zero", "many equal", "bytes", "zeros among them"])
def test_nearest_of_many_blocks_is_exact_where_rounding_hides_the_order(kind, metric):
    dice = np.random.default_rng(1)
    rows = dice.normal(size=(6000, 24)).astype(np.float32)
    if kind == "far from zero":  # products in float32 are wrong by more than distances differ
        rows = (rows * 1e-3 + 1000).astype(np.float32)
    elif kind == "many equal":
        rows = rows[dice.integers(0, 40, 6000)]
    elif kind == "bytes":
        rows = dice.integers(0, 256, (6000, 24)).astype(np.uint8)
    else:
        rows[dice.random(6000) < 0.3] = 0
    for k in (3, 2500, 5999):
        far = distances(rows, rows[k], metric)
        order = [n for n in np.lexsort((np.arange(6000), far)) if n != k][:30]
        numbers, found = nearest(rows, rows[k], 30, metric, k)
        np.testing.assert_array_equal(numbers, order)
        np.testing.assert_array_equal(found, far[order])
    some = np.array([5, 4100])
    assert all_nearest(rows, 30, metric, some).shape == (2, 30)
    np.testing.assert_array_equal(
        all_nearest(rows, 30, metric, some)[1], nearest(rows, rows[4100], 30, metric, 4100)[0]
    )


@pytest.mark.parametrize("kind", ["smooth", "noise", "all equal", "many equal"])
def test_of_very_many_rows_none_is_missed_by_a_coarse_look(kind):
    dice = np.random.default_rng(2)
    rows = dice.integers(0, 256, (4500, 3072), dtype=np.uint8)
    if kind == "smooth":
        light = dice.integers(0, 200, (4500, 4, 1, 4, 1, 1))
        noise = dice.integers(0, 9, (4500, 4, 8, 4, 8, 3))
        rows = (light + noise).reshape(4500, 3072).astype(np.uint8)
    elif kind == "all equal":
        rows[:] = 7
    elif kind == "many equal":
        rows = rows[dice.integers(0, 60, 4500)]
    asked = [0, 511, 512, 4499]
    coarse = Coarse(cell_sums(rows), cell_sums(rows[asked]), 1 / CELL)
    found = nearest_to_each(rows, rows[asked], 7, "l2", [None, *asked[1:]], coarse)
    for k, (numbers, far) in zip(asked, found, strict=True):
        exact = distances(rows, rows[k], "l2")
        order = [n for n in np.lexsort((np.arange(4500), exact)) if n != k or k == 0][:7]
        np.testing.assert_array_equal(numbers, order)
        np.testing.assert_array_equal(far, exact[order])
        apart = distances(coarse.rows, coarse.queries[asked.index(k)], "l2") / CELL
        assert (apart <= exact + 1e-9).all()


def test_ties_are_ordered_by_number():
    rows = np.zeros((6, 3), np.float32)
    np.testing.assert_array_equal(all_nearest(rows, 3, "l2")[4], [0, 1, 2])
    np.testing.assert_array_equal(nearest(rows, rows[0], 3, "cosine", 0)[0], [1, 2, 3])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=2, max_size=30), st.integers(1, 12))
def test_purities_by_the_definition(labels, count):
    folder = np.array(labels)
    n = len(folder)
    pairs = [(a, b) for a in range(n) for b in range(n) if a != b]
    assert chance(folder) == pytest.approx(np.mean([folder[a] == folder[b] for a, b in pairs]))
    k = min(count, n - 1)
    best = [min(k, sum(folder == folder[a]) - 1) / k for a in range(n)]
    assert best_purity(folder, count) == pytest.approx(np.mean(best))
    near = all_nearest(np.random.default_rng(0).normal(size=(n, 2)), k, "l2")
    each = [folder[a] == folder[b] for a in range(n) for b in near[a]]
    assert purity(folder, near) == pytest.approx(np.mean(each))


# --- the technique ---


@pytest.fixture
def model(tiny):
    return vizkit.wrap(tiny.eval(), size=32)


@pytest.fixture
def index(model, tmp_path):
    photo_folder(tmp_path / "photos", 13)
    vizkit.scan(model, tmp_path / "photos", tmp_path / "index", layers=["conv2"], features=["relu#2"])
    return vizkit.Index(tmp_path / "index")


def test_a_picture_of_the_folder_is_not_its_own_neighbour(index, tmp_path):
    features = np.array(index.features())
    for name in (index.name(4), tmp_path / "photos" / index.name(4), 4):
        result = vizkit.neighbours(index, name, count=5)
        far = np.linalg.norm(features.astype(float) - features[4], axis=1)
        far[4] = np.inf
        order = np.argsort(far, kind="stable")[:5]
        shown = [t.record["image"] for t in result.strips[0].tiles[1:]]
        assert shown == index.names(order)
        np.testing.assert_allclose(result.values[0], far[order], rtol=1e-5)


def test_another_picture_goes_through_the_network(index, model, tmp_path):
    copy = Image.open(tmp_path / "photos" / index.name(6))
    path = tmp_path / "again.png"
    copy.save(path, optimize=True, compress_level=9)
    result = vizkit.neighbours(index, path, model=model, count=1)
    assert result.strips[0].tiles[1].record["image"] == index.name(6)
    assert float(result.values[0, 0]) < 1e-3
    assert result.strips[1].tiles[1].record == {
        "image": index.name(6),
        "distance": 0.0,
        "folder": result.strips[0].tiles[1].record["folder"],
    }


def test_another_layer_is_computed(index, model, tmp_path):
    found = vizkit.neighbours(index, 2, model=model, layer="conv2", count=4)
    full = tmp_path / "full"
    vizkit.scan(model, tmp_path / "photos", full, layers=["conv2"], features=["conv2"])
    stored = vizkit.neighbours(vizkit.Index(full), 2, layer="conv2", count=4)
    torch.testing.assert_close(found.values, stored.values)
    with_folder = vizkit.neighbours(tmp_path / "photos", index.name(2), model=model, layer="conv2", count=4)
    torch.testing.assert_close(with_folder.values, stored.values)


def test_without_a_picture_some_are_looked_at_and_purity_is_told(index):
    said = vizkit.neighbours(index).figures()
    assert len({s["label"] for s in said["strips"]}) == len(index.classes)
    features = np.array(index.features())
    assert said["purity"]["features"] == pytest.approx(purity(index.folder, all_nearest(features, 10, "l2")))
    assert said["purity"]["chance"] == pytest.approx(chance(index.folder))


def test_duplicates_are_copies_and_other_encodings(model, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for k in range(5):
        photo(k, (160, 128)).save(folder / f"{k}.png")
    (folder / "copy of 2.png").write_bytes((folder / "2.png").read_bytes())
    data = io.BytesIO()
    photo(3, (160, 128)).save(data, "JPEG", quality=92)
    (folder / "three.jpg").write_bytes(data.getvalue())
    groups = vizkit.neighbours(folder, model=model, duplicates=True).figures()["groups"]
    assert sorted(map(sorted, groups)) == [["2.png", "copy of 2.png"], ["3.png", "three.jpg"]]


def test_none_of_unlike_pictures_are_duplicates(index):
    result = vizkit.neighbours(index, duplicates=True)
    assert result.figures()["groups"] == []
    assert result.picture(width=400).width == 400


def test_wrong_requests(index, model, tmp_path):
    with pytest.raises(UsageError, match="no file"):
        vizkit.neighbours(index, "nothing.png")
    with pytest.raises(UsageError, match="pictures 0 to 12"):
        vizkit.neighbours(index, 13)
    with pytest.raises(UsageError, match="name a picture by its file"):
        vizkit.neighbours(index, torch.rand(3, 8, 8))
    alone = tmp_path / "alone"
    alone.mkdir()
    photo(0).save(alone / "a.png")
    with pytest.raises(UsageError, match="another one"):
        vizkit.neighbours(alone, model=model)


def test_several_pictures_have_two_strips_each(index):
    result = vizkit.neighbours(index, [0, 3], count=4)
    assert [s.note.split("\n")[0] for s in result.strips] == ["features of relu#2", "pixels"] * 2
    assert len(vizkit.neighbours(index, [0, 3], count=4, pixels=False).strips) == 2
    assert all(a <= b for row in result.values.tolist() for a, b in itertools.pairwise(row))
