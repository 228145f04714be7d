"""An index made the slow way, from the definition: the oracle for scans, and an index for other tests."""

import hashlib
import io
import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from vizkit.hooks import capture
from vizkit.images import read_image
from vizkit.receptive import unit_boxes
from vizkit.scanning.finishing import joined_names, write_index
from vizkit.scanning.index import BINS, PIXELS, THUMBNAIL, Index, bin_of, sample_places
from vizkit.sessions import session
from vizkit.targets import probabilities


def photo(seed: int, size=(80, 64)) -> Image.Image:
    """A picture with a few coloured discs on a gradient."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: size[1], : size[0]]
    pixels = np.stack([x * rng.random() + y * rng.random() for _ in range(3)], -1)
    for _ in range(4):
        inside = (x - rng.integers(size[0])) ** 2 + (y - rng.integers(size[1])) ** 2 < rng.integers(30, 300)
        pixels[inside] = rng.integers(0, 256, 3)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def photo_folder(folder: Path, count: int = 12, classes=("discs", "squares", "waves")) -> Path:
    """`count` PNG pictures in a subfolder a class."""
    for k in range(count):
        where = folder / classes[k % len(classes)]
        where.mkdir(parents=True, exist_ok=True)
        photo(k).save(where / f"picture{k:03}.png")
    return folder


def slow_index(model, photos: Path, out: Path, layers, features=(), top=5) -> Index:
    """The index of the folder by one picture at a time through the module itself, everything in memory."""
    out.mkdir(parents=True, exist_ok=True)
    paths = sorted((p for p in photos.rglob("*") if p.is_file()), key=lambda p: p.relative_to(photos).parts)
    names = [p.relative_to(photos).as_posix() for p in paths]
    folders = sorted({os.path.dirname(n) for n in names})
    prepared = [model.prepare(p) for p in paths]
    maps = {name: [] for name in layers}
    outputs = []
    with session(model.module), torch.no_grad():
        for one in prepared:
            with capture(model.module, [n.split("#")[0] for n in layers]) as got:
                outputs.append(model(one.pixels[None])[0])
            for name in layers:
                maps[name].append(got[name][0].flatten(1) if got[name].dim() > 2 else got[name][0][:, None])
            shapes = {name: got[name].shape for name in layers}
    arrays, entries = {}, []
    for name in layers:
        stack = torch.stack(maps[name]).numpy()  # (N, C, places)
        size = tuple(shapes[name][2:]) or (1, 1)
        lowest = bool((stack < 0).any())
        entries.append(
            {"name": name, "channels": stack.shape[1], "height": size[0], "width": size[1]}
            | {"lowest": lowest, "features": name in features}
        )
        for kind, sign in (("highest", 1), *((("lowest", -1),) if lowest else ())):
            best = (stack * sign).max(2)  # (N, C)
            order = np.argsort(-best, axis=0, kind="stable")[:top].T  # (C, k)
            order = np.pad(order, ((0, 0), (0, top - order.shape[1])), constant_values=-1)
            places = np.take_along_axis((stack * sign).argmax(2).T, order.clip(0), 1)
            values = np.take_along_axis(best.T, order.clip(0), 1) * sign
            arrays[f"{name}/{kind}_values"] = np.where(order < 0, -np.inf * sign, values).astype(np.float32)
            arrays[f"{name}/{kind}_images"] = order.astype(np.int32)
            arrays[f"{name}/{kind}_places"] = np.where(order < 0, -1, places).astype(np.int32)
        seen = stack[:, :, sample_places(*size)].transpose(1, 0, 2).reshape(stack.shape[1], -1)
        arrays[f"{name}/mean"] = seen.mean(1, dtype=np.float64).astype(np.float32)
        arrays[f"{name}/std"] = seen.std(1, dtype=np.float64).astype(np.float32)
        arrays[f"{name}/positive"] = (seen > 0).mean(1).astype(np.float32)
        counts = [np.bincount(row, minlength=BINS) for row in bin_of(seen)]
        arrays[f"{name}/histogram"] = np.stack(counts).astype(np.int64)
    parts = {n: model.module.get_submodule(n.split("#")[0]) for n in layers}
    boxes = unit_boxes(model.module, parts, model.input_shape)
    for entry in entries:
        whole = torch.tensor([0, 0, *model.input_shape[1:]])[:, None, None]
        arrays[f"{entry['name']}/fields"] = boxes.get(entry["name"], whole).int().numpy()
    feature_arrays = {n: torch.stack(maps[n]).mean(2).numpy().astype(np.float32) for n in features}
    about = {
        "model": {
            "name": model.name,
            "weights": model.fingerprint.hex,
            "random": any("random" in w for w in model.warnings),
            "input": list(model.input_shape),
            "labels": None if model.labels is None else list(model.labels),
        },
        "settings": {
            "top": top,
            "preprocessing": {"size": model.preprocessing.size, "resize": model.preprocessing.resize},
        },
        "images": len(paths),
        "failed": [],
        "classes": folders,
        "layers": entries,
    }
    write_index(out, "slow", about, _images(paths, names, folders, prepared, outputs), arrays, feature_arrays)
    (out / "journal").mkdir(exist_ok=True)
    (out / "journal" / "source.json").write_text(f'{{"vizkit": "test", "folder": "{photos.absolute()}"}}')
    return Index(out)


def _images(paths, names, folders, prepared, outputs):
    share = probabilities(torch.stack(outputs)) if outputs[0].dim() == 1 else None
    count = 0 if share is None else min(5, share.shape[1])
    top = np.full((len(paths), 5), -1, np.int32)
    chance = np.zeros((len(paths), 5), np.float32)
    if share is not None:
        order = share.sort(dim=1, descending=True, stable=True)
        top[:, :count], chance[:, :count] = order.indices[:, :count], order.values[:, :count]
    views = [
        Image.fromarray((p.pixels[:3].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy())
        for p in prepared
    ]
    thumbnails = []
    for view in views:
        small = view.copy()
        small.thumbnail((THUMBNAIL, THUMBNAIL))
        buffer = io.BytesIO()
        small.save(buffer, "JPEG", quality=85)
        thumbnails.append(buffer.getvalue())
    text, ends = joined_names(names)
    return {
        "names": text,
        "names_ends": ends,
        "sizes": np.array([read_image(p).image.size for p in paths], np.int32),
        "sha256": np.stack([np.frombuffer(hashlib.sha256(p.read_bytes()).digest(), np.uint8) for p in paths]),
        "folder": np.array([folders.index(os.path.dirname(n)) for n in names], np.int32),
        "top_classes": top,
        "top_probabilities": chance,
        "pixels": np.stack(
            [np.asarray(v.resize((PIXELS, PIXELS), Image.Resampling.BOX)).reshape(-1) for v in views]
        ),
        "cells": np.stack([np.asarray(v.resize((PIXELS, PIXELS), Image.Resampling.BOX)) for v in views])
        .reshape(len(views), 4, 8, 4, 8, 3)
        .sum((2, 4))
        .reshape(len(views), 48)
        .astype(np.uint16),
        "thumbnails": np.frombuffer(b"".join(thumbnails), np.uint8),
        "thumbnails_ends": np.cumsum([len(t) for t in thumbnails], dtype=np.int64),
    }
