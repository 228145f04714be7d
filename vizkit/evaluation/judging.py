"""`vizkit.evaluate`: every method on every picture by every measure, one pair at a time."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vizkit.batches import Step
from vizkit.errors import ImageError, ModelError, UsageError
from vizkit.evaluation.contenders import Contender, contenders_of
from vizkit.evaluation.metrics import Case, metrics_of
from vizkit.evaluation.protocol import protocol_of
from vizkit.evaluation.subject import Subject
from vizkit.evaluation.summing import About, Record, table_of
from vizkit.folders import walk_images
from vizkit.masks import mask_of
from vizkit.tables import Table
from vizkit.zoo import VisionModel, as_model
from vizkit.zoo.preparing import images_of

MASK_ENDINGS = (".png", ".npy", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")


def evaluate(
    model: Any,
    images: Any,
    *,
    methods: Any = None,
    metrics: Any = None,
    target: Any = None,
    masks: Any = None,
    options: Mapping[str, Any] | None = None,
    steps: int | None = None,
    seed: int = 0,
    on_step: Step = None,
) -> Table:
    """Judge explanations by numbers: how well each method's maps say what the network goes by.

    images: pictures as for every technique, or a folder. methods: None (all that give heat maps), or a list
    of names ("saliency", "grad_cam:variant=layercam") and functions `f(model, pixels, target=...)` that
    give a `Heatmap` or a tensor (H, W) for pixels (C, H, W). metrics: names of `vizkit.evaluation.metrics`;
    None is all but the costly max-sensitivity, "all" is all. target: one target for all pictures; None is
    each one's top class. masks of the object, for the pointing measures: a folder or a mapping with the
    pictures' names (endings may differ), a list as long as the images, or a function image -> mask or None.
    options: settings of `vizkit.evaluation.protocol.Protocol`; steps: of the insertion and deletion curves.

    Two controls, a random map and the picture's edges, are always there. Returns a `Table`: means with
    their standard errors over pictures, the curves, each picture's numbers (`entries`). A method that
    refuses the model has a row with the reason. Nothing depends on the order or number of pictures.
    Raises `UsageError` (unknown names, bad settings), `ImageError`, `ModelError`.
    """
    given = dict(options or {}) | ({"steps": steps} if steps is not None else {})
    judge = Judge(
        model,
        methods=methods,
        metrics=metrics,
        target=target,
        masks=masks is not None,
        options=given,
        seed=seed,
    )
    pictures = _pictures(images)
    find = mask_finder(masks, len(pictures))
    records: list[Record] = []
    total = len(pictures) * len(judge.contenders)
    for number, (name, image) in enumerate(pictures):
        subject = judge.subject(image, find(number, name, image))
        for contender in judge.contenders:
            records.append(judge.record(name, subject, contender))
            if on_step is not None:
                on_step(len(records), total)
    return judge.table(records)


class Judge:
    """A model, the methods to compare, the measures and their settings; gives a record a pair.

    `record` is for one picture and one method and depends on nothing else, so records may be kept and put
    together later.
    """

    def __init__(
        self,
        model: Any,
        *,
        methods: Any = None,
        metrics: Any = None,
        target: Any = None,
        masks: bool = False,
        options: Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> None:
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
            raise UsageError(f"the seed must be a whole number from 0, not {seed!r}")
        if isinstance(target, list | tuple):
            raise UsageError("one target for all pictures; evaluate several one after the other")
        self.model: VisionModel = as_model(model)
        self.target, self.seed, self.masks = target, seed, masks
        self.protocol = protocol_of(options or {})
        self.contenders: Sequence[Contender] = contenders_of(methods, seed)
        names = metrics.split(",") if isinstance(metrics, str) else metrics
        self.metrics = metrics_of(names, masks=masks)

    def subject(self, image: Any, mask: Any = None) -> Subject:
        """A picture (and the mask of its object) made ready.

        Raises `ImageError` for the picture or the mask, `UsageError` for the target, `ModelError`.
        """
        pixels = self.model.prepare(image).pixels
        try:
            fitted = None if mask is None else mask_of(mask, self.model)
        except UsageError as error:  # of this picture, not of the request
            raise ImageError(str(error)) from error
        return Subject(self.model, pixels, self.target, mask=fitted, protocol=self.protocol, seed=self.seed)

    def record(self, name: str, subject: Subject, contender: Contender) -> Record:
        """The numbers of one method on one picture, as plain JSON values; a refusal with its reason."""
        record: Record = {
            "picture": name,
            "method": contender.name,
            "target": subject.title,
            "confidence": subject.clean,
            "refused": None,
            "warnings": [],
            "values": {},
            "curves": {},
        }

        try:
            case = Case(subject, contender.explain(subject, subject.pixels), contender.explain)
            record["warnings"] = list(case.map.warnings)
            for metric in self.metrics:
                if metric.needs_mask and subject.mask is None:
                    continue
                value, curve = metric.compute(case)
                record["values"][metric.name] = value
                if curve:
                    record["curves"][metric.name] = curve
        except (ModelError, UsageError) as error:
            if isinstance(error, UsageError) and contender.by_name:
                raise
            record |= {"refused": str(error), "values": {}, "curves": {}}
        return record

    def table(self, records: Sequence[Record]) -> Table:
        """The records of whole pictures, put together."""
        return table_of(records, self.metrics, self.contenders, self._about(records))

    def _about(self, records: Sequence[Record]) -> About:
        measure = "every picture's top class" if self.target is None else _words(records)
        return About(self.model, measure, self.protocol, self.seed, masks=self.masks)


def _words(records: Sequence[Record]) -> str:
    titles = dict.fromkeys(r["target"] for r in records)
    return next(iter(titles)) if len(titles) == 1 else f"{len(titles)} targets"


# --- pictures and masks ---


def _pictures(images: Any) -> list[tuple[str, Any]]:
    """(name, picture) of each: the path inside a folder, else the file's name, else its number."""
    if isinstance(images, str | Path) and Path(images).is_dir():
        return [(relative.as_posix(), path) for path, relative in walk_images(images)]
    found = images_of(images)[0]
    if not found:
        raise UsageError("there is no picture to evaluate on")
    paths = [str(i) if isinstance(i, str | Path) else "" for i in found]
    names = [Path(p).name or f"picture {k}" for k, p in enumerate(paths, 1)]
    return [(p if p and names.count(n) > 1 else n, i) for p, n, i in zip(paths, names, found, strict=True)]


def mask_finder(masks: Any, count: int) -> Callable[[int, str, Any], Any]:
    """A function (number, name, picture) -> its mask as given, or None. Raises `UsageError`."""
    if masks is None:
        return lambda *_: None
    if isinstance(masks, str | Path):
        if not Path(masks).is_dir():
            raise UsageError(f"{str(masks)!r} is not a folder; name the folder that holds the masks")
        return lambda _number, name, _image: mask_file(Path(masks), name)
    if isinstance(masks, Mapping):
        stems = {str(Path(str(k)).with_suffix("")): v for k, v in masks.items()}
        return lambda _number, name, _image: masks.get(name, stems.get(str(Path(name).with_suffix(""))))
    if callable(masks):
        return lambda _number, _name, image: masks(image)
    given = list(masks)
    if len(given) != count:
        raise UsageError(f"there are {len(given)} masks for {count} pictures")
    return lambda number, _name, _image: given[number]


def mask_file(folder: Path, name: str) -> Path | None:
    """The mask of the picture `name`: the same name below `folder`, perhaps with another ending.

    Raises `ImageError` where something stands there that is no file.
    """
    found = [p for p in _candidates(folder / name) if os.path.lexists(p)]
    if (mask := next((p for p in found if p.is_file()), None)) is not None:
        return mask
    if odd := next(
        (p for p in found if p.suffix), None
    ):  # a picture without ending may be called as a folder
        kind = "is a broken link" if odd.is_symlink() and not odd.exists() else "is no file"
        raise ImageError(f"the mask {str(odd)!r} {kind}; mend or remove it")
    return None


def _candidates(path: Path) -> Iterator[Path]:
    yield path
    for ending in MASK_ENDINGS:
        yield path.with_suffix(ending)
        yield path.with_name(path.name + ending)
