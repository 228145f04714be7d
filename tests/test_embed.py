"""Embeddings: affinities, maps, grids and clusters against scikit-learn, scipy and brute force."""

import itertools
import json

import numpy as np
import pytest
import torch
from scipy.sparse import coo_array
from sklearn.datasets import make_blobs
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE, trustworthiness
from sklearn.manifold._t_sne import _joint_probabilities_nn
from sklearn.neighbors import NearestNeighbors

import vizkit
from tests.slow_index import photo, photo_folder
from vizkit.embedding import arrangement, reduction
from vizkit.embedding.affinities import conditional, divergence, joint
from vizkit.embedding.arrangement import arrange, grid_size
from vizkit.embedding.clusters import clusters
from vizkit.embedding.placing import place
from vizkit.embedding.quality import trust
from vizkit.embedding.reduction import components, ready, reduce, usual_perplexity
from vizkit.errors import ModelError, UsageError
from vizkit.scatter_drawing import palette
from vizkit.scatters import Grouping


def blobs(count=150, width=12, seed=0):
    return make_blobs(count, width, centers=4, random_state=seed)


# --- affinities ---


@pytest.mark.parametrize("perplexity", [2.0, 10.0, 30.0])
def test_conditional_probabilities_have_the_perplexity(perplexity):
    squared = np.random.default_rng(0).gamma(3, 5, (40, 90))
    p = conditional(squared, perplexity)
    np.testing.assert_allclose(p.sum(1), 1)
    np.testing.assert_allclose(np.exp(-(p * np.log(np.maximum(p, 1e-300))).sum(1)), perplexity, rtol=1e-6)
    order = squared.argsort(1)
    assert (np.diff(np.take_along_axis(p, order, 1), axis=1) <= 1e-15).all()


def test_equal_distances_are_uniform():
    np.testing.assert_allclose(conditional(np.full((2, 5), 3.0), 2.0), 0.2)


def test_joint_probabilities_are_scikit_learns():
    points, _ = blobs()
    rows, columns, values = joint(points, 20)
    mine = coo_array((values, (rows, columns)), shape=(150, 150)).toarray()
    graph = NearestNeighbors(n_neighbors=60).fit(points).kneighbors_graph(mode="distance")
    graph.data = graph.data**2
    theirs = _joint_probabilities_nn(graph, 20, 0).toarray()
    np.testing.assert_allclose(mine, theirs, atol=2e-7)
    assert mine.sum() == pytest.approx(1)


def test_the_divergence_is_the_sum_over_all_pairs():
    points, _ = blobs(60)
    positions = np.random.default_rng(1).normal(size=(60, 2))
    rows, columns, values = joint(points, 8)
    p = coo_array((values, (rows, columns)), shape=(60, 60)).toarray()
    squared = np.square(positions[:, None] - positions[None]).sum(2)
    q = 1 / (1 + squared)
    np.fill_diagonal(q, 0)
    q /= q.sum()
    expected = sum(p[a, b] * np.log(p[a, b] / q[a, b]) for a in range(60) for b in range(60) if p[a, b] > 0)
    assert divergence(points, positions, 8) == pytest.approx(expected, rel=1e-9)


def test_the_divergence_is_near_the_exact_one_of_scikit_learn():
    points = np.random.default_rng(0).normal(size=(90, 20))
    model = TSNE(perplexity=29, method="exact", init="pca", random_state=0)
    positions = model.fit_transform(points.astype(np.float32))
    # With 87 of 89 neighbours the sparse P is nearly the full one.
    assert divergence(points, positions, 29) == pytest.approx(model.kl_divergence_, rel=0.02)


# --- reduction ---


def test_components_are_scikit_learns_but_for_the_sign():
    points, _ = blobs(80, 30)
    mine, share = components(points, 5, 0)
    model = PCA(5, svd_solver="full")
    theirs = model.fit_transform(points)
    np.testing.assert_allclose(np.abs(mine), np.abs(theirs), atol=1e-9)
    np.testing.assert_allclose(share, model.explained_variance_ratio_)
    np.testing.assert_allclose(components(points[::-1], 5, 0)[0][::-1], mine, atol=1e-9)


def test_t_sne_keeps_blobs_apart_repeats_and_tells_its_divergence():
    points, labels = blobs()
    first, again = (reduce(points, "tsne", perplexity=None, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first.positions, again.positions)
    near = NearestNeighbors(n_neighbors=5).fit(first.positions).kneighbors(return_distance=False)
    assert (labels[near] == labels[:, None]).mean() > 0.98
    assert first.told["engine"] == "sklearn"
    assert first.told["perplexity"] == 30
    start = components(points, 50, 3)[0]
    assert first.told["kl_divergence"] == pytest.approx(divergence(start, first.positions, 30))
    random = np.random.default_rng(0).normal(size=(150, 2))
    assert first.told["kl_divergence"] < 0.5 * divergence(start, random, 30)


@pytest.mark.parametrize("count", [1, 2, 4, 5, 7])
@pytest.mark.parametrize("method", ["tsne", "pca"])
def test_few_pictures(count, method):
    points = np.random.default_rng(0).normal(size=(count, 9))
    found = reduce(points, method, perplexity=None, seed=0)
    assert found.positions.shape == (count, 2)
    assert np.isfinite(found.positions).all()


def test_pictures_that_are_all_the_same():
    found = reduce(np.ones((20, 6)), "tsne", perplexity=None, seed=2**63 - 1)
    assert np.isfinite(found.positions).all()


def test_perplexity_is_at_most_a_third_of_the_others():
    assert usual_perplexity(1000, None) == 30
    assert usual_perplexity(31, None) == 10
    assert usual_perplexity(1000, 50) == 50
    assert usual_perplexity(4, 50) == 1


@pytest.mark.optional
def test_opentsne_finds_as_good_a_map():
    pytest.importorskip("openTSNE", reason="openTSNE is not installed")
    points, _ = blobs(400, 20)
    found = {e: reduce(points, "tsne", perplexity=20, seed=0, engine=e) for e in ("sklearn", "opentsne")}
    told = {e: f.told["kl_divergence"] for e, f in found.items()}
    assert told["opentsne"] == pytest.approx(told["sklearn"], rel=0.05)


@pytest.mark.optional
def test_umap_keeps_blobs_apart():
    pytest.importorskip("umap", reason="umap-learn is not installed")
    points, labels = blobs(80)
    found = reduce(points, "umap", perplexity=None, seed=0)
    near = NearestNeighbors(n_neighbors=5).fit(found.positions).kneighbors(return_distance=False)
    assert (labels[near] == labels[:, None]).mean() > 0.95


def test_the_engine_is_chosen_by_size_and_named_when_missing(monkeypatch):
    monkeypatch.setattr(reduction, "has", lambda package: True)
    assert reduction.chosen_engine(reduction.LARGE - 1, "auto") == "sklearn"
    assert reduction.chosen_engine(reduction.LARGE, "auto") == "opentsne"
    monkeypatch.setattr(reduction, "has", lambda package: False)
    assert reduction.chosen_engine(reduction.LARGE, "auto") == "sklearn"
    with pytest.raises(UsageError, match=r"vizkit\[tsne\]"):
        reduction.chosen_engine(10, "opentsne")
    with pytest.raises(UsageError, match=r"vizkit\[umap\]"):
        reduce(blobs(30)[0], "umap", perplexity=None, seed=0)


def test_features_that_are_not_finite_are_refused_and_cosines_have_length_one():
    with pytest.raises(ModelError, match="NaN"):
        ready(np.array([[1.0, np.nan]]), "euclidean")
    np.testing.assert_allclose(np.linalg.norm(ready(np.eye(3) * 7 + 1, "cosine"), axis=1), 1)
    assert np.isfinite(ready(np.zeros((2, 3)), "cosine")).all()


def test_trustworthiness_is_scikit_learns():
    points, _ = blobs()
    positions = np.random.default_rng(0).normal(size=(150, 2))
    assert trust(points, positions)[0] == pytest.approx(trustworthiness(points, positions, n_neighbors=10))
    assert trust(points, points)[0] == 1
    assert trust(points[:2], positions[:2]) == (None, 2)


# --- grids, clusters, new points ---


def test_a_small_grid_is_the_best_of_all():
    positions = np.random.default_rng(5).normal(size=(6, 2))
    found = arrange(positions, 1.5)
    rows, columns = grid_size(6, 1.5)
    unit = (positions - positions.min(0)) / np.ptp(positions, axis=0)
    places = np.stack([unit[:, 1] * (rows - 1), unit[:, 0] * (columns - 1)], 1)
    cells = [(r, c) for r in range(rows) for c in range(columns)]

    def cost(chosen):
        return sum(((places[k] - cell) ** 2).sum() for k, cell in enumerate(chosen))

    best = min(cost(chosen) for chosen in itertools.permutations(cells, 6))
    assert cost([tuple(c) for c in found.tolist()]) == pytest.approx(best)


@pytest.mark.parametrize("count", [1, 2, 17, 1000, 3777])
def test_every_point_has_a_cell_of_its_own(count):
    positions = np.random.default_rng(0).normal(size=(count, 2))
    cells = arrange(positions)
    rows, columns = grid_size(count, 1.5)
    assert len({tuple(c) for c in cells.tolist()}) == count
    assert cells.min() >= 0
    assert (cells < [rows, columns]).all()


def test_large_grids_are_nearly_as_good_in_parts(monkeypatch):
    positions = np.random.default_rng(0).normal(size=(600, 2))
    whole = arrange(positions)
    monkeypatch.setattr(arrangement, "MOST", 100)
    parts = arrange(positions)
    assert not np.array_equal(whole, parts)
    unit = (positions - positions.min(0)) / np.ptp(positions, axis=0)
    size = np.array(grid_size(600, 1.5)) - 1

    def way(cells):
        return np.square(unit[:, ::-1] * size - cells).sum()

    assert way(parts) < 1.5 * way(whole)


def test_clusters_are_the_blobs_largest_first():
    points, labels = make_blobs([60, 30, 20, 10], 2, random_state=1, cluster_std=0.4)
    found = clusters(points)
    assert np.bincount(found).tolist() == [60, 30, 20, 10]
    assert all(len(set(found[labels == k].tolist())) == 1 for k in range(4))
    assert clusters(points[:5]).tolist() == [0] * 5
    assert clusters(np.zeros((30, 2))).tolist() == [0] * 30


def test_new_points_go_to_their_own_kind_and_equal_ones_to_one_place():
    points, labels = blobs(160)
    old, new = points[:150], points[150:]
    positions = reduce(old, "tsne", perplexity=20, seed=0).positions
    placed = place(old, positions, new, 20)
    near = NearestNeighbors(n_neighbors=5).fit(positions).kneighbors(placed, return_distance=False)
    assert (labels[near] == labels[150:, None]).mean() > 0.95
    np.testing.assert_allclose(place(old, positions, np.concatenate([new, new[:1]]), 20)[-1], placed[0])
    again = place(old, positions, old[:20], 20)
    spread = np.ptp(positions, axis=0).max()
    assert np.median(np.linalg.norm(again - positions[:20], axis=1)) < 0.08 * spread


def test_the_place_of_a_new_point_is_the_least_divergence_around():
    points, _ = blobs(121)
    old, new = points[:120], points[120:]
    positions = reduce(old, "tsne", perplexity=20, seed=0).positions
    (found,) = place(old, positions, new, 20)
    p = conditional(np.square(new[:, None] - old[None]).sum(2), 20)[0]

    def loss(at):
        q = 1 / (1 + np.square(positions - at).sum(1))
        return -(p * np.log(q / q.sum())).sum()

    steps = [(0.5, 0), (-0.5, 0), (0, 0.5), (0, -0.5)]
    assert all(loss(found) <= loss(found + np.array(step)) + 1e-6 for step in steps)


# --- the technique ---


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    from tests.conftest import TinyNet

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("embed")
    photo_folder(folder / "photos", 18)
    model = vizkit.wrap(TinyNet().eval(), size=32, labels=list("abcde"))
    vizkit.scan(model, folder / "photos", folder / "index", layers=[], features=["relu#2"])
    return vizkit.Index(folder / "index"), model, folder


def test_a_map_of_an_index(index):
    result = vizkit.embed(index[0], perplexity=4, seed=7)
    said = json.loads(result.to_json())
    assert (said["perplexity"], said["engine"], said["provenance"]["seed"]) == (4, "sklearn", 7)
    assert {"kl_divergence", "trustworthiness", "map_purity"} <= set(said)
    assert [p["image"] for p in said["points"]] == index[0].names(range(18))
    assert {p["folder"] for p in said["points"]} == {"discs", "squares", "waves"}
    for layout in ("scatter", "grid"):
        for theme in ("light", "dark"):
            assert result.picture(layout=layout, width=420, theme=theme).width == 420
    near = np.asarray(result.neighbours)
    assert near.shape == (18, 8)
    assert all(k not in row for k, row in enumerate(near.tolist()))


@pytest.mark.parametrize("by", ["folder", "class", "cluster"])
def test_colours_tell_what_is_asked(index, by):
    result = vizkit.embed(index[0], method="pca", by=by)
    assert result.groupings[0].name == by
    assert len(result.groupings) == 3


def test_new_pictures_do_not_move_the_others(index, tmp_path):
    found, model, folder = index
    photo(99).save(tmp_path / "new.png")
    plain = vizkit.embed(found, perplexity=4)
    more = vizkit.embed(found, perplexity=4, model=model, place_new=str(tmp_path))
    np.testing.assert_array_equal(more.positions[:18], plain.positions)
    assert list(more.names[18:]) == ["new.png"]
    assert list(more.new) == [False] * 18 + [True]
    assert more.figures()["points"][18]["new"] is True
    known = vizkit.embed(found, perplexity=4, place_new=str(folder / "photos" / found.name(3)))
    spread = np.ptp(plain.positions, axis=0).max()
    assert np.linalg.norm(known.positions[18] - plain.positions[3]) < 0.3 * spread


def test_a_net_without_classes_has_no_class_colours(tmp_path):
    from torch import nn

    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
    photo_folder(tmp_path / "photos", 6)
    with pytest.raises(UsageError, match="gives no classes"):
        vizkit.embed(tmp_path / "photos", model=vizkit.wrap(net, size=16), by="class")


def test_every_group_has_a_colour_and_the_smallest_share_a_grey():
    few = Grouping("x", tuple("abc"), (0, 1, 2, 0))
    assert len(set(palette(few, "light"))) == 3
    many = Grouping("x", tuple(map(str, range(30))), (*range(30), *range(20)))
    shades = palette(many, "dark")
    assert shades[20:] == ["#8a8f96"] * 10
    assert len(set(shades[:20])) == 20
