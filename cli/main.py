"""The `vizkit` command: a lazy group, and the one place where errors become messages and exit codes."""

import contextlib
import errno
import importlib
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

import click

from vizkit import __version__
from vizkit.errors import OutputError, VizkitError, did_you_mean, one_line
from vizkit.memory import roomy_imports, starved
from vizkit.signatures import method_names, section_of, summary_of

WRITTEN_BY_HAND = {
    "scan": "Scan a folder of pictures into an index that answers everything else.",
    "fast-style": "Style transfer in one pass: train a network, apply it to pictures.",
    "prior": "Train a decoder that class images can be painted with.",
    "data": "Look at a data set before training on it.",
    "train": "Train a network on labelled pictures.",
    "baselines": "Judge classic classifiers: what a net has to beat.",
    "score": "Judge trained models by labelled pictures, alone and as an ensemble.",
    "report": "Ask everything about the answer to one picture, as one page.",
    "gallery": "Build a page of every technique with its pictures, formula and command.",
    "microscope": "Build a site that explains a whole network, channel by channel.",
    "lab": "Draw an idea, as a lecture would: initialisation, optimisers, dropout ...",
    "diagnose": "Say what is wrong with a training run, and what to change.",
    "find-lr": "Find a learning rate by a range test.",
    "search": "Search for hyperparameters.",
    "cross-validate": "Mean and deviation of the accuracy over folds.",
    "evaluate": "Compare heat-map methods by numbers: insertion, deletion, ROAD, infidelity ...",
    "models": "List the models that can be loaded by name.",
    "layers": "List a model's layers: name, kind, output shape, parameters, receptive field.",
    "doctor": "Check the installation: versions, devices, decoders, folders.",
    "check-method": "Check that a technique keeps to what any technique must.",
    "completion": "Print the shell's completion script.",
}

ORDER = ("explain", "look inside", "paint", "judge")

HELP = """See what a convolutional network sees.

\b
Examples:
  vizkit saliency                          a first picture, from a sample photograph
  vizkit saliency cat.jpg                  of your own: writes cat.saliency.png
  vizkit saliency cat.jpg --target tabby   why this class?
  vizkit compare cat.jpg                   every technique's answer on one sheet
  vizkit saliency photos/ -o maps/         a whole folder, resumable
  vizkit class-image volcano               what would the perfect volcano be?
  vizkit deepdream sky.jpg                 more of what it sees
  vizkit scan photos/ -o index/            look at a folder once, then ask:
  vizkit embed index/ -o map.html          what does the net find alike?
  vizkit patches index/ _blocks.4._bn1     what do its channels look for?
  vizkit layers resnet50 --random-weights  what is inside
"""


INTERRUPTED = "interrupted; the same command goes on where it stopped"
TERMINATED = "terminated; the same command goes on where it stopped"


class Terminated(BaseException):
    """The process was asked to end (SIGTERM)."""


class Interrupted(BaseException):
    """Ctrl-C."""


class ClosedPipe(BaseException):
    """Whoever read our standard output has gone."""


class LazyGroup(click.Group):
    """Commands are made when asked for: a technique's from its file, the others from their module."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, the techniques first."""
        return [name.replace("_", "-") for name in method_names()] + list(WRITTEN_BY_HAND)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name, or None."""
        if cmd_name in WRITTEN_BY_HAND:
            module = importlib.import_module(f"vizkit.cli.{cmd_name.replace('-', '_')}")
            command: click.Command = module.command
            return command
        name = cmd_name.replace("-", "_")
        if name not in method_names():
            return None
        return importlib.import_module("vizkit.cli.generate").command_for(name)  # type: ignore[no-any-return]

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """click's, with a suggestion for a misspelt command."""
        if self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            hint = did_you_mean(args[0], self.list_commands(ctx)) or "; `vizkit --help` lists them"
            raise click.UsageError(f"there is no command {args[0]!r}{hint}", ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """click's, but a closed pipe and Ctrl-C stay what they are: click has answers of its own to them."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError as error:
            raise ClosedPipe from error
        except KeyboardInterrupt as error:
            raise Interrupted from error
        return result

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, read from the first line of each file."""
        sections: dict[str, list[tuple[str, str]]] = {title: [] for title in ORDER}
        for name in method_names():
            rows = sections.setdefault(section_of(name), [])
            rows.append((name.replace("_", "-"), summary_of(name)))
        for title, rows in sections.items():
            if rows:
                with formatter.section(f"Techniques that {title}"):
                    formatter.write_dl(rows)
        with formatter.section("Other commands"):
            formatter.write_dl(list(WRITTEN_BY_HAND.items()))


@click.group(
    cls=LazyGroup,
    help=HELP,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Options can be preset in the environment: VIZKIT_MODEL, VIZKIT_SALIENCY_SAMPLES ...",
)
@click.version_option(__version__, "-V", "--version", message="vizkit %(version)s")
def main() -> None:
    """The group; commands do the work."""


def run(arguments: list[str] | None = None) -> None:
    """Run the command line and end the process with the documented exit code."""
    code = call(sys.argv[1:] if arguments is None else arguments)
    with _quiet_pipe():
        sys.stdout.flush()
    sys.exit(code)


def call(arguments: list[str]) -> int:
    """Run the command line; returns the exit code. All messages of failures are printed here."""
    _prepare_streams()
    debug = "--debug" in arguments or bool(os.environ.get("VIZKIT_DEBUG"))
    try:
        with _signals(), roomy_imports():
            result = main.main(arguments, prog_name="vizkit", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except (Interrupted, KeyboardInterrupt, click.Abort):
        return _say(INTERRUPTED, 130)
    except Terminated:
        return _say(TERMINATED, 143)
    except ClosedPipe:
        return _closed_pipe()
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return error.exit_code
    except click.ClickException as error:
        return _say(_usage(error), error.exit_code)
    except VizkitError as error:
        if debug:
            _print_traceback()
        return _say(str(error), error.exit_code)
    except OSError as error:  # standard output is full, say
        if error.errno == errno.ENOMEM:
            return _no_memory(error)
        return _say(str(OutputError(f"cannot write: {error.strerror or error}")), OutputError.exit_code)
    except Exception as error:  # noqa: BLE001 - the last resort: a bug of ours, said as such
        if (stopped := _interrupted(error)) is not None:
            return stopped
        if _lacks_memory(error):
            return _no_memory(error)
        return _internal(error, debug)


def _interrupted(error: BaseException) -> int | None:
    """The exit code where what was raised is an interruption that somebody's code has wrapped, else None."""
    below: BaseException | None = error
    while below is not None:
        if isinstance(below, Terminated):
            return _say(TERMINATED, 143)
        if isinstance(below, KeyboardInterrupt | Interrupted):
            return _say(INTERRUPTED, 130)
        below = below.__cause__ or below.__context__
    return None


def _no_memory(error: Exception) -> int:
    lack = f"there is not enough memory ({one_line(str(error))[:200] or 'for Python itself'})"
    return _say(f"{lack}; ask for less at a time (--batch, --size), or close other programs", 4)


def _lacks_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, ImportError) and starved():  # packages say all kinds of things then
        return True
    if "torch" not in sys.modules:
        return False
    from vizkit.failures import out_of_memory

    return out_of_memory(error)


def _prepare_streams() -> None:
    """Closed streams swallow what is said; odd names can be said under an ASCII locale."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - for the process's life
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _usage(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "vizkit"
    text = error.format_message().rstrip(".")
    return f"{path.removeprefix('vizkit').strip()}: {text} (see {path} --help)".removeprefix(": ")


def _say(message: str, code: int) -> int:
    with contextlib.suppress(OSError, ValueError):
        print(f"vizkit: {one_line(message)}", file=sys.stderr, flush=True)
    return code


def _internal(error: Exception, debug: bool) -> int:
    import tempfile
    import traceback

    if debug:
        _print_traceback()
    try:
        with tempfile.NamedTemporaryFile("w", prefix="vizkit-", suffix=".log", delete=False) as file:
            traceback.print_exc(file=file)
        where = f"the traceback is in {file.name}"
    except OSError:
        where = "run again with --debug for the traceback"
    kind = type(error).__name__
    return _say(f"internal error ({kind}: {str(error)[:200]}); please report it, {where}", 1)


def _print_traceback() -> None:
    import traceback

    traceback.print_exc()


def _closed_pipe() -> int:
    # Python would complain again when it flushes standard output at exit.
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141


@contextlib.contextmanager
def _quiet_pipe() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        _closed_pipe()
        sys.exit(141)
    except OSError as error:
        code = _say(f"cannot write to standard output: {error.strerror}", OutputError.exit_code)
        _closed_pipe()
        sys.exit(code)


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """First Ctrl-C or SIGTERM: stop in order. Second Ctrl-C: stop at once.

    Where Python swallows what a handler raises (in `__del__` and the callbacks of weak references), it is
    raised again a moment later: a Ctrl-C must not get lost.
    """

    def terminate(_number: int, _frame: FrameType | None) -> None:
        raise Terminated

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, lambda *_: os._exit(130))
        raise KeyboardInterrupt

    def swallowed(unraisable: Any) -> None:
        kind = unraisable.exc_type
        if kind not in (KeyboardInterrupt, Terminated) or not hasattr(signal, "SIGALRM"):
            hook(unraisable)
            return

        def again(_number: int, _frame: FrameType | None) -> None:
            raise kind

        previous.setdefault(signal.SIGALRM, signal.signal(signal.SIGALRM, again))
        signal.setitimer(signal.ITIMER_REAL, 0.01)

    hook = sys.unraisablehook
    previous: dict[int, Any] = {}
    with contextlib.suppress(ValueError):  # not in the main thread
        previous[signal.SIGTERM] = signal.signal(signal.SIGTERM, terminate)
        previous[signal.SIGINT] = signal.signal(signal.SIGINT, interrupt)
        sys.unraisablehook = swallowed
    try:
        yield
    finally:
        sys.unraisablehook = hook
        if getattr(signal, "SIGALRM", None) in previous:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in previous.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    run()
