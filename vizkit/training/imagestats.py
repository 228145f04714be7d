"""Statistics of pictures: mean and deviation of channels, the mean picture, principal axes of colour."""

from dataclasses import dataclass

import torch
from torch import Tensor

CHUNK = 4096
"""Pictures that are converted to floating point at a time."""


@dataclass(frozen=True)
class ImageStats:
    """Over the pixels of pictures in [0, 1].

    mean, std: (C,) of the channels. picture: (C, H, W), the mean picture. variances (C,) and axes (C, C) of
    the colours: the eigenvalues of their covariance, largest first, and its eigenvectors in columns.
    """

    mean: Tensor
    std: Tensor
    picture: Tensor
    variances: Tensor
    axes: Tensor


def image_stats(images: Tensor) -> ImageStats:
    """The statistics of pictures (N, C, H, W) uint8, in double precision, a part at a time."""
    channels = images.shape[1]
    total = torch.zeros(images.shape[1:], dtype=torch.float64)
    products = torch.zeros(channels, channels, dtype=torch.float64)
    for part in torch.split(images, CHUNK):
        values = part.double() / 255
        total += values.sum(0)
        colours = values.transpose(0, 1).flatten(1)
        products += colours @ colours.T
    pixels = images.shape[0] * images.shape[2] * images.shape[3]
    mean = total.sum((1, 2)) / pixels
    covariance = products / pixels - torch.outer(mean, mean)
    variances, axes = torch.linalg.eigh(covariance)
    order = variances.argsort(descending=True)
    deviation = covariance.diagonal().clamp(min=0).sqrt()
    return ImageStats(
        mean.float(),
        deviation.float(),
        (total / len(images)).float(),
        variances[order].clamp(min=0).float(),
        axes[:, order].float(),
    )
