"""Normalisations: which values of maps (N, C, positions) share a mean and a deviation (Wu & He 2018)."""

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from vizkit.plots import Look

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ASPECT = 0.36
EXAMPLES, CHANNELS, PLACES = 4, 6, 5
KINDS = ("batch", "layer", "instance", "group")


def sharing(kind: str) -> npt.NDArray[np.bool_]:
    """(N, C, positions): what is normalised with the value of example 0, last channel, position 0."""
    made = np.zeros((EXAMPLES, CHANNELS, PLACES), bool)
    parts: dict[str, Any] = {
        "batch": np.s_[:, -1],
        "layer": np.s_[0],
        "instance": np.s_[0, -1],
        "group": np.s_[0, CHANNELS // 2 :],
    }
    made[parts[kind]] = True
    return made


def drawn(figure: "Figure", look: Look) -> None:
    """A cube a kind: examples, channels and positions; what shares a mean is filled."""
    for k, kind in enumerate(KINDS):
        axes: Any = figure.add_subplot(1, 4, k + 1, projection="3d")
        axes.set_facecolor(look.page)
        filled = sharing(kind).transpose(1, 0, 2)
        every = np.ones_like(filled)
        colours = np.where(filled, look.series[0], look.page)
        axes.voxels(every, facecolors=colours, edgecolor=look.soft, linewidth=0.5, shade=False)
        axes.view_init(elev=22, azim=-58)
        axes.set_box_aspect((CHANNELS, EXAMPLES, PLACES))
        axes.set_xticks([]), axes.set_yticks([]), axes.set_zticks([])
        axes.set_xlabel("channels", color=look.soft, fontsize=9, labelpad=-12)
        axes.set_ylabel("examples", color=look.soft, fontsize=9, labelpad=-12)
        for axis in (axes.xaxis, axes.yaxis, axes.zaxis):
            axis.set_pane_color((0, 0, 0, 0))
            axis.line.set_color(look.page)
        axes.set_title(f"{kind} norm", color=look.ink, fontsize=12)
    words = "upward: positions   filled: what is normalised together, to mean 0 and deviation 1"
    figure.text(0.02, 0.03, words, color=look.soft, fontsize=9)
    figure.subplots_adjust(0, 0.08, 1, 0.92, 0, 0)
