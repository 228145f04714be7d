"""Learning-rate schedules, as `vizkit train` has them."""

from typing import TYPE_CHECKING

from vizkit.plots import Look, dress
from vizkit.training.descent import SCHEDULES, rate_at

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ASPECT = 0.52
STEPS, WARMUP = 500, 0.1

WORDS = {
    "constant": "constant",
    "linear": "linear to 0",
    "cosine": "half a cosine",
    "step": "a tenth after each third",
    "exponential": "exponential, to 1 %",
    "inverse": "1 / (1 + k t), to a tenth",
    "snapshots": "five cosines, for snapshots",
}


def drawn(figure: "Figure", look: Look) -> None:
    """A panel a schedule, all with a warm-up of a tenth."""
    for k, name in enumerate(n for n in SCHEDULES if n != "plateau"):
        axes = figure.add_subplot(2, 4, k + 1)
        rates = [rate_at(name, step, STEPS, warmup=WARMUP) for step in range(STEPS)]
        axes.axvspan(0, WARMUP * STEPS, color=look.soft, alpha=0.12, linewidth=0)
        axes.plot(range(STEPS), rates, color=look.series[k], linewidth=2)
        axes.set_ylim(0, 1.08)
        dress(axes, look, title=WORDS.get(name, name), x="step", y="share of the peak" if k % 4 == 0 else "")
    axes = figure.add_subplot(2, 4, 8)
    axes.axis("off")
    axes.text(
        0,
        0.8,
        "grey: linear warm-up\n(Goyal et al. 2017)\n\nplateau: constant, and a\ntenth where it helps no more",
        color=look.soft,
        fontsize=9,
        va="top",
    )
    figure.tight_layout()
