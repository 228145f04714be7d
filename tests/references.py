"""The generated references in `gallery/guides`: every command's help, every public name's docstring.

`python -m tests.references` writes them; a test keeps them fresh.
"""

import inspect
from pathlib import Path

import click

import vizkit
from vizkit.cli.main import main
from vizkit.signatures import method_names, read_signature

GUIDES = Path(__file__).resolve().parent.parent / "gallery" / "guides"


def commands():
    """The help of every command."""
    parts = ["# Commands\n\nMade by `python -m tests.references` from the commands themselves.\n"]
    names = main.list_commands(click.Context(main))
    parts.append(" · ".join(f"[{n}](#{n})" for n in names) + "\n")
    for name in names:
        command = main.get_command(click.Context(main), name)
        parts.append(f"## {name}\n\n{_help(command, name)}")
        inner = getattr(command, "commands", {})
        parts += [_help(inner[own], f"{name} {own}") for own in sorted(inner)]
    return "\n".join(parts)


def _help(command, name):
    context = click.Context(command, info_name=f"vizkit {name}", terminal_width=100, max_content_width=100)
    context.help_option_names = command.context_settings["help_option_names"]
    return f"```text\n{command.get_help(context).rstrip()}\n```\n"


def api():
    """The signature and docstring of every public name, with the options of techniques."""
    names = [n for n in dir(vizkit) if not n.startswith("_")]
    parts = ["# Python\n\nMade by `python -m tests.references` from the docstrings. `import vizkit`, then:\n"]
    parts.append(" · ".join(f"[{n}](#{n.lower()})" for n in names) + "\n")
    for name in names:
        value = getattr(vizkit, name)
        parts.append(f"## {name}\n\n```python\n{_call(name, value)}\n```\n")
        parts.append(f"```text\n{inspect.getdoc(value) or ''}\n```\n")
        if name in method_names():
            options = [p for p in read_signature(name).parameters if p.role is None]
            parts += [f"- `{p.name}`: {p.help}{_range(p)}" for p in options]
            parts.append("")
        elif inspect.isclass(value):
            parts += list(_members(value))
    return "\n".join(parts)


def _call(name, value):
    if inspect.isclass(value) and issubclass(value, Exception):
        return f"class {name}(Exception)"
    parameters = inspect.signature(value).parameters.values()
    plain = [p.replace(annotation=inspect.Parameter.empty) for p in parameters]
    told = str(inspect.Signature(plain))
    return f"{'class' if inspect.isclass(value) else 'def'} {name}{told}"


def _range(parameter):
    told = f" One of {', '.join(parameter.choices)}." if parameter.choices else ""
    return told + (f" {str(parameter.between).capitalize()}." if parameter.between else "")


def _members(value):
    for name, member in sorted(vars(value).items()):
        plain = inspect.isfunction(member) or isinstance(member, property)
        if name.startswith("_") or not plain or not inspect.getdoc(member):
            continue
        if isinstance(member, property):
            yield f"- `.{name}`: {inspect.getdoc(member).splitlines()[0]}"
        else:
            yield f"- `.{_call(name, member).removeprefix('def ')}`: {inspect.getdoc(member).splitlines()[0]}"
    yield ""


PAGES = {"commands.md": commands, "api.md": api}

if __name__ == "__main__":
    for page, made in PAGES.items():
        (GUIDES / page).write_text(made(), encoding="utf-8")
