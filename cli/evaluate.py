"""`vizkit evaluate`: heat-map methods compared by numbers, over a folder of pictures; resumable."""

import functools
import hashlib
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from vizkit import __version__, atomic
from vizkit.cli import completing, options
from vizkit.cli.generate import GroupedCommand
from vizkit.cli.inputs import sample_photograph
from vizkit.cli.progress import bar
from vizkit.errors import ImageError, PartialError, UsageError, VizkitError, one_line
from vizkit.folders import require_there, walk_images

READING = ("frame", "background", "max_pixels", "allow_truncated")


class Evaluation:
    """One call of the command: `run()` does it and returns the exit code."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.given = given
        self.reading = {k: given[k] for k in READING}
        self.failed: list[tuple[str, VizkitError]] = []
        self.kept = 0

    def run(self) -> int:
        """Plan, load the model, measure what is not in the journal, write and print the table."""
        given = self.given
        pictures = pictures_of(given["images"], given["limit"])
        folder = None if given["out"] is None else atomic.make_folder(given["out"])
        from vizkit.evaluation.journal import Journal

        self.journal = None if folder is None else Journal(folder)
        if self.journal is not None:
            self.journal.check([path for _, path in pictures], force=given["force"])
        self._prepare()
        with bar("evaluate", shown=not given["quiet"]) as step:
            records = list(self._records(pictures, step))
        if not records:
            raise ImageError("none of the pictures could be evaluated; each reason is above")
        table = self.judge.table(records)
        outputs = []
        if self.journal is not None:
            style = {k: given[k] for k in ("width", "theme")}
            outputs = self.journal.write_table(table, style, force=given["force"])
        self._report(table, outputs, len(pictures) * len(self.judge.contenders), len(pictures))
        return PartialError.exit_code if self.failed else 0

    def _prepare(self) -> None:
        from vizkit.cli.runner import load_model
        from vizkit.evaluation.judging import Judge, mask_finder
        from vizkit.specs import split_specs

        given = self.given
        specs = [spec for text in given["methods"] for spec in split_specs(text)]
        metrics = [name for text in given["metrics"] for name in text.split(",") if name.strip()]
        self.find_mask = mask_finder(given["masks"], 0)
        self.judge = Judge(
            load_model(given),
            methods=specs or None,
            metrics=metrics or None,
            target=given["target"],
            masks=given["masks"] is not None,
            options=dict(_settings(given["settings"])) | {"steps": given["steps"]},
            seed=given["seed"],
        )

    # --- measuring ---

    def _records(
        self, pictures: Sequence[tuple[str, str]], step: Callable[[int, int], None]
    ) -> Iterator[dict[str, Any]]:
        """The records of all pictures that could be read, from the journal or made now and put there."""
        count = len(self.judge.contenders)
        for number, (name, path) in enumerate(pictures):
            told = functools.partial(_told, step, number * count, len(pictures) * count)
            try:
                yield from self._of_picture(name, path, told)
            except ImageError as error:
                if self.given["strict"] or len(pictures) == 1:
                    raise
                self.failed.append((name, error))
                print(f"vizkit: skipped: {one_line(f'{name}: {error}')}", file=sys.stderr)

    def _of_picture(self, name: str, path: str, told: Callable[[int], None]) -> list[dict[str, Any]]:
        from vizkit.evaluation.summing import fits

        mask = self.find_mask(0, name, path)
        base = self._base(path, mask)
        subject = None
        records = []
        for contender in self.judge.contenders:
            request = _hash(base | {"contender": dict(contender.made_of)})
            record = self.journal.records.get(request) if self.journal is not None else None
            if record is None or not fits(
                record, self.judge.metrics, self.judge.protocol, masked=mask is not None
            ):
                subject = subject or self.judge.subject(self._read(path), mask)
                record = self.judge.record(name, subject, contender)
                if self.journal is not None:
                    self.journal.add(request, record)
            else:
                self.kept += 1
            # What the methods are called and where the picture lies are no part of the request.
            records.append(record | {"picture": name, "method": contender.name})
            told(len(records))
        return records

    def _base(self, path: str, mask: Path | None) -> dict[str, Any]:
        """What decides a picture's records, whatever the method."""
        judge = self.judge
        return {
            "vizkit": __version__,
            "model": judge.model.name,
            "weights": judge.model.fingerprint.hex,
            "labels": judge.model.labels,
            "image": _digest(path),
            "mask": None if mask is None else _digest(mask),
            "reading": self.reading,
            "target": judge.target,
            "metrics": [m.name for m in judge.metrics],
            "protocol": judge.protocol.as_dict(),
            "seed": judge.seed,
        }

    def _read(self, path: str) -> Any:
        from vizkit.images import read_image

        return read_image(path, **self.reading)

    # --- results ---

    def _report(self, table: Any, outputs: Sequence[str], pairs: int, total: int) -> None:
        if self.given["as_json"]:
            failed = [{"image": n, "reason": str(e), "exit_code": e.exit_code} for n, e in self.failed]
            whole = json.loads(table.to_json()) | {"failed": failed, "outputs": list(outputs)}
            text = json.dumps(whole, indent=2, ensure_ascii=False, allow_nan=False)
            atomic.write_stdout((text + "\n").encode(errors="backslashreplace"))
        else:
            print(table.to_markdown(), end="")
        if not self.given["quiet"]:
            there = f"{self.kept} of {pairs} results were there already; " if self.kept else ""
            where = f"in {one_line(os.path.dirname(outputs[0]))}" if outputs else "nothing: no -o FOLDER"
            print(f"vizkit: {there}written: {where}", file=sys.stderr)
        if self.failed:
            names = ", ".join(one_line(n) for n, _ in self.failed[:5])
            more = f" and {len(self.failed) - 5} more" if len(self.failed) > 5 else ""
            print(f"vizkit: {len(self.failed)} of {total} pictures failed: {names}{more}", file=sys.stderr)


def pictures_of(images: Sequence[str], limit: int | None) -> list[tuple[str, str]]:
    """(name, path) of every picture, the first `limit` of them; a name is a path inside its folder.

    Raises `UsageError` for a missing file, and for two pictures of the same name.
    """
    found: list[tuple[str, str]] = []
    for image in images or [sample_photograph()]:
        if os.path.isdir(image):
            found += [(one_line(r.as_posix()), str(path)) for path, r in walk_images(image)]
        else:
            require_there(image)
            found.append((one_line(os.path.basename(image)), image))
    twice = [name for name, count in Counter(name for name, _ in found).items() if count > 1]
    if twice:
        raise UsageError(f"two pictures are called {twice[0]!r}; give the folder that holds both")
    return found[:limit]


def _told(step: Callable[[int, int], None], before: int, total: int, done: int) -> None:
    step(before + done, total)


def _settings(given: Sequence[str]) -> Iterator[tuple[str, str]]:
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"--set takes NAME=VALUE, as in --set deletion_fill=zero, not {text!r}")
        yield name.strip().replace("-", "_"), value.strip()


def _hash(asked: Mapping[str, Any]) -> str:
    from vizkit.evaluation.journal import request_of

    return request_of(asked)


def _digest(path: str | Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ImageError(f"cannot read {str(path)!r}: {error.strerror}") from error


def _run(**given: Any) -> int:
    return Evaluation(given).run()


def _own_options() -> list[click.Parameter]:
    def named(*names: str, **settings: Any) -> click.Option:
        return options.option(*names, command="evaluate", **settings)

    return [
        named(
            "--methods",
            multiple=True,
            metavar="NAME,...",
            help="Techniques; options after a colon: grad_cam:variant=layercam. [default: all heat maps]",
        ),
        named(
            "--metrics", multiple=True, metavar="NAME,...", help="Measures, or all. [default: the quick ones]"
        ),
        named("--masks", metavar="FOLDER", help="Masks of the objects, named as the pictures are."),
        named(
            "-t",
            "--target",
            help="One for all pictures: a class, layer:channel or 'a vs b'. [default: each one's top class]",
            shell_complete=completing.classes,
        ),
        named(
            "--steps",
            type=click.IntRange(1, 100_000),
            default=50,
            help="Of the insertion and deletion curves.",
        ),
        named(
            "--set", "settings", multiple=True, metavar="NAME=VALUE", help="Another setting of the measures."
        ),
        named("--seed", type=click.IntRange(0, 2**63 - 1), default=0, help="Random seed."),
        named("--limit", type=click.IntRange(1), help="Only so many pictures, the first ones."),
    ]


def _output_options() -> list[click.Parameter]:
    def named(*names: str, **settings: Any) -> click.Option:
        return options.option(*names, command="evaluate", **settings)

    return [
        named("-o", "--out", metavar="FOLDER", help="Where the table goes as .json, .csv, .md and .png."),
        named("--json", "as_json", is_flag=True, help="Print one JSON object instead of the table."),
        named("-f", "--force", is_flag=True, help="Replace files that vizkit did not make."),
        named("--strict", is_flag=True, help="Stop at the first picture that fails."),
        named(
            "--width", type=click.IntRange(64, 20_000), default=1200, help="Width of the figure in pixels."
        ),
        named("--theme", type=click.Choice(["light", "dark"]), default="light", help="Background."),
        *options.talk_options("evaluate"),
    ]


HELP = """Compare heat-map methods by numbers: whose maps say best what the network goes by?

Every method is measured on every picture, beside two controls that know nothing of the network: a random
map and the picture's edges. Prints a table of means and standard errors; -o FOLDER also keeps
evaluation.json, .csv, .md, .png and a journal there, from which the same command goes on.

\b
Measures:
  insertion, deletion   area under the probability as pixels come or go (RISE)
  road, road_least      probability once the top or the least pixels are filled in (ROAD)
  drop, increase        probability in the picture times the map (Grad-CAM++)
  infidelity            error of the score drops that the map foretells (Yeh et al. 2019)
  sensitivity           change of the map under slight noise (Yeh et al. 2019; slow, only if named)
  random_head, _net     likeness to the map of a net with random weights (Adebayo 2018; only if named)
  pointing, energy      whether the map lies in the object's mask (need --masks)

\b
Examples:
  vizkit evaluate photo.jpg
  vizkit evaluate photos/ -o scores/ --limit 20
  vizkit evaluate photos/ -o scores/ --methods saliency,grad_cam,grad_cam:variant=layercam
  vizkit evaluate photos/ -o scores/ --masks masks/ --metrics pointing,energy -t "tiger cat"
  vizkit evaluate photos/ -o scores/ --metrics all --steps 224 --set deletion_fill=zero
"""

_GROUPS = {
    "Model": options.model_options("evaluate"),
    "Picture": options.image_options("evaluate"),
    "Output": _output_options(),
}

command = GroupedCommand(
    "evaluate",
    params=[
        click.Argument(["images"], nargs=-1, metavar="[IMAGE|FOLDER]...", shell_complete=completing.files),
        *_own_options(),
        *(p for group in _GROUPS.values() for p in group),
    ],
    callback=_run,
    help=HELP,
    short_help="Compare heat-map methods by numbers.",
    context_settings={"help_option_names": ["-h", "--help"]},
)
command.groups = {heading: [p.name or "" for p in group] for heading, group in _GROUPS.items()}
