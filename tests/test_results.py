"""Results: frozen, on the CPU, with a record that says what made them."""

import dataclasses
import json
import pickle

import pytest
import torch
from PIL import Image

import vizkit
from vizkit.errors import UsageError
from vizkit.results import picture_format, read_record


@pytest.fixture
def result(tiny, photo):
    model = vizkit.wrap(tiny, size=32, labels=["a", "b", "c", "d", "ü"], name="tiny")
    return vizkit.saliency(model, photo, target=4, samples=2, seed=3)


def test_results_are_frozen_float32_on_the_cpu_without_a_graph(result):
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.values = torch.zeros(1)
    for tensor in (result.values, result.attribution):
        assert tensor.dtype == torch.float32
        assert tensor.device.type == "cpu"
        assert not tensor.requires_grad
    assert result.values.shape == (32, 32)
    assert result.attribution.shape == (3, 32, 32)


def test_the_record_says_what_made_it(result, tiny):
    record = json.loads(result.to_json())
    assert next(iter(record)) == "vizkit"
    assert record["target"] == "ü"
    assert record["target_index"] == 4
    assert [p["label"] for p in record["prediction"]] == [p.label for p in result.prediction]
    assert sum(p["probability"] for p in record["prediction"]) == pytest.approx(1, abs=1e-5)
    made = record["provenance"]
    assert made["method"] == "saliency"
    assert made["model"] == "tiny"
    assert made["image"] == "photo.jpg"
    assert made["seed"] == 3
    assert made["settings"] == ["samples 2"]
    assert made["options"] == {
        "signed": False,
        "times_input": False,
        "samples": 2,
        "noise": 0.15,
        "average": "smoothgrad",
        "batch": None,
    }
    assert len(made["weights"]) == 64
    assert made["versions"]["torch"] == torch.__version__


def test_predictions_are_the_softmax_of_the_net(result, tiny, photo):
    model = vizkit.wrap(tiny.eval(), size=32)
    probabilities = model(model.prepare(photo).pixels[None]).detach().softmax(1)[0]
    for prediction in result.prediction:
        assert prediction.probability == pytest.approx(float(probabilities[prediction.index]), abs=1e-6)
    ranking = [p.probability for p in result.prediction]
    assert ranking == sorted(ranking, reverse=True)
    assert result.target_probability == pytest.approx(float(probabilities[4]), abs=1e-6)


@pytest.mark.parametrize("ending", [".png", ".jpg", ".webp", ".JPEG"])
def test_save_writes_pictures_with_the_record(result, tmp_path, ending):
    path = tmp_path / f"out{ending}"
    result.save(path, width=320)
    with Image.open(path) as picture:
        assert picture.width == 320
    if ending == ".png":
        assert read_record(path) == result.as_dict()
    result.save(path, width=330)  # ours may be replaced
    with Image.open(path) as picture:
        assert picture.width == 330


def test_save_json_and_refusals(result, tmp_path):
    result.save(tmp_path / "r.json")
    assert json.loads((tmp_path / "r.json").read_text(encoding="utf-8")) == result.as_dict()
    Image.new("RGB", (3, 3)).save(tmp_path / "mine.png")
    with pytest.raises(UsageError, match="not made by vizkit"):
        result.save(tmp_path / "mine.png")
    with pytest.raises(UsageError, match=r"makes no \.gif"):
        result.save(tmp_path / "x.gif")
    for name in ("x.bmp", "x", "x.pgn"):
        with pytest.raises(UsageError, match="format"):
            result.save(tmp_path / name)
    assert not (tmp_path / "x").exists()


def test_formats():
    assert picture_format("-") == "PNG"
    assert picture_format("/dev/null") == "PNG"
    assert picture_format("A.PNG") == "PNG"
    with pytest.raises(UsageError, match=r"did you mean '\.png'"):
        picture_format("x.pgn")


def test_a_result_introduces_itself_in_a_line(result):
    assert repr(result) == "Heatmap(saliency of 'ü' in 'photo.jpg' by 'tiny')"


def test_notebooks_get_a_png(result):
    assert result._repr_png_().startswith(b"\x89PNG")


def test_the_hash_is_not_computed_before_it_is_read(tiny, pixels, monkeypatch):
    calls = []
    real = vizkit.fingerprint.digest
    monkeypatch.setattr("vizkit.fingerprint.digest", lambda tensors: calls.append(1) or real(tensors))
    model = vizkit.wrap(tiny)
    results = [vizkit.saliency(model, image) for image in pixels]
    assert calls == []
    hashes = {r.as_dict()["provenance"]["weights"] for r in results}
    assert len(hashes) == 1
    assert calls == [1]


def test_a_result_survives_pickling_with_its_hash(result):
    copy = pickle.loads(pickle.dumps(result))
    assert copy.as_dict() == result.as_dict()
    assert torch.equal(copy.values, result.values)


def test_the_hash_is_that_of_the_callers_weights_not_of_the_stand_ins(tiny, pixels):
    before = vizkit.wrap(tiny).fingerprint.hex
    assert vizkit.saliency(tiny, pixels[0]).as_dict()["provenance"]["weights"] == before
