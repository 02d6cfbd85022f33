"""Functions that call every registered method, every attribution and CAM class, and other code that inspects a model.

Shared by the tests and benchmarks of threads and of interrupts.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.shared.attention_network import BehindAttention
from captum_align import (
    ALIGNAttribution,
    ClippedGradientAttribution,
    FEIAttribution,
    LayerPiNetAttribution,
    PiNetAttribution,
)
from gradcam_align import ALIGNCAM, FEICAM, AttributionCAM, PiNetCAM
from xai_align import Question, explain, read_out
from xai_align._tools.thread_state import restores_thread_state
from xai_align.align.masker import Masker
from xai_align.fei import AmortisedExplainer, ScoreNetwork, clip_gradients, optimize_masks
from xai_align.fei.amortised.explained_network import ExplainedNetwork
from xai_align.fei.amortised.fingerprint import Fingerprint
from xai_align.perturbation.curve import perturbation_curve, perturbation_curves
from xai_align.perturbation.spec import PerturbationSpec
from xai_align.plugins import attribution_method, attribution_methods, metric

#: Function of a model and images that returns the result.
Call = Callable[[nn.Module, Tensor], Any]
TARGETS = [1, 2]


def tiny_masker() -> nn.Module:
    """Return a masker with fixed weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Masker(width=2, depth=1)


@restores_thread_state
def untrained_explainer(model: nn.Module, images: Tensor) -> AmortisedExplainer:
    """Return an explainer of this model, with fixed weights."""
    explained = ExplainedNetwork(model, images[:1])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = ScoreNetwork(explained.channels(images[:1]), images.shape[1], width=4, depth=1)
    fingerprint = Fingerprint.of(model, explained, images[:1], None)
    return AmortisedExplainer(network=network.eval(), fingerprint=fingerprint)


#: Options that methods require, or that keep them quick.
OPTIONS: dict[str, dict[str, Any]] = {
    "fei": {"n_iter": 1},
    "fei-nested": {"n_iter": 1},
    "align": {"masker": tiny_masker()},
    "integrated_gradients": {"n_steps": 5},
    "gradient_shap": {"n_samples": 2},
    "feature_ablation": {"perturbations_per_eval": 16},
    "occlusion": {"perturbations_per_eval": 16},
}


#: Methods that need a network with attention; they get the model behind two layers of it.
OF_ATTENTION = ("attention_rollout", "attn_lrp", "chefer", "legrad")


def by_name(name: str) -> Call:
    """Return a call of the registered method of this name, built anew each time."""

    def call(model: nn.Module, images: Tensor) -> Any:
        network = BehindAttention(model) if name in OF_ATTENTION else model
        own = {"explainer": untrained_explainer(model, images)} if name == "fei-amortised" else {}
        return attribution_method(name).build(network, **OPTIONS.get(name, own)).attribute(images, target=TARGETS)

    return call


def _clipped(model: nn.Module, images: Tensor) -> Tensor:
    alpha = torch.full((len(images), 1, *images.shape[2:]), 0.5, requires_grad=True)
    with clip_gradients(model, images) as clipping:
        return torch.autograd.grad(-clipping.model(alpha * images)[:, 1].sum(), alpha)[0]


def _hidden_layers(model: nn.Module, images: Tensor) -> Tensor:
    series = PerturbationSpec(0.0, "morf", (0.0, 0.5), None, layers=True)

    (curve,) = perturbation_curves(model, images, images, [series], layers=["second"])
    assert curve.deviations is not None
    return curve.deviations.values


#: Classes and functions; questions about two classes take a separate path through some of them.
OTHERS: dict[str, Call] = {
    "PiNetAttribution": lambda m, x: PiNetAttribution(m, "first").attribute(x, target=TARGETS),
    "LayerPiNetAttribution": lambda m, x: LayerPiNetAttribution(m, m.second).attribute(x, target=TARGETS),
    "FEIAttribution": lambda m, x: FEIAttribution(m, n_iter=1, clip="ibm").attribute(x, target=TARGETS),
    "ClippedGradientAttribution": lambda m, x: ClippedGradientAttribution(m).attribute(x, target=TARGETS),
    "ALIGNAttribution": lambda m, x: ALIGNAttribution(OPTIONS["align"]["masker"]).attribute(x),
    "PiNetCAM": lambda m, x: PiNetCAM(m)(x, TARGETS),
    "PiNetCAM at a layer": lambda m, x: PiNetCAM(m, [m.second])(x, TARGETS),
    "FEICAM": lambda m, x: FEICAM(m, n_iter=1)(x, TARGETS),
    "ALIGNCAM": lambda m, x: ALIGNCAM(m, masker=OPTIONS["align"]["masker"])(x),
    "AttributionCAM": lambda m, x: AttributionCAM(m, method="saliency")(x, TARGETS, aug_smooth=True),
    "AttributionCAM of a question": lambda m, x: AttributionCAM(m, [m.second], method="gradcam")(
        x, [Question.why_not(0, 1)] * 2
    ),
    "read_out": lambda m, x: read_out(m, x, TARGETS).contributions,
    "explain": lambda m, x: explain(m, x, Question.why_not(0, 1), "deep_lift").attribution,
    "optimize_masks": lambda m, x: optimize_masks(m, x, TARGETS, n_iter=1).attribution,
    "clip_gradients": _clipped,
    "hidden layers": _hidden_layers,
    "perturbation_curve": lambda m, x: perturbation_curve(m, x, x, fractions=(0.0, 0.5)).masked,
    "infidelity": lambda m, x: metric("infidelity").evaluate(m, x, x, target=TARGETS),
}


def all_methods() -> dict[str, Call]:
    """Return every call by its name: the registered methods first, classes and functions after them."""
    return {name: by_name(name) for name in attribution_methods()} | OTHERS


def quiet() -> None:
    """Ignore warnings that are expected on tiny images, such as ties, in the whole process."""
    warnings.simplefilter("ignore")


def tensors_of(found: Any) -> list[Tensor]:
    """Return the result of a call as tensors that can be compared."""
    parts = found if isinstance(found, tuple | list) else (found,)
    return [torch.as_tensor(part) for part in parts]


def is_same(found: Any, expected: Any) -> bool:
    """Return whether the results of two calls are the same, bit for bit."""
    pairs = zip(tensors_of(found), tensors_of(expected), strict=True)
    return all(a.shape == b.shape and bool(((a == b) | (a.isnan() & b.isnan())).all()) for a, b in pairs)
