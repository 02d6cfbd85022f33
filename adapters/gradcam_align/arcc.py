"""ARCC of pytorch-grad-cam with the signature of a metric."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gradcam_align.attribution_cam import scaled_positive
from gradcam_align.baseline_specs import package_class
from xai_align.adapter_tools import check_evaluation_mode, fixed_random_state, restores_thread_state, select_logits
from xai_align.perturbation.questioned import probability_of
from xai_align.question import Question, as_questions

#: Percentiles of the package's ARCC.
PERCENTILES = (20, 40, 60, 80)


@restores_thread_state
def arcc(
    forward_func: Callable[..., Tensor],
    inputs: Tensor,
    attributions: Tensor,
    *,
    explain: Callable[[Tensor, Any], Tensor],
    target: Any = None,
    percentiles: Sequence[float] = PERCENTILES,
    seed: int = 0,
) -> Tensor:
    """Compute ARCC, the harmonic mean of ROAD, coherency and one minus complexity: ``[N]``, higher is better.

    Domeniconi et al., "How to Evaluate and Refine your CAM", arXiv 2605.14641. It is computed by the package, on the
    positive part of each map, scaled to 0..1, and lies in [0, 1]. Complexity: the mean of that map. Coherency:
    ``(r + 1) / 2`` with Pearson's ``r`` between it and the map of the image multiplied by it. ROAD: twice ROAD
    combined of the question's probability, cut to 0..1. NaN for a map without positive values.

    Args:
        forward_func: gives logits ``[N, K]``; an ``nn.Module`` must be in eval mode.
        inputs: images ``[N, C, H, W]``.
        attributions: ``[N, C, H, W]`` (channels are summed) or ``[N, H, W]``.
        explain: ``explain(inputs, target)`` returns attributions, of masked images, one at a time.
        target: a class, a question, one for each example, or None for the predicted class.
        percentiles: those of ROAD.
        seed: seed of ROAD's noise, the same for each image.

    Raises:
        ImportError: the installed version of the package has no ARCC.
        ValueError: shapes don't match, attributions are not finite, or the model is in train mode.
        TargetError: the target is not understood, the output does not have it, or it has no probability.
    """
    cls = package_class("ARCC", "pytorch_grad_cam.metrics.arcc")
    check_evaluation_mode(forward_func)
    if inputs.dim() != 4:
        raise ValueError(f"ARCC needs images [N, C, H, W], the inputs have shape {list(inputs.shape)}")
    maps = _maps(attributions, inputs)
    if target is None:
        with torch.no_grad():
            target = select_logits(forward_func(inputs)).argmax(1)
    values = []
    for number, question in enumerate(as_questions(target, len(inputs))):
        image, one = inputs[number : number + 1].detach(), maps[number : number + 1]
        if not bool((one > 0).any()):
            values.append(float("nan"))
            continue

        def again(input_tensor: Tensor, targets: Any, question: Question = question) -> np.ndarray:
            return _as_picture(_maps(explain(input_tensor, [question]), input_tensor))

        with fixed_random_state(seed):  # ROAD draws noise from the global generator
            found = cls(again, list(percentiles))(image, _as_picture(one), [_Probability(question)], forward_func)
        values.append(float(found[0]))
    return torch.tensor(values, dtype=torch.float64)


class _Probability:
    """Target of the package: the question's probability, of the class, the group, or one side given either."""

    def __init__(self, question: Question) -> None:
        self.question = question

    def __call__(self, logits: Tensor) -> Tensor:
        p = logits.float().sigmoid() if logits.numel() == 1 else logits.float().softmax(0)
        return probability_of(self.question, p)


def _maps(attributions: Any, inputs: Tensor) -> Tensor:
    """Return maps ``[N, H, W]``, channels summed."""
    size = (len(inputs), *inputs.shape[-2:])
    fits = isinstance(attributions, Tensor) and attributions.dim() in (3, 4)
    maps = attributions.detach().sum(1) if fits and attributions.dim() == 4 else attributions
    if not fits or tuple(maps.shape) != size:
        found = list(attributions.shape) if isinstance(attributions, Tensor) else type(attributions).__name__
        raise ValueError(f"the attributions are {found} for images {list(inputs.shape)}; give a map for each of them")
    if not bool(maps.isfinite().all()):
        raise ValueError("the attributions must be finite, and hold NaN or infinity")
    return maps.detach()


def _as_picture(maps: Tensor) -> np.ndarray:
    """Return positive parts scaled to 0..1, as the package has its maps."""
    return scaled_positive(maps).float().cpu().numpy()
