"""Initialisation by name: torch.nn.init where it has it."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import init

from vizkit.errors import UsageError, did_you_mean

WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d)


def lecun_normal_(weight: Tensor) -> Tensor:
    """Normal with standard deviation 1 / sqrt(fan_in) (LeCun et al. 1998): linear layers keep variance."""
    fan_in, _ = init._calculate_fan_in_and_fan_out(weight)
    return init.normal_(weight, std=fan_in**-0.5)


INITIALISERS: dict[str, Callable[[Tensor], Tensor]] = {
    "torch": lambda w: init.kaiming_uniform_(w, a=5**0.5),
    "zeros": init.zeros_,
    "small": lambda w: init.normal_(w, std=0.01),
    "lecun": lecun_normal_,
    "xavier_uniform": init.xavier_uniform_,
    "xavier": init.xavier_normal_,
    "he_uniform": lambda w: init.kaiming_uniform_(w, nonlinearity="relu"),
    "he": lambda w: init.kaiming_normal_(w, nonlinearity="relu"),
    "orthogonal": lambda w: init.orthogonal_(w, gain=2**0.5),
}
"""Names and what they do: "torch" is U(-1, 1) / sqrt(fan_in), the layers' own; "small" is 0.01 randn."""


def initialise(module: nn.Module, name: str, *, bias: float = 0.0, last: str | None = None) -> nn.Module:
    """Give linear and convolutional layers new weights by name, and this bias; the module itself is returned.

    last: another name for the last of them ("zeros" makes the first loss exactly that of equal scores).
    Normalisations become scale 1 and shift 0. Draws from torch's global generator. Raises `UsageError`.
    """
    for wanted in (name, last or name):
        if wanted not in INITIALISERS:
            known = ", ".join(INITIALISERS)
            raise UsageError(
                f"there is no initialiser {wanted!r}{did_you_mean(wanted, INITIALISERS)}; {known}"
            )
    layers = [m for m in module.modules() if isinstance(m, WEIGHTED)]
    with torch.no_grad():
        for layer in layers:
            INITIALISERS[last if last and layer is layers[-1] else name](layer.weight)
            if layer.bias is not None:
                init.constant_(layer.bias, bias)
        for part in module.modules():
            if isinstance(part, (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)):
                part.reset_parameters()
    return module
