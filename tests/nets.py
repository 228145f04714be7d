"""Small networks for the tests of receptive fields."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn


class Apply(nn.Module):
    """A module around a function of the input and some layers."""

    def __init__(self, function: Callable[..., Tensor], *layers: nn.Module) -> None:
        super().__init__()
        self.function = function
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.layers)


def conv(*args: int, **kwargs: object) -> nn.Conv2d:
    return nn.Conv2d(*args, **kwargs)  # type: ignore[arg-type]


def squeeze_excite(x: Tensor, down: nn.Module, up: nn.Module) -> Tensor:
    gate = up(F.relu(down(x.mean((2, 3), keepdim=True)))).sigmoid()
    return x * gate  # type: ignore[no-any-return]
