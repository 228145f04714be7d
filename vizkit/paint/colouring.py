"""Keeping a photograph's colours under another picture's style (Gatys et al. 2016)."""

import torch
from torch import Tensor

from vizkit.paint.canvases import mixed
from vizkit.paint.objectives import colour_statistics

_YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])


def with_colours_of(picture: Tensor, source: Tensor) -> Tensor:
    """The brightness of `picture` with the colours of `source`, both (N, 3, H, W) in [0, 1] (YIQ)."""
    to_yiq = _YIQ.to(picture)
    own, other = mixed(picture, to_yiq), mixed(source, to_yiq)
    both = torch.cat([own[:, :1], other[:, 1:]], 1)
    return mixed(both, torch.linalg.inv(to_yiq)).clamp(0, 1)


def matched(picture: Tensor, source: Tensor) -> Tensor:
    """`picture` moved linearly so that mean and covariance of its RGB values are those of `source`.

    x -> A (x - mean) + mean', with A the symmetric matrix that maps the one covariance to the other
    (the optimal transport between the two normal distributions). Pictures are (1, 3, H, W) in [0, 1].
    """
    mean, covariance = colour_statistics(picture)
    wanted_mean, wanted = colour_statistics(source)
    floor = 1e-5 * torch.eye(3).to(picture)
    matrix = transport(covariance[0] + floor, wanted[0] + floor)
    moved = mixed(picture - mean[:, :, None, None], matrix)
    return (moved + wanted_mean[:, :, None, None]).clamp(0, 1)


def transport(covariance: Tensor, wanted: Tensor) -> Tensor:
    """The symmetric positive matrix A with A C A = C' for covariances C and C'."""
    root = square_root(covariance)
    inverse = torch.linalg.inv(root)
    made: Tensor = inverse @ square_root(root @ wanted @ root) @ inverse
    return made


def square_root(matrix: Tensor) -> Tensor:
    """The symmetric square root of a symmetric positive matrix."""
    values, vectors = torch.linalg.eigh(matrix)
    made: Tensor = vectors @ torch.diag(values.clamp(min=0).sqrt()) @ vectors.mT
    return made
