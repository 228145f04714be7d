"""From a technique's signature to its command."""

import functools
import inspect
from typing import Any

import click

from vizkit.cli import completing, options
from vizkit.signatures import Parameter, Signature, read_signature


class GroupedCommand(click.Command):
    """A command whose help shows its own options first and the shared ones under headings."""

    groups: dict[str, list[str]]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Options under their headings."""
        headed = {name for names in self.groups.values() for name in names}
        known = [p for p in self.get_params(ctx) if isinstance(p, click.Option)]
        own = [p.name or "" for p in known if p.name not in headed]
        for heading, names in {"Options": own, **self.groups}.items():
            rows = [p.get_help_record(ctx) for p in known if p.name in names]
            with formatter.section(heading):
                formatter.write_dl([row for row in rows if row is not None])


class TargetText(click.ParamType):  # type: ignore[type-arg]
    """A target as text; several in an environment variable stand behind semicolons, names hold spaces."""

    name = "target"
    envvar_list_splitter = ";"


def command_for(name: str) -> click.Command:
    """The click command of technique `name`."""
    signature = read_signature(name)
    if signature.has("index") or not signature.has("images"):
        from vizkit.cli.single import command_of  # what gives one result, whatever it is given

        return command_of(signature)
    title = name.replace("_", "-")
    pages = signature.gives in ("pictures", "painting")
    drawn = options.page_options if pages else options.style_options
    shared = {
        "Model": options.model_options(title) if signature.has("model") else [],
        "Picture": options.image_options(title) if signature.has("images") else [],
        "Output": [
            *options.output_options(title),
            *(options.sheet_option(title) if signature.gives == "painting" else []),
            *drawn(title, signature.layouts),
            *options.talk_options(title),
        ],
    }
    own = own_options(signature)
    images = click.Argument(
        ["images"], nargs=-1, metavar="[IMAGE|FOLDER|-]...", shell_complete=completing.files
    )
    command = GroupedCommand(
        title,
        params=[images, *own, *(p for group in shared.values() for p in group)],
        callback=functools.partial(_run, signature),
        help=_help(signature),
        short_help=signature.summary,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    command.groups = {heading: [p.name or "" for p in group] for heading, group in shared.items()}
    return command


def _run(signature: Signature, **given: Any) -> int:
    from vizkit.cli.runner import Job  # here: help and usage errors need none of it

    return Job(signature, given).run()


def own_options(signature: Signature) -> list[click.Parameter]:
    """The options that the technique itself has."""
    shared = ("model", "images", "index", "unit", "on_step", "aims", "picture", "styles")
    title = signature.name.replace("_", "-")
    return [_own(p, title) for p in signature.parameters if p.role not in shared]


def _own(parameter: Parameter, command: str) -> click.Option:
    flag = "--" + parameter.name.replace("_", "-")
    if parameter.role == "target":
        text = "A class (name or index), layer:channel[,y,x] or 'a vs b'; repeatable. [default: top class]"
        return options.option(
            "-t",
            flag,
            command=command,
            type=TargetText(),
            multiple=True,
            help=text,
            shell_complete=completing.classes,
        )
    if parameter.role == "layer":
        return options.option(
            "-l",
            flag,
            command=command,
            help="A layer's name or a unique ending of it; see `vizkit layers`. [default: chosen by itself]",
        )
    if parameter.role == "seed":
        return options.option(
            flag,
            command=command,
            type=click.IntRange(0, 2**63 - 1),
            default=parameter.default,
            help="Random seed.",
        )
    if parameter.kind is bool:
        names = f"{flag}/--no-{flag[2:]}" if parameter.default else flag
        return options.option(
            names, command=command, is_flag=True, default=parameter.default, help=parameter.help
        )
    return options.option(
        flag, command=command, type=_type(parameter), default=parameter.default, help=parameter.help
    )


def _type(parameter: Parameter) -> Any:
    if parameter.choices:
        return click.Choice(parameter.choices)
    between = parameter.between
    if between is None:
        return parameter.kind
    if parameter.kind is int:
        low, high = (None if b is None else int(b) for b in (between.low, between.high))
        return click.IntRange(low, high)
    return click.FloatRange(between.low, between.high)


def _help(signature: Signature) -> str:
    """First paragraph, examples, where the result goes, source."""
    title = signature.name.replace("_", "-")
    return inspect.cleandoc(
        f"""{signature.summary}

        Writes IMAGE.{title}.png beside each picture, or into -o FOLDER; a folder of pictures needs -o.
        Without a picture a sample photograph is taken and the result is written to the current folder.

        \b
        Examples:
          vizkit {title} photo.jpg
          {signature.example}
          vizkit {title} photos/ -o maps/ --model resnet50

        Source: {signature.paper}.
        """
    )
