"""`vizkit scan`: one pass over a folder of pictures into an index; resumable, in shards, under torchrun."""

import json
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

import click

from vizkit import __version__, atomic
from vizkit.cli import completing, options
from vizkit.cli.generate import GroupedCommand
from vizkit.cli.progress import bar
from vizkit.errors import PartialError, UsageError, one_line
from vizkit.folders import missing_file

READING = ("frame", "background", "max_pixels", "allow_truncated")
WAIT = 0.5  # seconds between looks at what the other processes have done


def _run(**given: Any) -> int:
    if given["merge"]:
        return _merge(given)
    folder, out = _places(given)
    shard = given["shard"] or _rank_shard()
    first = _rank() == 0
    from vizkit.cli.runner import load_model
    from vizkit.scanning.scanner import scan

    model = load_model(given | {"quiet": given["quiet"] or not first})
    with bar("scan", shown=not given["quiet"] and first) as step:
        report = scan(
            model,
            folder,
            out,
            layers=_names(given["layers"]),
            features="all" if given["features"] == ("all",) else _names(given["features"]),
            top=given["top"],
            batch=given["batch"],
            shard=shard,
            threads=given["threads"],
            reading={k: given[k] for k in READING},
            force=given["force"],
            on_step=step,
            on_failure=_say_failed,
            on_anew=_say_anew,
        )
    if given["verbose"]:
        print(f"vizkit: the network is run {report.how}", file=sys.stderr)
    if not given["quiet"] and report.before:
        print(f"vizkit: {report.before} of {report.total} were there already", file=sys.stderr)
    index = report.index
    if index is None and given["shard"] is None and first:
        index = _when_all_are_done(out, given)
    if index is None:
        return _report_shard(report, shard, out, given)
    return _report(index, out, given)


def _places(given: dict[str, Any]) -> tuple[str, str]:
    """The folder and the index. Raises `UsageError`."""
    paths = given["paths"]
    if len(paths) != 1:
        raise UsageError("scan takes one folder of pictures: vizkit scan photos/ -o index/")
    if given["out"] is None:
        raise UsageError("say where the index goes: -o INDEX, a folder")
    if not os.path.isdir(paths[0]):
        if os.path.exists(paths[0]):
            raise UsageError(f"{paths[0]!r} is not a folder; name the folder that holds the pictures")
        raise UsageError(str(missing_file(paths[0])).replace("no file", "no folder", 1))
    return paths[0], given["out"]


def _names(given: Sequence[str]) -> list[str] | None:
    names = [name.strip() for text in given for name in text.split(",") if name.strip()]
    return names or None


def _say_anew() -> None:
    text = "pictures of the index were changed or removed, so all are scanned again"
    print(f"vizkit: {text}", file=sys.stderr)


def _say_failed(name: str, reason: str) -> None:
    print(f"vizkit: skipped: {one_line(f'{name}: {reason}')}", file=sys.stderr)


# --- several processes ---


def _rank() -> int:
    """This process's number under torchrun, 0 without it."""
    return int(os.environ.get("RANK", "0")) if "WORLD_SIZE" in os.environ else 0


def _rank_shard() -> str | None:
    """The part that this process does under torchrun."""
    count = os.environ.get("WORLD_SIZE", "1")
    return f"{_rank() + 1}/{count}" if count.isdecimal() and int(count) > 1 else None


def _when_all_are_done(out: str, given: dict[str, Any]) -> Any:
    """The index, once the other processes have finished their parts; if one dies, torchrun ends us too."""
    from vizkit.scanning.journal import BusyError
    from vizkit.scanning.scanner import merge_index, progress

    with bar("waiting for the others", shown=not given["quiet"]) as step:
        while True:
            done, total = progress(out)
            step(done, total)
            if done == total:
                try:
                    return merge_index(out)
                except BusyError:  # another process is just leaving
                    pass
            time.sleep(WAIT)


def _merge(given: dict[str, Any]) -> int:
    from vizkit.scanning.scanner import merge_index

    if not given["paths"]:
        raise UsageError("name the index, then its parts: vizkit scan --merge index/ part1/ part2/")
    if given["out"] is not None:
        raise UsageError("--merge takes the index first, then its parts, and no -o")
    index, *parts = given["paths"]
    return _report(merge_index(index, parts), index, given)


# --- what is said ---


def _report_shard(report: Any, shard: str | None, out: str, given: dict[str, Any]) -> int:
    mine, blocks = report.blocks
    if given["as_json"]:
        failed = [{"image": name, "reason": reason} for name, reason in report.failed]
        _print_json(
            {"shard": shard, "blocks": mine, "of": blocks, "pictures": report.total, "failed": failed}
        )
    elif not given["quiet"]:
        print(f"shard {shard}: {mine} of {blocks} blocks, {report.total} pictures -> {one_line(out)}")
        if given["shard"]:
            hint = "once all shards are done: vizkit scan --merge INDEX PART..."
            print(f"vizkit: {hint}", file=sys.stderr)
    return PartialError.exit_code if report.failed else 0


def _report(index: Any, out: str, given: dict[str, Any]) -> int:
    channels = sum(layer.channels for layer in index.layers)
    failed = index.about["failed"]
    if given["as_json"]:
        layers = [layer.name for layer in index.layers]
        told = {"index": out, "pictures": index.count, "folders": list(index.classes), "layers": layers}
        _print_json(told | {"channels": channels, "failed": failed, "outputs": [out]})
    elif not given["quiet"]:
        print(f"{index.count} pictures, {len(index.layers)} layers, {channels:,} channels -> {one_line(out)}")
    if failed:
        names = ", ".join(one_line(f["name"]) for f in failed[:5])
        more = f" and {len(failed) - 5} more" if len(failed) > 5 else ""
        total = index.count + len(failed)
        print(f"vizkit: {len(failed)} of {total} pictures failed: {names}{more}", file=sys.stderr)
    return PartialError.exit_code if failed else 0


def _print_json(told: dict[str, Any]) -> None:
    text = json.dumps({atomic.MARK: __version__, **told}, indent=2, ensure_ascii=False)
    atomic.write_stdout((text + "\n").encode(errors="backslashreplace"))


HELP = """Scan a folder of pictures: one decode and one pass through the network each.

The index answers everything else at once: `vizkit patches`, `neighbours`, `embed`, `summary`. Kept are, for
every channel, the pictures and places that drive it most (and least), statistics and quantiles; for every
picture a feature vector, the predicted classes, a thumbnail. The same command goes on after an
interruption, and scans only what is new after pictures were added.

\b
Examples:
  vizkit scan photos/ -o index/
  vizkit scan photos/ -o index/ --model resnet50 --layers layer3,layer4 --features all
  torchrun --no-python --nproc-per-node 3 vizkit scan photos/ -o index/
  vizkit scan photos/ -o part3/ --shard 3/16      on any machine, then
  vizkit scan --merge index/ part*/
"""


def _own_options() -> list[click.Parameter]:
    def named(*names: str, **settings: Any) -> click.Option:
        return options.option(*names, command="scan", **settings)

    return [
        named("-o", "--out", metavar="INDEX", help="The folder for the index."),
        named(
            "--layers",
            multiple=True,
            metavar="NAME,...",
            help="Layers to look at; see `vizkit layers`. [default: what follows each convolution]",
        ),
        named(
            "--features",
            multiple=True,
            metavar="NAME,...",
            help="Layers whose mean is kept of every picture, or all. [default: the last map]",
        ),
        named("--top", type=click.IntRange(1, 1000), default=24, help="Pictures kept for every channel."),
        named("--batch", type=click.IntRange(1, 1024), default=8, help="Pictures at a time."),
        named("--shard", metavar="K/N", help="Only the K-th of N parts, on any scheduler."),
        named("--merge", is_flag=True, help="Make one index of its parts: INDEX PART..."),
    ]


def _output_options() -> list[click.Parameter]:
    def named(*names: str, **settings: Any) -> click.Option:
        return options.option(*names, command="scan", **settings)

    return [
        named("--json", "as_json", is_flag=True, help="Print one JSON object to stdout."),
        named("-f", "--force", is_flag=True, help="Throw away an index of other settings."),
        *options.talk_options("scan"),
    ]


_GROUPS: dict[str, list[click.Parameter]] = {
    "Model": options.model_options("scan"),
    "Picture": options.image_options("scan"),
    "Output": _output_options(),
}

command = GroupedCommand(
    "scan",
    params=[
        click.Argument(["paths"], nargs=-1, metavar="FOLDER", shell_complete=completing.files),
        *_own_options(),
        *(p for group in _GROUPS.values() for p in group),
    ],
    callback=_run,
    help=HELP,
    short_help="Scan a folder of pictures into an index.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
command.groups = {heading: [p.name or "" for p in group] for heading, group in _GROUPS.items()}
