"""The rooms of whole folders and of training."""

from typing import Any

from vizkit.exhibition.shots import Exhibit, Room, Shot

RUN = Shot(
    "run",
    "train digits -o work/run",
    "",
    "",
    makes="work/run",
    quick="--epochs 3",
    python='vizkit.train("digits", "work/run")',
)


EMBEDDING = Room(
    "embedding",
    "t-SNE",
    "All pictures of a folder, alike ones side by side.",
    (
        Exhibit(
            "embed",
            (
                Shot(
                    "embed",
                    "embed work/index",
                    "The squares, each at its place; colours are the photographs that they come from.",
                    "Islands of small pictures, one for each photograph, with bricks, gravel and grass close "
                    "together.",
                    needs=("index",),
                ),
                Shot(
                    "embed-grid",
                    "embed work/index --layout grid",
                    "The same without overlaps.",
                    "A full grid of small pictures in which alike ones are neighbours.",
                    needs=("index",),
                ),
                Shot(
                    "embed-page",
                    "embed work/index",
                    "To zoom, hover, search and click.",
                    "",
                    ending="html",
                    needs=("index",),
                ),
            ),
        ),
    ),
)


def _lab(name: str, alt: str) -> Shot:
    return Shot(
        f"lab-{name}",
        f"lab {name}",
        "",
        alt,
        python=f'vizkit.lab("{name}").save("{{out}}")',
    )


def _page(name: str, command: str, caption: str, python: str = "", **more: Any) -> Shot:
    return Shot(name, command, caption, "", ending="html", themed=False, python=python, **more)


TRAINING = Room(
    "training",
    "Training",
    "How such a net comes to be: one command trains it, another says what is wrong, and pictures of the "
    "ideas.",
    (
        Exhibit(
            "train",
            (
                RUN,
                Shot(
                    "train-report",
                    "train digits -o work/run",
                    "The report of the run: curves, confusion, worst errors, calibration, what the net sees.",
                    "",
                    ending="html",
                    needs=("run",),
                    copies="work/run/report.html",
                    python='vizkit.train("digits", "work/run")',
                ),
                Shot(
                    "trained-filters",
                    "filters -m work/run/model.safetensors",
                    "The first layer of the net that was trained here, on 8 x 8 digits.",
                    "A grid of grey 3 x 3 filters: edges and spots.",
                    needs=("run",),
                ),
                Shot(
                    "trained-classes",
                    "class-image 0 1 2 3 4 5 6 7 8 9 -m work/run/model.safetensors --layout figure",
                    "What it takes for the perfect 0 to 9.",
                    "Ten small grey pictures; two, four, five, six and seven can be read.",
                    needs=("run",),
                    quick="--preview",
                ),
            ),
            "train",
            "Train a net on labelled pictures, and write a report of what it became.",
            r"\theta \leftarrow \theta - \eta_t \, \frac{\partial}{\partial \theta} \frac{1}{n} \sum_i "
            r"-\log p_\theta(y_i \mid x_i)",
            "ResNet: He et al. 2016; one-cycle rates: Smith 2018",
        ),
        Exhibit(
            "data",
            (
                _page(
                    "data",
                    "data digits",
                    "Classes, sizes, duplicates, the mean picture: what is in the folder before anything "
                    "learns.",
                    'vizkit.look_at_data("digits").save("{out}")',
                ),
            ),
            "data",
            "Look at a data set before training on it.",
        ),
        Exhibit(
            "diagnose",
            (
                _page(
                    "diagnosis",
                    "diagnose digits --net lenet5 --rate 400 --steps 40",
                    "A run whose learning rate is far too high: what is wrong, the evidence, what to change.",
                    codes=(0, 1),
                ),
                _page(
                    "find-lr",
                    "find-lr digits",
                    "The range test: the loss while the learning rate grows, and the rate to take.",
                ),
            ),
            "diagnose",
            "Say what is wrong with a training run, and what to change.",
        ),
        Exhibit(
            "lab",
            (
                _lab("activations", "Curves of activation functions, and of their gradients below."),
                _lab("initialisation", "Histograms of activations through ten layers: some fade, some stay."),
                _lab("normalisation", "Blocks of cubes that show over what each normalisation averages."),
                _lab("optimisers", "Coloured paths of optimisers down a narrow bowl and off a saddle."),
                _lab("schedules", "Curves of learning rates over a run."),
                _lab(
                    "dropout", "Nets with units dropped and with weights dropped, and bars of their answers."
                ),
                _lab("search", "Grid points and random points over a function that depends on one axis."),
                _lab("regions", "Coloured regions that classifiers decide for, among dots of three classes."),
                _lab(
                    "graph", "Boxes of a computational graph with values in one colour, gradients in another."
                ),
            ),
            "lab",
            "The ideas of a course, each drawn from the code that trains.",
        ),
    ),
)
