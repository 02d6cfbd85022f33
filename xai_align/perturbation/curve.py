"""Perturbation curves: outputs of a network while features of its input are removed step by step.

All metrics that remove or keep features measure them here, in one pass for any
number of perturbations: features are ranked once, the unperturbed and the fully
removed inputs are shared, and masks are computed from ranks in batches.
Metrics are pure functions of the curves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from xai_align._tools.batches import check_rows
from xai_align._tools.checks import check_choice, check_finite, check_integer
from xai_align._tools.memory_format import fastest_format
from xai_align._tools.model_state import check_evaluation_mode
from xai_align._tools.progress import progress_bar
from xai_align._tools.replica import Replica
from xai_align._tools.thread_state import restores_thread_state
from xai_align.features.hidden_layers import LayerDeviations, LayerHooks
from xai_align.features.resolve_layer import Layers, layer_names
from xai_align.features.stage_layers import layers_to_record
from xai_align.perturbation.dropping_network import drops, with_patches_dropped
from xai_align.perturbation.fills import check_fill
from xai_align.perturbation.network import Activation, Network
from xai_align.perturbation.ranking import check_feature_mask, position_scores
from xai_align.perturbation.runner import PerturbationRunner
from xai_align.perturbation.spec import TENTHS, Order, PerturbationSpec
from xai_align.pinet.input_checks import check_independent, forward_arguments
from xai_align.question import QuestionModel

#: Default batch sizes of the network: small enough for a CPU's cache, large enough to fill a GPU.
BATCH_ON_CPU, BATCH_ON_GPU = 6, 128
#: Number of examples whose ranks, fills and layers are held at once.
EXAMPLES_AT_ONCE = 16


@dataclass(frozen=True)
class Curve:
    """Outputs of the network along one perturbation.

    Attributes:
        fractions: ``[F]``, float64: the shares of the features that were removed.
        clean: ``[N, K]``: outputs for the unperturbed inputs; probabilities unless ``activation`` is None.
        masked: ``[N, F, K]``: outputs with these shares removed; NaN for an example with a constant map.
        activation: the function from logits to probabilities.
        scores: ``[N, P]``: the features' scores, most relevant first (order "single" only).
        deviations: deviations of hidden layers, if they were recorded.
        empty: ``[N, K]``: outputs with everything removed (activation "relative" only).

    Example::

        curve = perturbation_curve(model, images, images.abs(), fractions=(0.1, 0.5))
        curve.clean.shape, curve.masked.shape  # [2, 1000], [2, 2, 1000]
    """

    fractions: Tensor
    clean: Tensor
    masked: Tensor
    activation: Activation = "softmax"
    scores: Tensor | None = field(default=None, repr=False)
    deviations: LayerDeviations | None = field(default=None, repr=False)
    empty: Tensor | None = field(default=None, repr=False)

    @property
    def has_probabilities(self) -> bool:
        """Whether the outputs are probabilities."""
        return self.activation not in (None, "relative")


def perturbation_curve(
    forward_func: Callable[..., Tensor],
    inputs: Tensor,
    attributions: Tensor,
    *,
    fractions: Sequence[float] = TENTHS,
    order: Order = "morf",
    baselines: Any = 0.0,
    grid: tuple[int, int] | None = None,
    **options: Any,
) -> Curve:
    """Compute the curve of one perturbation.

    Args:
        forward_func: gives logits ``[N, K]``.
        inputs: ``[N, D]``, ``[N, L, C]`` (tokens) or ``[N, C, H, W]``.
        attributions: in the inputs' shape, or one score for each position.
        fractions: shares of the features to remove, in [0, 1]; ``floor(fraction * P)`` features are removed.
        order: which features are removed first; see :class:`PerturbationSpec`.
        baselines: replacement of removed features: a number, "mean", "blur", "noise",
            "uniform", "noisy_linear", a tensor, a function of the inputs, or an imputer.
        grid: rows and columns of a grid whose cells are the regions.
        **options: as in :func:`iterate_curves`, e.g. ``feature_mask``.

    Example::

        curve = perturbation_curve(model, images, images.abs(), fractions=(0.1, 0.5), baselines="blur")
        curve.masked[:, :, 281]  # [2, 2], probability of class 281 with 10 % and 50 % of the pixels blurred
    """
    spec = PerturbationSpec(baselines, order, tuple(map(float, fractions)), grid)
    return perturbation_curves(forward_func, inputs, attributions, [spec], **options)[0]


def perturbation_curves(
    forward_func: Callable[..., Tensor],
    inputs: Tensor,
    attributions: Tensor,
    specs: Sequence[PerturbationSpec],
    **options: Any,
) -> list[Curve]:
    """Compute the curves of several perturbations in one pass: one :class:`Curve` for each.

    Arguments, options and errors as in :func:`iterate_curves`.

    Example::

        specs = [PerturbationSpec("blur", order) for order in ("morf", "lerf")]
        morf, lerf = perturbation_curves(model, images, images.abs(), specs)
    """
    parts = [curves for _, curves in iterate_curves(forward_func, inputs, attributions, specs, **options)]
    return [_joined(several) for several in zip(*parts, strict=True)]


def iterate_curves(
    forward_func: Callable[..., Tensor],
    inputs: Tensor,
    attributions: Tensor,
    specs: Sequence[PerturbationSpec],
    *,
    feature_mask: Tensor | None = None,
    layers: Layers | None = None,
    activation: Activation = "auto",
    additional_forward_args: Any = None,
    internal_batch_size: int | None = None,
    autocast: torch.dtype | None = None,
    show_progress: bool = False,
) -> Iterator[tuple[slice, list[Curve]]]:
    """Yield the rows and the curves of a few examples at a time.

    Code that keeps only scores needs constant memory for any number of examples.

    Args:
        forward_func: gives logits ``[N, K]``; an ``nn.Module`` must be in eval mode.
        inputs: ``[N, D]``, ``[N, L, C]`` (tokens) or ``[N, C, H, W]``.
        attributions: in the inputs' shape, or one score for each position.
        specs: the perturbations to measure.
        feature_mask: integer labels of regions that are removed as a whole, e.g. superpixels, for specs without a grid.
        layers: names of the modules to record, for specs that record layers; None:
            :func:`~xai_align.features.stage_layers.layers_to_record`.
        activation: the function from logits to probabilities; "relative": raw outputs, and those for the empty input.
        additional_forward_args: further arguments; tensors of the batch's length are split with it.
        internal_batch_size: number of perturbed inputs in one forward pass.
        autocast: run the network, and nothing else, in this precision, e.g. ``torch.bfloat16``.
        show_progress: show a progress bar.

    Raises:
        ValueError: shapes, fills, fractions or layers don't fit, values are not finite, the model is
            in train mode, or its output is not ``[N, K]``.

    Example::

        for rows, (curve,) in iterate_curves(model, images, images.abs(), [PerturbationSpec("blur")]):
            curve.masked  # [n, 9, 1000], of images[rows]
    """
    _check(forward_func, inputs, internal_batch_size)
    scores = position_scores(attributions, inputs).to(inputs.device)
    hooks, extra = None, forward_arguments(additional_forward_args)
    asked = forward_func.model if isinstance(forward_func, QuestionModel) else forward_func
    names = layer_names(forward_func, layers)
    if any(drops(spec) for spec in specs):
        forward_func = with_patches_dropped(forward_func, inputs, specs, extra)
    if any(spec.layers for spec in specs):
        if not isinstance(forward_func, nn.Module):
            raise TypeError(f"hidden layers need the torch.nn.Module itself, got {type(forward_func).__name__}")
        names = names or list(layers_to_record(forward_func, inputs, extra)) or None
        forward_func = Replica(forward_func).module
        hooks = LayerHooks.on(forward_func, names)
    if activation not in (None, "relative"):
        check_choice("activation", activation, ("auto", "softmax", "sigmoid"))
    network = Network(
        forward_func,
        extra,
        len(inputs),
        activation,
        autocast,
        hooks,
        internal_batch_size or (BATCH_ON_CPU if inputs.device.type == "cpu" else BATCH_ON_GPU),
        _memory_format(asked, inputs, extra, autocast),
    )
    if feature_mask is not None:
        check_feature_mask(feature_mask, scores)
    for spec in specs:
        check_fill(spec.fill, inputs)
    check_rows(extra, network.batch_size, len(inputs))
    with progress_bar("perturbing", len(inputs), shown=show_progress, timed="example") as bar:
        for first in range(0, len(inputs), EXAMPLES_AT_ONCE):
            rows = slice(first, min(first + EXAMPLES_AT_ONCE, len(inputs)))
            mask = feature_mask[rows] if feature_mask is not None and _is_batch(feature_mask, scores) else feature_mask
            numbers = torch.arange(rows.start, rows.stop, device=inputs.device)
            curves = _curves_of(network, inputs[rows], scores[rows], specs, mask, numbers)
            if not first and curves:
                _check_repeats(network, inputs[:1], curves[0].clean[:1])
            yield rows, curves
            bar.advance(rows.stop - rows.start)


@restores_thread_state
@torch.no_grad()
def _check_repeats(network: Network, first: Tensor, clean: Tensor) -> None:
    """Raise if the network answers differently about the first example beside another one: itself, reversed."""
    if network.autocast is None:  # whose rounding is larger than what is compared
        again = network(torch.cat([first, first.flip(-1)]), torch.zeros(2, dtype=torch.long, device=first.device))
        check_independent(clean, again[:1])


@restores_thread_state
def _memory_format(
    forward_func: Callable[..., Tensor], inputs: Tensor, extra: tuple[Any, ...], autocast: torch.dtype | None
) -> torch.memory_format:
    """Return the memory format in which the network is fastest in this precision."""
    with torch.autocast(inputs.device.type, dtype=autocast, enabled=autocast is not None):
        return fastest_format(forward_func, inputs, extra, context=autocast)


@restores_thread_state
def _curves_of(
    network: Network,
    inputs: Tensor,
    scores: Tensor,
    specs: Sequence[PerturbationSpec],
    feature_mask: Tensor | None,
    rows: Tensor,
) -> list[Curve]:
    """Return the curves of a few examples, which have these rows in the caller's batch."""
    with torch.no_grad():
        runner = PerturbationRunner(network, inputs, scores, specs, feature_mask, rows)
        return [
            Curve(
                torch.tensor(spec.fractions, dtype=torch.float64),
                runner.clean,
                runner.outputs(spec),
                network.activation,
                runner.rankings[spec.grid].scores if spec.order == "single" else None,
                LayerDeviations(network.hooks.names, runner.deviations(spec))
                if spec.layers and network.hooks is not None
                else None,
                runner.empty(spec),
            )
            for spec in specs
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
    deviations = None
    if first.deviations is not None:
        values = torch.cat([part.deviations.values for part in several if part.deviations is not None])
        deviations = LayerDeviations(first.deviations.layers, values)
    return Curve(
        first.fractions,
        torch.cat([part.clean for part in several]),
        torch.cat([part.masked for part in several]),
        first.activation,
        scores,
        deviations,
        None if first.empty is None else torch.cat([part.empty for part in several if part.empty is not None]),
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
    check_evaluation_mode(forward_func)
