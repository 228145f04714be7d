"""saliency() against the bare limit: forward + backward to the input with frozen weights.

python -m tests.benchmarks.saliency [--rounds 9] [--models resnet18 efficientnet_lite0 ...]
"""

import argparse
import resource

import torch

import vizkit
from tests.benchmarks.common import machine, medians, table


def bare(model: vizkit.VisionModel, pixels: torch.Tensor) -> torch.Tensor:
    """What has to be computed: the gradient of the top logit, nothing else."""
    leaf = pixels.clone().requires_grad_()
    output = model(leaf)
    (gradient,) = torch.autograd.grad(output.gather(1, output.argmax(1, keepdim=True)).sum(), leaf)
    return gradient.abs().amax(1)


def row(name: str, rounds: int) -> list[str]:
    """One model's line: bare, vizkit, naive backward, and the largest difference of the maps."""
    random_weights = not name.startswith("efficientnet_lite")
    model = vizkit.load_model(name, random_weights=random_weights)
    pixels = torch.rand(1, *model.input_shape, generator=torch.Generator().manual_seed(0))
    pixels = pixels.to(model.device)
    for parameter in model.module.parameters():
        parameter.requires_grad_(False)
    times = medians(
        {"bare": lambda: bare(model, pixels), "vizkit": lambda: vizkit.saliency(model, pixels)},
        rounds=rounds,
    )
    gap = (bare(model, pixels)[0].cpu() - vizkit.saliency(model, pixels)[0].values).abs().max()
    ratio = times["vizkit"][0] / times["bare"][0]
    milli = [f"{1e3 * times[k][0]:.1f} ± {1e3 * times[k][1]:.1f}" for k in ("bare", "vizkit")]
    return [name, *milli, f"{ratio:.3f}", f"{float(gap):.1e}"]


def memory(calls: int) -> str:
    """Growth of the process over many calls."""
    model = vizkit.load_model()
    pixels = torch.rand(3, 224, 224)
    for _ in range(20):
        vizkit.saliency(model, pixels)
    before = resident()
    for _ in range(calls):
        vizkit.saliency(model, pixels)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return f"memory over {calls} calls: {resident() - before:+.1f} MB (peak {peak:.0f} MB)"


def resident() -> float:
    """Resident memory in MB."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--calls", type=int, default=1000, help="calls of the memory test, 0 for none")
    parser.add_argument(
        "--models", nargs="+", default=["efficientnet_lite0", "resnet18", "resnet50", "mobilenet_v2", "vgg16"]
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(machine())
    rows = [row(name, arguments.rounds) for name in arguments.models]
    print(table(["model, 1 x 224 px", "bare, ms", "vizkit, ms", "ratio", "largest difference"], rows))
    if arguments.calls:
        print(memory(arguments.calls))


if __name__ == "__main__":
    main()
