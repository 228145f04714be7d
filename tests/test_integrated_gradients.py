import captum.attr
import pytest
import torch
from torch import nn

import vizkit
from tests.rewrite import lively
from vizkit.errors import UsageError
from vizkit.methods.integrated_gradients import quadrature

RULES = {
    "gausslegendre": "gausslegendre",
    "trapezoid": "riemann_trapezoid",
    "midpoint": "riemann_middle",
    "left": "riemann_left",
    "right": "riemann_right",
}


def gap(module, rule="gausslegendre", scale=1.0):
    """The largest relative L2 distance to Captum's, over two pictures; in double precision inside the net."""
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(2))
    results = vizkit.integrated_gradients(module, pixels, target=3, steps=12, rule=rule, baseline=0.25)
    theirs = captum.attr.IntegratedGradients(module).attribute(
        pixels.double(), baselines=0.25, target=3, n_steps=12, method=RULES[rule]
    )
    for ours in results:
        torch.testing.assert_close(ours.values, ours.attribution.sum(0))
    pairs = zip(results, theirs * scale, strict=True)
    return max(float((a.attribution - b).norm() / b.norm()) for a, b in pairs)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "squeezenet1_1"])
def test_captum_agrees(name):
    assert gap(lively(vizkit.load_model(name, random_weights=True, device="cpu").module).double()) < 1e-5


@pytest.mark.parametrize("rule", RULES)
def test_captum_agrees_for_every_rule(rule, tiny):
    # Captum's trapezoid weights add up to (n - 1) / n instead of 1
    assert gap(tiny.eval().double(), rule, 12 / 11 if rule == "trapezoid" else 1) < 1e-5


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("steps", [1, 2, 7, 50])
def test_quadrature_integrates_polynomials(rule, steps):
    points, weights = quadrature(rule, steps)
    assert points.shape == weights.shape == (steps,)
    assert float(weights.sum()) == pytest.approx(1, abs=1e-12)
    assert bool((points >= 0).all() & (points <= 1).all())
    exact = {"gausslegendre": 2 * steps - 1, "trapezoid": 1, "midpoint": 1, "left": 0, "right": 0}[rule]
    for degree in range(min(exact, 9) + 1):
        assert float((weights * points**degree).sum()) == pytest.approx(1 / (degree + 1), abs=1e-12)


class Quadratic(nn.Module):
    """Score x' A x + b x, whose integrated gradients are known: x * (A x + b) for A symmetric, from zero."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        a = torch.randn(12, 12, generator=generator)
        self.a = nn.Parameter((a + a.T) / 2)
        self.b = nn.Parameter(torch.randn(12, generator=generator))

    def forward(self, x):
        x = x.flatten(1)
        score = torch.einsum("ni,ij,nj->n", x, self.a, x) + x @ self.b
        return torch.stack([score, -score], 1)


def test_a_quadratic_score_is_shared_out_exactly():
    net, pixels = (
        Quadratic().requires_grad_(False),
        torch.rand(3, 2, 2, generator=torch.Generator().manual_seed(1)),
    )
    x = pixels.flatten()
    for steps in (1, 3):
        result = vizkit.integrated_gradients(net, pixels, target=0, steps=steps, rule="midpoint")
        torch.testing.assert_close(result.attribution.flatten(), x * (net.a @ x + net.b))
        assert result.details["completeness_error"] < 1e-5
    far = vizkit.integrated_gradients(net, pixels, target=0, steps=1, rule="right", signed=False)
    x_error = float(x @ net.a @ x)  # 2 x'Ax instead of x'Ax
    assert far.details["completeness_error"] == pytest.approx(abs(x_error), rel=1e-4)
    assert any("raise steps" in w for w in far.provenance.warnings)
    torch.testing.assert_close(far.values, far.attribution.abs().amax(0))


def test_the_record_holds_the_completeness_of_each_target(tiny, pixels):
    results = vizkit.integrated_gradients(tiny, pixels, target=[0, 1], steps=64)
    tiny.eval()
    for k, result in enumerate(results):
        image, target = divmod(k, 2)
        with torch.no_grad():
            change = float(tiny(pixels)[image, target] - tiny(torch.zeros(1, 3, 32, 32))[0, target])
        assert float(result.values.sum()) == pytest.approx(change, abs=0.05 * abs(change) + 1e-4)
        said = result.as_dict()
        assert said["completeness_error"] == pytest.approx(abs(float(result.values.sum()) - change), abs=1e-4)


def test_the_batch_changes_nothing_and_progress_is_told(tiny, pixels):
    told = []
    one = vizkit.integrated_gradients(tiny, pixels, steps=7, batch=1, on_step=lambda *a: told.append(a))
    torch.testing.assert_close(
        one[1].values, vizkit.integrated_gradients(tiny, pixels, steps=7, batch=5)[1].values
    )
    assert told[-1] == (14, 14) or told[-1] == (7, 7)


def test_noisy_copies_are_integrated_too(tiny, pixels):
    result = vizkit.integrated_gradients(tiny, pixels[0], target=1, steps=4, samples=2, noise=0.1, seed=3)
    span = float(pixels[0].max() - pixels[0].min())
    draws = [torch.Generator().manual_seed(3 * 1_000_003 + k) for k in range(2)]
    copies = [pixels[0] + 0.1 * span * torch.randn((3, 32, 32), generator=g) for g in draws]
    singles = [vizkit.integrated_gradients(tiny, c, target=1, steps=4).attribution for c in copies]
    torch.testing.assert_close(result.attribution, torch.stack(singles).mean(0), rtol=1e-4, atol=1e-6)


def test_wrong_baselines_are_refused(tiny, pixels):
    with pytest.raises(UsageError, match="did you mean 'zero'"):
        vizkit.integrated_gradients(tiny, pixels[0], baseline="zeros")
    with pytest.raises(UsageError, match="rule"):
        vizkit.integrated_gradients(tiny, pixels[0], rule="simpson")
