"""Plugin hooks of gradcam_align: pytorch-grad-cam's own methods as baselines."""

from __future__ import annotations

from functools import partial
from typing import Any

from xai_align.hookspecs import AttributionSpec, hookimpl

#: Summaries of the package's methods for lists; ``recipes.py`` specifies how they are run.
SUMMARIES = {
    "gradcam": "grad-cam: mean gradient of each channel times its activation",
    "hirescam": "grad-cam: gradient times activation, cell by cell",
    "gradcam++": "grad-cam: positive gradients, weighted by higher-order terms, times activation",
    "xgradcam": "grad-cam: gradient averaged with the activation as weight, times activation",
    "layercam": "grad-cam: positive gradient times activation, cell by cell",
    "gradcamelementwise": "grad-cam: positive part of gradient times activation, channel by channel",
    "finercam": "grad-cam: Grad-CAM of a class against the three with the nearest logits",
    "shapleycam": "grad-cam: Grad-CAM with half the second-order term taken off the gradient",
    "eigengradcam": "grad-cam: first principal component of gradient times activation",
    "segeigencam": "grad-cam: first principal component of |gradient| times activation, with its sign settled",
    "eigencam": "grad-cam: first principal component of the activations, whatever the question",
    "kpcacam": "grad-cam: first kernel principal component of the activations, whatever the question",
    "fem": "grad-cam: channels weighted by how often they are unusually high, whatever the question",
    "scorecam": "grad-cam: channels weighted by the answer to the image seen through each (a pass a channel)",
    "ablationcam": "grad-cam: channels weighted by what the answer loses without each (a pass a channel)",
}


def _build(name: str, model: Any, layer: Any = None, **options: Any) -> Any:
    from gradcam_align.peer import GradCamPeer

    return GradCamPeer(model, name, layer, **options)


@hookimpl
def xai_align_attributions() -> list[AttributionSpec]:
    """Return the package's methods, without importing it until one is built."""
    return [
        AttributionSpec(name=name, build=partial(_build, name), summary=summary, takes_layer=True)
        for name, summary in SUMMARIES.items()
    ]
