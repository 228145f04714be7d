"""`vizkit check-method`: does a technique keep to what any technique must?"""

import json
from typing import Any

import click

from vizkit.cli import options
from vizkit.errors import PartialError

HELP = """Try out what any technique must keep to, on a small net: a whole map, the same again, the same in a
batch, nothing left behind even after exceptions, another map for another class and for other weights.

A technique is a name, with options behind a colon.

\b
Examples:
  vizkit check-method saliency
  vizkit check-method grad_cam:variant=eigencam integrated_gradients --json

In Python, for your own function: vizkit.check_method(f). Exit code 6 if a check fails.
"""


def _run(methods: tuple[str, ...], exceptions: int, seed: int, as_json: bool, **_talk: Any) -> int:
    from vizkit.evaluation.checking import check_method, passed

    found = {m: check_method(m, exceptions=exceptions, seed=seed) for m in methods}
    if as_json:
        rows = {m: [vars(c) for c in checks] for m, checks in found.items()}
        click.echo(json.dumps({"checks": rows}, indent=2))
    for method, checks in {} if as_json else found.items():
        click.echo(method)
        for check in checks:
            mark = "ok " if check.passed else "NO "
            click.echo(f"  {mark} {check.name}: {check.meaning if check.passed else check.reason}")
    return 0 if all(map(passed, found.values())) else PartialError.exit_code


command = click.Command(
    "check-method",
    callback=_run,
    help=HELP,
    short_help="Check that a technique keeps to what any technique must.",
    context_settings={"help_option_names": ["-h", "--help"]},
    params=[
        click.Argument(["methods"], nargs=-1, required=True, metavar="METHOD..."),
        options.option(
            "--exceptions",
            command="check-method",
            type=click.IntRange(0, 10_000),
            default=50,
            help="In so many calls an exception is thrown.",
        ),
        options.option(
            "--seed", command="check-method", type=click.IntRange(0), default=0, help="Random seed."
        ),
        options.option("--json", "as_json", command="check-method", is_flag=True, help="Print JSON."),
        *options.talk_options("check-method"),
    ],
)
