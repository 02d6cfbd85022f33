"""A readout in the shapes of the inputs: its contributions, or a PiNet's coefficients."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, get_args

from torch import Tensor
from torch.nn.functional import interpolate

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
            f"a readout at '{readout.feature_space.layer}' has no place in {len(inputs)} inputs; "
            'read out at layer="input", or use LayerPiNetAttribution'
        )
    if readout.coefficients is not None and parts[0].shape[1:] == inputs[0].shape[1:]:
        return (parts[0].contiguous(),)  # a PiNet whose z is these pixels
    return (readout.on_images(inputs[0].shape[1]),)


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
