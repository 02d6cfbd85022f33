"""What captum_align gives to xai-align: the exact readout, FEI and ALIGN by name, and Captum's own methods as peers."""

from __future__ import annotations

from functools import partial
from typing import Any

from xai_align.hookspecs import AttributionSpec, MetricSpec, hookimpl

#: Captum's methods that need nothing but the model, as they read in a list.
PEER_SUMMARIES = {
    "saliency": "Captum: size of the gradient at each pixel (abs=False keeps the sign)",
    "input_x_gradient": "Captum: gradient times input",
    "integrated_gradients": "Captum: gradients gathered on the way from zeros to the input",
    "gradient_shap": "Captum: gradients at 20 random points between zeros and input, the same at every call",
    "deep_lift": "Captum: differences to zeros handed back through the layers",
    "guided_backprop": "Captum: gradient with negative parts cut off at every nn.ReLU",
    "occlusion": "Captum: what the answer loses under a sliding window of an eighth of the side",
    "feature_ablation": "Captum: what the answer loses without each of 8 x 8 patches",
}


def _build_pinet(model: Any, layer: Any = None, **options: Any) -> Any:
    from captum_align.pinet_attribution import PiNetAttribution

    return PiNetAttribution(model, layer=layer, **options)


def _build_fei(model: Any, **options: Any) -> Any:
    from captum_align.fei_attribution import FEIAttribution

    return FEIAttribution(model, **options)


def _build_align(model: Any, masker: Any = None, **options: Any) -> Any:
    from captum_align.align_attribution import ALIGNAttribution
    from xai_align.align.saved_fit import masker_of

    return ALIGNAttribution(masker_of(model) if masker is None else masker, **options)


def _build_clipped_gradient(model: Any, **options: Any) -> Any:
    from captum_align.clipped_gradient_attribution import ClippedGradientAttribution

    return ClippedGradientAttribution(model, **options)


def _build_peer(name: str, model: Any, **options: Any) -> Any:
    from captum_align.peers import build_peer

    return build_peer(name, model, **options)


def _build_layer_grad_cam(model: Any, layer: Any = None, **options: Any) -> Any:
    return _build_peer("layer_grad_cam", model, layer=layer, **options)


def _infidelity(forward_func: Any, inputs: Any, attributions: Any, **options: Any) -> Any:
    from captum_align.captum_metrics import infidelity

    return infidelity(forward_func, inputs, attributions, **options)


def _sensitivity(forward_func: Any, inputs: Any, attributions: Any, *, explain: Any, **options: Any) -> Any:
    from captum_align.captum_metrics import sensitivity

    return sensitivity(forward_func, inputs, attributions, explain=explain, **options)


@hookimpl
def xai_align_attributions() -> list[AttributionSpec]:
    """``pinet``, ``fei``, ``align`` and Captum's methods. Captum is imported when one is built."""
    return [
        AttributionSpec(
            name="pinet", build=_build_pinet, summary="exact readout: contributions that sum to the answer"
        ),
        AttributionSpec(
            name="fei",
            build=_build_fei,
            summary="a map optimised for its own insertion and deletion curves (60 passes)",
        ),
        AttributionSpec(
            name="fei-nested",
            build=partial(_build_fei, solver="nested"),
            summary="masks optimised one after another, each within the next, as FEI published it (500 passes)",
        ),
        AttributionSpec(
            name="align",
            build=_build_align,
            summary="the mask of a trained masker, the same for every class, one pass (masker=FILE, or align:FOLDER)",
        ),
        AttributionSpec(
            name="clipped-gradient",
            build=_build_clipped_gradient,
            summary="mean clipped gradient on the way from two solid colours to the image, nothing optimised",
        ),
        *(
            AttributionSpec(name=name, build=partial(_build_peer, name), summary=summary)
            for name, summary in PEER_SUMMARIES.items()
        ),
        AttributionSpec(
            name="layer_grad_cam",
            build=_build_layer_grad_cam,
            summary="Captum: mean gradient times activation at the feature space, signed, spread over pixels",
        ),
    ]


@hookimpl
def xai_align_metrics() -> list[MetricSpec]:
    """Captum's own ``infidelity`` and ``sensitivity_max``."""
    return [
        MetricSpec(
            name="infidelity",
            evaluate=_infidelity,
            higher_is_better=False,
            summary="Captum: squared error of what attributions foretell of small changes",
        ),
        MetricSpec(
            name="sensitivity",
            evaluate=_sensitivity,
            higher_is_better=False,
            summary="Captum: the most an explanation moves, relatively, when the input hardly does",
        ),
    ]
