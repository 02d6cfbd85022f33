"""A readout in the shapes of the inputs: its contributions, or a PiNet's coefficients."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, get_args

from torch import Tensor, nn
from torch.nn.functional import interpolate

from xai_align._tools.batches import rows_of
from xai_align.features.paired_axes import paired_axes, spread_over
from xai_align.pinet.input_checks import forward_arguments
from xai_align.pinet.mixture import MixedReadout
from xai_align.pinet.records import as_tuple

if TYPE_CHECKING:
    from xai_align.pinet.records import Readout

#: "contribution": terms that sum to the answer. "coefficient": a trained PiNet's detection map ``pi``.
Kind = Literal["contribution", "coefficient"]


def on_inputs(kind: Kind) -> Callable[[Readout, tuple[Tensor, ...]], tuple[Tensor, ...]]:
    """Return the function that maps a readout to the shapes of the inputs.

    Raises:
        ValueError: there is no such kind.
    """
    ways = {"contribution": contributions_on_inputs, "coefficient": coefficients_on_inputs}
    if kind not in ways:
        raise ValueError(f"kind={kind!r}; it is one of {', '.join(map(repr, get_args(Kind)))}")
    return ways[kind]


def contributions_on_inputs(readout: Readout, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return contributions spread over the pixels and channels of each cell, with their sum preserved."""
    parts = as_tuple(readout.contributions)
    if readout.feature_space.layer == "input" and not readout.placed:
        return tuple(part.contiguous() for part in parts)
    if len(inputs) > 1:
        raise ValueError(
            f"a readout at '{readout.feature_space.layer}' has no position in {len(inputs)} inputs; "
            'read out at layer="input", or use LayerPiNetAttribution'
        )
    if readout.coefficients is not None and parts[0].shape[1:] == inputs[0].shape[1:]:
        return (parts[0].contiguous(),)  # a PiNet whose z is these pixels
    if readout.image_size is None:
        raise ValueError(
            f"a readout at '{readout.feature_space.layer}' has no position in inputs of shape {list(inputs[0].shape)}; "
            'read out at layer="input", or take the contributions as they are (LayerPiNetAttribution)'
        )
    return (readout.on_images(inputs[0].shape[1]),)


def contributions_on_sequences(
    readout: Readout, model: nn.Module, x: Tensor, additional_forward_args: Any = None
) -> Tensor:
    """Return contributions in the shape of signals ``[N, C, L]`` or volumes ``[N, C, D, H, W]``, with the same sum.

    Args:
        readout: a readout at a layer.
        model: the network, of which a copy is run to find the axes of the layer's output.
        x: the inputs.
        additional_forward_args: further arguments of the model.

    Raises:
        ValueError: no axis of the layer's output runs along one of the inputs'.
    """
    extra = rows_of(forward_arguments(additional_forward_args), slice(0, 1), len(x))
    parts = zip(readout.weights, readout.parts, strict=True) if isinstance(readout, MixedReadout) else [(1.0, readout)]
    placed: Tensor | None = None
    for weight, part in parts:
        space = part.feature_space
        if space.layer == "input":
            spread = [as_tuple(part.contributions)[0]]
        else:
            pairs = paired_axes(model, space, x[:1], extra)
            cells = zip(as_tuple(part.contributions), pairs, strict=True)
            spread = [spread_over(one, axes, x.shape, space.prefix_tokens * (one.dim() == 3)) for one, axes in cells]
        for one in spread:
            placed = weight * one if placed is None else placed + weight * one
    assert placed is not None
    return placed


def coefficients_on_inputs(readout: Readout, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return coefficients, resized if they are coarser, per input channel or averaged over channels.

    Raises:
        ValueError: the network is not a trained PiNet.
    """
    if readout.coefficients is None:
        raise ValueError(
            f"the readout at '{readout.feature_space.layer}' has no coefficients to show: only a PiNet with a second "
            'look has them, read out in its own features (layer=None); leave out kind="coefficient"'
        )
    pi, (image,) = readout.coefficients, inputs
    if pi.shape[1] != image.shape[1]:
        pi = pi.mean(1, keepdim=True)
    if pi.shape[-2:] != image.shape[-2:]:
        pi = interpolate(pi, image.shape[-2:], mode="bilinear", align_corners=False)
    return (pi.expand(-1, image.shape[1], -1, -1).contiguous(),)
