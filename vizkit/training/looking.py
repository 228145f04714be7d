"""A look at the data before anything learns from them: what is there, what is odd, as a page."""

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from vizkit import plots
from vizkit.errors import UsageError, VizkitError, one_line
from vizkit.folders import walk_images
from vizkit.images import read_image
from vizkit.reports import Report, Rows, Section, Tile
from vizkit.training.datasets import TEST, TRAIN, DataSet, Pictures, load_data

OnStep = Callable[[int, int], None] | None

THUMB = 96
"""Side of the pictures that are shown."""

NEAR = 0.97
"""From this correlation of their small copies on two pictures are near duplicates."""

SMALL = 16
"""Side of these small copies."""

FLAT = 4.0
"""Pictures whose grey values deviate less (of 255) are one colour, and are not called near duplicates."""

MOST = 40_000
"""Near duplicates are looked for among so many pictures at most: every pair is compared."""


@dataclass(frozen=True)
class Entry:
    """One picture: name, class, part of the data set, sides, bytes of its file (0: none).

    digest: of the decoded pixels. small: its small copy, mean 0 and length 1. flat: of one colour.
    """

    name: str
    label: str
    part: str
    width: int
    height: int
    size: int
    digest: str
    small: npt.NDArray[np.float32]
    flat: bool
    colours: tuple[float, ...]


@dataclass(frozen=True)
class Looked:
    """All pictures of a data set, what could not be read (name, reason), and how one is shown again."""

    name: str
    entries: Sequence[Entry]
    unreadable: Sequence[tuple[str, str]]
    show: Callable[[int], Image.Image]


def look_at_data(source: str | os.PathLike[str], *, seed: int = 0, on_step: OnStep = None) -> Report:
    """What a data set holds, before anything learns from it.

    source: what `load_data` takes; in a folder every picture is opened. The page has random pictures, how
    many there are of each class, the smallest and largest files, a histogram of sizes, exact and near
    duplicates (those in two classes and those in training and test set first) and what cannot be read.
    Near: copies of
    16 x 16 pixels that correlate at 0.97 or more. Raises `UsageError`.
    """
    looked = _looked(os.fspath(source), on_step)
    groups = duplicates(looked.entries)
    near = near_duplicates(looked.entries)
    return Report(
        heading=f"{one_line(looked.name)}: {len(looked.entries):,} pictures",
        line=_line(looked),
        sections=[
            _findings(looked, groups, near),
            _random(looked, seed),
            _balance(looked),
            _sizes(looked),
            *_extremes(looked),
            *_duplicates(looked, groups, near),
            *_unreadable(looked),
            _means(looked),
        ],
        record=[("data", os.fspath(source)), ("seed of the random pictures", str(seed))],
        numbers=_numbers(looked, groups, near),
    )


# --- reading ---


def _looked(name: str, on_step: OnStep) -> Looked:
    if name == "digits" or not os.path.isdir(name):
        return _in_memory(load_data(name))
    try:
        files = walk_images(name)
    except UsageError:
        return _in_memory(load_data(name))  # IDX and CIFAR; says what is wrong with other folders
    return _folder(Path(name), files, on_step)


def _folder(root: Path, files: Sequence[tuple[Path, Path]], on_step: OnStep) -> Looked:
    entries, unreadable, paths = [], [], []
    for number, (path, relative) in enumerate(files):
        try:
            image = read_image(path).image.convert("RGB")
        except VizkitError as error:
            unreadable.append((str(relative), str(error)))
        else:
            part, label = _place(relative)
            entries.append(_entry(image, str(relative), label, part, path.stat().st_size))
            paths.append(path)
        if on_step is not None:
            on_step(number + 1, len(files))
    if not entries:
        raise UsageError(f"{str(root)!r} holds no picture that can be read; {unreadable[0][1]}")
    if all(e.part == "test" for e in entries):
        raise UsageError(
            f"{str(root)!r} holds no training pictures that can be read, only those of a test set; name a "
            "folder with both"
        )
    return Looked(root.name or str(root), entries, unreadable, lambda k: read_image(paths[k]).image)


def _place(relative: Path) -> tuple[str, str]:
    """The part of the data set and the class that a file's place says."""
    folders = relative.parts[:-1]
    if folders and folders[0].lower() in (*TRAIN, *TEST):
        part = "test" if folders[0].lower() in TEST else "train"
        return part, one_line(folders[1]) if len(folders) > 1 else ""
    return "train", one_line(folders[0]) if folders else ""


def _in_memory(data: DataSet) -> Looked:
    parts = [("train", data.train)] + ([("test", data.test)] if data.test is not None else [])
    pictures: list[tuple[Pictures, int]] = []
    entries = []
    for part, own in parts:
        for k, image in enumerate(own.images):
            label = own.classes[int(own.labels[k])]
            entries.append(_entry(_as_image(image), f"{part} {k}", label, part, 0))
            pictures.append((own, k))

    def show(number: int) -> Image.Image:
        own, k = pictures[number]
        return _as_image(own.images[k])

    return Looked(data.name, entries, [], show)


def _as_image(pixels: torch.Tensor) -> Image.Image:
    """(C, H, W) uint8 as a picture."""
    return Image.fromarray(pixels.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy(), "RGB")


def _entry(image: Image.Image, name: str, label: str, part: str, size: int) -> Entry:
    pixels = np.asarray(image)
    digest = hashlib.sha256(repr(image.size).encode() + pixels.tobytes()).hexdigest()
    colours = tuple((pixels.reshape(-1, 3).mean(0) / 255).tolist())
    flat = float(pixels.reshape(-1, 3).std(0).max()) < FLAT
    return Entry(name, label, part, *image.size, size, digest, _small_copy(image), flat, colours)


def _small_copy(image: Image.Image) -> npt.NDArray[np.float32]:
    """(3 * 16 * 16,) of mean 0 and length 1, so that products are correlations."""
    small = np.array(image.resize((SMALL, SMALL), Image.Resampling.BOX), np.float32).ravel()
    small -= small.mean()
    length = float(np.linalg.norm(small)) or 1.0
    return small / np.float32(length)


# --- duplicates ---


def duplicates(entries: Sequence[Entry]) -> list[list[int]]:
    """Numbers of pictures with the very same pixels, by groups; those in two classes or parts first."""
    found: dict[str, list[int]] = defaultdict(list)
    for k, entry in enumerate(entries):
        found[entry.digest].append(k)
    return sorted((g for g in found.values() if len(g) > 1), key=lambda g: (not _crosses(entries, g), g))


def near_duplicates(entries: Sequence[Entry]) -> list[tuple[int, int]]:
    """Pairs whose small copies are nearly the same and whose pixels are not."""
    known = [k for k, e in enumerate(entries[:MOST]) if not e.flat]
    if len(known) < 2:
        return []
    # small pictures have so little in them that their copies are alike by chance
    if np.median([min(entries[k].width, entries[k].height) for k in known]) < 48:
        return []
    copies = np.stack([entries[k].small for k in known])
    pairs = []
    for start in range(0, len(known), 1024):
        for row, column in np.argwhere(copies[start : start + 1024] @ copies.T >= NEAR):
            one, other = known[start + row], known[column]
            if one < other and entries[one].digest != entries[other].digest:
                pairs.append((one, other))
    return sorted(pairs, key=lambda p: (not _crosses(entries, p), p))


def _crosses(entries: Sequence[Entry], group: Sequence[int]) -> bool:
    """Whether these are in more than one class or part: a contradiction, or a leak."""
    return len({(entries[k].label, entries[k].part) for k in group}) > 1


# --- the page ---


def _line(looked: Looked) -> str:
    classes = {e.label for e in looked.entries}
    parts = Counter(e.part for e in looked.entries)
    said = [f"{len(classes)} classes", *(f"{count:,} in {part}" for part, count in parts.items())]
    return "  ·  ".join(said)


def _findings(looked: Looked, groups: list[list[int]], near: list[tuple[int, int]]) -> Section:
    """What somebody should look at before training, in words."""
    said = findings(looked, groups, near)
    if not said:
        words = "Nothing odd: all pictures can be read, no two are the same, the classes are of like sizes."
        return Section("What to look at first", [words], tone="good")
    return Section("What to look at first", said, tone="bad" if len(said) > 1 else "warn")


def findings(looked: Looked, groups: list[list[int]], near: list[tuple[int, int]]) -> list[str]:
    """What is odd about the data, a sentence each."""
    entries, said = looked.entries, []
    if looked.unreadable:
        said.append(f"{len(looked.unreadable)} files cannot be read.")
    leaks = [g for g in groups if len({entries[k].part for k in g}) > 1]
    if leaks:
        said.append(
            f"{len(leaks)} pictures are in the training and in the test set: the test says too much good."
        )
    two = [g for g in groups if len({entries[k].label for k in g}) > 1]
    if two:
        said.append(f"{len(two)} pictures are in more than one class: at most one of these labels is right.")
    more = sum(len(g) - 1 for g in groups)
    if more:
        said.append(f"{more} pictures have the very pixels of another one.")
    if near:
        said.append(f"{len(near)} pairs look nearly the same; copies in both splits would flatter a model.")
    counts = Counter(e.label for e in entries if e.part == "train").values()
    if counts and max(counts) >= 3 * min(counts):
        ratio = max(counts) / min(counts)
        said.append(
            f"The largest class has {ratio:.1f} times the pictures of the smallest: look at each class's "
            "accuracy, not only at the mean."
        )
    flat = sum(e.flat for e in entries)
    if flat:
        said.append(f"{flat} pictures are of a single colour.")
    return said


def _random(looked: Looked, seed: int) -> Section:
    count = min(60, len(looked.entries))
    chosen = np.random.default_rng(seed).choice(len(looked.entries), count, replace=False)
    words = (
        "Name them yourself before you read the labels, which a pointer over a picture shows: what you "
        "get wrong, a net will find hard."
    )
    tiles = [Tile(_shown(looked, int(k)), hint=looked.entries[int(k)].label) for k in chosen]
    return Section(f"{count} random pictures", [words], tiles=tiles, crisp=_small(looked))


def _tile(looked: Looked, number: int, caption: str, note: str) -> Tile:
    return Tile(_shown(looked, number), caption, note)


def _shown(looked: Looked, number: int) -> Image.Image:
    image = looked.show(number)
    image.thumbnail((2 * THUMB, 2 * THUMB))
    return image


def _small(looked: Looked) -> bool:
    return max(looked.entries[0].width, looked.entries[0].height) < THUMB


def _balance(looked: Looked) -> Section:
    counts = Counter(e.label for e in looked.entries if e.part == "train")
    names = sorted(counts)
    middle = float(np.median(list(counts.values())))
    odd = [k for k, n in enumerate(names) if counts[n] < middle / 2]
    chart = plots.chart(
        "training pictures of each class; those with less than half of the median are marked",
        plots.bars(names, [counts[n] for n in names], y="pictures", marked=odd),
        width=860,
        height=300,
    )
    return Section("Balance of the classes", charts=[chart])


def _sizes(looked: Looked) -> Section:
    entries = looked.entries
    shapes = Counter((e.width, e.height) for e in entries)
    if len(shapes) == 1:
        (width, height) = next(iter(shapes))
        return Section("Sizes", [f"All pictures have {width} x {height} pixels."])
    charts = [
        plots.chart(
            "each picture's sides in pixels",
            plots.points([e.width for e in entries], [e.height for e in entries], x="width", y="height"),
            width=420,
            height=340,
        ),
        plots.chart(
            "shorter side",
            plots.histogram([min(e.width, e.height) for e in entries], x="pixels"),
            width=420,
            height=340,
        ),
    ]
    if any(e.size for e in entries):
        histogram = plots.histogram([e.size / 1000 for e in entries], x="kB", log=True)
        charts.append(plots.chart("bytes of the files", histogram, width=420, height=340))
    common = ", ".join(f"{w} x {h} ({count})" for (w, h), count in shapes.most_common(3))
    return Section("Sizes", [f"Most common: {common}."], charts=charts)


def _extremes(looked: Looked) -> list[Section]:
    """The smallest and the largest files: where broken, blank and foreign pictures hide."""
    sized = sorted((k for k, e in enumerate(looked.entries) if e.size), key=lambda k: looked.entries[k].size)
    if len(sized) < 2:
        return []
    several = min(12, len(sized) // 2)

    def shown(numbers: Sequence[int]) -> list[Tile]:
        found = [(k, looked.entries[k]) for k in numbers]
        return [_tile(looked, k, e.name, f"{e.size / 1000:.1f} kB, {e.width} x {e.height}") for k, e in found]

    return [
        Section("Smallest files", tiles=shown(sized[:several])),
        Section("Largest files", tiles=shown(sized[::-1][:several])),
    ]


def _duplicates(looked: Looked, groups: list[list[int]], near: list[tuple[int, int]]) -> list[Section]:
    sections = []
    for heading, found in (("The same pixels", groups), ("Nearly the same", [list(p) for p in near])):
        if not found:
            continue
        tiles = []
        for group in found[:24]:
            bad = _crosses(looked.entries, group)
            for k in group[:4]:
                entry = looked.entries[k]
                tile = _tile(looked, k, entry.name, f"{entry.part}: {entry.label}")
                tiles.append(Tile(tile.image, tile.caption, tile.note, "bad" if bad else ""))
        more = f" The first 24 of {len(found)} groups." if len(found) > 24 else ""
        words = f"Groups one after another; outlined: in two classes, or in training and test.{more}"
        sections.append(Section(heading, [words], tiles=tiles, crisp=_small(looked)))
    return sections


def _unreadable(looked: Looked) -> list[Section]:
    if not looked.unreadable:
        return []
    rows = [[name, one_line(why)] for name, why in looked.unreadable]
    return [Section("Cannot be read", tables=[Rows(["file", "why"], rows)], tone="bad")]


def _means(looked: Looked) -> Section:
    """The mean picture of each class: what a linear classifier could go by."""
    numbers: Mapping[str, list[int]] = defaultdict(list)
    for k, entry in enumerate(looked.entries):
        if entry.part == "train":
            numbers[entry.label].append(k)
    tiles = []
    for label in sorted(numbers)[:48]:
        some = numbers[label][:: max(1, len(numbers[label]) // 200)][:200]
        side = looked.entries[some[0]].width if _small(looked) else 64
        squares = [np.asarray(looked.show(k).convert("RGB").resize((side, side)), float) for k in some]
        mean = Image.fromarray(np.mean(squares, 0).round().astype(np.uint8), "RGB")
        tiles.append(Tile(mean, label, f"of {len(some)}"))
    deep = [np.mean([looked.entries[k].colours for own in numbers.values() for k in own], 0)]
    words = "Mean colour (red, green, blue): " + ", ".join(f"{v:.3f}" for v in deep[0]) + "."
    return Section("Mean picture of each class", [words], tiles=tiles, crisp=_small(looked))


def _numbers(looked: Looked, groups: list[list[int]], near: list[tuple[int, int]]) -> dict[str, object]:
    entries = looked.entries
    return {
        "pictures": len(entries),
        "classes": dict(sorted(Counter(e.label for e in entries if e.part == "train").items())),
        "test": sum(e.part == "test" for e in entries),
        "unreadable": [{"file": name, "why": one_line(why)} for name, why in looked.unreadable],
        "duplicates": [[entries[k].name for k in g] for g in groups],
        "near_duplicates": [[entries[k].name for k in p] for p in near],
        "findings": findings(looked, groups, near),
    }
