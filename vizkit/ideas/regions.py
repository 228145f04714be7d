"""Decision regions of nearest neighbours and of linear classifiers, by scikit-learn."""

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from vizkit.plots import Look, dress

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ASPECT = 0.62

Floats = npt.NDArray[np.float64]


def points(seed: int = 4, each: int = 40) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Three classes in the plane: two clouds that touch, and one in two parts around them."""
    generator = np.random.default_rng(seed)
    one = generator.normal((-1.1, 0.2), 0.75, (each, 2))
    two = generator.normal((1.2, 0.0), 0.75, (each, 2))
    three = np.concatenate(
        [
            generator.normal((0.0, 2.4), 0.6, (each // 2, 2)),
            generator.normal((0.2, -2.4), 0.6, (each // 2, 2)),
        ]
    )
    return np.concatenate([one, two, three]), np.repeat(np.arange(3), each)


def classifiers() -> dict[str, Any]:
    """Names and scikit-learn's estimators."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.svm import LinearSVC

    return {
        "1 nearest neighbour": KNeighborsClassifier(1),
        "5 nearest neighbours": KNeighborsClassifier(5),
        "25 nearest neighbours": KNeighborsClassifier(25),
        "5 neighbours, L1 distance": KNeighborsClassifier(5, p=1),
        "linear softmax": LogisticRegression(),
        "linear SVM, one against the rest": LinearSVC(),
    }


def drawn(figure: "Figure", look: Look) -> None:
    """A panel a classifier, on the same points; what it gets wrong is ringed."""
    from matplotlib.colors import ListedColormap

    places, labels = points()
    xs, ys = np.meshgrid(np.linspace(-4, 4, 260), np.linspace(-4.4, 4.4, 260))
    every = np.stack([xs.ravel(), ys.ravel()], 1)
    colours = ListedColormap([look.series[0], look.series[1], look.series[2]])
    for k, (name, model) in enumerate(classifiers().items()):
        model.fit(places, labels)
        axes = figure.add_subplot(2, 3, k + 1)
        answers = model.predict(every).reshape(xs.shape)
        axes.imshow(
            answers,
            extent=(-4, 4, -4.4, 4.4),
            origin="lower",
            cmap=colours,
            alpha=0.22,
            aspect="auto",
            vmin=0,
            vmax=2,
        )
        axes.scatter(
            places[:, 0], places[:, 1], c=labels, cmap=colours, s=14, edgecolors=look.page, linewidths=0.4
        )
        wrong = model.predict(places) != labels
        axes.scatter(
            places[wrong, 0], places[wrong, 1], s=46, facecolors="none", edgecolors=look.ink, linewidths=0.9
        )
        dress(axes, look, title=f"{name}: {100 * (1 - wrong.mean()):.0f} %", grid=False)
        axes.set_xticks([])
        axes.set_yticks([])
    words = (
        "the share of these very points that is right: 100 % for one neighbour says nothing about new points"
    )
    figure.text(0.02, 0.015, words, color=look.soft, fontsize=9)
    figure.tight_layout(rect=(0, 0.04, 1, 1))
