"""`vizkit completion SHELL`: the script that makes the shell complete commands and options."""

from typing import Any

import click
from click.shell_completion import get_completion_class

from vizkit.cli import options


def _run(shell: str, **_talk: Any) -> None:
    from vizkit.cli.main import main

    found = get_completion_class(shell)
    assert found is not None  # noqa: S101 - the choice below allows click's own shells only
    click.echo(found(main, {}, "vizkit", "_VIZKIT_COMPLETE").source())


command = click.Command(
    "completion",
    params=[
        click.Argument(["shell"], type=click.Choice(["bash", "zsh", "fish"])),
        *options.talk_options("completion"),
    ],
    callback=_run,
    help="""Print the shell's completion script; put it into your shell's start-up file.

    \b
    Example:
      eval "$(vizkit completion bash)"
    """,
    context_settings={"help_option_names": ["-h", "--help"]},
)
