"""Which pictures are learnt from and which are kept to judge by, drawn class by class (scikit-learn)."""

import torch
from torch import Tensor

from vizkit.errors import UsageError


def split(labels: Tensor, share: float, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Numbers of (those to learn from, those held out), `share` of each class held out, as far as it goes.

    Raises `UsageError` for shares outside (0, 1), for classes with fewer than two pictures, and where less
    than one picture a class is left to learn from.
    """
    from sklearn.model_selection import train_test_split

    if not 0 < share < 1:
        raise UsageError(f"the share held out is between 0 and 1, not {share}")
    _check(labels, 2)
    classes = len(torch.unique(labels))
    held = max(round(share * len(labels)), classes)
    left = max(len(labels) - held, 0)
    if left < classes:
        raise UsageError(
            f"holding out {share} of {len(labels)} pictures leaves {left} to learn from; there are "
            f"{classes} classes"
        )
    kept, out = train_test_split(
        range(len(labels)), test_size=held, stratify=labels.numpy(), random_state=seed % 2**32
    )
    return torch.tensor(sorted(kept)), torch.tensor(sorted(out))


def folds(labels: Tensor, count: int, *, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """`count` such pairs; each picture is held out once.

    Raises `UsageError` for fewer than two folds and for classes with fewer pictures than folds.
    """
    from sklearn.model_selection import StratifiedKFold

    if count < 2:
        raise UsageError(f"cross-validation takes two folds or more, not {count}")
    _check(labels, count)
    cut = StratifiedKFold(count, shuffle=True, random_state=seed % 2**32)
    pairs = cut.split(labels.numpy(), labels.numpy())
    return [(torch.from_numpy(kept), torch.from_numpy(out)) for kept, out in pairs]


def _check(labels: Tensor, least: int) -> None:
    classes, counts = torch.unique(labels, return_counts=True)
    if int(counts.min()) < least:
        number = int(classes[counts.argmin()])
        raise UsageError(f"class {number} has {int(counts.min())} pictures; at least {least} are needed")
