"""All that the gallery shows, in its order."""

from collections.abc import Iterator

from vizkit.exhibition.painting import CLASSES, DREAMS, INVERSION, STYLE, TEXTURE
from vizkit.exhibition.seeing import FILTERS, GUIDED, OCCLUSION, PATCHES, SALIENCY
from vizkit.exhibition.shots import INDEX, Exhibit, Room, Shot
from vizkit.exhibition.training import EMBEDDING, TRAINING
from vizkit.signatures import method_names, read_signature

ROOMS = (
    FILTERS,
    PATCHES,
    OCCLUSION,
    SALIENCY,
    GUIDED,
    CLASSES,
    DREAMS,
    INVERSION,
    TEXTURE,
    STYLE,
    EMBEDDING,
    TRAINING,
)


HERO = ("deepdream", "invert", "style-tissue", "grad-cam-variants", "class-image", "style-dahlia")
"""Shots at the head of the page."""


def rooms() -> list[Room]:
    """The sections, and one more for techniques that none of them shows."""
    shown = {exhibit.name for room in ROOMS for exhibit in room.exhibits}
    others = [_by_itself(name) for name in method_names() if name not in shown]
    more = (
        [Room("more", "More", "Techniques without a section of their own.", tuple(others))] if others else []
    )
    return [*ROOMS, *more]


def _by_itself(name: str) -> Exhibit:
    """A technique that only its own file knows: its plainest call."""
    signature = read_signature(name)
    words = [name.replace("_", "-")]
    given = {"index": "work/index", "images": "{cat}", "picture": "{cat}", "styles": "{tissue}"}
    words += [given[p.role] for p in signature.parameters if p.role in given]
    words += [
        "volcano" if p.role == "aims" else "_blocks.4._bn1"
        for p in signature.parameters
        if p.role in ("aims", "unit")
    ]
    needs = ("index",) if signature.has("index") else ()
    ending = "html" if signature.gives == "page" else "webp"
    shot = Shot(words[0], " ".join(words), signature.summary, signature.summary, ending=ending, needs=needs)
    return Exhibit(name, (shot,))


def shots() -> Iterator[Shot]:
    """Every shot; what others need comes first."""
    yield INDEX
    for room in rooms():
        for exhibit in room.exhibits:
            yield from exhibit.shots
