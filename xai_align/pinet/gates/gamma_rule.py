"""Generalised gamma rule: a layer's value, rewritten with more weight on the terms that agree with its sign.

A unit of a linear or convolution layer is a sum ``z = sum_i z_i`` of terms ``z_i = w_i x_i`` (and a bias). Most of a
unit's terms cancel, and the gate rule passes all of them on, so that a readout early in a network is mostly
noise that cancels. With ``s = sign(z)`` and a strength ``gamma``,

    z_gamma = sum_i (z_i + gamma * s * max(s * z_i, 0))
    value   = stop(z / z_gamma) * z_gamma + bias

is the same value with more weight on agreeing terms: each term has weight ``z / z_gamma``, and an agreeing one
``(1 + gamma) z / z_gamma``. Because ``max(s z_i, 0) = (s z_i + |z_i|) / 2``, with ``A = sum_i |w_i| |x_i|``

    z_gamma = (1 + gamma / 2) z + s * (gamma / 2) A,    |z| <= A,

so ``z / z_gamma`` lies in ``[0, 1 / (1 + gamma)]``: there is no division by a small number, however much cancels. The
sign is that of ``z`` without the bias, as this bound requires. It also makes the rule the same for a batch norm after
the layer and for the same batch norm folded into it: both scale ``z`` and ``A`` alike.

The classifier may have a separate strength. The difference between classes is in its terms, including those against
the class, and a rule that favours one sign there makes the maps of all classes similar.

Sources: Montavon et al. 2019 (the gamma rule), Andeol et al. 2021 (both signs of ``z``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.nn import functional as F

from xai_align.pinet.gates.convolution_rule import CONVOLUTIONS, Geometry, each_way, transposed_convolution
from xai_align.pinet.gates.frozen_gates import FrozenGates, never
from xai_align.pinet.gates.product_rules import product
from xai_align.pinet.gates.rule_registry import Rule

Operation = Callable[..., Any]


def gamma_rules(gamma: float, classifier: float | None = None) -> Mapping[Any, Rule]:
    """Return the rules that override the frozen gates' own, none for ``gamma = 0``, which is the gate rule.

    Args:
        gamma: the additional weight of an agreeing term, 0 or more.
        classifier: the same for the classifier, the last linear or convolution layer that runs (several in a row if all
            have the classes as their units); None: as elsewhere.

    Raises:
        ValueError: it is negative or not finite.
    """
    strengths = Strengths(gamma, gamma if classifier is None else classifier)
    for strength in strengths:
        if not 0 <= strength < float("inf"):
            raise ValueError(f"gamma is {strength}; give a finite number, 0 (the gate rule) or more")
    if strengths == (0, 0):
        return {}
    convolution = partial(_convolution, strengths)
    return {**dict.fromkeys(CONVOLUTIONS, convolution), F.linear: partial(_linear, strengths)}


class Strengths(NamedTuple):
    """Strengths of the gamma rule, of the classifier and of other layers."""

    elsewhere: float
    classifier: float


class GammaLayer:
    """One call of a layer, with its backward pass and its evaluation at another ``x``.

    Args:
        gamma: the strength of the rule; the attribute may be set until the backward pass.
        apply: maps ``(x, w)`` to the layer's value without its bias.
        transpose: maps ``(gradient, w)`` to the transposed map of the gradient.
        weight: ``w``.
    """

    def __init__(
        self,
        gamma: float,
        apply: Callable[[Tensor, Tensor], Tensor],
        transpose: Callable[[Tensor, Tensor], Tensor],
        weight: Tensor,
    ) -> None:
        self._apply, self._transpose = apply, transpose
        self.gamma, self._weight = gamma, weight
        #: ``z / z_gamma`` and ``s``, computed in the backward pass; None where no gradient arrived.
        self._share: Tensor | None = None
        self._sign: Tensor | None = None

    def value(self, x: Tensor) -> Tensor:
        """Return the layer's own ``z``."""
        return self._apply(x, self._weight)

    def back(self, gradient: Tensor, x: Tensor, z: Tensor) -> Tensor:
        """Return the product of a gradient and the derivative of ``stop(z / z_gamma) * z_gamma`` in ``x``."""
        if self.gamma == 0:
            return self._transpose(gradient, self._weight)
        plain, agreeing = self._weights()
        size = z.abs()
        # s * z_gamma = (1 + gamma / 2) |z| + (gamma / 2) A
        whole = self._apply(x.abs(), agreeing).add_(size, alpha=1 + self.gamma / 2)
        self._share = size.div_(whole.clamp_min_(torch.finfo(z.dtype).tiny))  # 0 where all is 0
        self._sign = z.sign()
        shared = gradient * self._share
        to_x = self._transpose(shared, plain)
        return to_x.addcmul_(self._transpose(shared.mul_(self._sign), agreeing), x.sign())

    def at(self, x: Tensor, recorded_x: Tensor, recorded_z: Tensor) -> Tensor:
        """Return ``stop(z / z_gamma) * z_gamma`` at another ``x``, with signs and ``z / z_gamma`` held."""
        if not bool(x.any()):  # as behind a layer at zero whose biases are placed
            return torch.zeros_like(recorded_z)
        if self._share is None or self._sign is None:
            return self.value(x)
        plain, agreeing = self._weights()
        more_of_agreeing = self._apply(x * recorded_x.sign(), agreeing)
        return self._apply(x, plain).addcmul_(self._sign, more_of_agreeing) * self._share

    def _weights(self) -> tuple[Tensor, Tensor]:
        """Return ``(1 + gamma / 2) w`` and ``(gamma / 2) |w|``."""
        return self._weight * (1 + self.gamma / 2), self._weight.abs().mul_(self.gamma / 2)


class GammaFunction(torch.autograd.Function):
    """Layer's own value, with the gradient of the gamma rule."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, found: tuple[Tensor, Callable[[Tensor], Tensor]]) -> Tensor:
        """Return the computed value."""
        value, ctx.back = found  # type: ignore[attr-defined]
        return value

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Return :meth:`GammaLayer.back` of the gradient."""
        return ctx.back(gradient), None


def _convolution(
    strengths: Strengths,
    gates: FrozenGates,
    func: Operation,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    if gates.depends(weight, bias):
        return product(gates, func, input, weight, bias, stride, padding, dilation, groups)
    x, weight, bias = _as_computed(input, weight, bias)
    x = x if x.dim() == weight.dim() else x.unsqueeze(0)
    if isinstance(padding, str):
        x, padding = _padded(x, weight, padding, dilation), 0
    geometry = Geometry.of(weight, stride, padding, dilation, groups)
    layer = GammaLayer(
        strengths.elsewhere,
        lambda x, w: func(x, w, None, *geometry),
        partial(transposed_convolution, shape=x.shape, geometry=geometry),
        weight,
    )
    offset = None if bias is None else bias.view(-1, *[1] * (weight.dim() - 2))
    value = _by_gamma(gates, layer, x, offset, strengths, Units(x.shape[1], len(weight)))
    return value if input.dim() == weight.dim() else value.squeeze(0)


def _linear(
    strengths: Strengths,
    gates: FrozenGates,
    func: Operation,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
) -> Tensor:
    if gates.depends(weight, bias):
        return product(gates, func, input, weight, bias)
    x, weight, bias = _as_computed(input, weight, bias)
    layer = GammaLayer(strengths.elsewhere, func, torch.matmul, weight)
    return _by_gamma(gates, layer, x, bias, strengths, Units(x.shape[-1], len(weight)))


class Units(NamedTuple):
    """Numbers of inputs and outputs of a layer, at one position."""

    before: int
    after: int


def _by_gamma(
    gates: FrozenGates, layer: GammaLayer, x: Tensor, bias: Tensor | None, strengths: Strengths, units: Units
) -> Tensor:
    if not gates.recording:
        recorded: tuple[Tensor, Tensor, GammaLayer] = gates.save(never)
        recorded_x, z, layer = recorded
        # until the replay departs from the recording, the value is the recorded one
        value = layer.at(x, recorded_x, z) if gates.counterfactual else z.clone()
        return value if bias is None else value + bias
    with torch.no_grad():
        z = layer.value(x.detach())
        value = z if bias is None else z + bias
    held = gates.save_for_backward((x, z, layer))
    layers: list[tuple[GammaLayer, Units]] = gates.notes.setdefault(GammaLayer, [])
    layers.append((layer, units))

    def back(gradient: Tensor) -> Tensor:
        # all layers have run when the first gradient arrives
        for one in _classifier(layers):
            one.gamma = strengths.classifier
        layers.clear()
        return layer.back(gradient, *held()[:2])

    return GammaFunction.apply(x, (value, back))


def _classifier(layers: Sequence[tuple[GammaLayer, Units]]) -> list[GammaLayer]:
    """Return the last layer, and those just before it whose units are the same classes."""
    found: list[GammaLayer] = []
    for layer, units in reversed(layers):
        if found and (units.after != layers[-1][1].after or units.before == units.after):
            break
        found.append(layer)
    return found


def _as_computed(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the arguments in the precision in which the layer computes: autocast's, where it is on."""
    if not torch.is_autocast_enabled(x.device.type):
        return x, weight, bias
    dtype = torch.get_autocast_dtype(x.device.type)
    return x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)


def _padded(x: Tensor, weight: Tensor, padding: str, dilation: Any) -> Tensor:
    """Return the zero-padded input of a convolution whose padding is given as a string."""
    if padding == "valid":
        return x
    around: list[int] = []
    for size, step in reversed(list(zip(weight.shape[2:], each_way(dilation, weight.dim() - 2), strict=True))):
        total = step * (size - 1)
        around += [total // 2, total - total // 2]
    return F.pad(x, around)
