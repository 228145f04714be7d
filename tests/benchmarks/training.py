"""Does it pay? Fine-tuning beside kNN, teachers and ensembles beside their parts, Fashion-MNIST.

python -m tests.benchmarks.training transfer PHOTOS     the embedded net on folders of photographs, 5 folds
python -m tests.benchmarks.training together            distillation, snapshots, ensembles on digits
python -m tests.benchmarks.training fashion FOLDER      three seeds of the usual recipe, test set and all
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import KNeighborsClassifier

import vizkit
from vizkit.scanning.choosing import default_features
from vizkit.training.crossvalidation import cross_validate
from vizkit.training.datasets import DataSet, Pictures, load_data
from vizkit.training.folder import usual
from vizkit.training.recipe import Recipe
from vizkit.training.scoring import score
from vizkit.training.splits import folds

SIDE = 160
"""Of the photographs."""


def said(name, accuracies, seconds):
    mean, deviation = 100 * statistics.fmean(accuracies), 100 * statistics.stdev(accuracies)
    print(f"| {name} | {mean:.1f} +- {deviation:.1f} % | {seconds:.0f} s |", flush=True)


def common(data, least):
    """The classes with so many pictures."""
    names = [n for n, count in data.train.counts().items() if count >= least]
    numbers = [data.train.classes.index(n) for n in names]
    kept = torch.isin(data.train.labels, torch.tensor(numbers)).nonzero()[:, 0]
    own = data.train.take(kept)
    labels = torch.tensor([numbers.index(k) for k in own.labels.tolist()])
    return DataSet(data.name, Pictures(own.images, labels, tuple(names), own.files))


def features_of(images):
    """(N, D) means over the maps of the embedded net's last layer."""
    model = vizkit.load_model()
    (layer,) = default_features(model)
    found = []
    for part in torch.split(images, 16):
        with torch.no_grad(), vizkit.capture(model.module, [layer]) as seen:
            model(part.float() / 255)
        found.append(seen[layer].mean((2, 3)))
    return torch.cat(found).numpy()


def transfer(folder):
    data = common(load_data(folder, size=SIDE), 5)
    print(f"{len(data.train)} photographs of {len(data.train.classes)} classes, 5 folds\n")
    begun = time.monotonic()
    features = features_of(data.train.images)
    cut = [(k.numpy(), h.numpy()) for k, h in folds(data.train.labels, 5)]
    for k in (1, 3, 5):
        model = KNeighborsClassifier(k, metric="cosine")
        found = cross_val_score(model, features, data.train.labels.numpy(), cv=cut)
        said(f"kNN on its frozen features, k = {k}", found, time.monotonic() - begun)
    own = Recipe(
        start="efficientnet_lite0", epochs=12, batch=16, optimiser="adamw", rate=0.016, decay=0.01
    ).with_(smoothing=0.05, flip="alternating", shift=8)
    for name, recipe in (
        ("the last layer learns", own.with_(thaw="head", rate=0.05)),
        ("all of it, deeper parts slower", own.with_(deeper=0.4)),
        ("thawing from above, deeper parts slower", own.with_(thaw="gradual", deeper=0.4)),
        ("all of it, statistics of every batch", own.with_(deeper=0.4, norms="learnt")),
    ):
        begun = time.monotonic()
        said(name, cross_validate(data, recipe, count=5).accuracies, time.monotonic() - begun)


def together():
    data = vizkit.load_data("digits")
    base = usual(data).with_(epochs=20)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)

        def train(name, **changes):
            return vizkit.train(data, root / name, recipe=base, report=False, **changes)

        rows = {"teacher (resnet9)": [], "small net (mlp) alone": [], "small net, taught": []}
        parts, whole = [], []
        for seed in range(5):
            teacher = train(f"teacher-{seed}", seed=seed)
            small = {"net": "mlp", "rate": 0.1, "seed": seed, "shift": 0}
            rows["teacher (resnet9)"].append(teacher.test["accuracy"])
            rows["small net (mlp) alone"].append(train(f"alone-{seed}", **small).test["accuracy"])
            taught = train(f"taught-{seed}", teacher=teacher.model, **small)
            rows["small net, taught"].append(taught.test["accuracy"])
            cycles = {"schedule": "snapshots", "warmup": 0.02, "average": 0.0, "epochs": 40}
            train(f"cycles-{seed}", **{**small, **cycles})
            shots = sorted((root / f"cycles-{seed}").glob("snapshot-*.safetensors"))
            found = score([str(s) for s in shots], data.test)
            parts.append(found[-2].accuracy)
            whole.append(found[-1].accuracy)
        for name, found in rows.items():
            said(name, found, 0)
        said("mlp, last of five snapshots", parts, 0)
        said("mlp, the five snapshots as one", whole, 0)
        for net, settings in (("mlp", {"rate": 0.1, "shift": 0}), ("lenet5", {"rate": 0.4})):
            singles = [train(f"{net}-{s}", net=net, seed=s, **settings) for s in range(5)]
            found = score([s.model for s in singles], data.test)
            said(f"{net}, five of other seeds", [f.accuracy for f in found[:-1]], 0)
            print(f"| the five as one | {100 * found[-1].accuracy:.1f} % | |")


def fashion(folder):
    data = load_data(folder)
    rows = []
    with tempfile.TemporaryDirectory() as root:
        for seed in range(3):
            begun = time.monotonic()
            made = vizkit.train(data, Path(root) / str(seed), seed=seed)
            spent = time.monotonic() - begun
            rows.append(made.test["accuracy"])
            mirrored = f"{100 * made.test['mirrored']:.2f}"
            held = f"{100 * made.held['accuracy']:.2f}"
            print(f"| {seed} | {held} | {100 * rows[-1]:.2f} | {mirrored} | {spent:.0f} s |", flush=True)
    print(f"mean {100 * np.mean(rows):.2f} %")


if __name__ == "__main__":
    torch.set_num_threads(2)
    parts = {"transfer": transfer, "together": together, "fashion": fashion}
    parts[sys.argv[1]](*sys.argv[2:])
