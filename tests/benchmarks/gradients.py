"""The comparisons of what takes a gradient or fifty: a function a job, each gives rows."""

import contextlib
import copy
from collections.abc import Callable, Iterator

import torch
from torch import nn

import vizkit
from tests.benchmarks.comparing import Bench, Row, factor, far, row
from tests.benchmarks.explain import CLASS, bare, fifty
from tests.rewrite import class_gradient, rewritten
from vizkit.zoo.torchvision_models import import_torchvision


def saliency(bench: Bench) -> Iterator[Row]:
    """The gradient of a logit to the input."""
    from captum.attr import Saliency

    for name in bench.models:
        model, naive = bench.load(name), bench.load(name)
        naive.module.requires_grad_(True)
        pixels = bench.pixels(model)
        peer = Saliency(model.module)

        def backward(module: nn.Module = naive.module, given: torch.Tensor = pixels) -> None:
            leaf = given.clone().requires_grad_()
            module(leaf)[:, CLASS].sum().backward()
            module.zero_grad()

        times = bench.times(
            {
                "forward + backward": lambda m=model, p=pixels: bare(m.module, p),
                "ours": lambda m=model, p=pixels: vizkit.saliency(m.module, p[0], target=CLASS),
                "Captum": lambda s=peer, p=pixels: s.attribute(p.clone().requires_grad_(), target=CLASS),
                "loss.backward()": backward,
            }
        )
        right = bare(model.module, pixels)[0].abs().amax(0)
        exact = f"to the gradient {far(vizkit.saliency(model.module, pixels[0], target=CLASS).values, right)}"
        found = row("saliency", name, "forward + backward", times, "ours", exact=exact, goal=1.05)
        yield found
        yield from factor(found, "loss.backward()", 1.25)


def guided(bench: Bench) -> Iterator[Row]:
    """Guided backprop; what is right is the net rewritten ReLU by ReLU."""
    from captum.attr import GuidedBackprop

    for name in bench.models:
        model = bench.load(name)
        pixels = bench.pixels(model)
        peer = GuidedBackprop(model.module)
        times = bench.times(
            {
                "forward + backward": lambda m=model, p=pixels: bare(m.module, p),
                "ours": lambda m=model, p=pixels: vizkit.guided_backprop(m.module, p[0], target=CLASS),
                "Captum": lambda g=peer, p=pixels: g.attribute(p.clone().requires_grad_(), target=CLASS),
            }
        )
        right = class_gradient(rewritten(model.module, "guided")[0], pixels, CLASS)[0]
        ours = vizkit.guided_backprop(model.module, pixels[0], target=CLASS).attribution
        theirs = peer.attribute(pixels.clone().requires_grad_(), target=CLASS).detach()[0]
        exact = f"to the rewritten net {far(ours, right)}, Captum {far(theirs, right)}"
        found = row("guided backprop", name, "forward + backward", times, "ours", exact=exact, goal=1.05)
        yield found
        yield from factor(found, "Captum", 1.0)


def grad_cam(bench: Bench) -> Iterator[Row]:
    """Grad-CAM at the layer that vizkit takes by itself."""
    from captum.attr import LayerAttribution, LayerGradCam

    import_torchvision()  # which the peers import, also beside a torch that it does not fit
    for name in bench.models:
        model = bench.load(name)
        pixels = bench.pixels(model)
        layer = str(vizkit.grad_cam(model.module, pixels[0]).provenance.layer)
        captum = LayerGradCam(model.module, model.module.get_submodule(layer))
        calls: dict[str, Callable[[], object]] = {
            "forward + backward": lambda m=model, p=pixels: bare(m.module, p),
            "ours": lambda m=model, p=pixels: vizkit.grad_cam(m.module, p[0], target=CLASS),
            "Captum": lambda c=captum, p=pixels: c.attribute(p, target=CLASS),
        }
        calls |= _other_cams(bench.load(name).module, layer, pixels)
        times = bench.times(calls)
        small = captum.attribute(pixels, target=CLASS, relu_attributions=True).detach()
        right = LayerAttribution.interpolate(small, tuple(pixels.shape[2:]), "bilinear")[0, 0]
        ours = vizkit.grad_cam(model.module, pixels[0], target=CLASS).values
        alike = float(torch.corrcoef(torch.stack([ours.flatten().cpu(), right.flatten().cpu()]))[0, 1])
        exact = f"correlation with Captum's {alike:.5f}"
        if not (bool(ours.any()) or bool(right.any())):
            exact = "zero everywhere, as Captum's is"
        found = row("Grad-CAM", name, "forward + backward", times, "ours", exact=exact, goal=0.55)
        yield found
        yield from factor(found, "pytorch-grad-cam", 2.4)


def _other_cams(module: nn.Module, layer: str, pixels: torch.Tensor) -> dict[str, Callable[[], object]]:
    """The peers that are installed, as they are used: with the net's parameters as they come."""
    found: dict[str, Callable[[], object]] = {}
    with contextlib.suppress(ImportError):
        from torchcam.methods import GradCAM as TorchCam

        frozen = TorchCam(module, target_layer=module.get_submodule(layer))

        def torchcam() -> object:
            return frozen(CLASS, module(pixels.clone().requires_grad_()))

        found["torchcam"] = torchcam
    with contextlib.suppress(ImportError):
        from pytorch_grad_cam import GradCAM
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

        twin = _twin(module)
        cam = GradCAM(model=twin, target_layers=[twin.get_submodule(layer)])
        found["pytorch-grad-cam"] = lambda: cam(input_tensor=pixels, targets=[ClassifierOutputTarget(CLASS)])
    return found


def _twin(module: nn.Module) -> nn.Module:
    """A copy without the hooks of others, its parameters as a user has them."""
    twin = copy.deepcopy(module)
    for part in twin.modules():
        part._forward_hooks.clear()
        part._backward_hooks.clear()
    return twin.requires_grad_(True)


def integrated_gradients(bench: Bench) -> Iterator[Row]:
    """50 steps; what is right is that the attributions sum to the difference of the scores."""
    from captum.attr import IntegratedGradients

    for name in bench.models[:3]:
        model = bench.load(name)
        pixels = bench.pixels(model)
        peer = IntegratedGradients(model.module)
        times = bench.times(
            {
                "50 gradients": lambda m=model, p=pixels: fifty(m.module, p),
                "ours": lambda m=model, p=pixels: vizkit.integrated_gradients(
                    m.module, p[0], target=CLASS, steps=50
                ),
                "Captum, batches of 10": lambda g=peer, p=pixels: g.attribute(
                    p, target=CLASS, n_steps=50, internal_batch_size=10
                ),
                "Captum as it comes": lambda g=peer, p=pixels: g.attribute(p, target=CLASS, n_steps=50),
            },
            max(3, bench.rounds // 3),
        )
        ours = vizkit.integrated_gradients(model.module, pixels[0], target=CLASS, steps=50).attribution
        theirs = peer.attribute(pixels, target=CLASS, n_steps=50).detach()
        with torch.no_grad():
            ends = [float(model.module(x)[0, CLASS]) for x in (pixels, torch.zeros_like(pixels))]
        whole = ends[0] - ends[1]
        gaps = [abs(float(a.double().sum()) / whole - 1) for a in (ours, theirs)]
        exact = f"sum off by {100 * gaps[0]:.1g} %, Captum {100 * gaps[1]:.1g} %"
        found = row("integrated gradients", name, "50 gradients", times, "ours", exact=exact, goal=1.05)
        yield found
        yield from factor(found, "Captum as it comes", 1.3)
