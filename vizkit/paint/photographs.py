"""What photographs have in common: colours and spectrum, measured once over seven sample photographs.

Measured over the logits of chelsea, coffee, rocket, astronaut and motorcycle_left of scikit-image and china
and flower of scikit-learn, pixels kept 1/512 from black and white.
"""

import torch

COLOUR_MEAN = torch.tensor([-0.51, -0.67, -0.91])
"""The mean of the RGB logits."""

COLOURS = torch.tensor([[0.972, 0.367, 0.289], [0.367, 0.621, 0.498], [0.289, 0.498, 0.858]])
"""The symmetric square root of the covariance of RGB logits, scaled so that mixed white noise has variance 1.

It maps uncorrelated colours to those of photographs.
"""

SPECTRUM_DECAY = 1.2
"""Magnitudes fall off as 1 / f ** decay (least squares over frequencies from 3 a picture to 0.4 a pixel)."""
