"""Grad-CAM and kin: where the net saw what speaks for the class (class activation maps)."""

from typing import Annotated, Any, Literal

from vizkit.cams import activation_maps
from vizkit.explain import Maps, explain
from vizkit.registry import Images, Layer, Model, OnStep, Target, method
from vizkit.runs import Run
from vizkit.signatures import Between


@method(
    section="explain",
    title="Grad-CAM: where a layer holds what raises the score",
    paper="Selvaraju et al. 2017; the variants' papers: Chattopadhay 2018, Draelos 2020, Jiang 2021, Fu 2020,"
    " Muhammad 2020, Wang 2020, Desai 2020",
    formula=r"M = \left( \sum_k \alpha_k A_k \right)^+, \quad \alpha_k = \frac{1}{Z} \sum_{i,j}"
    r" \frac{\partial S_c}{\partial A_k^{ij}}",
    example='vizkit grad-cam cat.jpg --variant layercam --layer "_blocks.10"',
)
def grad_cam(
    model: Model,
    image: Images,
    *,
    target: Target = None,
    layer: Layer = None,
    variant: Annotated[
        Literal[
            "gradcam", "gradcam++", "hirescam", "layercam", "xgradcam", "eigencam", "scorecam", "ablationcam"
        ],
        "How the layer's maps are weighed.",
    ] = "gradcam",
    signed: Annotated[bool, "Keep what lowers the score too, without the final ReLU."] = False,
    channels: Annotated[
        int, "scorecam and ablationcam: only the so many most active channels; 0 is all.", Between(0)
    ] = 0,
    batch: Annotated[int | None, "Pictures at a time; by itself what suits the device.", Between(1)] = None,
    on_step: OnStep = None,
) -> Any:
    """Show where a layer holds what raises the score: its maps, weighed and added up.

    With A_k the layer's maps and g_k the score's gradient to them, `values` (H, W) is relu(sum_k w_k A_k),
    resampled to the input (bilinear); `signed` leaves the ReLU out. The weights are: gradcam the gradient's
    mean; gradcam++ its positive part, weighed by higher derivatives; xgradcam its mean weighed by A_k;
    hirescam and layercam work position by position with g_k and its positive part; eigencam takes the maps'
    first principal component, the same for all classes; scorecam what the picture seen through A_k gains
    in probability over black; ablationcam what the score loses without A_k.

    The layer is chosen by itself: the last one with positions that is no pooling, found by running the net;
    for vision transformers the last normalisation whose patch tokens still reach the output, the tokens set
    back on their grid. It is named in the record (`layer`, `grid`) and on the figure.

    Returns a `Heatmap`, or a list of them for several images or targets (images first).
    Raises `UsageError` for an unknown layer or one without positions, `ImageError` or `ModelError`.
    """
    inner = variant in ("scorecam", "ablationcam")

    def compute(run: Run) -> list[Maps]:
        step = on_step if inner else None
        maps, name, grid = activation_maps(
            run, layer, variant, signed=signed, channels=channels, batch=batch, on_step=step
        )
        details = [{"layer": name, "grid": list(grid)}] * len(run.pixels)
        return [Maps(m, signed=signed, details=details, layer=name) for m in maps]

    return explain(model, image, target, compute, batch=batch, on_step=None if inner else on_step)
