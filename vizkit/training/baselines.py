"""Classic classifiers to compare a net with: nearest neighbours, linear ones, and features before learning.

scikit-learn's estimators and scikit-image's HOG (Dalal & Triggs 2005); bags of visual words after Csurka et
al. 2004 and Coates & Ng 2011. Linear classifiers of pixels have templates: their weights are pictures.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from vizkit import colormaps, plots
from vizkit.errors import UsageError
from vizkit.reports import Report, Rows, Section, Tile
from vizkit.training.datasets import DataSet, Pictures
from vizkit.training.report import standard_error_words
from vizkit.training.splits import split

Floats = npt.NDArray[np.float32]
OnStep = Callable[[int, int], None] | None

MOST = 10_000
"""Training pictures that are used at most; drawn at random from more."""

NEIGHBOURS = (1, 3, 5, 7, 11)
"""Numbers of neighbours that cross-validation chooses from."""

WORDS = 256
"""Visual words."""

PATCH = 6
"""Their side in pixels, at most half of the picture's."""


@dataclass(frozen=True, eq=False)
class Baseline:
    """One classifier: its name, accuracies on what was held out and on the test set, seconds, what was
    chosen.

    templates: (classes, C, H, W) weights of the pixels, for linear classifiers of pixels.
    """

    name: str
    held: float
    test: float | None
    seconds: float
    chosen: str = ""
    templates: Floats | None = None


@dataclass(frozen=True, eq=False)
class Baselines:
    """All of them on one data set."""

    data: DataSet
    found: Sequence[Baseline]
    held_out: int

    def report(self) -> Report:
        """The page: a table, and the templates as pictures."""
        return _report(self)


# --- features: pictures (N, C, H, W) uint8 -> (N, D) ---


def pixel_features(images: npt.NDArray[np.uint8]) -> Floats:
    """The pixels in [0, 1]."""
    flat: Floats = images.reshape(len(images), -1).astype(np.float32)
    return flat / np.float32(255)


def hog_features(images: npt.NDArray[np.uint8]) -> Floats:
    """Histograms of oriented gradients: 9 directions, cells of an eighth of the side, blocks of 2 x 2."""
    from skimage.feature import hog

    side = min(images.shape[2:])
    cell = max(2, side // 8)

    def of(image: npt.NDArray[np.uint8]) -> Any:
        return hog(
            image.transpose(1, 2, 0) if len(image) > 1 else image[0],
            orientations=9,
            pixels_per_cell=(cell, cell),
            cells_per_block=(2, 2) if side // cell >= 2 else (1, 1),
            block_norm="L2-Hys",
            channel_axis=-1 if len(image) > 1 else None,
        )

    rows: Any = [of(image) for image in images]
    return np.array(rows, np.float32)


def colour_histograms(images: npt.NDArray[np.uint8], bins: int = 16) -> Floats:
    """Shares of pixels by hue, weighted by saturation, and by brightness; of grey pictures by that alone."""
    if images.shape[1] == 1:
        return _shares(images[:, 0] / 255.0, np.ones(images[:, 0].shape), bins)
    from skimage.color import rgb2hsv

    hsv = rgb2hsv(images.transpose(0, 2, 3, 1))
    hues = _shares(hsv[..., 0], hsv[..., 1], bins)
    return np.concatenate([hues, _shares(hsv[..., 2], np.ones(hsv.shape[:3]), bins)], 1)


def _shares(values: npt.NDArray[Any], weights: npt.NDArray[Any], bins: int) -> Floats:
    """(N, bins) of values in [0, 1], by weight, over all positions."""
    place = np.minimum((values * bins).astype(int), bins - 1).reshape(len(values), -1)
    rows = np.arange(len(values))[:, None] * bins + place
    found = np.bincount(rows.ravel(), weights.reshape(-1), len(values) * bins).reshape(len(values), bins)
    made: Floats = (found / np.maximum(found.sum(1, keepdims=True), 1e-9)).astype(np.float32)
    return made


class VisualWords:
    """Bags of visual words: whitened patches, k-means for the vocabulary, soft counts in each quarter.

    A patch counts for every word that is nearer than the mean distance, by how much (Coates & Ng 2011).
    """

    def __init__(self, words: int = WORDS, seed: int = 0) -> None:
        self.words, self.seed = words, seed

    def fit(self, images: npt.NDArray[np.uint8]) -> "VisualWords":
        """The vocabulary, from 20 patches of each of at most 2,000 pictures."""
        from sklearn.cluster import MiniBatchKMeans
        from sklearn.decomposition import PCA

        self.side = max(2, min(PATCH, min(images.shape[2:]) // 2))
        generator = np.random.default_rng(self.seed)
        some = images[generator.permutation(len(images))[:2000]]
        patches = np.concatenate([self._patches(i)[0] for i in some])
        patches = patches[generator.permutation(len(patches))[:40_000]]
        self.whitening = PCA(0.99, whiten=True, random_state=self.seed % 2**32).fit(patches)
        count = min(self.words, len(patches) // 4)
        self.vocabulary = MiniBatchKMeans(count, n_init=3, batch_size=4096, random_state=self.seed % 2**32)
        self.vocabulary.fit(self.whitening.transform(patches))
        return self

    def transform(self, images: npt.NDArray[np.uint8]) -> Floats:
        """(N, 4 words): counts in the four quarters of each picture."""
        centres = self.vocabulary.cluster_centers_
        made = np.empty((len(images), 4 * len(centres)), np.float32)
        for k, image in enumerate(images):
            patches, quarter = self._patches(image)
            own = self.whitening.transform(patches)
            squares = (own**2).sum(1)[:, None] - 2 * own @ centres.T + (centres**2).sum(1)
            distances = np.sqrt(np.maximum(squares, 0))
            near = np.maximum(distances.mean(1, keepdims=True) - distances, 0)
            made[k] = np.concatenate([near[quarter == q].sum(0) for q in range(4)])
        lengths = np.linalg.norm(made, axis=1, keepdims=True).astype(np.float32)
        scaled: Floats = made / np.maximum(lengths, 1e-9)
        return scaled

    def _patches(self, image: npt.NDArray[np.uint8]) -> tuple[Floats, npt.NDArray[np.int64]]:
        """Patches of even contrast at every second place, and the quarter that each is in."""
        views = np.lib.stride_tricks.sliding_window_view(image, (self.side, self.side), (1, 2))[:, ::2, ::2]
        rows, columns = views.shape[1:3]
        flat = views.transpose(1, 2, 0, 3, 4).reshape(rows * columns, -1).astype(np.float32)
        flat -= flat.mean(1, keepdims=True)
        flat /= np.sqrt(flat.var(1, keepdims=True) + 10)
        down, right = np.divmod(np.arange(rows * columns), columns)
        quarter: npt.NDArray[np.int64] = 2 * (down >= rows / 2).astype(np.int64) + (right >= columns / 2)
        return flat, quarter


# --- classifiers ---


def baselines(data: DataSet, *, held_out: float = 0.2, seed: int = 0, on_step: OnStep = None) -> Baselines:
    """Fit all classic classifiers and judge them by a share that is held out, and by the test set once.

    kNN (L1 and L2, the number of neighbours by 5-fold cross-validation), linear SVM and softmax of pixels
    with their templates, and linear SVMs of HOG, colour histograms and visual words. Raises `UsageError`.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.svm import LinearSVC

    kept, held = split(data.train.labels, held_out, seed=seed)
    learnt, judged = _some(data.train.take(kept), seed), data.train.take(held)
    if len(learnt) < 20:
        raise UsageError(
            f"{len(learnt)} training pictures are too few to choose neighbours by; give 20 or more"
        )
    words = VisualWords(seed=seed)

    def near(name: str, p: int) -> Callable[[], Baseline]:
        return lambda: _knn(f"nearest neighbours, {name}", p, learnt, judged, data.test)

    def fitted(name: str, estimator: Any, features: Callable[[Any], Floats]) -> Callable[[], Baseline]:
        return lambda: _fit(name, estimator, features, learnt, judged, data.test)

    def svm(softness: float) -> Any:
        return LinearSVC(C=softness, max_iter=20_000, random_state=seed % 2**32)

    def bag(images: npt.NDArray[np.uint8]) -> Floats:
        if not hasattr(words, "vocabulary"):
            words.fit(images)
        return words.transform(images)

    softmax = LogisticRegression(C=0.1, max_iter=300)
    parts = [
        near("L1", 1),
        near("L2", 2),
        fitted("linear SVM of pixels", svm(0.1), pixel_features),
        fitted("softmax of pixels", softmax, pixel_features),
        fitted("HOG + linear SVM", svm(0.01), hog_features),
        fitted("colour histogram + linear SVM", svm(0.1), colour_histograms),
        fitted("bag of visual words + linear SVM", svm(0.01), bag),
    ]
    found = []
    for number, run in enumerate(parts):
        found.append(run())
        if on_step is not None:
            on_step(number + 1, len(parts))
    return Baselines(data, found, len(judged))


def _some(pictures: Pictures, seed: int) -> Pictures:
    import torch

    if len(pictures) <= MOST:
        return pictures
    drawn = torch.randperm(len(pictures), generator=torch.Generator().manual_seed(seed % 2**63))
    return pictures.take(drawn[:MOST].sort().values)


def _knn(name: str, p: int, learnt: Pictures, judged: Pictures, test: Pictures | None) -> Baseline:
    """k by 5-fold cross-validation; distances are found once for all k."""
    from sklearn.model_selection import GridSearchCV, KFold
    from sklearn.neighbors import KNeighborsClassifier

    begun = time.monotonic()
    metric = "manhattan" if p == 1 else "euclidean"
    cut = KFold(5, shuffle=True, random_state=0)  # not by class: some may have fewer pictures than folds
    search = GridSearchCV(
        KNeighborsClassifier(metric=metric, algorithm="brute"), {"n_neighbors": list(NEIGHBOURS)}, cv=cut
    )
    count = min(len(learnt), 2000 if p == 1 else 5000)  # the choice of k needs no more, and L1 is slow
    search.fit(pixel_features(learnt.images.numpy()[:count]), learnt.labels.numpy()[:count])
    best = KNeighborsClassifier(metric=metric, algorithm="brute", **search.best_params_)
    made = _fit(name, best, pixel_features, learnt, judged, test)
    chosen = f"k = {search.best_params_['n_neighbors']}"
    return Baseline(name, made.held, made.test, time.monotonic() - begun, chosen)


def _fit(
    name: str,
    estimator: Any,
    features: Callable[[Any], Floats],
    learnt: Pictures,
    judged: Pictures,
    test: Pictures | None,
) -> Baseline:
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    begun = time.monotonic()
    linear = hasattr(estimator, "C")
    model = (
        make_pipeline(StandardScaler(with_std=features is not pixel_features), estimator)
        if linear
        else estimator
    )
    model.fit(features(learnt.images.numpy()), learnt.labels.numpy())

    def share(pictures: Pictures) -> float:
        return float(np.mean(model.predict(features(pictures.images.numpy())) == pictures.labels.numpy()))

    held, tested = share(judged), None if test is None else share(test)
    templates = None
    if linear and features is pixel_features and len(estimator.coef_) > 1:
        templates = estimator.coef_.reshape(-1, *learnt.images.shape[1:]).astype(np.float32)
    return Baseline(name, held, tested, time.monotonic() - begun, "", templates)


# --- the page ---


def _report(made: Baselines) -> Report:
    names = ["classifier", "held out", *(["test"] if made.data.test is not None else []), "seconds", ""]
    rows = []
    for b in sorted(made.found, key=lambda b: -b.held):
        tested = [f"{100 * b.test:.2f} %"] if b.test is not None else []
        rows.append([b.name, f"{100 * b.held:.2f} %", *tested, f"{b.seconds:.1f}", b.chosen])
    best = max(made.found, key=lambda b: b.held)
    chart = plots.chart(
        "right of what was held out",
        plots.bars([b.name for b in made.found], [100 * b.held for b in made.found], y="%"),
        width=760,
        height=380,
    )
    sections = [
        Section(
            "Result",
            [standard_error_words(best.held, made.held_out)],
            charts=[chart],
            tables=[Rows(names, rows)],
        )
    ]
    for b in made.found:
        if b.templates is not None:
            words = (
                "The weights of each class's score, as a picture: blue pixels speak for the class, red "
                "ones against "
                "it. A linear classifier has one template a class, and a class of many looks has its mean."
            )
            tiles = [
                Tile(template_picture(t), name)
                for t, name in zip(b.templates, made.data.train.classes, strict=True)
            ]
            sections.append(
                Section(f"Templates of the {b.name}", [words], tiles=tiles, crisp=True, tile_width=112)
            )
    return Report(
        heading=f"{made.data.name}: {100 * best.held:.2f} % without a net",
        line=f"{best.name} is the best of {len(made.found)} classic classifiers",
        sections=sections,
        numbers={
            "classifiers": [
                {"name": b.name, "held": b.held, "test": b.test, "seconds": b.seconds, "chosen": b.chosen}
                for b in made.found
            ]
        },
    )


def template_picture(weights: Floats) -> Image.Image:
    """Weights (C, H, W) as a picture, 0 in the middle: in colour, one channel on a diverging map."""
    limit = float(np.quantile(np.abs(weights), 0.995)) or 1.0
    scaled = np.clip(weights / limit, -1, 1)
    if len(weights) == 3:
        return Image.fromarray(((scaled + 1) * 127.5).round().astype(np.uint8).transpose(1, 2, 0), "RGB")
    table = colormaps.colours("tide")
    index = ((scaled[0] + 1) / 2 * (len(table) - 1)).round().astype(int)
    return Image.fromarray(table[index][..., :3].astype(np.uint8), "RGB")
