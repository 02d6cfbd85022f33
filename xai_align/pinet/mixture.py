"""Convex mixtures of exact decompositions of one answer: exact again, and often sharper than each of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from xai_align._tools.sum_keeping import Spread
from xai_align.hookspecs import FeatureSpace
from xai_align.pinet.records import Readout, as_tuple


@dataclass(frozen=True, kw_only=True)
class MixedReadout(Readout):
    """Mixture ``answer = sum_k w_k (sum(contributions_k) + sum(placed_k) + around_k + bias_k)``.

    With ``w_k >= 0`` and ``sum_k w_k = 1``. ``contributions`` and ``placed`` are those of all layers, each times its
    layer's weight; ``bias``, ``around``, ``prefix`` and ``completeness_error`` are weighted sums, and
    ``feature_space`` names all layers.

    Attributes:
        parts: the readout at each layer.
        weights: their weights.

    Example::

        readout = read_out(model, images, 281, ["conv1", "conv2"], weights=[0.25, 0.75])
        readout.map()  # [2, 32, 32]; with readout.bias, sums to readout.answer
        readout.parts[0].map()  # [2, 32, 32], the readout at conv1 alone
    """

    parts: tuple[Readout, ...] = field(repr=False)
    weights: tuple[float, ...]

    @property
    def spread(self) -> Spread:
        """The default spread, "smooth", because cells of several sizes overlap."""
        return "smooth"

    def _map(self, spread: Spread | None) -> Tensor:
        how = self.spread if spread is None else spread
        return _weighted([part._map(how) for part in self.parts], self.weights)


def mixed(parts: Sequence[Readout], weights: Sequence[float]) -> MixedReadout:
    """Return the mixture of readouts of the same answers, with weights that sum to one."""
    first = parts[0]
    pairs = list(zip(parts, weights, strict=True))
    names = [part.feature_space.layer for part in parts]
    return MixedReadout(
        answer=first.answer,
        contributions=tuple(weight * one for part, weight in pairs for one in as_tuple(part.contributions)),
        bias=_weighted([part.bias for part in parts], weights),
        prefix=_weighted([part.prefix for part in parts], weights),
        completeness_error=_weighted([part.completeness_error for part in parts], weights),
        kind="local" if all(part.kind == "local" for part in parts) else "frozen",
        logits=first.logits,
        feature_space=FeatureSpace(
            layer=tuple(one for name in names for one in ((name,) if isinstance(name, str) else name))
        ),
        image_size=first.image_size,
        placed=tuple(weight * one for part, weight in pairs for one in part.placed),
        around=_weighted([part.around for part in parts], weights),
        cut_off=tuple(dict.fromkeys(one for part in parts for one in part.cut_off)),
        gates_flow=any(part.gates_flow for part in parts),
        parts=tuple(parts),
        weights=tuple(weights),
    )


def _weighted(values: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    return torch.stack([weight * value for value, weight in zip(values, weights, strict=True)]).sum(0)
