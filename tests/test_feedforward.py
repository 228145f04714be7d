"""Networks that paint in one pass: what they compute, how they are kept, and that training can be cut."""

import json

import pytest
import torch

import vizkit
import vizkit.images
from tests.slow_index import photo_folder
from vizkit import tensorfiles
from vizkit.errors import UsageError
from vizkit.feedforward.networks import Decoder, StyleNet, StyleNorm
from vizkit.feedforward.pool import Pool
from vizkit.feedforward.prior import load_prior, paint_latent, whitening
from vizkit.feedforward.styling import KIND, FastStyle
from vizkit.networkfiles import fill, load, save
from vizkit.paint.canvases import noise
from vizkit.paint.objectives import class_logit
from vizkit.paint.recipes import Brief
from vizkit.sessions import session


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("train") / "photos"
    photo_folder(folder, 12)
    (folder / "bad.jpg").write_bytes(b"\xff\xd8\xff no picture")
    return folder


@pytest.fixture
def model(tiny):
    return vizkit.wrap(tiny, size=32)


@pytest.fixture
def styles():

    generator = torch.Generator().manual_seed(0)
    made = []
    for k in range(2):
        picture = vizkit.images.to_pillow(noise(1, (40, 40), generator=generator, strength=0.3)[0])
        photo = vizkit.read_image(picture, name=f"style{k}")
        made.append(type(photo)(photo.image, f"style{k}.png", None, (), (), (40, 40)))
    return made


def test_style_norm_is_instance_norm_with_a_mixed_scale_and_shift():
    norm = StyleNorm(4, 3)
    with torch.no_grad():
        norm.scale.normal_(), norm.shift.normal_()
    x = torch.rand(2, 4, 6, 5)
    mix = torch.tensor([[0.25, 0.75, 0], [0, 0, 1.0]])
    for n in range(2):
        for c in range(4):
            plane = x[n, c]
            wanted = (plane - plane.mean()) / (plane.var(correction=0) + 1e-5).sqrt()
            wanted = wanted * (mix[n] @ norm.scale[:, c]) + mix[n] @ norm.shift[:, c]
            torch.testing.assert_close(norm(x, mix)[n, c], wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (16, 70)])
def test_a_style_net_takes_any_size(size):
    net = StyleNet(2, width=4, blocks=1)
    painted = net(torch.rand(1, 3, *size), torch.tensor([[0.5, 0.5]]))
    assert painted.shape == (1, 3, *size)
    assert float(painted.detach().min()) >= 0 and float(painted.detach().max()) <= 1


@pytest.mark.parametrize("side", [32, 48, 100])
def test_a_decoder_gives_pictures_of_its_side(side):
    assert Decoder(5, side, width=8)(torch.randn(2, 5)).shape == (2, 3, side, side)


def test_whitened_features_have_unit_variance():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(200, 6, generator=generator) @ torch.randn(6, 9, generator=generator) + 3
    white = whitening(features)
    codes = white.codes(features)
    assert codes.shape == (200, 6)  # the rank
    torch.testing.assert_close(codes.T.cov(), torch.eye(6), atol=1e-3, rtol=0)


def test_the_pool_holds_back_and_names_what_it_skips(photos, tmp_path):
    pool = Pool(photos, 16)
    assert len(pool.photographs) + len(pool.held) == 12
    assert len(pool.skipped) == 1 and "bad.jpg" in pool.skipped[0]
    batch = pool.batch(3, torch.Generator().manual_seed(1))
    assert batch.shape == (3, 3, 16, 16)
    assert torch.equal(batch, pool.batch(3, torch.Generator().manual_seed(1)))
    with pytest.raises(UsageError, match=r"there is no"):
        Pool(tmp_path / "nothing", 16)


def test_files_say_what_they_are(tmp_path):
    path = str(tmp_path / "net.safetensors")
    net = StyleNet(1, width=4, blocks=1)
    save(path, KIND, {"styles": ["a"], "width": 4, "blocks": 1}, net.state_dict())
    again = FastStyle(path)
    x = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(again(x, [1.0]), net(x, torch.ones(1, 1)))
    with pytest.raises(UsageError, match="is a fast_style network, not a prior"):
        load(path, "prior")
    with pytest.raises(UsageError, match="does not hold"):
        fill(StyleNet(2, width=4, blocks=1), load(path, KIND), path)
    (tmp_path / "other.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(UsageError):
        load(tmp_path / "other.safetensors", KIND)


def train(model, styles, photos, path, **more):
    options = {"steps": 6, "size": 32, "batch": 2, "width": 4}
    return vizkit.train_fast_style(model, styles, photos, path, **options | more)


@pytest.mark.parametrize("key", ["done", "train", "held", "network"])
@pytest.mark.parametrize("value", [None, -1, 10**9, "x", [1], {}], ids=str)
def test_a_state_that_says_what_cannot_be_is_not_gone_on_with(model, styles, photos, tmp_path, key, value):
    path = tmp_path / "net.safetensors"

    def cut(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(model, styles, photos, path, on_step=cut)
    state = f"{path}.state"
    saved = load(state, f"{KIND} in training")
    save(state, saved.kind, {k: v for k, v in saved.config.items() if k != key}, saved.tensors)
    with pytest.raises(UsageError, match="does not say"):
        train(model, styles, photos, path)
    if key == "network" or (key != "done" and value == {}):
        return  # another network's state is begun anew, and an empty journal is one
    save(state, saved.kind, {**saved.config, key: value}, saved.tensors)
    with pytest.raises(UsageError, match="does not say"):
        train(model, styles, photos, path)


def test_a_changed_number_in_a_file_is_noticed(tmp_path):
    path = restyled(tmp_path / "net.safetensors")
    arrays, told = tensorfiles.read(path)
    about = json.loads(told["network"])
    for change in ({"config": about["config"] | {"blocks": 2}}, {"sha256": None}):
        changed = {k: v for k, v in (about | change).items() if v is not None}
        tensorfiles.write(path, arrays, told | {"network": json.dumps(changed)})
        with pytest.raises(UsageError, match="damaged"):
            load(path, KIND)
    tensorfiles.write(path, arrays, told | {"network": json.dumps(changed | {"format": 1})})
    FastStyle(path)  # of the first format, which had no hash at its beginning


def test_training_lowers_the_loss_and_can_be_cut(model, styles, photos, tmp_path):
    whole = train(model, styles, photos, tmp_path / "whole.safetensors", steps=30, rate=3e-3)
    losses = [v["total"] for _, v in whole.journal.held]
    assert losses[-1] < losses[0]

    def cut(done, total):
        if done == 13:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(model, styles, photos, tmp_path / "cut.safetensors", steps=30, rate=3e-3, on_step=cut)
    assert not (tmp_path / "cut.safetensors").exists()
    assert (tmp_path / "cut.safetensors.state").exists()
    resumed = train(model, styles, photos, tmp_path / "cut.safetensors", steps=30, rate=3e-3)
    assert not (tmp_path / "cut.safetensors.state").exists()
    first, second = (FastStyle(tmp_path / f"{n}.safetensors") for n in ("whole", "cut"))
    own, other = first.network.state_dict(), second.network.state_dict()
    assert all(torch.equal(own[name], other[name]) for name in own)
    assert resumed.journal.held == whole.journal.held
    whole.curves.save(tmp_path / "losses.png", width=500)
    whole.pictures.save(tmp_path / "samples.png")


def test_styles_are_applied_and_blended(model, styles, photos, tmp_path, sample):
    train(model, styles, photos, tmp_path / "two.safetensors")
    net = FastStyle(tmp_path / "two.safetensors")
    assert net.names == ("style0", "style1")
    assert net.mix(None) == [1, 0]
    assert net.mix("style0=3,style1=1") == [0.75, 0.25]
    result = vizkit.fast_style(tmp_path / "two.safetensors", sample("chelsea.png"), style="style1", size=64)
    assert result.pictures.shape == (1, 3, 43, 64)
    assert result.provenance.target == "style1"
    assert len(vizkit.fast_style(net, [sample("chelsea.png")] * 2, size=32)) == 2
    for wrong, words in (
        ("styl0", "did you mean"),
        ("style0=x", "share is a number"),
        ("style0=0", "add up"),
    ):
        with pytest.raises(UsageError, match=words):
            net.mix(wrong)
    with pytest.raises(UsageError, match="two styles are called"):
        train(model, [styles[0], styles[0]], photos, tmp_path / "x.safetensors")


def test_a_prior_is_trained_and_painted_with(model, photos, tmp_path):
    path = tmp_path / "prior.safetensors"
    trained = vizkit.train_prior(model, photos, path, steps=30, size=32, batch=4, width=8, rate=2e-3)
    losses = [v["total"] for _, v in trained.journal.held]
    assert losses[-1] < losses[0]
    decoder = load_prior(path, model)
    assert not any(p.requires_grad for p in decoder.parameters())
    result = vizkit.class_image(model, [1, 2], prior=str(path), steps=3)
    assert result.pictures.shape == (2, 3, 32, 32)
    brief = Brief(None, 60, None, 0.3, 0, False, 0)
    with session(model.module):
        made = paint_latent(model, decoder, [0, 1], brief, class_logit([1, 2]), None)
    assert float(made.history[-10:].mean()) > float(made.history[:10].mean())
    with pytest.raises(UsageError, match="is a prior of"):
        load_prior(path, vizkit.load_model("efficientnet_lite0", random_weights=True))


def restyled(path, **changes):
    """A style network's file that says something else of it."""
    config = {"styles": ["a"], "width": 2, "blocks": 1} | changes
    config = {k: v for k, v in config.items() if v is not None}
    save(str(path), KIND, config, StyleNet(1, 2, 1).state_dict())
    return path


@pytest.mark.parametrize(
    "changes",
    [
        {"width": 10**9},
        {"width": 10**30},
        {"width": 600},
        {"blocks": 10**9},
        {"blocks": -1},
        {"width": True},
        {"width": "wide"},
        {"styles": None},
        {"styles": []},
        {"styles": "a"},
        {"styles": ["a", "b"]},
        {"styles": [["a"]]},
    ],
    ids=str,
)
def test_what_a_file_says_of_its_network_is_not_believed(tmp_path, changes):
    FastStyle(restyled(tmp_path / "net.safetensors"))
    with pytest.raises(UsageError, match=r"net\.safetensors"):
        FastStyle(restyled(tmp_path / "net.safetensors", **changes))
