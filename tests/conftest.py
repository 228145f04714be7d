"""Tiny seeded nets and pictures; one thread, so that timings and sums do not depend on the machine."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import vizkit

torch.set_num_threads(1)


class TinyNet(nn.Module):
    """Conv, BN, in-place ReLU, a residual block, pooling, linear: (N, 3, H, W) -> (N, 5)."""

    def __init__(self, channels: int = 3, classes: int = 5) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 8, 3, 2, 1)
        self.bn1 = nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(8, 8, 3, 1, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(x + self.conv2(x))
        return self.fc(self.pool(x).flatten(1))


@pytest.fixture(autouse=True)
def _modes_are_left_as_they_were() -> Iterator[None]:
    yield
    assert torch.is_grad_enabled(), "the test leaves gradients off"
    assert not torch.is_inference_mode_enabled(), "the test leaves inference mode on"


@pytest.fixture
def tiny() -> TinyNet:
    torch.manual_seed(0)
    net = TinyNet()
    with torch.no_grad():  # statistics that are not the neutral ones
        net.bn1.running_mean.uniform_(-0.2, 0.2)
        net.bn1.running_var.uniform_(0.5, 1.5)
    return net


@pytest.fixture
def pixels() -> torch.Tensor:
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A smooth colourful picture of 90 x 60 px as a JPEG."""
    y, x = np.mgrid[:60, :90]
    array = np.stack([255 * x / 90, 255 * y / 60, 127 + 100 * np.sin(x / 9)], 2).astype(np.uint8)
    path = tmp_path / "photo.jpg"
    Image.fromarray(array).save(path, quality=95)
    return path


@pytest.fixture(scope="session")
def browser() -> Iterator[object]:
    """A headless browser for pages; tests that need it skip without one."""
    from tests.browsing import start_browser

    found = start_browser()
    yield found
    found.quit()


@pytest.fixture(scope="session")
def lite0() -> vizkit.VisionModel:
    return vizkit.load_model("efficientnet_lite0", device="cpu")


@pytest.fixture(scope="session")
def sample() -> Callable[[str], str]:
    """Paths of the photographs that scikit-image and scikit-learn bring along."""
    import importlib.util

    def find(name: str) -> str:
        for package, folder in (("skimage", "data"), ("sklearn", "datasets/images")):
            spec = importlib.util.find_spec(package)
            assert spec is not None and spec.origin is not None
            path = Path(spec.origin).parent / folder / name
            if path.is_file():
                return str(path)
        raise FileNotFoundError(name)

    return find


def trace_of(module: nn.Module) -> dict[str, object]:
    """All that a call must leave as it was: hooks, modes, flags, gradients, tensors (bytes), attributes."""
    parts = dict(module.named_modules())
    return {
        "hooks": {
            n: [len(getattr(m, k)) for k in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")]
            for n, m in parts.items()
        },
        "modes": {n: m.training for n, m in parts.items()},
        "flags": {n: p.requires_grad for n, p in module.named_parameters()},
        "grads": {
            n: None if p.grad is None else p.grad.clone().numpy().tobytes()
            for n, p in module.named_parameters()
        },
        "tensors": {n: (id(t), t.detach().numpy().tobytes()) for n, t in _tensors(module)},
        "attributes": {n: sorted(m.__dict__) for n, m in parts.items()},
        "random": torch.get_rng_state().numpy().tobytes(),
    }


def _tensors(module: nn.Module) -> list[tuple[str, torch.Tensor]]:
    return [*module.named_parameters(), *module.named_buffers()]


@pytest.fixture
def trace() -> Callable[[nn.Module], dict[str, object]]:
    return trace_of
