"""Do maps find the object? Cut-outs pasted onto textures: pointing game, energy, GrabCut IoU, controls.

    python -m tests.benchmarks.localisation PHOTOS [--limit 60] [--save FOLDER]

PHOTOS: photographs of objects on a flat ground (any folders below), from which exact masks are made. Each is
pasted at a random place and size onto one of scikit-image's textures; scenes count in which the net names
the same class as for the cut-out alone, so that the object is what it answers to. Everything is seeded.
"""

import argparse
import random
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.ndimage import binary_fill_holes, binary_opening, label

import vizkit
from tests.benchmarks.common import machine, table
from vizkit.evaluation.controls import edge_map, random_map
from vizkit.evaluation.localisation import energy_inside, pointing_hit
from vizkit.folders import walk_images
from vizkit.methods.segment import segment
from vizkit.registry import all_methods

TEXTURES = ("brick.png", "grass.png", "gravel.png")
SIDE = 320

MAPS: dict[str, tuple[str, dict[str, object]]] = {
    "saliency": ("saliency", {}),
    "SmoothGrad 24": ("saliency", {"samples": 24}),
    "gradient x input": ("saliency", {"times_input": True}),
    "integrated gradients 24": ("integrated_gradients", {"steps": 24, "signed": False}),
    "guided backprop": ("guided_backprop", {}),
    "deconvnet": ("deconvnet", {}),
    **{
        name: ("grad_cam", {"variant": name})
        for name in ("gradcam", "gradcam++", "hirescam", "layercam", "xgradcam", "eigencam")
    },
    "guided Grad-CAM": ("guided_grad_cam", {}),
    "occlusion 32/16": ("occlusion", {}),
    "occlusion 64/16": ("occlusion", {"window": 64, "stride": 16}),
    "occlusion, superpixels": ("occlusion", {"shape": "superpixels"}),
}


def cut_out(path: Path) -> tuple[Image.Image, np.ndarray] | None:
    """The photograph and its object's mask: what differs from the flat ground, without specks; or None."""
    photo = Image.open(path).convert("RGB")
    array = np.asarray(photo).astype(int)
    ground = np.median(np.concatenate([array[0], array[-1], array[:, 0], array[:, -1]]), axis=0)
    inside = binary_fill_holes(binary_opening(np.abs(array - ground).max(2) > 12))
    parts, count = label(inside)
    if not count:
        return None
    sizes = np.bincount(parts.ravel())[1:]
    mask = np.isin(parts, 1 + np.flatnonzero(sizes > 0.05 * sizes.max()))
    return (photo, mask) if 0.04 < mask.mean() < 0.7 else None


def scene(photo: Image.Image, mask: np.ndarray, texture: Image.Image, dice: random.Random) -> tuple:
    """The object on a texture, SIDE x SIDE, and where it is."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    thing, where = photo.crop(box), Image.fromarray(mask).crop(box)
    scale = dice.uniform(0.35, 0.55) * SIDE / max(thing.size)
    size = tuple(max(8, round(s * scale)) for s in thing.size)
    thing, where = thing.resize(size, Image.Resampling.LANCZOS), where.convert("L").resize(size)
    ground = texture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    edge = SIDE // 10  # the net's crop leaves the border out
    at = tuple(dice.randint(edge, SIDE - edge - s) for s in size)
    ground.paste(thing, at, where)
    whole = np.zeros((SIDE, SIDE), bool)
    whole[at[1] : at[1] + size[1], at[0] : at[0] + size[0]] = np.asarray(where) > 127
    return ground, whole


def scenes(folder: Path, model: vizkit.VisionModel, limit: int) -> list[tuple]:
    """(name, picture, mask, class) of the scenes whose answer is the cut-out's."""
    textures = [Image.open(_sample(t)) for t in TEXTURES]
    kept, tried = [], 0
    for path, relative in walk_images(folder):
        found = cut_out(path)
        if found is None or len(kept) >= limit:
            continue
        dice = random.Random(str(relative))
        picture, mask = scene(*found, dice.choice(textures), dice)
        pixels = torch.stack([model.prepare(p).pixels for p in (found[0], picture)])
        with torch.no_grad():
            classes = model(pixels).argmax(1).tolist()
        tried += 1
        if classes[0] == classes[1]:
            kept.append((str(relative), picture, mask, classes[0]))
    print(f"{len(kept)} of {tried} scenes get the same class as the cut-out alone")
    return kept


def _sample(name: str) -> str:
    import skimage

    return str(Path(skimage.__file__).parent / "data" / name)


def scores(values: torch.Tensor, mask: torch.Tensor) -> tuple[float, float]:
    """Pointing game (15 px of tolerance) and share of the positive energy inside."""
    return float(pointing_hit(values, mask)), float(energy_inside(values, mask))


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--limit", type=int, default=60)
    parser.add_argument("--save", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(machine())
    model = vizkit.load_model(device="cpu")
    kept = scenes(arguments.photos, model, arguments.limit)
    lines = [_pointing(name, model, kept) for name in [*MAPS, "random (control)", "sobel (control)"]]
    print(table(["map", "pointing game", "energy inside"], lines))
    areas = [f"{float(np.mean([m.mean() for _, _, m, _ in kept])):.2f}"]
    print(f"share of the picture that the objects cover: {areas[0]}")
    makers = ["grad_cam", "saliency:samples=24", "occlusion:window=64,stride=16", "guided_grad_cam"]
    print(
        table(
            ["seeds from", "IoU, mean", "median"], [_overlap(s, model, kept, arguments.save) for s in makers]
        )
    )


def _pointing(name: str, model: vizkit.VisionModel, kept: list[tuple]) -> list[str]:
    found = []
    for number, (_, picture, mask, target) in enumerate(kept):
        seen = vizkit_mask(mask, model)
        if name.startswith("random"):
            values = random_map(seen.shape, number)
        elif name.startswith("sobel"):
            values = edge_map(model.prepare(picture).pixels)
        else:
            method, options = MAPS[name]
            values = all_methods()[method].function(model, picture, target=target, **options).values
        found.append(scores(values, seen))
    pointing, energy = np.mean(found, axis=0)
    return [name, f"{pointing:.2f}", f"{energy:.2f}"]


def vizkit_mask(mask: np.ndarray, model: vizkit.VisionModel) -> torch.Tensor:
    """The mask in the model's input."""
    from vizkit.masks import mask_of

    return mask_of(mask, model)


def _overlap(method: str, model: vizkit.VisionModel, kept: list[tuple], save: Path | None) -> list[str]:
    found = []
    for name, picture, mask, target in kept:
        result = segment(model, picture, target=target, method=method, truth=mask)
        found.append(result.truth_iou)
        if save is not None:
            save.mkdir(parents=True, exist_ok=True)
            plain = f"{Path(name).stem}.{method.partition(':')[0]}.png"
            result.save(save / plain)
    return [method, f"{np.mean(found):.2f}", f"{np.median(found):.2f}"]


if __name__ == "__main__":
    main()
