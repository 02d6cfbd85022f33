"""Perturbation curves: outputs of a network while features of its input are removed step by step.

All metrics that remove or keep features measure them here, in one pass for any
number of series: features are ranked once, the unperturbed and the fully
removed inputs are shared, and masks are computed from ranks in batches.
Metrics are pure functions of the curves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from xai_align._tools.checks import check_finite, check_integer
from xai_align._tools.model_state import check_evaluation_mode
from xai_align._tools.progress import progress_bar
from xai_align._tools.replica import Replica
from xai_align._tools.thread_state import restores_thread_state
from xai_align.features.hidden_layers import LayerWatch, Pathways
from xai_align.features.resolve_layer import Layers, layer_names
from xai_align.perturbation.network import Activation, Network
from xai_align.perturbation.ranking import position_scores
from xai_align.perturbation.series import TENTHS, Order, Series
from xai_align.perturbation.window import Window
from xai_align.pinet.input_checks import forward_arguments

#: Default batch sizes of the network: small enough for a CPU's cache, large enough to fill a GPU.
BATCH_ON_CPU, BATCH_ON_GPU = 6, 128
#: Number of examples whose ranks, fills and layers are held at once.
EXAMPLES_AT_ONCE = 16


@dataclass(frozen=True)
class Curve:
    """Outputs of the network along one series.

    Attributes:
        fractions: ``[F]``, float64: the shares of the features that were removed.
        clean: ``[N, K]``: outputs for the unperturbed inputs; probabilities unless ``activation`` is None.
        masked: ``[N, F, K]``: outputs with these shares removed; NaN for an example with a constant map.
        activation: the function from logits to probabilities.
        scores: ``[N, P]``: the features' scores, most relevant first (series of order "single" only).
        pathways: deviations of hidden layers, if they were recorded.

    Example::

        curve = perturbation_curve(model, images, images.abs(), fractions=(0.1, 0.5))
        curve.clean.shape, curve.masked.shape  # [2, 1000], [2, 2, 1000]
    """

    fractions: Tensor
    clean: Tensor
    masked: Tensor
    activation: Activation = "softmax"
    scores: Tensor | None = field(default=None, repr=False)
    pathways: Pathways | None = field(default=None, repr=False)


@restores_thread_state
def perturbation_curve(
    forward_func: Callable[..., Tensor],
    inputs: Tensor,
    attributions: Tensor,
    *,
    fractions: Sequence[float] = TENTHS,
    order: Order = "morf",
    baselines: Any = 0.0,
    feature_mask: Tensor | None = None,
    grid: tuple[int, int] | None = None,
    **options: Any,
) -> Curve:
    """Compute the curve of one series; see :func:`perturbation_curves` for further options.

    Args:
        forward_func: gives logits ``[N, K]``.
        inputs: ``[N, D]``, ``[N, L, C]`` (tokens) or ``[N, C, H, W]``.
        attributions: in the inputs' shape, or one score for each position.
        fractions: shares of the features to remove, in [0, 1]; ``floor(fraction * P)`` features are removed.
        order: which features are removed first; see :class:`Series`.
        baselines: replacement of removed features: a number, "mean", "blur", "noise",
            "uniform", "noisy_linear", a tensor, a function of the inputs, or an imputer.
        feature_mask: integer labels of regions that are removed as a whole, e.g. superpixels.
        grid: rows and columns of a grid whose cells are the regions.
        **options: as in :func:`perturbation_curves`.

    Example::

        curve = perturbation_curve(model, images, images.abs(), fractions=(0.1, 0.5), baselines="blur")
        curve.masked[:, :, 281]  # [2, 2], probability of class 281 with 10 % and 50 % of the pixels blurred
    """
    series = Series(baselines, order, tuple(map(float, fractions)), grid)
    return perturbation_curves(forward_func, inputs, attributions, [series], feature_mask=feature_mask, **options)[0]


@restores_thread_state
def perturbation_curves(
    forward_func: Callable[..., Tensor],
    inputs: Tensor,
    attributions: Tensor,
    series: Sequence[Series],
    *,
    feature_mask: Tensor | None = None,
    layers: Layers | None = None,
    activation: Activation = "auto",
    additional_forward_args: Any = None,
    internal_batch_size: int | None = None,
    autocast: torch.dtype | None = None,
    show_progress: bool = False,
) -> list[Curve]:
    """Compute the curves of several series in one pass.

    Args:
        forward_func: gives logits ``[N, K]``; an ``nn.Module`` must be in eval mode.
        inputs: ``[N, D]``, ``[N, L, C]`` (tokens) or ``[N, C, H, W]``.
        attributions: in the inputs' shape, or one score for each position.
        series: the series to measure.
        feature_mask: integer labels of regions, for series without a grid.
        layers: names of the modules to record, for series that record layers; None: the stages that a
            plugin names.
        activation: the function from logits to probabilities.
        additional_forward_args: further arguments; tensors of the batch's length are split with it.
        internal_batch_size: number of perturbed inputs in one forward pass.
        autocast: run the network, and nothing else, in this precision, e.g. ``torch.bfloat16``.
        show_progress: show a progress bar.

    Returns:
        One :class:`Curve` for each series.

    Raises:
        ValueError: shapes, fills, fractions or layers don't fit, values are not finite, the model is
            in train mode, or its output is not ``[N, K]``.

    Example::

        series = [Series("blur", order) for order in ("morf", "lerf")]
        morf, lerf = perturbation_curves(model, images, images.abs(), series)
    """
    parts: list[list[Curve]] = []
    walk_curves(
        lambda rows, curves: parts.append(curves),
        forward_func,
        inputs,
        attributions,
        series,
        feature_mask=feature_mask,
        layers=layers,
        activation=activation,
        additional_forward_args=additional_forward_args,
        internal_batch_size=internal_batch_size,
        autocast=autocast,
        show_progress=show_progress,
    )
    return [_joined(several) for several in zip(*parts, strict=True)]


@restores_thread_state
def walk_curves(
    consume: Callable[[list[int], list[Curve]], None],
    forward_func: Callable[..., Tensor],
    inputs: Tensor,
    attributions: Tensor,
    series: Sequence[Series],
    *,
    feature_mask: Tensor | None = None,
    layers: Layers | None = None,
    activation: Activation = "auto",
    additional_forward_args: Any = None,
    internal_batch_size: int | None = None,
    autocast: torch.dtype | None = None,
    show_progress: bool = False,
) -> None:
    """Compute :func:`perturbation_curves` in chunks of examples: ``consume(rows, curves)`` is called for each chunk.

    A consumer that keeps only scores needs constant memory for any number of examples.
    """
    _check(forward_func, inputs, internal_batch_size)
    scores = position_scores(attributions, inputs).to(inputs.device)
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        watch = None
        names = layer_names(forward_func, layers)
        if any(s.layers for s in series):
            if not isinstance(forward_func, nn.Module):
                raise TypeError(f"hidden layers need the torch.nn.Module itself, got {type(forward_func).__name__}")
            forward_func = Replica(forward_func).module
            watch = LayerWatch.on(forward_func, names)
        bar = stack.enter_context(progress_bar("perturbing", len(inputs), shown=show_progress, timed="example"))
        network = Network(
            forward_func,
            forward_arguments(additional_forward_args),
            len(inputs),
            activation,
            autocast,
            watch,
            internal_batch_size or (BATCH_ON_CPU if inputs.device.type == "cpu" else BATCH_ON_GPU),
        )
        for first in range(0, len(inputs), EXAMPLES_AT_ONCE):
            rows = list(range(first, min(first + EXAMPLES_AT_ONCE, len(inputs))))
            some = slice(first, first + len(rows))
            mask = feature_mask[some] if feature_mask is not None and _is_batch(feature_mask, scores) else feature_mask
            window = Window(network, inputs[some], scores[some], series, mask, torch.tensor(rows).to(inputs.device))
            consume(rows, _curves_of(window, series))
            bar.advance(len(rows))


def _curves_of(window: Window, series: Sequence[Series]) -> list[Curve]:
    watch, activation = window.network.watch, window.network.activation
    return [
        Curve(
            torch.tensor(one.fractions, dtype=torch.float64),
            window.clean,
            window.outputs(one),
            activation,
            window.rankings[one.grid].scores if one.order == "single" else None,
            Pathways(watch.names, window.deviations(one)) if one.layers and watch is not None else None,
        )
        for one in series
    ]


def _joined(several: Sequence[Curve]) -> Curve:
    first = several[0]
    scores = None
    if first.scores is not None:
        most = max(part.scores.shape[1] for part in several if part.scores is not None)
        padded = [
            nn.functional.pad(part.scores, (0, most - part.scores.shape[1]), value=float("nan"))
            for part in several
            if part.scores is not None
        ]
        scores = torch.cat(padded)
    pathways = None
    if first.pathways is not None:
        values = torch.cat([part.pathways.values for part in several if part.pathways is not None])
        pathways = Pathways(first.pathways.layers, values)
    return Curve(
        first.fractions,
        torch.cat([part.clean for part in several]),
        torch.cat([part.masked for part in several]),
        first.activation,
        scores,
        pathways,
    )


def _is_batch(feature_mask: Tensor, scores: Tensor) -> bool:
    return isinstance(feature_mask, Tensor) and feature_mask.dim() >= scores.dim() and len(feature_mask) == len(scores)


def _check(forward_func: Any, inputs: Any, internal_batch_size: int | None) -> None:
    if not isinstance(inputs, Tensor):
        raise TypeError(f"the inputs are a {type(inputs).__name__}; give one tensor [N, ...]")
    if inputs.dim() < 2 or not len(inputs):
        raise ValueError(f"the inputs have shape {list(inputs.shape)}; give at least one example, [N, ...]")
    check_finite("the inputs", inputs)
    if internal_batch_size is not None:
        check_integer("internal_batch_size", internal_batch_size)
    if isinstance(forward_func, nn.Module):
        check_evaluation_mode(forward_func)
