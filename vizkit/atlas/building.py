"""Building a microscope: scan, pages, then pictures in rounds over all layers until the budget ends."""

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from vizkit.atlas.choosing import places
from vizkit.atlas.facts import Facts, gather
from vizkit.atlas.jobs import Job, jobs
from vizkit.atlas.pages import write_layer, write_pages
from vizkit.atlas.site import Site
from vizkit.errors import ModelError, UsageError
from vizkit.images import to_pillow
from vizkit.methods.class_image import class_image
from vizkit.methods.patches import patches
from vizkit.methods.unit_image import unit_image
from vizkit.scanning.index import Index
from vizkit.scanning.planning import Shard, read_shard
from vizkit.scanning.scanner import scan
from vizkit.zoo import VisionModel, as_model

PATCHES = 9
"""Patches that a channel's page shows."""
SIDE, GAP = 112, 5
"""Side of a patch, and the space between two, in pixels."""
CLASSES = 24
"""Classes that have a page with a painted image."""

Say = Callable[[str, int, int], None]


@dataclass
class Made:
    """What a build did: pictures made now and there in all, of how many; whether the budget ended it."""

    now: int = 0
    there: int = 0
    wanted: int = 0
    stopped: bool = False
    page: str = ""
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Settings:
    """How a microscope is built; see `microscope`."""

    layers: Sequence[str] | None
    channels: int | None
    minutes: float | None
    shard: Shard
    preview: bool
    seed: int
    force: bool


def microscope(
    model: Any,
    photos: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    layers: Sequence[str] | None = None,
    channels: int | None = None,
    minutes: float | None = None,
    shard: str = "1/1",
    preview: bool = False,
    seed: int = 0,
    force: bool = False,
    say: Say | None = None,
) -> Made:
    """Build or go on building a site that explains `model` by the pictures in the folder `photos`.

    The pages are there after the scan; then patches are cut and images are painted, the most selective
    channels of every layer first, and each page gets its pictures as they come. layers: as in `places`;
    channels: at most so many of a layer are painted; minutes: stop in order after so long; shard: "2/4"
    paints the second of four parts, in the same folder or in another one to be copied together. What is
    there is never made again. preview: smaller images in fewer steps; force: begin again with new settings;
    say: called with (stage, done, total).

    Raises `UsageError` for a folder of other settings, `ModelError`, `ImageError`, `OutputError`.
    """
    begun = time.monotonic()
    model = as_model(model)
    if not Path(photos).is_dir():
        raise UsageError(f"{os.fspath(photos)!r} is no folder of pictures and no index")
    settings = Settings(layers, channels, minutes, read_shard(shard), preview, seed, force)
    site = Site(Path(folder))
    where = places(model, layers)
    chosen = [p.name for p in where if p.chosen]
    about = _about(model, chosen, settings)
    anew = site.claim(about, force=settings.force)
    index = _index(model, Path(photos), site, chosen, say, anew=anew)
    if anew:  # not before there is an index: what is there is worth more than a wrong command
        site.begin_again(about)
    facts = gather(model, index, where)
    if not site.has("index.html"):
        write_pages(site, facts)
    ranked = [(layer.place.name, layer.order) for layer in facts.layers]
    todo = list(jobs(ranked, settings.channels, facts.classes[:CLASSES], settings.shard))
    made = Made(wanted=_images(todo), page=str(site.folder / "index.html"))
    made.stopped = not _done(facts, site, _Clock(begun, settings.minutes), todo, settings, made, say)
    write_pages(site, facts)
    return made


class _Clock:
    """Is there time for one more of what has been done so far?"""

    def __init__(self, begun: float, minutes: float | None) -> None:
        self._end = math.inf if minutes is None else begun + 60 * minutes
        self._last = time.monotonic()
        self._longest = 0.0

    def begin(self) -> bool:
        """False where the budget would end before the next piece of work, were it as long as the longest."""
        self._last = time.monotonic()
        return self._last + self._longest <= self._end

    def done(self) -> None:
        """A piece of work is done."""
        self._longest = max(self._longest, time.monotonic() - self._last)


def _done(
    facts: Facts,
    site: Site,
    clock: _Clock,
    todo: Sequence[Job],
    settings: Settings,
    made: Made,
    say: Say | None,
) -> bool:
    """The pictures, each on its page when it is there; False where the budget ended first."""
    at = time.monotonic()
    for number, job in enumerate(todo):
        place = site.painted if job.what == "image" else site.patches
        missing = [n for n in job.numbers if not site.has(place(job.layer, n))]
        if not clock.begin():
            return False
        if missing and job.what == "image":
            _paint(facts, site, Job(job.layer, tuple(missing)), settings, made)
        elif missing:
            _cut(facts, site, job.layer, missing)
        if missing:
            write_layer(site, facts, job.layer, missing)
        clock.done()
        if job.what == "image":
            made.there += len(job.numbers)
            made.now += len(missing)
        if say:
            say("pictures", number + 1, len(todo))
        if time.monotonic() - at > 60:  # the front page counts what is there
            write_pages(site, facts, front_only=True)
            at = time.monotonic()
    return True


def _images(todo: Sequence[Job]) -> int:
    return sum(len(job.numbers) for job in todo if job.what == "image")


def _about(model: VisionModel, layers: Sequence[str], settings: Settings) -> dict[str, Any]:
    return {
        "vizkit": "microscope",
        "model": model.name,
        "weights": model.fingerprint.hex,
        "layers": list(layers),
        "seed": settings.seed,
        "preview": settings.preview,
    }


def _index(
    model: VisionModel, photos: Path, site: Site, layers: Sequence[str], say: Say | None, *, anew: bool
) -> Index:
    if (photos / "index.json").is_file():
        index = Index(photos)
        index.model(model)  # of the same weights
        for name in layers:
            index.find_layer(name)
        return index
    report = scan(
        model,
        photos,
        site.folder / "index",
        layers=layers,
        features="all",
        force=anew,
        on_step=(lambda done, total: say("scanning", done, total)) if say else None,
    )
    if report.index is None:
        raise UsageError(f"the scan of {str(photos)!r} is not whole; run the same command again")
    return report.index


def _cut(facts: Facts, site: Site, layer: str, numbers: Sequence[int]) -> None:
    """The patches of each of these channels as one picture."""
    found = patches(facts.index, [f"{layer}:{n}" for n in numbers], count=PATCHES)
    for number, row in zip(numbers, found.strips, strict=True):
        site.keep(site.patches(layer, number), strip([tile.image for tile in row.tiles]))


def strip(pictures: Sequence[Image.Image]) -> Image.Image:
    """Squares side by side, with nothing between them."""
    page = Image.new("RGBA", ((SIDE + GAP) * max(1, len(pictures)) - GAP, SIDE))
    for k, picture in enumerate(pictures):
        shown = picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
        page.paste(shown, (k * (SIDE + GAP), 0))
    return page


def _paint(facts: Facts, site: Site, job: Job, settings: Settings, made: Made) -> None:
    """The images of a job's channels or classes, and guided backprop on the channels' patches."""
    if job.layer:
        units = [f"{job.layer}:{n}" for n in job.numbers]
        painting = unit_image(facts.model, units, seed=settings.seed, preview=settings.preview)
    else:
        painting = class_image(facts.model, list(job.numbers), seed=settings.seed, preview=settings.preview)
    for number, picture in zip(job.numbers, painting.pictures, strict=True):
        if job.layer:
            _guide(facts, site, job.layer, number, made)
        site.keep(site.painted(job.layer, number), to_pillow(picture))


def _guide(facts: Facts, site: Site, layer: str, number: int, made: Made) -> None:
    path = site.guided(layer, number)
    if site.has(path):
        return
    try:
        found = patches(facts.index, f"{layer}:{number}", model=facts.model, count=PATCHES, guided=True)
    except ModelError as error:  # a net without ReLUs, say
        if str(error) not in made.notes:
            made.notes.append(str(error))
        return
    tiles = found.strips[1].tiles if len(found.strips) > 1 else []
    if tiles:
        site.keep(path, strip([tile.image for tile in tiles]))
