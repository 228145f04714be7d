"""The parts of a scan, each against its definition: top lists, histograms, layers, network, plans."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import vizkit
from vizkit.errors import ModelError, UsageError
from vizkit.scanning import extremes
from vizkit.scanning.choosing import default_features, default_layers, resolved
from vizkit.scanning.index import BINS, bin_edges, bin_of, quantile, sample_places
from vizkit.scanning.network import Network
from vizkit.scanning.planning import File, Plan, block_size, make_plan, read_shard
from vizkit.scanning.running import Found, Running, Top, best_columns
from vizkit.sessions import session
from vizkit.zoo.torchvision_models import import_torchvision

# --- what is read off a layer ---


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(3, 5, 4, 6), (2, 40, 1, 1), (1, 7, 9, 2)])
def test_extremes_are_values_and_first_places(shape, layout):
    maps = torch.randint(-3, 4, shape, generator=torch.Generator().manual_seed(0)).float()
    maps = maps.contiguous(memory_format=layout)
    flat = maps.flatten(2).numpy()
    high, low = extremes.highest(maps), extremes.lowest(maps)
    np.testing.assert_array_equal(high.values, flat.max(2))
    np.testing.assert_array_equal(high.places, flat.argmax(2))  # numpy's is the first
    np.testing.assert_array_equal(low.values, flat.min(2))
    np.testing.assert_array_equal(low.places, flat.argmin(2))
    np.testing.assert_array_equal(
        extremes.samples(maps).permute(0, 2, 1), flat[:, :, sample_places(*shape[2:])]
    )
    np.testing.assert_allclose(extremes.pooled(maps), flat.mean(2), rtol=1e-6)


def test_vectors_have_one_place():
    vectors = torch.randn(3, 4)
    assert torch.equal(extremes.highest(vectors).values, vectors)
    assert torch.equal(extremes.lowest(vectors).values, vectors)
    assert not extremes.highest(vectors).places.any()
    assert extremes.samples(vectors).shape == (3, 1, 4)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (7, 7), (14, 9), (112, 112)])
def test_sample_places_are_inside_distinct_and_spread(size):
    places = sample_places(*size)
    assert len(set(places.tolist())) == len(places) == min(4, size[0]) * min(4, size[1])
    assert places.min() >= 0
    assert places.max() < size[0] * size[1]
    if min(size) >= 8:
        rows, columns = places // size[1], places % size[1]
        assert rows.min() >= size[0] // 8 - 1
        assert columns.max() >= size[1] * 3 // 4


# --- histograms ---


def test_bins_are_in_order_and_their_edges_fall_into_them():
    edges = bin_edges().astype(np.float32)
    assert (np.diff(edges) > 0).all()
    np.testing.assert_array_equal(bin_of(edges), 129 + np.arange(128))
    below = np.nextafter(edges, np.float32(0))
    np.testing.assert_array_equal(bin_of(below), 128 + np.arange(128))
    np.testing.assert_array_equal(bin_of(-edges), 127 - np.arange(128))
    assert bin_of(np.float32([0, -0.0, 1e9, -1e9, 1e-9])).tolist() == [128, 128, BINS - 1, 0, 128]


@pytest.mark.parametrize("kind", ["normal", "relu", "small", "large"])
def test_quantiles_are_those_of_the_values(kind):
    rng = np.random.default_rng(0)
    values = {
        "normal": rng.standard_normal(20_000),
        "relu": np.maximum(rng.standard_normal(20_000), 0),
        "small": rng.exponential(0.05, 20_000),
        "large": rng.normal(30, 10, 20_000),
    }[kind].astype(np.float32)
    counts = np.bincount(bin_of(values), minlength=BINS)[None]
    for share in (0.01, 0.1, 0.5, 0.9, 0.99, 0.999):
        exact = np.quantile(values, share)
        assert quantile(counts, share)[0] == pytest.approx(exact, rel=0.13, abs=2**-9)


# --- top lists ---


def slow_top(values, k, sign):
    """Rows (C, k) of values and numbers by sorting everything; ties in the order of the numbers."""
    order = np.argsort(-sign * values, axis=0, kind="stable")[:k].T
    return np.take_along_axis(values.T, order, 1), order


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 40), st.integers(1, 7), st.integers(1, 6), st.integers(0, 2**31), st.sampled_from([1, -1])
)
def test_top_lists_equal_a_sort(count, channels, k, seed, sign):
    rng = np.random.default_rng(seed)
    values = rng.integers(-3, 4, (count, channels)).astype(np.float32)  # many ties
    places = rng.integers(0, 9, (count, channels)).astype(np.int32)
    top, step = Top(channels, k, sign), int(rng.integers(1, 9))
    for start in range(0, count, step):
        rows = slice(start, start + step)
        top.update(values[rows], places[rows], np.arange(start, min(count, start + step)))
    found, (best, order) = top.arrays(), slow_top(values, k, sign)
    filled = min(k, count)
    np.testing.assert_array_equal(found["values"][:, :filled], best)
    np.testing.assert_array_equal(found["images"][:, :filled], order)
    np.testing.assert_array_equal(found["places"][:, :filled], np.take_along_axis(places.T, order, 1))
    assert (found["images"][:, filled:] == -1).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 40), st.integers(0, 2**31))
def test_merging_blocks_in_any_order_equals_one_pass(count, seed):
    rng = np.random.default_rng(seed)
    values = rng.integers(-2, 3, (count, 5)).astype(np.float32)
    samples = values[:, None]
    owner = rng.integers(0, 3, count)
    whole, merged = Running([5], [True], 4), Running([5], [True], 4)

    def found(rows):
        parts = dict.fromkeys(("highest", "lowest"), values[rows])
        nowhere = {k: np.zeros_like(values[rows], np.int32) for k in parts}
        return Found(parts, nowhere, [samples[rows]])

    whole.update(found(np.arange(count)), np.arange(count, dtype=np.int32))
    for block in rng.permutation(3):
        mine = np.flatnonzero(owner == block)
        part = Running([5], [True], 4)
        if len(mine):
            part.update(found(mine), np.arange(len(mine), dtype=np.int32))
        merged.add(part.arrays(), mine.astype(np.int32))
    for name, array in whole.arrays().items():
        np.testing.assert_array_equal(merged.arrays()[name], array, err_msg=name)


def test_a_state_goes_through_its_arrays():
    rng = np.random.default_rng(0)
    values = rng.standard_normal((6, 3)).astype(np.float32)
    running = Running([2, 1], [False, True], 4)
    places = {"highest": np.zeros((6, 3), np.int32), "lowest": np.zeros((6, 1), np.int32)}
    found = Found(
        {"highest": values, "lowest": values[:, 2:]}, places, [values[:, None, :2], values[:, None, 2:]]
    )
    running.update(found, np.arange(6))
    other = Running([2, 1], [False, True], 4)
    other.restore(running.arrays())
    for state in (running, other):
        state.update(found, np.arange(6, 12))
    for name, array in running.arrays().items():
        np.testing.assert_array_equal(other.arrays()[name], array)
    assert running.sums == pytest.approx(2 * values.astype(np.float64).sum(0))
    assert (running.histogram.sum(1) == 12).all()


# --- layers ---


def test_default_layers_follow_norm_and_activation(tiny):
    model = vizkit.wrap(tiny, size=32)
    # conv2 is added to something before its ReLU; the ReLU is used twice, so its calls are numbered
    assert default_layers(model) == ["relu#1", "conv2"]
    assert default_features(model) == ["relu#2"]


def test_bounded_activations_are_left_out(lite0):
    names = default_layers(lite0)
    assert names[0] == "_bn0"
    assert len(names) == 49
    assert not [n for n in names if "_act" in n]
    assert default_features(lite0) == ["_act1"]


def test_resnet_layers_in_the_order_of_the_pass():
    model = vizkit.load_model("resnet18", random_weights=True)
    names = default_layers(model)
    assert len(names) == 20
    assert names[:3] == ["relu", "layer1.0.relu#1", "layer1.0.bn2"]
    assert resolved(model, ["layer2", "conv1", "layer1.0.relu#2"]) == ["conv1", "layer1.0.relu#2", "layer2"]
    with pytest.raises(UsageError, match="did you mean"):
        resolved(model, ["layer1.0.relu#7"])
    with pytest.raises(UsageError, match="no layer is called"):
        resolved(model, ["layr"])


def test_layers_that_are_no_maps_are_refused():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.mix = nn.Conv2d(3, 4, 8, 8), nn.Linear(4, 4)

        def forward(self, x):
            return self.mix(self.conv(x).flatten(2).transpose(1, 2)).mean(1)

    with pytest.raises(UsageError, match=r"16 x 4 numbers"):
        resolved(vizkit.wrap(Tokens(), size=32), ["mix"])


def test_a_net_without_convolutions_asks_for_layers():
    model = vizkit.wrap(nn.Sequential(nn.Flatten(), nn.Linear(12, 4)), size=2)
    with pytest.raises(ModelError, match="--layers"):
        default_layers(model)


# --- the network ---


def outputs(network, pixels):
    found = {}
    raw = network.run(pixels, lambda name, output: found.__setitem__(name, output.clone()))
    return raw, found


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "densenet121", "squeezenet1_1", "googlenet"])
def test_the_folded_network_is_the_module(name):
    import_torchvision()
    model = vizkit.load_model(name, random_weights=True)
    layers = default_layers(model)
    with session(model.module):
        network = Network(model, layers, (3, 96, 96))
        assert network.folded, network.how
        pixels = torch.rand(3, 3, 96, 96, generator=torch.Generator().manual_seed(1))
        raw, found = outputs(network, pixels)
        with torch.no_grad(), vizkit.capture(model.module, [n.split("#")[0] for n in layers]) as expected:
            logits = model.raw(pixels)
        torch.testing.assert_close(model.select(raw), model.select(logits), rtol=1e-3, atol=1e-4)
        for layer in layers:
            scale = float(expected[layer].abs().max())
            torch.testing.assert_close(found[layer], expected[layer], rtol=1e-3, atol=1e-4 * scale)


def test_the_same_batch_has_the_same_bits_on_any_thread(lite0):
    layers = default_layers(lite0)
    pixels = torch.rand(4, 3, 224, 224, generator=torch.Generator().manual_seed(2))
    with session(lite0.module):
        network = Network(lite0, layers, (3, 224, 224))
        first, maps = outputs(network, pixels)
        with ThreadPoolExecutor(2) as pool:
            others = list(pool.map(lambda _: outputs(network, pixels), range(2)))
    for logits, again in others:
        assert torch.equal(first, logits)
        assert all(torch.equal(maps[name], again[name]) for name in layers)


def test_what_cannot_be_recorded_is_run_as_it_is():
    class Looks(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            x = self.conv(x)
            return x.relu().mean((2, 3)) if float(x.sum()) > -1e9 else x.mean((2, 3))

    model = vizkit.wrap(Looks(), size=16)
    with session(model.module):
        network = Network(model, ["conv"], (3, 16, 16))
        assert not network.folded
        assert "depends on the values" in network.how
        _, found = outputs(network, torch.rand(2, 3, 16, 16))
        assert found["conv"].shape == (2, 4, 14, 14)


def test_answers_that_depend_on_the_batch_are_refused():
    class Centred(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            x = self.conv(x)
            return (x - x.mean(0, keepdim=True)).mean((2, 3))

    model = vizkit.wrap(Centred(), size=16)
    with session(model.module), pytest.raises(ModelError, match="differently"):
        Network(model, ["conv"], (3, 16, 16))


# --- plans ---


def files(*names, changed=0):
    return [File(name, 10, changed) for name in sorted(names)]


def same(a, b):
    return a == b


def test_planning_again_changes_nothing_and_new_files_get_new_blocks():
    first = make_plan(files(*(f"{k:03}" for k in range(150))), Plan(), same)
    assert [len(b) for b in first.blocks] == [64, 64, 22]
    assert make_plan(files(*(f"{k:03}" for k in range(150))), first, same) == first
    grown = make_plan(files("000a", *(f"{k:03}" for k in range(150))), first, same)
    assert grown.blocks[:3] == first.blocks
    assert grown.blocks[3] == tuple(files("000a"))


def test_a_changed_file_of_the_index_means_all_anew_but_a_bad_one_does_not():
    base = tuple(files("a", "b", "c"))
    plan = Plan(base, "r")
    assert make_plan(files("a", "b", "c", "d"), plan, same).base == base
    anew = make_plan(files("a", "c", "d"), plan, same)
    assert anew.base == ()
    assert anew.blocks == (tuple(files("a", "c", "d")),)
    mended = [File("b", 12, 3), *files("a", "c")]
    kept = make_plan(sorted(mended), plan, same, bad=["b"])
    assert kept.base == tuple(files("a", "c"))
    assert kept.blocks == ((File("b", 12, 3),),)


def test_block_sizes_grow_with_the_folder():
    assert block_size(10) == 64
    assert block_size(10_000) == 209
    assert block_size(1_000_000) == 4096


def test_shards_are_read_and_divide_the_blocks():
    parts = [read_shard(f"{k}/3") for k in (1, 2, 3)]
    blocks = [tuple(files(str(k))) for k in range(8)]
    assert sorted(b for p in parts for b in p.mine(blocks)) == sorted(blocks)
    for wrong in ("0/3", "4/3", "3", "a/b", "-1/2", "1/0"):
        with pytest.raises(UsageError, match="3/16"):
            read_shard(wrong)


@pytest.mark.parametrize("columns", [1, 7, 40])
def test_best_columns_are_a_stable_sort(columns):
    random = np.random.default_rng(columns)
    values = random.choice([-np.inf, -2.5, -0.0, 0.0, 1e-30, 3.0, np.float32(3.0000002)], (200, columns))
    values = values.astype(np.float32)
    count = max(1, columns - 3)
    expected = np.argsort(-values, axis=1, kind="stable")[:, :count]
    np.testing.assert_array_equal(best_columns(values, count), expected)


def test_counts_that_are_interrupted_are_not_counted_twice(monkeypatch):
    dice = np.random.default_rng(0)
    running, undisturbed = (Running([3, 2], [False, False], 2) for _ in range(2))
    found = Found(
        values={"highest": dice.random((4, 5), np.float32), "lowest": np.zeros((4, 0), np.float32)},
        places={"highest": np.zeros((4, 5), np.int32), "lowest": np.zeros((4, 0), np.int32)},
        samples=[dice.normal(size=(4, 6, c)).astype(np.float32) for c in (3, 2)],
    )
    for one in (running, undisturbed):
        one.update(found, np.arange(4, dtype=np.int32))
    bincount, calls = np.bincount, iter(range(9))

    def interrupted(*arguments, **options):
        if next(calls) == 4:
            raise KeyboardInterrupt
        return bincount(*arguments, **options)

    monkeypatch.setattr(np, "bincount", interrupted)
    with pytest.raises(KeyboardInterrupt):
        running.arrays()  # written now and then, and once more when a scan is interrupted
    monkeypatch.setattr(np, "bincount", bincount)
    np.testing.assert_array_equal(running.arrays()["histogram"], undisturbed.arrays()["histogram"])
