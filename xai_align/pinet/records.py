"""Record of a readout: ``answer = sum(contributions) + sum(placed) + around + bias``."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from xai_align._tools.callers_level import callers_level
from xai_align._tools.sum_keeping import Spread, resize_keeping_sum
from xai_align.features.spatial import contribution_map, prefix_part
from xai_align.hookspecs import FeatureSpace
from xai_align.pinet.decomposition import Decomposition
from xai_align.pinet.gates.cut_off import CutOff
from xai_align.pinet.rounding import total_of

#: Size of a map's evidence, for and against, in answers or largest logits, beyond which a warning tells of it.
MOST_CANCELLING = 20


@dataclass(frozen=True, kw_only=True)
class Readout:
    """Contribution of every coordinate of a feature space to the answer.

    Attributes:
        answer: ``[N]``, the question's function of the logits.
        contributions: in the shape of the feature space ``z`` (a tuple where ``z`` is several tensors).
        bias: ``[N]``, the rest of the answer: the network's answer at ``z = 0`` with its gates held.
        around: ``[N]``, evidence from the input that bypasses the feature space; 0 where the layer cuts the network
            in two.
        prefix: ``[N]``, the part of ``contributions`` on prefix tokens, which have no position in the image.
        completeness_error: ``[N]``, ``sum(contributions) + sum(placed) + around + bias - answer``, summed in float64
            where the device supports it. The bias is found without the gradient, so this is a check and not an
            identity.
        kind: ``"local"``: removing a position from ``z`` lowers the answer by exactly its contribution;
            ``"frozen"``: the sum is exact with the gates, scales and attention of this input held.
        logits: ``[N, ...]``, the model's output.
        feature_space: the layer that was read out.
        image_size: rows and columns of the input, None if it is not an image.
        placed: maps ``[N, h, w]`` of bias contributions at the positions where they act, one per grid of the
            network (``biases="placed"`` only).
        cut_off: evidence that the network detached from the graph (``detach``, ``item``, ``no_grad`` ...); it is part
            of the bias.
        gates_flow: whether sigmoids and other gates were treated as activations, because no other path leads from the
            feature space to the answer.
        coefficients: a trained PiNet's detection map ``pi``, ``[N, C or 1, h, w]``: of the class asked about, or
            ``sum_k w_k pi_k`` with the question's class weights; a map shared by all classes is unchanged. None
            for other networks.
        slopes: in the shape of ``contributions``: the coefficients ``beta = d answer / dz`` with the gates held, and
            ``contributions == slopes * z``. None where there is no one ``z``: for differences and mixtures, and for a
            PiNet's own sum.

    Example::

        readout = read_out(model, images, 281, "conv2")
        readout.contributions  # [2, 8, 16, 16]
        readout.total + readout.around + readout.bias  # [2], equals readout.answer
        readout.map()  # [2, 32, 32]
        readout.amplification  # [2], how much cancels
    """

    answer: Tensor
    contributions: Tensor | tuple[Tensor, ...] = field(repr=False)
    bias: Tensor
    prefix: Tensor
    completeness_error: Tensor
    kind: Literal["local", "frozen"]
    logits: Tensor = field(repr=False)
    feature_space: FeatureSpace
    image_size: tuple[int, int] | None
    placed: tuple[Tensor, ...] = field(default=(), repr=False)
    coefficients: Tensor | None = field(default=None, repr=False)
    around: Tensor = field(kw_only=True)
    cut_off: tuple[CutOff, ...] = ()
    gates_flow: bool = False
    slopes: Tensor | tuple[Tensor, ...] | None = field(default=None, repr=False)

    @property
    def total(self) -> Tensor:
        """``[N]``: the sum of contributions and placed biases; ``total + around + bias == answer``."""
        return total_of((*as_tuple(self.contributions), *self.placed))

    @property
    def relative_error(self) -> Tensor:
        """``[N]``: the completeness error over the largest of ``|answer|``, ``|bias|`` and ``|answer - bias|``."""
        bias, answer = self.bias.to(self.completeness_error), self.answer.to(self.completeness_error)
        scale = answer.abs().maximum(bias.abs()).maximum((answer - bias).abs())
        return self.completeness_error.abs() / scale.clamp_min(torch.finfo(scale.dtype).tiny)

    @property
    def amplification(self) -> Tensor:
        """``[N]``: ``(sum |contributions| + sum |placed|) / |answer|``; the larger, the more of the terms cancels."""
        size = total_of(tuple(part.abs() for part in (*as_tuple(self.contributions), *self.placed)))
        return size / self.answer.abs().to(size).clamp_min(torch.finfo(size.dtype).tiny)

    @property
    def spread(self) -> Spread:
        """The default spread of cells over pixels: "area"; "smooth" where cells of several sizes overlap."""
        return "smooth" if self.placed else "area"

    def map(self, spread: Spread | None = None) -> Tensor:
        """Return ``[N, H, W]``, each pixel's contribution over all channels.

        ``map.sum() + prefix + around + bias == answer``.

        Args:
            spread: ``"area"``: a coarse cell's contribution is spread evenly over the pixels it covers; ``"smooth"``:
                interpolated between neighbouring cells. Both preserve the sum. None: :attr:`spread`.

        Warns:
            UserWarning: evidence for and against the answer, taken together, is more than :data:`MOST_CANCELLING` times
                as large as the answer and the largest logit: the map is mostly cancellation.

        Raises:
            ValueError: the input is not an image, the feature space has no grid, or there is no such spread.
        """
        found = self._map(spread)
        self._warn_of_cancellation(found)
        return found

    def _map(self, spread: Spread | None) -> Tensor:
        if self.image_size is None:
            raise ValueError("the input is not a batch of images [N, C, H, W]; use Readout.contributions as they are")
        parts = as_tuple(self.contributions)
        cells = [contribution_map(part, self.feature_space, self.image_size) for part in parts]
        if all(one.shape[-2:] == (1, 1) for one in (*cells, *self.placed)):
            warnings.warn(
                f"the map at '{self.feature_space.layer}' has one cell, so it has no positions: give a larger "
                "input or a layer further from the output (feature_space=, layer=)",
                stacklevel=callers_level(),
            )
        how = self.spread if spread is None else spread
        return torch.stack([resize_keeping_sum(one, self.image_size, how) for one in (*cells, *self.placed)]).sum(0)

    def _warn_of_cancellation(self, found: Tensor) -> None:
        logits = self.logits.detach().abs().reshape(len(self.logits), -1).amax(1)
        scale = torch.maximum(self.answer.detach().abs(), logits.to(self.answer))
        cells = found.detach().flatten(1)
        cancelling = cells.abs().sum(1) > MOST_CANCELLING * scale
        if bool(cancelling.any()):
            one = int(cancelling.long().argmax())
            evidence, against = (float(side[one].clamp_min(0).sum()) for side in (cells, -cells))
            layer = self.feature_space.layer
            where = layer if isinstance(layer, str) else ", ".join(layer)
            warnings.warn(
                f"the map at '{where}' is mostly cancellation: {evidence:.4g} for and {against:.4g} against, with an "
                f"answer of {float(self.answer[one]):.4g} (example {one}). It is exact, but hard to interpret; read a "
                'later layer, or use rule="gamma"',
                stacklevel=callers_level(),
            )

    def on_images(self, channels: int, spread: Spread | None = None) -> Tensor:
        """Return ``[N, channels, H, W]``: :meth:`map`, divided equally among the channels of each pixel.

        Raises:
            ValueError: see :meth:`map`.
        """
        return (self.map(spread).unsqueeze(1) / channels).expand(-1, channels, -1, -1).contiguous()


def as_tuple(contributions: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return contributions as a tuple of tensors, even if there is only one."""
    return contributions if isinstance(contributions, tuple) else (contributions,)


def as_readout(
    decomposition: Decomposition, space: FeatureSpace, *, several: bool, image_size: tuple[int, int] | None, local: bool
) -> Readout:
    """Return the record of a decomposition at a feature space; ``several``: contributions are always a tuple."""
    several = several or len(decomposition.contributions) > 1
    slopes = decomposition.slopes
    return Readout(
        answer=decomposition.answer,
        contributions=decomposition.contributions if several else decomposition.contributions[0],
        bias=decomposition.bias,
        prefix=torch.stack([prefix_part(part, space) for part in decomposition.contributions]).sum(0),
        completeness_error=decomposition.error,
        kind="local" if local else "frozen",
        logits=decomposition.logits,
        feature_space=space,
        image_size=image_size,
        placed=decomposition.placed,
        coefficients=decomposition.coefficients,
        around=decomposition.around,
        cut_off=decomposition.cut_off,
        gates_flow=decomposition.mode.gates_flow,
        slopes=slopes if several or slopes is None else slopes[0],
    )
