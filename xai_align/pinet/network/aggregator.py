"""The final sum of a PiNet: ``logit_k = a_k + s_k * sum(pi_k * z_k)``."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from xai_align.pinet.network.readable_features import Seen
from xai_align.pinet.network.second_look import SecondLook

#: Map from the learned ``b`` to a scale ``s >= 0``. "one": no learned scale, the sum is the answer.
Scale = Literal["square", "softplus", "one"]
#: Whether a learned constant ``a`` is added to the sum.
Bias = Literal["learned", "zero"]


class Aggregator(nn.Module):
    """Scaled sum ``logit_k = a_k + s_k * sum over c, h, w of pi * z``, class by class.

    ``s_k = unit * b_k^2 / (h * w)`` (or ``softplus``), so that a larger sum always
    means more evidence for the class. The paper has ``s = b^2`` on a sum;
    a mean with a fixed ``unit`` is the same function, starts at ``b = 1`` for
    images of any size, and is learned at the same relative speed.

    Args:
        num_classes: ``K``.
        scale: the map from ``b`` to ``s``; ``"one"``: ``s = 1``, a plain sum, as for areas.
        bias: ``"learned"``, or ``"zero"`` for none.
        unit: the initial scale of the mean.
        initial_bias: the initial ``a``, a number or ``[K]``.

    Source: Lobet & Chiaromonte 2026 (arXiv 2601.04378).

    Example::

        from xai_align.pinet.network.readable_features import Ones

        pi = torch.rand(2, 5, 1, 8, 8)
        look = Aggregator(5)(pi, Ones()(images, [], (8, 8)))
        look.logits  # [2, 5]: look.scale * pi.sum((2, 3, 4)) + look.bias
    """

    unit: Tensor

    def __init__(
        self,
        num_classes: int,
        *,
        scale: Scale = "square",
        bias: Bias = "learned",
        unit: float = 1.0,
        initial_bias: float | Tensor = 0.0,
    ) -> None:
        super().__init__()
        if scale not in get_args(Scale) or bias not in get_args(Bias):
            raise ValueError(
                f"scale={scale!r}, bias={bias!r}; scale is one of {get_args(Scale)}, bias one of {get_args(Bias)}"
            )
        self.num_classes = num_classes
        self.kind: Scale = scale
        self.register_buffer("unit", torch.tensor(float(unit)))
        # softplus(b) == 1 at b = log(e - 1)
        at_one = math.log(math.e - 1) if scale == "softplus" else 1.0
        self.b = nn.Parameter(torch.full((num_classes,), at_one)) if scale != "one" else None
        start = torch.as_tensor(initial_bias, dtype=torch.get_default_dtype()).detach()
        self.a = nn.Parameter(torch.zeros(num_classes) + start) if bias == "learned" else None

    def forward(self, pi: Tensor, seen: Seen) -> SecondLook:
        """Return the second look for coefficients ``pi``, ``[N, K or 1, C or 1, h, w]``, and readable features."""
        # few numbers: computed in the precision of pi, even if the parameters are in half precision
        s = self.scale(pi.shape[-2] * pi.shape[-1]).to(pi.dtype)
        a = (torch.zeros_like(s) if self.a is None else self.a).to(pi.dtype)
        return seen.look(logits=a + s * seen.total(pi), coefficients=pi, scale=s, bias=a)

    def scale(self, positions: int) -> Tensor:
        """Return ``s``, ``[K]``, for maps with this number of positions."""
        if self.b is None:
            return self.unit.new_ones(self.num_classes)
        b = self.b.square() if self.kind == "square" else nn.functional.softplus(self.b)
        return self.unit * b / positions
