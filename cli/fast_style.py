"""`vizkit fast-style`: train a network for one or many styles, and paint pictures in one pass."""

import os
import sys
from dataclasses import replace
from typing import Any

import click

from vizkit import atomic
from vizkit.cli import completing, options
from vizkit.cli.inputs import STDIN, plan
from vizkit.cli.progress import bar
from vizkit.errors import PartialError, UsageError, VizkitError, one_line
from vizkit.folders import require_there

TRAIN_HELP = """Train a network that paints any picture in one of the styles in one pass.

Beside FILE it writes FILE.losses.png (the losses of training and of held-out photographs) and
FILE.samples.png (held-out photographs in every style). An interrupted training goes on where it stopped:
give the same command.

\b
Examples:
  vizkit fast-style train waves.jpg --images photos/ -o waves.safetensors
  vizkit fast-style train waves.jpg fire.jpg --images photos/ -o two.safetensors --steps 6000

Source: Johnson, Alahi & Fei-Fei 2016; Dumoulin, Shlens & Kudlur 2017.
"""

APPLY_HELP = """Paint pictures with a trained network.

\b
Examples:
  vizkit fast-style apply waves.safetensors cat.jpg
  vizkit fast-style apply two.safetensors photos/ -o painted/ --style waves=0.7,fire=0.3
"""


def check_training(folder: str | None, out: str | None, command: str) -> tuple[str, str]:
    """The folder of photographs and the file. Raises `UsageError`."""
    if folder is None:
        raise UsageError(f"{command} learns from photographs: --images FOLDER")
    if not os.path.isdir(folder):
        raise UsageError(f"{folder!r} is not a folder; name the folder that holds the photographs")
    if out is None or not out.endswith(".safetensors"):
        raise UsageError("say where the network goes: -o FILE.safetensors")
    return folder, out


def save_trained(trained: Any, given: dict[str, Any]) -> None:
    """The pictures beside a trained network, and a line of what came of it."""
    stem = trained.path.removesuffix(".safetensors")
    style = {"width": 1200, "theme": given["theme"]}
    trained.curves.save(f"{stem}.losses.png", force=given["force"], **style)
    trained.pictures.save(f"{stem}.samples.png", force=given["force"])
    if not given["quiet"]:
        held = trained.journal.held
        ends = [f"{values['total']:.3g}" for _, values in (held[:1] + held[-1:])]
        print(f"loss on held-out photographs {' -> '.join(ends)} -> {one_line(trained.path)}")


def training_options(command: str, steps: int, size: int, batch: int, rate: float) -> list[click.Parameter]:
    """--images, -o and how long is trained."""

    def named(*names: str, **settings: Any) -> click.Option:
        return options.option(*names, command=command, **settings)

    return [
        named("--images", metavar="FOLDER", help="Photographs to learn from; every tenth is held out."),
        named("-o", "--out", metavar="FILE", help="The network: a .safetensors file."),
        named("--steps", type=click.IntRange(1), default=steps, help="Steps of training."),
        named("--size", type=click.IntRange(32, 1024), default=size, help="Side of the crops."),
        named("--batch", type=click.IntRange(1, 256), default=batch, help="Photographs a step."),
        named("--rate", type=click.FloatRange(1e-7, 1), default=rate, help="Adam's step size."),
        named("--width", type=click.IntRange(4, 256), default=16, help="Channels of the first layer."),
        named("--seed", type=click.IntRange(0, 2**63 - 1), default=0, help="Random seed."),
        named("--theme", type=click.Choice(["light", "dark"]), default="light", help="Background."),
        named("-f", "--force", is_flag=True, help="Replace files that vizkit did not make."),
        *options.talk_options(command),
    ]


def _train(**given: Any) -> int:
    for name in given["styles"]:
        require_there(name)
    folder, out = check_training(given["images"], given["out"], "fast-style train")
    atomic.check(out, force=given["force"])
    from vizkit.cli.runner import load_model
    from vizkit.feedforward.styling import train_fast_style

    model = load_model(given)
    with bar("fast-style train", shown=not given["quiet"]) as step:
        trained = train_fast_style(
            model,
            list(given["styles"]),
            folder,
            out,
            content_weight=given["content_weight"],
            on_step=step,
            **{k: given[k] for k in ("steps", "size", "batch", "rate", "width", "seed")},
        )
    save_trained(trained, given)
    return 0


def _apply(**given: Any) -> int:
    require_there(given["network"])
    images = given["images"]
    tasks, several = plan(images, "fast-style", given["out"], None, force=given["force"])
    from vizkit.feedforward.styling import FastStyle, fast_style
    from vizkit.images import read_image

    net = FastStyle(given["network"], _device(given["device"]))
    net.mix(given["style"])  # a wrong name is said before any work
    failed: list[str] = []
    with bar("fast-style", shown=not given["quiet"]) as step:
        for number, task in enumerate(tasks):
            try:
                photo = read_image(task.source)
                photo = replace(photo, name=os.path.basename(task.name))
                result = fast_style(net, photo, style=given["style"], size=given["size"])
            except VizkitError as error:
                if not several:
                    raise
                failed.append(task.name)
                print(f"vizkit: skipped: {one_line(str(error))}", file=sys.stderr)
                continue
            result.save(task.output, force=given["force"])
            step(number + 1, len(tasks))
            if not given["quiet"] and task.output != STDIN:
                print(f"{one_line(task.name)}: {result.provenance.target} -> {one_line(task.output)}")
    return PartialError.exit_code if failed else 0


def _device(name: str) -> str:
    import torch

    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"


def _apply_options() -> list[click.Parameter]:
    def named(*names: str, **settings: Any) -> click.Option:
        return options.option(*names, command="fast-style", **settings)

    return [
        named("--style", help="A style's name, or a blend: waves=0.7,fire=0.3."),
        named("--size", type=click.IntRange(16, 16_384), help="Longer side in pixels."),
        named("-o", "--out", metavar="PATH", help="Picture to write; a folder for several."),
        named("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps."),
        named("-f", "--force", is_flag=True, help="Replace files that vizkit did not make."),
    ]


@click.group(
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Style transfer in one pass: train a network, then apply it to pictures.",
)
def command() -> None:
    """The two commands."""


command.add_command(
    click.Command(
        "train",
        context_settings={"help_option_names": ["-h", "--help"]},
        callback=_train,
        help=TRAIN_HELP,
        short_help="Train a network for one or many styles.",
        params=[
            click.Argument(
                ["styles"], nargs=-1, required=True, metavar="STYLE...", shell_complete=completing.files
            ),
            *training_options("fast-style", 2000, 160, 4, 1e-3),
            options.option(
                "--content-weight",
                command="fast-style",
                type=click.FloatRange(0, 1e6),
                default=0.5,
                help="How much of the photographs stays.",
            ),
            *options.model_options("fast-style"),
        ],
    )
)
command.add_command(
    click.Command(
        "apply",
        context_settings={"help_option_names": ["-h", "--help"]},
        callback=_apply,
        help=APPLY_HELP,
        short_help="Paint pictures with a trained network.",
        params=[
            click.Argument(["network"], metavar="FILE", shell_complete=completing.files),
            click.Argument(
                ["images"], nargs=-1, metavar="[IMAGE|FOLDER|-]...", shell_complete=completing.files
            ),
            *_apply_options(),
            *options.talk_options("fast-style"),
        ],
    )
)
