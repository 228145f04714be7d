"""Painting by numbers: `python -m tests.benchmarks.paint PART [ARGUMENT...]`; tables to stdout.

step: one optimisation step beside a bare forward and backward pass, truncated at the layer.
scales: multi-scale beside single-scale style transfer.
classes [PRIOR]: class images of 20 classes judged by a second network.
fool FOLDER: success on a folder of photographs, judged by files loaded again.
dream: memory and seams at 4000 x 3000.
texture: Gram distance beside a plain reference.
style: losses of three pairs.
fast FILE FOLDER: a trained network beside optimisation.
"""

import itertools
import os
import resource
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F

import vizkit
from tests.benchmarks.common import machine, medians, table
from vizkit.images import to_pillow
from vizkit.methods.style_transfer import DECAY, MARGIN
from vizkit.paint import objectives as o
from vizkit.paint.canvases import Fourier, Pixels, flat, resized
from vizkit.paint.choosing import content_layer, style_layers
from vizkit.paint.grams import gram, style_loss, style_of
from vizkit.paint.loop import Plan, opened, paint
from vizkit.paint.recipes import CLASS_VIEWS
from vizkit.paint.seeing import open_eye
from vizkit.paint.studio import Photograph, naturalness
from vizkit.sessions import session

CLASSES = [
    *("ostrich", "tarantula", "monarch", "giant panda", "school bus", "volcano", "strawberry", "grand piano"),
    *("goldfish", "flamingo", "zebra", "tiger", "lemon", "daisy", "castle", "balloon", "jellyfish", "pizza"),
    *("hummingbird", "beacon"),
]


def sample(name):
    import skimage
    import sklearn

    folders = [Path(skimage.__file__).parent / "data", Path(sklearn.__file__).parent / "datasets/images"]
    return str(next(f / name for f in folders if (f / name).is_file()))


# --- speed ---


class Reached(BaseException):
    pass


def bare(model, layers, view):
    """A step's limit: the net up to its deepest layer (or its output) and back, nothing else."""
    deepest = next((n for n, _ in reversed(list(model.module.named_modules())) if n in layers), None)
    leaf = view.detach().clone().contiguous(memory_format=torch.channels_last).requires_grad_()
    found = []

    def note(_module, _inputs, output):
        found.append(output)
        raise Reached

    def step():
        handle = deepest and model.module.get_submodule(deepest).register_forward_hook(note)
        try:
            found[:] = [model(leaf)]
        except Reached:
            pass
        finally:
            if handle is not None:
                handle.remove()
        torch.autograd.grad(found[-1].sum(), leaf)

    return step


def step(_arguments):
    """Loop steps beside the bare passes of the same view, through the net as it was loaded."""
    rows = []
    generator = torch.Generator().manual_seed(0)
    modern = Plan(200, 0.05, views=replace(CLASS_VIEWS, size=(224, 224)))
    lite = vizkit.load_model
    vgg = partial(vizkit.load_model, "vgg19", random_weights=True)
    four = o.class_probability([1, 2, 3, 4], log=True)
    cases = {
        "lite0, class, batch 4": (lite, four, 4, modern),
        "lite0, _blocks.8._act0:3, batch 4": (lite, o.channel("_blocks.8._act0", 3), 4, modern),
        "lite0, class, batch 1": (lite, o.class_probability([1], log=True), 1, modern),
        "VGG-19 (random), style + content, 224 px": (
            vgg,
            styles_goal(vgg(), 224),
            1,
            Plan(300, 0.02, average=0.97),
        ),
    }
    for name, (load, goal, count, plan) in cases.items():
        net, plain = load(), load()
        start = flat(count, (224, 224))
        canvas = Pixels(start) if plan.average else Fourier(start)
        with session(net.module), session(plain.module), opened(net, canvas, goal, plan, generator) as loop:
            ways = {"bare": bare(plain, list(goal.layers), start), "step": lambda loop=loop: loop.step(1)}
            found = {way: seconds for way, (seconds, _) in medians(ways, rounds=15).items()}
        times = [f"{1000 * found[way]:.0f} ms" for way in ("bare", "step")]
        rows.append([name, *times, f"{found['step'] / found['bare']:.2f}"])
    print(table(["step", "bare forward + backward", "one step", "ratio"], rows))


def styles_goal(model, side):
    layers = dict.fromkeys(style_layers(model), 1.0)
    kept = content_layer(model)
    picture = Photograph(sample("china.jpg")).fitted((side, side))
    with open_eye(model, [*layers, kept]) as eye:
        style = style_of(eye, [picture], [1.0])
        with torch.no_grad():
            features = eye(picture).layers[kept].detach()
    return style_loss(style, layers) + 0.1 * o.content(kept, features)


def scales(_arguments):
    """Losses and CPU seconds of style transfer: one size, several, and the optimisers beside each other."""
    from vizkit.methods import style_transfer as method

    rows = []
    usual = method.sizes_up_to
    ways = [
        *(("L-BFGS, Fourier", steps, {}) for steps in (300, 150, 100)),
        *(("Adam, pixels", steps, {"canvas": "pixels"}) for steps in (300, 150)),
        *(("L-BFGS, Fourier, from noise", steps, {"start": "noise"}) for steps in (300, 150)),
    ]
    for (name, steps, options), smallest in itertools.product(ways, (256, 128)):
        method.sizes_up_to = partial(usual, smallest=smallest)
        begun = time.process_time()
        result = vizkit.style_transfer(
            "efficientnet_lite0", sample("chelsea.png"), sample("china.jpg"), size=256, steps=steps, **options
        )
        seconds = time.process_time() - begun
        d = result.details
        total = d["style_loss"] + d["content_weight"] * d["content_loss"]
        losses = [f"{d['style_loss']:.4f}", f"{d['content_loss']:.3f}", f"{total:.4f}"]
        sizes = "one" if smallest == 256 else "two"
        rows.append([name, sizes, str(steps), f"{seconds:.1f} s", *losses])
    method.sizes_up_to = usual
    print(table(["", "sizes", "steps", "CPU time", "style", "content", "style + weight x content"], rows))


# --- pictures ---


def classes(arguments):
    """lite1, which had no part in it, names the class; contrast, burnt values, seconds."""
    model, judge = vizkit.load_model(), vizkit.load_model("efficientnet_lite1")
    kinds = {"modern": {}, "classic": {"recipe": "classic"}}
    if arguments:
        kinds["prior"] = {"prior": arguments[0]}
    rows = []
    for name, options in kinds.items():
        begun = time.time()
        result = vizkit.class_image(model, CLASSES, **options)
        seconds = (time.time() - begun) / len(CLASSES)
        right, share = 0, 0.0
        for picture, label in zip(result.pictures, CLASSES, strict=True):
            index = judge.labels.index(label)
            with torch.no_grad():
                out = judge(judge.prepare(to_pillow(picture)).pixels[None])
            right += int(out.argmax()) == index
            share += float(out.softmax(1)[0, index]) / len(CLASSES)
        looks = [naturalness(p) for p in result.pictures]
        contrast, burnt = (sum(n[k] for n in looks) / len(looks) for k in ("contrast", "burnt"))
        most = max(n["burnt"] for n in looks)
        rows.append(
            [
                name,
                f"{right} of {len(CLASSES)}",
                f"{share:.2f}",
                f"{contrast:.3f}",
                f"{100 * burnt:.1f} % (most {100 * most:.1f} %)",
                f"{seconds:.1f} s",
            ]
        )
        result.save(f"classes_{name}.webp", layout="figure", width=1400, force=True)
    print(
        table(
            [
                "recipe",
                "lite1 says the class first",
                "its mean probability",
                "mean |x - 0.5|",
                "burnt values",
                "each",
            ],
            rows,
        )
    )


def fool(arguments):
    """Success on a folder, judged by loading the written files."""
    model = vizkit.load_model()
    files = [str(path) for path, _ in vizkit.walk_images(arguments[0])]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for target in (None, "koala"):
            for epsilon, steps in (("2/255", 20), ("1/255", 100)):
                begun, fooled, taken = time.time(), 0, []
                for file in files:
                    result = vizkit.fool(model, file, target=target, epsilon=epsilon, steps=steps)
                    out = os.path.join(folder, "x.png")
                    result.save(out, force=True)
                    with torch.no_grad():
                        says = model.labels[int(model(model.prepare(out).pixels[None]).argmax())]
                    ok = says == target if target else says != result.details["before"]
                    fooled += ok
                    taken.append(result.details["steps"])
                middle = sorted(taken)[len(taken) // 2]
                rows.append(
                    [
                        target or "any other",
                        epsilon,
                        str(steps),
                        f"{fooled} of {len(files)}",
                        str(middle),
                        f"{(time.time() - begun) / len(files):.2f} s",
                    ]
                )
    print(table(["towards", "epsilon", "steps at most", "fooled", "median steps", "each"], rows))


def resident():
    """MiB of memory that the process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def dream(_arguments):
    """Memory over what is there before, and the difference across tile borders."""
    from vizkit.paint import dreaming

    picture = resized(Photograph(sample("china.jpg")).pixels, (3000, 4000))[0]
    vizkit.deepdream("efficientnet_lite0", picture[:, :128, :128], steps=1)
    edges = []
    plain = dreaming.windows

    def noted(size, tile, shift):
        found = list(plain(size, tile, shift))
        edges.append(
            (size, sorted({r.start for r, _ in found} - {0}), sorted({c.start for _, c in found} - {0}))
        )
        return iter(found)

    dreaming.windows = noted
    before = resident()
    begun = time.time()
    result = vizkit.deepdream("efficientnet_lite0", picture, steps=3, octaves=2)
    seconds = time.time() - begun
    more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before
    dreaming.windows = plain
    size, rows, columns = edges[-1]
    x = result.pictures[0] - picture
    down = (x[:, 1:] - x[:, :-1]).abs().mean((0, 2))
    across = (x[:, :, 1:] - x[:, :, :-1]).abs().mean((0, 1))
    border = torch.cat([down[[r - 1 for r in rows]], across[[c - 1 for c in columns]]]).mean()
    inside = torch.cat([down, across]).mean()
    print(
        table(
            ["size", "tile", "seconds", "additional memory", "across the last grid's borders / everywhere"],
            [
                [
                    f"{size[1]} x {size[0]}",
                    str(512),
                    f"{seconds:.0f}",
                    f"{more:.0f} MiB",
                    f"{float(border / inside):.3f}",
                ]
            ],
        )
    )


def texture(_arguments):
    """Mean relative Gram distance after the same number of evaluations."""
    model = vizkit.load_model()
    layers = dict.fromkeys(style_layers(model), 1.0)
    rows = []
    for name in ("brick.png", "grass.png", "gravel.png"):
        source = Photograph(sample(name)).at(256)
        ours = vizkit.texture(model, sample(name), size=256, source_size=256, steps=300).details["made"][0]
        plain = reference(model, layers, source, 300)
        rows.append([name, f"{plain:.4f}", f"{ours['gram_distance_mean']:.4f}"])
    print(table(["source, 300 evaluations", "plain (pixels, L-BFGS)", "vizkit"], rows))


def reference(model, layers, source, steps):
    """Gatys et al. 2015 as published: white noise, pixels, L-BFGS, the Gram losses of the layers alone."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(source.shape, generator=generator).requires_grad_()
    with session(model.module), open_eye(model, list(layers)) as eye:
        with torch.no_grad():
            wanted = {n: gram(m) for n, m in eye(source).layers.items()}
        optimiser = torch.optim.LBFGS([pixels], lr=1.0, max_iter=1, history_size=100)

        def loss():
            seen = eye(pixels).layers
            return sum(
                (gram(seen[n]) - w).square().sum() / w.square().sum() for n, w in wanted.items()
            ) / len(wanted)

        def closure():
            value = loss()
            (pixels.grad,) = torch.autograd.grad(value, pixels)
            return float(value.detach())

        for _ in range(steps):
            optimiser.step(closure)
            with torch.no_grad():
                pixels.clamp_(0, 1)
        with torch.no_grad():
            return float(loss())


def style(_arguments):
    """Style and content losses of three pairs."""
    rows = []
    for photo, look in (
        ("chelsea.png", "china.jpg"),
        ("astronaut.png", "flower.jpg"),
        ("coffee.png", "hubble_deep_field.jpg"),
    ):
        begun = time.time()
        result = vizkit.style_transfer("efficientnet_lite0", sample(photo), sample(look), size=384)
        d = result.details
        result.save(f"style_{photo}", layout="figure", force=True)
        rows.append(
            [
                photo,
                look,
                f"{d['style_loss']:.4f}",
                f"{d['content_loss']:.3f}",
                f"{time.time() - begun:.0f} s",
            ]
        )
    print(table(["photograph", "style", "style loss", "content loss", "wall time"], rows))


def fast(arguments):
    """One pass beside 500 steps at 256 px; losses on held-out photographs beside 100 steps."""
    from vizkit.feedforward.pool import Pool
    from vizkit.feedforward.styling import CONTENT, FastStyle, _style, goal_of

    net, model = FastStyle(arguments[0]), vizkit.load_model()
    held = Pool(arguments[1], 160).held[:8]
    layers, kept = dict.fromkeys(style_layers(model), 1.0), content_layer(model)
    generator = torch.Generator().manual_seed(0)
    plans = {"Adam": Plan(100, 0.05, falling=0.1), "L-BFGS": Plan(100, 1.0, "lbfgs")}
    trained, optimised = [], {name: [] for name in plans}
    with session(model.module), open_eye(model, [*layers, kept]) as eye:
        learnt = _style(eye, Photograph(sample("china.jpg")), layers, 160, model)
        for photo in held.split(1):
            goals = goal_of(eye, learnt, layers, kept, photo, CONTENT)
            goal = sum(goals.values())
            with torch.no_grad():
                trained.append(-float(goal(eye(net(photo, [1.0])))[0]))
            for name, plan in plans.items():
                canvas = Fourier(photo, decay=DECAY, margin=MARGIN)
                made = paint(model, canvas, goal, plan, generator=generator)
                with torch.no_grad():
                    optimised[name].append(-float(goal(eye(made.pictures))[0]))
        picture = F.interpolate(held[:1], (256, 256))
        goal = sum(goal_of(eye, learnt, layers, kept, picture, CONTENT).values())
        with opened(model, Fourier(picture), goal, Plan(500, 1.0, "lbfgs"), generator) as loop:
            found = medians({"pass": lambda: net(picture, [1.0]), "step": lambda: loop.step(1)}, rounds=7)
    share = 500 * found["step"][0] / found["pass"][0]
    print(
        table(
            ["", "mean loss, 8 held-out photographs, 160 px"],
            [
                ["one pass", f"{sum(trained) / 8:.3f}"],
                *([f"100 steps of {name}", f"{sum(found) / 8:.3f}"] for name, found in optimised.items()),
            ],
        )
    )
    one, other = (f"{1000 * found[name][0]:.0f} ms" for name in ("pass", "step"))
    print(f"\none pass {one}, one step {other} at 256 px: 500 steps take {share:.0f} passes")


PARTS = {f.__name__: f for f in (step, scales, classes, fool, dream, texture, style, fast)}

if __name__ == "__main__":
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    print(machine() + "\n")
    PARTS[sys.argv[1]](sys.argv[2:])
