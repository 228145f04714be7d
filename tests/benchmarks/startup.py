"""How long commands take that need no network, and one saliency as a whole process against a bare script.

python -m tests.benchmarks.startup [--rounds 9]
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks.common import machine, table

BARE = """
import sys
import numpy as np
import torch
from PIL import Image
from vizkit.zoo.efficientnet_lite import build, weights_file

torch.set_num_threads(1)
with torch.device("meta"):
    net = build("efficientnet_lite0")
net.load_state_dict(torch.load(weights_file("efficientnet_lite0"), weights_only=True), assign=True)
net.eval().requires_grad_(False)
picture = Image.open(sys.argv[1]).convert("RGB")
scale = 256 / min(picture.size)
picture = picture.resize([int(s * scale) for s in picture.size], Image.BICUBIC)
left, top = (picture.width - 224) // 2, (picture.height - 224) // 2
array = np.asarray(picture.crop((left, top, left + 224, top + 224)), dtype=np.float32)
pixels = torch.from_numpy((array - 127) / 128).permute(2, 0, 1)[None].contiguous().requires_grad_()
logits = net(pixels)
(gradient,) = torch.autograd.grad(logits.max(), pixels)
saliency = gradient.abs().amax(1)[0]
map_ = (saliency / saliency.max() * 255).byte().numpy()
Image.fromarray(map_).save(sys.argv[2])
"""


def cpu_seconds(command: Sequence[str], folder: str) -> float:
    """CPU seconds (user and system) of one run of a process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=False)
    if done.returncode not in (0, 2):
        raise RuntimeError(done.stderr.decode())
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    from vizkit.cli.inputs import sample_photograph

    vizkit, python, photo = (
        [str(Path(sys.executable).with_name("vizkit"))],
        sys.executable,
        sample_photograph(),
    )
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "bare.py"
        script.write_text(BARE, encoding="utf-8")
        commands = {
            "python -c 'import click'": [python, "-c", "import click"],
            "vizkit --help": [*vizkit, "--help"],
            "vizkit --version": [*vizkit, "--version"],
            "vizkit saliency --help": [*vizkit, "saliency", "--help"],
            "usage error": [*vizkit, "saliency", "--sampels"],
            "missing file": [*vizkit, "saliency", "no.jpg"],
            "bare saliency script": [python, str(script), photo, "bare.png"],
            "vizkit saliency IMG": [*vizkit, "saliency", photo, "--threads", "1", "-o", "map.png"],
        }
        times: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(rounds):
            for name, command in commands.items():
                times[name].append(cpu_seconds(command, folder))
    median = {name: statistics.median(t) for name, t in times.items()}
    click, bare = median["python -c 'import click'"], median["bare saliency script"]
    rows = []
    for name, seconds in median.items():
        base = bare if seconds > bare / 2 else click
        rows.append([name, f"{seconds:.3f}", f"{seconds / base:.2f} x {'bare' if base is bare else 'click'}"])
    print(machine())
    print(table(["command", "CPU seconds (median)", "ratio"], rows))


if __name__ == "__main__":
    main()
