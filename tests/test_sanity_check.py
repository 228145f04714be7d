"""The sanity check: similarity by independent oracles, weights that forget, maps that must change."""

import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

import vizkit
from tests.rewrite import lively
from vizkit.errors import UsageError
from vizkit.evaluation.randomising import randomised, stages_of
from vizkit.evaluation.similarity import rank_correlation, structural_similarity


def test_similarities(pixels):
    a, b = pixels[0, 0], pixels[1, 1] + pixels[0, 0]
    assert rank_correlation(a, b) == pytest.approx(spearmanr(a.flatten(), b.flatten()).statistic, abs=1e-12)
    ties = (a * 4).round()
    wanted = spearmanr(ties.flatten(), b.flatten()).statistic
    assert rank_correlation(ties, b) == pytest.approx(wanted, abs=1e-12)
    assert structural_similarity(a, a * 7 + 3) == pytest.approx(1)
    assert structural_similarity(a, b) < 0.9
    assert structural_similarity(a, -a) < 0
    flat = torch.zeros(32, 32)
    assert rank_correlation(a, flat) == 0
    assert structural_similarity(flat, flat + 1) == pytest.approx(1)
    assert structural_similarity(torch.eye(2), torch.eye(2)) == 1


@pytest.fixture
def model():
    torch.manual_seed(1)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU()]
    return vizkit.wrap(lively(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))))


def test_stages_go_from_the_output_to_the_input(model, pixels):
    cascade = stages_of(model, pixels[0], 3, "cascading")
    assert [s.layers for s in cascade] == [("7",), ("7", "3", "1"), ("7", "3", "1", "0")]
    assert [s.title for s in cascade] == ["7", "to 1", "all layers"]
    single = stages_of(model, pixels[0], 3, "independent")
    assert [s.layers for s in single] == [("7",), ("3", "1"), ("0",)]
    assert len(stages_of(model, pixels[0], 12, "cascading")) == 4
    assert [s.layers for s in stages_of(model, pixels[0], 1, "cascading")][-1] == ("7", "3", "1", "0")


def test_forgetting_keeps_size_and_leaves_the_model(model, trace):
    before = trace(model.module)
    twin = randomised(model, ["3", "1"], 0)
    assert trace(model.module) == before
    old, new = model.module[3].weight.detach(), twin.module[3].weight.detach()
    assert float((old - new).abs().mean()) > 0.01
    assert float(new.std()) == pytest.approx(float(old.std()), rel=0.15)
    assert torch.equal(new, randomised(model, ["3"], 0).module[3].weight)
    assert not torch.equal(new, randomised(model, ["3"], 1).module[3].weight)
    assert torch.equal(model.module[1].running_var.sort().values, twin.module[1].running_var.sort().values)
    assert torch.equal(model.module[0].weight, twin.module[0].weight)
    assert twin.fingerprint.hex != model.fingerprint.hex


def test_maps_change_and_the_edge_map_does_not(model, pixels):
    sheet = vizkit.sanity_check(model, pixels[0], target=2, methods="saliency,grad_cam:signed=true", stages=3)
    assert list(sheet.columns) == ["trained", "7", "to 1", "all layers"]
    assert list(sheet.rows) == ["saliency", "grad_cam:signed=True", "edges (control)", "random (control)"]
    figures = sheet.details["similarity"]
    assert all(f["rank_correlation"] == f["ssim"] == 1 for f in figures["edges (control)"])
    assert all(abs(f["rank_correlation"]) < 0.15 for f in figures["random (control)"])
    assert figures["saliency"][-1]["rank_correlation"] < 0.8
    trained, forgot = (sheet.cells[0][k].values.abs() for k in (0, 3))
    assert figures["saliency"][-1]["ssim"] == pytest.approx(structural_similarity(trained, forgot))
    assert torch.equal(sheet.cells[0][0].values, vizkit.saliency(model, pixels[0], target=2).values)
    assert sheet.picture(width=700).width == 700
    assert {c.target_index for c in sheet.maps} == {2}


def test_occlusion_looks_at_the_net_that_forgot(model, pixels):
    sheet = vizkit.sanity_check(model, pixels[0], methods="occlusion", stages=2)
    for stage, cell in zip(stages_of(model, pixels[0], 2, "cascading"), sheet.cells[0][1:], strict=True):
        twin = randomised(model, stage.layers, 0)
        expected = vizkit.occlusion(twin, pixels[0], target=sheet.cells[0][0].target_index)
        torch.testing.assert_close(cell.values, expected.values)
        assert not torch.allclose(cell.values, sheet.cells[0][0].values)


def test_guided_backprop_hardly_sees_the_last_layer(lite0, sample):
    # Adebayo et al. 2018, figure 2: it stays the same where the gradient does not
    sheet = vizkit.sanity_check(
        lite0, sample("chelsea.png"), methods="saliency,guided_backprop,grad_cam", stages=2
    )
    after = {name: rows[0]["rank_correlation"] for name, rows in sheet.details["similarity"].items()}
    assert after["guided_backprop"] > 0.9
    assert after["saliency"] < 0.6
    assert after["grad_cam"] < 0.6


def test_one_target_and_known_methods_only(model, pixels):
    with pytest.raises(UsageError, match="one target"):
        vizkit.sanity_check(model, pixels[0], target=[0, 1])
    with pytest.raises(UsageError, match="did you mean"):
        vizkit.sanity_check(model, pixels[0], methods="salincy")
