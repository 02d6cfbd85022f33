"""Plugin hooks of captum_align: Captum's own methods and metrics as baselines."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from xai_align.hookspecs import AttributionSpec, MetricSpec, Values, hookimpl

if TYPE_CHECKING:
    from xai_align.explanation import Explanation

#: Captum's methods that need only the model: the meaning of their values, and their summary in lists.
BASELINES: dict[str, tuple[Values, str]] = {
    "saliency": ("slopes", "Captum: absolute gradient at each pixel (abs=False: signed)"),
    "input_x_gradient": ("contributions", "Captum: gradient times input"),
    "integrated_gradients": (
        "contributions",
        "Captum: integral of the gradients from zeros to the input, times input",
    ),
    "gradient_shap": (
        "contributions",
        "Captum: gradients at 20 random points between zeros and the input, the same in every call",
    ),
    "deep_lift": ("contributions", "Captum: differences from zeros, backpropagated through the layers"),
    "guided_backprop": ("slopes", "Captum: gradient, with negative parts set to zero at every nn.ReLU"),
    "occlusion": ("scores", "Captum: drop of the answer under a sliding window, an eighth of each side"),
    "feature_ablation": ("scores", "Captum: drop of the answer without each of 8 x 8 patches"),
}
#: Notes on the sum of a map, for reports.
NOTES = {
    "integrated_gradients": (
        "integrated_gradients sums to F(x) − F(baseline), up to the error of its finite number of steps; its gap is "
        "F(baseline) and that error."
    ),
    "layer_grad_cam": (
        "The values of layer_grad_cam are not logits in general. If a network ends in a mean over positions and one "
        "linear layer, its map equals the exact readout of the head's input, which states the bias too."
    ),
    "occlusion": "Windows of occlusion overlap and every pixel gets the mean of its windows, so the map has no sum.",
    "feature_ablation": "Every pixel of feature_ablation gets the drop of its whole patch, so the map has no sum.",
}
#: Baselines whose values below zero are evidence against the answer although they are no contributions; and the
#: ones whose values have no sign.
SIGNS = {"occlusion": True, "feature_ablation": True, "saliency": False}
#: Baselines that a comparison runs by default.
BY_DEFAULT = frozenset(("layer_grad_cam", "input_x_gradient"))


def _build_baseline(name: str, model: Any, **options: Any) -> Any:
    from captum_align.baseline_specs import build_baseline

    return build_baseline(name, model, **options)


def _build_layer_grad_cam(model: Any, layer: Any = None, **options: Any) -> Any:
    return _build_baseline("layer_grad_cam", model, layer=layer, **options)


def _infidelity(
    forward_func: Any, inputs: Any, attributions: Any, *, explanation: Explanation | None = None, **options: Any
) -> Any:
    from captum_align.captum_metrics import infidelity

    includes_inputs = explanation is not None and explanation.values == "contributions"
    return infidelity(forward_func, inputs, attributions, **{"multiply_by_inputs": includes_inputs, **options})


def _sensitivity(forward_func: Any, inputs: Any, attributions: Any, *, explain: Any, **options: Any) -> Any:
    from captum_align.captum_metrics import sensitivity

    return sensitivity(forward_func, inputs, attributions, explain=explain, **options)


@hookimpl
def xai_align_attributions() -> list[AttributionSpec]:
    """Return Captum's methods, without importing Captum until one is built."""
    layer_grad_cam = AttributionSpec(
        name="layer_grad_cam",
        build=_build_layer_grad_cam,
        summary="Captum: mean gradient times activation at a layer, signed, spread over the pixels",
        signed=True,
        note=NOTES["layer_grad_cam"],
        takes_layer=True,
        by_default=True,
    )
    return [
        layer_grad_cam,
        *(
            AttributionSpec(
                name=name,
                build=partial(_build_baseline, name),
                summary=summary,
                values=values,
                signed=SIGNS.get(name),
                note=NOTES.get(name, ""),
                by_default=name in BY_DEFAULT,
            )
            for name, (values, summary) in BASELINES.items()
        ),
    ]


@hookimpl
def xai_align_conformance_checks() -> list[Any]:
    """Return the conformance checks that use Captum."""
    from captum_align.conformance import CAPTUM_CHECKS

    return list(CAPTUM_CHECKS)


@hookimpl
def xai_align_metrics() -> list[MetricSpec]:
    """Return Captum's ``infidelity`` and ``sensitivity_max``."""
    return [
        MetricSpec(
            name="infidelity",
            evaluate=_infidelity,
            higher_is_better=False,
            summary="Captum: squared error of the change that attributions predict for small perturbations",
        ),
        MetricSpec(
            name="sensitivity",
            evaluate=_sensitivity,
            higher_is_better=False,
            summary="Captum: largest relative change of the explanation under small changes of the input",
        ),
    ]
