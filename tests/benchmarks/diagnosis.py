"""Twenty planted faults and twenty healthy runs, and what the diagnosis says of them.

    python -m tests.benchmarks.diagnosis            faults and healthy runs
    python -m tests.benchmarks.diagnosis faults     one half alone
    python -m tests.benchmarks.diagnosis FOLDER     on the first pictures of another data set

Each run is an ordinary PyTorch loop, by itself on scikit-learn's digits, that knows nothing of being watched.
"""

import functools
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import vizkit
from vizkit.nets import make_net


def convnet(norm=True, drop=0.0):
    layers = []
    for inputs, outputs in ((1, 16), (16, 32), (32, 32)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), *([nn.BatchNorm2d(outputs)] if norm else [])]
        layers += [nn.ReLU()]
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Dropout(drop), nn.Linear(512, 64), nn.ReLU(),
        nn.Linear(64, 10),
    )  # fmt: skip


def deep(depth=30):
    layers = [nn.Conv2d(1, 24, 3, padding=1), nn.ReLU()]
    for _ in range(depth):
        layers += [nn.Conv2d(24, 24, 3, padding=1), nn.ReLU()]
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 10))
    for m in net.modules():
        if isinstance(m, nn.Conv2d):
            nn.init.normal_(m.weight, std=2.0 * (2 / (9 * m.in_channels)) ** 0.5)
    return net


@dataclass
class Loop:
    """A training script in small, with everything that may be wrong in it."""

    net: Callable[[], nn.Module] = convnet
    make: Callable[..., torch.optim.Optimizer] = lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9)
    rate: float = 0.02
    epochs: int = 5
    batch: int = 64
    data: Callable[..., tuple] = lambda x, y, vx, vy: (x, y, vx, vy)
    normalise: bool = True
    shuffle: bool = True
    zero: bool = True
    reduction: str = "mean"
    softmax: bool = False
    train_mode: bool = True
    eval_mode: bool = True
    prepare: Callable[[nn.Module], object] = lambda net: None
    augment: Callable[[torch.Tensor], torch.Tensor] = lambda x: x
    loss: Callable[..., torch.Tensor] | None = None
    validate: bool = True
    schedule: bool = False
    seed: int = 0

    def run(self):
        torch.manual_seed(self.seed)
        x, y = pictures(*SOURCE)
        order = torch.randperm(len(x))
        x, y = x[order], y[order]
        train, val = slice(0, len(x) * 7 // 9), slice(len(x) * 7 // 9, None)
        mean, std = (x[train].mean(), x[train].std()) if self.normalise is True else (0.0, 1.0 / 255)
        x = (x - mean) / std
        x, y, vx, vy = self.data(x[train], y[train], x[val], y[val])
        loader = DataLoader(TensorDataset(x, y), self.batch, shuffle=self.shuffle, drop_last=True)
        judges = DataLoader(TensorDataset(vx, vy), 128)
        net = self.net()
        self.prepare(net)
        optimiser = self.make([p for p in net.parameters() if p.requires_grad], self.rate)
        steps = self.epochs * len(loader)
        plan = torch.optim.lr_scheduler.OneCycleLR(optimiser, self.rate, steps) if self.schedule else None
        for _ in range(self.epochs):
            net.train(self.train_mode)
            for a, b in loader:
                if self.zero:
                    optimiser.zero_grad()
                scores = net(self.augment(a))
                scores = scores.softmax(1) if self.softmax else scores
                loss = (
                    self.loss(scores, b)
                    if self.loss
                    else F.cross_entropy(scores, b, reduction=self.reduction)
                )
                loss.backward()
                optimiser.step()
                if plan is not None:
                    plan.step()
            if self.validate:
                net.train(not self.eval_mode)
                with torch.no_grad():
                    for a, b in judges:
                        F.cross_entropy(net(a), b)


SOURCE: list[str] = []
"""The folder of another data set, if any."""


@functools.cache
def pictures(folder=None):
    """(N, C, H, W) in [0, 1] and labels: digits, or the first 3,600 of a folder's."""
    if folder is None:
        pixels, labels = load_digits(return_X_y=True)
        return torch.from_numpy(pixels).float().view(-1, 1, 8, 8) / 16, torch.from_numpy(labels).long()
    data = vizkit.load_data(folder).train
    return data.images[:3600].float() / 255, data.labels[:3600]


def zeros(net):
    for p in net.parameters():
        nn.init.zeros_(p)


def ten_times(net):
    with torch.no_grad():
        for m in net.modules():
            if isinstance(m, nn.Conv2d | nn.Linear):
                m.weight.mul_(10)


def killed(net):
    """The second convolution's biases far below zero."""
    with torch.no_grad():
        net[2].bias.fill_(-30.0)


def with_nan(x, y, vx, vy):
    x = x.clone()
    x[77, 0, 3, 3] = float("nan")
    return x, y, vx, vy


def leaking(x, y, vx, vy):
    return x, y, torch.cat([vx[100:], x[:100]]), torch.cat([vy[100:], y[:100]])


def shuffled_labels(x, y, vx, vy):
    return x, y[torch.randperm(len(y))], vx, vy[torch.randperm(len(vy))]


def by_class(x, y, vx, vy):
    order = y.argsort()
    return x[order], y[order], vx, vy


def only_one(x, y, vx, vy):
    return x[y == 3], y[y == 3], vx, vy


def destroyed(x):
    """Crops of a quarter of the side blown up to the whole picture, and noise."""
    side = x.shape[-1]
    rows, columns = torch.randint(0, side - side // 4, (2,)).tolist()
    small = x[:, :, rows : rows + side // 4, columns : columns + side // 4]
    return F.interpolate(small, size=side) + 1.5 * torch.randn_like(x)


PLAIN = Loop(net=lambda: convnet(norm=False))
BASE = Loop()

FAULTS = {
    "lr x 100": ("rate_high", replace(PLAIN, rate=2.0)),
    "lr / 1000": ("rate_low", replace(BASE, rate=2e-5)),
    "shuffled labels": ("shuffled", replace(BASE, data=shuffled_labels)),
    "input not normalised": ("input_scale", replace(PLAIN, normalise=False)),
    "zero initialisation": ("zero_init", replace(PLAIN, prepare=zeros)),
    "10 x initialisation": ("large_init", replace(PLAIN, prepare=ten_times)),
    "dead ReLUs": ("dead", replace(PLAIN, prepare=lambda n: killed(n))),
    "no zero_grad": ("zero_grad", replace(BASE, zero=False)),
    "softmax twice": ("softmax_twice", replace(BASE, softmax=True)),
    "eval mode in training": ("eval_training", replace(BASE, train_mode=False)),
    "train mode in validation": ("train_validation", replace(BASE, eval_mode=False)),
    "leak between splits": ("leak", replace(BASE, data=leaking)),
    "frozen layer": ("frozen", replace(BASE, prepare=lambda n: n[3].requires_grad_(False))),
    "loss summed": ("reduction", replace(BASE, reduction="sum")),
    "not shuffled": ("not_shuffled", replace(BASE, data=by_class, shuffle=False)),
    "labels off by one": ("renamed", replace(BASE, data=lambda x, y, vx, vy: (x, (y + 1) % 10, vx, vy))),
    "one class only": ("one_class", replace(BASE, data=only_one)),
    "deep without norm": ("exploding", replace(BASE, net=deep)),
    "NaN in data": ("nan_data", replace(BASE, data=with_nan)),
    "augmentation destroys the label": ("augmentation", replace(BASE, augment=destroyed)),
}


def flipped(x):
    return torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x.flip(3), x)


def moved(x):
    down, right = torch.randint(-1, 2, (2,)).tolist()
    return torch.roll(x, (down, right), (2, 3))


def blanked(x):
    side = x.shape[-1]
    rows, columns = torch.randint(0, side - 2, (2,)).tolist()
    x = x.clone()
    x[:, :, rows : rows + side // 3, columns : columns + side // 3] = 0
    return x


def net_of(name):
    return lambda: make_net(name, channels=1, classes=10, side=pictures(*SOURCE)[0].shape[-1])


def adam(p, lr):
    return torch.optim.Adam(p, lr=lr)


def adamw(p, lr):
    return torch.optim.AdamW(p, lr=lr, weight_decay=0.05)


def few(x, y, vx, vy):
    return x[:300], y[:300], vx, vy


def uneven(x, y, vx, vy):
    kept = (y < 3) | (torch.arange(len(y)) % 8 == 0)
    return x[kept], y[kept], vx, vy


HEALTHY = {
    "convnet, SGD": BASE,
    "convnet, other seed": replace(BASE, seed=5),
    "convnet without norm": replace(PLAIN, rate=0.05, epochs=8),
    "convnet, Adam": replace(BASE, make=adam, rate=1e-3),
    "convnet, AdamW, one cycle": replace(BASE, make=adamw, rate=3e-3, schedule=True),
    "convnet, dropout": replace(BASE, net=lambda: convnet(drop=0.5)),
    "batches of 16": replace(BASE, batch=16, rate=0.005, epochs=3),
    "batches of 256": replace(BASE, batch=256, epochs=10),
    "flips": replace(BASE, augment=flipped, epochs=8),
    "shifts and blanks": replace(BASE, augment=lambda x: blanked(moved(x)), epochs=8),
    "noise of 0.3": replace(BASE, augment=lambda x: x + 0.3 * torch.randn_like(x)),
    "label smoothing": replace(BASE, loss=lambda s, b: F.cross_entropy(s, b, label_smoothing=0.1)),
    "LeNet-5, Adam": replace(BASE, net=net_of("lenet5"), make=adam, rate=2e-3, epochs=8),
    "ResNet-9, one cycle": replace(BASE, net=net_of("resnet9"), rate=0.05, schedule=True),
    "ResNet-20": replace(BASE, net=net_of("resnet20"), rate=0.1, schedule=True, epochs=4),
    "FractalNet": replace(BASE, net=net_of("fractalnet"), rate=0.05, schedule=True, epochs=3),
    "multi-layer perceptron": replace(BASE, net=net_of("mlp"), rate=0.05, epochs=10),
    "linear classifier": replace(BASE, net=net_of("linear"), rate=0.02, epochs=10),
    "300 pictures": replace(BASE, data=few, epochs=20),
    "uneven classes, hinge": replace(
        BASE, data=uneven, loss=lambda s, b: F.multi_margin_loss(s, b), epochs=8
    ),
}


def told(loop):
    begun = time.process_time()
    with vizkit.diagnosing() as found:
        loop.run()
    return found, time.process_time() - begun


def main(parts):
    torch.set_num_threads(2)
    SOURCE.extend(p for p in parts if os.path.isdir(p))
    parts = [p for p in parts if p not in SOURCE]
    if not parts or "faults" in parts:
        named = first = 0
        for name, (code, loop) in FAULTS.items():
            found, seconds = told(loop)
            codes = [f.code for f in found.findings]
            named += code in codes
            first += codes[:1] == [code]
            print(
                f"{name:34} {'yes' if code in codes else 'NO ':3}  {seconds:5.1f} s  {', '.join(codes)}",
                flush=True,
            )
        print(f"named {named} of {len(FAULTS)}, as the first finding {first}")
    if not parts or "healthy" in parts:
        alarms = 0
        for name, loop in HEALTHY.items():
            found, seconds = told(loop)
            alarms += not found.healthy
            codes = [f"{f.code} ({f.severity})" for f in found.findings]
            right = [b for b in found.seen.validated[-4:] if b.answers is not None]
            accuracy = torch.cat([b.answers == b.labels for b in right]).float().mean()
            print(f"{name:34} {accuracy:.2f}  {seconds:5.1f} s  {', '.join(codes) or '-'}", flush=True)
        print(f"false alarms: {alarms} of {len(HEALTHY)}")


if __name__ == "__main__":
    main(sys.argv[1:])
