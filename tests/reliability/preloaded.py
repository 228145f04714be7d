"""What the server of forks has in memory: torch and the package, but no thread and nothing computed."""

import numpy
import PIL.Image
import torch

import vizkit
import vizkit.cli.main

torch.set_num_threads(1)
LOADED = (numpy, PIL.Image, vizkit)
