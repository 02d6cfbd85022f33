r"""The exact readout split by mixed channels: an answer as a sum over prototypes.

With ``beta = d answer / dz`` of the exact readout at the layer (the head's weights where it is affine, the frozen gates
elsewhere), ``answer = sum_p beta[p] . z[p] + bias``. For any invertible ``U``

    beta . z = (U^-T beta) . (U z) = sum_k beta^_k z^_k,

so that a channel's share is ``sum_p beta^_k[p] z^_k[p]``, shares and bias sum to the answer, and the sum over channels
at a position, the map of the readout, does not depend on ``U``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from xai_align._tools.checks import check_integer
from xai_align._tools.images import check_images
from xai_align._tools.thread_state import restores_thread_state
from xai_align.features.cut_network import as_raster
from xai_align.features.unwrapping import network_of, unwrapped
from xai_align.pinet.completeness import CompletenessError
from xai_align.pinet.input_checks import check_inputs, check_model
from xai_align.pinet.readout import read_out
from xai_align.pinet.rounding import wide
from xai_align.prototypes.fitting_space import space_of
from xai_align.prototypes.layer_maps import LayerMaps
from xai_align.prototypes.record import Prototypes

#: Largest difference between the shares' sum and the answer, relative to the size of the terms.
TOLERANCE = 1e-5


@dataclass(frozen=True, kw_only=True)
class ChannelShares:
    """Shares of mixed channels in an answer: ``answer = shares.sum(1) + prefix + around + bias``.

    Attributes:
        answer: ``[N]``, the question's function of the logits.
        shares: ``[N, D]``, in units of the answer.
        contributions: ``[N, D, h, w]``; ``contributions.sum((2, 3)) == shares``, and ``contributions.sum(1)`` is the
            readout's map, whatever the matrix.
        maps: ``[N, D, h, w]``, the mixed maps ``U z``.
        prefix: ``[N]``, the share of tokens without a place, such as class tokens.
        around: ``[N]``, evidence that does not pass through the layer.
        bias: ``[N]``.
        completeness_error: ``[N]``, the sum minus the answer, in float64 where the device supports it.
        kind: "local": a channel set to 0 lowers the answer by its share; "frozen": with the gates of this input held.
        logits: ``[N, ...]``.

    Example::

        found = fit_prototypes(model, list(images), "conv2", prototypes=2)
        shares = channel_shares(model, images, 281, found)
        shares.shares.sum(1) + shares.prefix + shares.around + shares.bias  # [2], equals shares.answer
        shares.strongest(3)  # the three channels with the largest shares
    """

    answer: Tensor
    shares: Tensor
    contributions: Tensor = field(repr=False)
    maps: Tensor = field(repr=False)
    prefix: Tensor
    around: Tensor
    bias: Tensor
    completeness_error: Tensor
    kind: Literal["local", "frozen"]
    logits: Tensor = field(repr=False)

    def scores(self, *, positive_only: bool = False) -> Tensor:
        """Return ``[N, D]``, a score of each channel.

        Args:
            positive_only: as published, ``A'_yk ReLU(v_k)`` with ``v_k`` the mean of the mixed map: 0 where that is
                negative. These do not sum to the answer. False: :attr:`shares`, which do.
        """
        return self.shares * (self.maps.sum((2, 3)) > 0) if positive_only else self.shares

    def strongest(self, count: int, *, positive_only: bool = False) -> Tensor:
        """Return ``[N, count]``, the channels with the largest scores: evidence for the answer, the largest first.

        Args:
            count: number of channels; all, if there are fewer.
            positive_only: see :meth:`scores`.

        Raises:
            ValueError: the count is not positive.
        """
        count = min(check_integer("count", count), self.shares.shape[1])
        scores = self.scores(positive_only=positive_only)
        return scores.sort(dim=1, descending=True, stable=True).indices[:, :count]

    def positions(self) -> Tensor:
        """Return ``[N, D]``, where each channel is strongest, or lowest if its sum is negative, counted row by row."""
        flat = self.maps.flatten(2)
        sign = torch.where(flat.sum(2, keepdim=True) < 0, -1, 1)
        return (sign * flat).argmax(2)

    def signs(self) -> Tensor:
        """Return ``[N, D]``, 1, or -1 where the channel's sum over the map is negative: the sign of its prototypes."""
        return torch.where(self.maps.sum((2, 3)) < 0, -1, 1)


@restores_thread_state
def channel_shares(
    model: nn.Module, images: Tensor, question: Any, prototypes: Prototypes, *, output: str | int | None = None
) -> ChannelShares:
    """Return the share of each mixed channel in the answer to a question, by the exact readout at the layer.

    Args:
        model: the network that the prototypes were fitted to, in eval mode.
        images: ``[N, C, H, W]``, in the size of the fit.
        question: a :class:`~xai_align.Question`, one per example, or any target that Captum accepts.
        prototypes: the fitted prototypes.
        output: which of the model's outputs are the logits; None: that of the fit.

    Raises:
        CompletenessError: the shares do not add up.
        TargetError: the question names a class that the output does not have.
        ValueError: the prototypes are of another network, layer or size, or inputs are not suitable.

    Example::

        found = fit_prototypes(model, list(images), "conv2", prototypes=2)
        channel_shares(model, images, Question.why_not(281, 282), found).shares  # [2, 8]
    """
    network, own = network_of(model)
    check_model(network)
    check_images("the inputs", images, finite=False)
    check_inputs(network, (images,))
    space, _ = space_of(network, prototypes, images, own)
    readout = read_out(
        unwrapped(model)[0], images, question, space, output=prototypes.output if output is None else output
    )
    if not isinstance(readout.contributions, Tensor) or not isinstance(readout.slopes, Tensor):
        raise ValueError(f"the readout at '{space.layer}' has no coefficients of one tensor; name another layer")
    size = (images.shape[-2], images.shape[-1])
    maps = LayerMaps(network, space)(images)
    slopes, plain = (as_raster(one, space, size)[0] for one in (readout.slopes, readout.contributions))
    matrix, inverse = prototypes.matrix.to(maps.device), prototypes.inverse.to(maps.device)
    mixed = torch.einsum("ndhw,kd->nkhw", wide(maps), wide(matrix))
    # beta^ = U^-T beta
    turned = torch.einsum("ndhw,dk->nkhw", wide(slopes), inverse.to(mixed.dtype))
    contributions = mixed * turned
    shares = contributions.sum((2, 3))
    parts = [wide(one) for one in (readout.prefix, readout.around, readout.bias)]
    error = shares.sum(1) + torch.stack(parts).sum(0) - wide(readout.answer)
    scale = wide(plain).abs().sum((1, 2, 3)) + torch.stack([one.abs() for one in (*parts, wide(readout.answer))]).sum(0)
    if bool((error.abs() > TOLERANCE * scale).any()):
        raise CompletenessError(
            f"shares and bias differ from the answer by up to {float(error.abs().max()):.3g}: the layer's output "
            "differs between two passes on the same images; use a network without randomness in eval mode"
        )
    return ChannelShares(
        answer=readout.answer,
        shares=shares.to(readout.answer.dtype),
        contributions=contributions.to(maps.dtype),
        maps=mixed.to(maps.dtype),
        prefix=readout.prefix,
        around=readout.around,
        bias=readout.bias,
        completeness_error=error,
        kind=readout.kind,
        logits=readout.logits,
    )
