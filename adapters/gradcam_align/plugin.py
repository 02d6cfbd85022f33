"""Plugin hooks of gradcam_align: pytorch-grad-cam's own methods and its metric ARCC."""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec
from typing import Any

from xai_align.adapter_tools import optional_package
from xai_align.hookspecs import AttributionSpec, MetricSpec, hookimpl

#: Summaries of the package's methods for lists; ``baseline_specs.py`` specifies how they are run.
SUMMARIES = {
    "gradcam": "grad-cam: mean gradient of each channel times its activation",
    "hirescam": "grad-cam: gradient times activation at each position",
    "gradcam++": "grad-cam: positive gradients, weighted by higher-order terms, times activation",
    "xgradcam": "grad-cam: mean gradient, weighted by the activation, times activation",
    "layercam": "grad-cam: positive gradient times activation at each position",
    "gradcamelementwise": "grad-cam: positive part of gradient times activation, for each channel",
    "finercam": "grad-cam: Grad-CAM of a class against the three classes with the closest logits",
    "shapleycam": "grad-cam: Grad-CAM with half the second-order term subtracted from the gradient",
    "eigengradcam": "grad-cam: first principal component of gradient times activation",
    "segeigencam": "grad-cam: first principal component of |gradient| times activation, with a fixed sign",
    "eigencam": "grad-cam: first principal component of the activations, the same for every question",
    "kpcacam": "grad-cam: first kernel principal component of the activations, the same for every question",
    "fem": "grad-cam: channels weighted by how often they are unusually high, the same for every question",
    "scorecam": "grad-cam: channels weighted by the answer for the image masked with each (one pass per channel)",
    "ablationcam": "grad-cam: channels weighted by the drop of the answer without each (one pass per channel)",
}


_THE_PACKAGE = partial(optional_package, "gradcam", "grad-cam", "pytorch-grad-cam's methods")


def _build(name: str, model: Any, layer: Any = None, **options: Any) -> Any:
    with _THE_PACKAGE():
        from gradcam_align.baseline_method import BaselineMethod

    return BaselineMethod(model, name, layer, **options)


def _refine_cam(model: Any, layer: Any = None, **options: Any) -> Any:
    with _THE_PACKAGE():
        from gradcam_align.refine_cam import RefineCAMMethod

    return RefineCAMMethod(model, layer, **options)


def _summary(text: str) -> str:
    return text if find_spec("pytorch_grad_cam") else f"{text} (pip install 'xai-align[gradcam]')"


@hookimpl
def xai_align_attributions() -> list[AttributionSpec]:
    """Return the package's methods, without importing it until one is built."""
    return [
        AttributionSpec(name=name, build=partial(_build, name), summary=_summary(summary), takes_layer=True)
        for name, summary in SUMMARIES.items()
    ] + [
        AttributionSpec(
            name="refinecam",
            build=_refine_cam,
            summary=_summary("grad-cam: product of the maps of Grad-CAM++ at several stages (RefineCAM)"),
            takes_layer=True,
        )
    ]


def _arcc(forward_func: Any, inputs: Any, attributions: Any, *, explain: Any, target: Any = None) -> Any:
    with _THE_PACKAGE():
        from gradcam_align.arcc import arcc

    return arcc(forward_func, inputs, attributions, explain=explain, target=target)


@hookimpl
def xai_align_metrics() -> list[MetricSpec]:
    """Return the package's ARCC."""
    return [
        MetricSpec(
            name="arcc",
            evaluate=_arcc,
            higher_is_better=True,
            summary=_summary("grad-cam: harmonic mean of ROAD, coherency and one minus complexity (ARCC)"),
        )
    ]
