"""Part C: every kind of weights file, put to three commands; canaries prove that no code ran."""

import itertools
from pathlib import Path

import torch

import vizkit
from tests.reliability.campaign import Part, Tally, Trial
from tests.reliability.processes import finish
from tests.test_checkpoints import BAD, RUNNERS, WRITERS, saved

COMMANDS = {
    "saliency": ["saliency", "{photo}", "-o", "{out}/map.png"],
    "filters": ["filters", "-o", "{out}/filters.png"],
    "layers": ["layers", "efficientnet_lite0"],
}


def lite_kinds() -> dict[str, object]:
    """Files for the embedded net that do not fit it, or hold what no net should."""
    tensors = vizkit.load_model(device="cpu").module.state_dict()
    head = "_fc.weight"
    spoilt = {k: v.clone() for k, v in tensors.items()}
    spoilt[head][0, 0] = float("nan")
    return {
        "lite0: a tensor missing": {k: v for k, v in tensors.items() if k != head},
        "lite0: a tensor too many": tensors | {"extra": torch.ones(1)},
        "lite0: seven classes": tensors | {head: torch.ones(7, 1280), "_fc.bias": torch.ones(7)},
        "lite0: one NaN": spoilt,
        "lite0: infinite": tensors | {head: torch.full_like(tensors[head], float("inf"))},
        "lite0: another type": tensors | {head: tensors[head].to(torch.int32)},
    }


def run(trial: Trial, tally: Tally) -> None:
    """All files x commands: exit 4, one line, no output, no canary."""
    from tests.slow_index import photo

    picture = trial.folder / "photo.png"
    photo(0).save(picture)
    files: list[tuple[str, Path, Path | None]] = []

    def keep(title: str, data: bytes, canary: Path | None = None, ending: str = ".pt") -> None:
        path = trial.folder / f"weights{len(files)}{ending}"
        path.write_bytes(data)
        files.append((title, path, canary))

    for number, (writer, runner) in enumerate(itertools.product(WRITERS, RUNNERS)):
        canary = trial.folder / f"canary{number}"
        keep(f"code: {runner} as {writer}", WRITERS[writer](RUNNERS[runner](canary)), canary)
    for kind, (make, _) in BAD.items():
        keep(kind, make(), ending=".safetensors" if "safetensors" in kind else ".pt")
    for kind, tensors in lite_kinds().items():
        keep(kind, saved(tensors))
    if trial.size == "ci":
        files = trial.dice.sample(files, 30)
    commands = dict(itertools.islice(COMMANDS.items(), trial.count(1, 3, 3)))

    def one(item: tuple[tuple[str, Path, Path | None], str]) -> None:
        (title, path, canary), name = item
        out = trial.folder / f"out-{path.stem}-{name}"
        out.mkdir()
        words = [word.format(photo=picture, out=out) for word in commands[name]]
        ended = finish([*words, "--weights", str(path)])
        tally.inputs += 1
        tally.endings[f"exit {ended.code}"] += 1
        if ended.traceback:
            tally.problem("tracebacks", f"{name}, {title}: {ended.err[-300:]}")
        elif ended.code != 4 or ended.err.count("\n") != 1:
            tally.problem("", f"{name}, {title}: exit {ended.code}: {ended.err[-300:]}")
        if list(out.iterdir()):
            tally.problem("torn", f"{name}, {title}: leaves {list(out.iterdir())}")
        if canary is not None and canary.exists():
            tally.problem("", f"{name}, {title}: CODE RAN")

    trial.each(one, itertools.product(files, commands))
    tally.notes.append(f"{sum(c is not None for _, _, c in files)} files with code, no canary touched")


PART = Part("weights", "kinds of weights files x commands; does code run?", run)
