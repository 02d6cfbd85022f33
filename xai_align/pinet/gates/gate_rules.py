"""Frozen-gate rules for elementwise functions: gates are held, activations flow.

Each computes the operation's own value as an instance-wise linear function of the
arguments that depend on ``z``. ``stop(v)`` in the formulas is ``gates.save(lambda: v)``.

| functions | rewritten as |
|---|---|
| activations with ``f(0) = 0`` | ``x * stop(f(x) / x)`` |
| activations with a finite ``f(0)`` | ``x * stop((f(x) - f(0)) / x) + f(0)`` |
| gates: sigmoid, erf (as in GELU), softmax, exp ... | ``stop(f(x))``; activations if no other path to the answer |
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.utils._pytree import tree_map

from xai_align._tools.replica import LOW_PRECISION
from xai_align.pinet.gates.frozen_gates import FrozenGates, detached, never
from xai_align.pinet.gates.rule_registry import find_operation, register_rule

Function = Callable[..., Any]

# ---------------------------------------------------------------- stop(f(x))

#: Gates that can flow as ``x * stop((f(x) - f(0)) / x) + f(0)``.
GATES_WITH_VALUE_AT_ZERO = """
    sigmoid hardsigmoid logsigmoid exp exp2 erf erfc cos cosh acos arccos rpow
"""
#: Gates that can flow as ``x * stop(f(x) / x)``, because they have no finite value at 0.
GATES_WITHOUT_VALUE_AT_ZERO = "log log2 log10 rsqrt reciprocal rdiv acosh arccosh logit"
#: Gates that are always held.
HELD_GATES = "softmax softmin sgn angle atan2 logcumsumexp linalg_norm linalg_matrix_norm matrix_norm"


@register_rule(*GATES_WITH_VALUE_AT_ZERO.split())
def gate(gates: FrozenGates, func: Function, *args: Any) -> Any:
    """Return ``stop(f(x))``, or an activation where the gates flow."""
    return (offset_activation if gates.flowing else stop)(gates, func, *args)


@register_rule(*GATES_WITHOUT_VALUE_AT_ZERO.split())
def scale(gates: FrozenGates, func: Function, *args: Any, **kwargs: Any) -> Any:
    """Return ``stop(f(x))``, or ``x * stop(f(x) / x)`` where the gates flow."""
    return (activation if gates.flowing else stop)(gates, func, *args, **kwargs)


@register_rule(*HELD_GATES.split())
def stop(gates: FrozenGates, func: Function, *args: Any, **kwargs: Any) -> Any:
    """Return ``stop(f(x))``: gates, scales and attention weights are constants of this input."""
    args, kwargs = gates.held((args, kwargs))
    value = gates.save(lambda: func(*args, **kwargs))
    gates.stops(find_operation(func).name)
    return value


# ---------------------------------------------------------------- x * stop(f(x) / x)


class Gated(torch.autograd.Function):
    """Value of ``found = (value, gate)``, with the derivative ``gate`` in ``x``."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, found: tuple[Tensor, Tensor]) -> Tensor:
        """Return the computed value."""
        value, gate = found  # in a tuple, so that autograd treats the value as an output and not as a view of an input
        ctx.save_for_backward(gate)
        return value

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Return ``gate`` times the gradient."""
        (gate,) = ctx.saved_tensors
        return gradient * gate.conj(), None


class GatedInPlace(torch.autograd.Function):
    """In-place form of :class:`Gated` for ``found = (write, gate)``, where ``write(x)`` puts the value into ``x``."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, found: tuple[Callable[[Tensor], Tensor], Tensor]) -> Tensor:
        """Return ``x``, holding the value."""
        write, gate = found
        ctx.save_for_backward(gate)
        ctx.mark_dirty(x)
        return write(x)

    backward = Gated.backward


#: Activations with ``f(0) = 0``.
ACTIVATIONS = """
    leaky_relu rrelu gelu silu hardswish mish elu selu celu softsign tanh hardshrink softshrink tanhshrink sqrt
    nan_to_num square normalize local_response_norm expm1 log1p sin sinh tan asin arcsin asinh arcsinh atan arctan
    atanh arctanh erfinv renorm
"""
#: Activations for which that depends on their bounds.
OFFSET_ACTIVATIONS = "relu6 hardtanh threshold softplus"


@register_rule(*ACTIVATIONS.split())
def activation(gates: FrozenGates, func: Function, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Return ``f(x) = x * stop(f(x) / x)``, with quotient 0 at ``x = 0``."""
    return _activation(gates, func, x, None, *args, **kwargs)


@register_rule(*OFFSET_ACTIVATIONS.split())
def offset_activation(gates: FrozenGates, func: Function, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Return ``f(x) = x * stop((f(x) - f(0)) / x) + f(0)``, with quotient 0 at ``x = 0``."""
    return _activation(gates, func, x, _value_at_zero(func, x, args, kwargs), *args, **kwargs)


def _activation(gates: FrozenGates, func: Function, x: Tensor, offset: Any, *args: Any, **kwargs: Any) -> Tensor:
    if gates.written_out:
        held_args, held_kwargs = gates.held((args, kwargs))
        quotient = gates.save(lambda: _differentiable_quotient(func, x, offset, held_args, held_kwargs))
        result = x * quotient
        return result if offset is None else result + offset
    if not gates.recording:
        result = (x * gates.save(never)).to(x.dtype)
        return result if offset is None else result + offset
    value, quotient = _value_and_quotient(func, x.detach(), offset, args, kwargs)
    gates.save(lambda: quotient)
    return Gated.apply(x, (value, quotient))


def _activation_into(gates: FrozenGates, func: Function, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Apply :func:`activation` in place."""
    return _written(gates, func, x, None, *args, **kwargs)


def _offset_activation_into(gates: FrozenGates, func: Function, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Apply :func:`offset_activation` in place."""
    return _written(gates, func, x, _value_at_zero(func, x, args, kwargs), *args, **kwargs)


def _written(gates: FrozenGates, func: Function, x: Tensor, offset: Any, *args: Any, **kwargs: Any) -> Tensor:
    if gates.written_out:
        return x.copy_(_activation(gates, func, x.clone(), offset, *args, **kwargs))
    if not gates.recording:
        x.mul_(gates.save(never))
        return x if offset is None else x.add_(offset)
    value, quotient = _value_and_quotient(func, x.detach(), offset, args, kwargs)
    gates.save(lambda: quotient)
    return GatedInPlace.apply(x, (lambda x: x.copy_(value), quotient))


activation.into = _activation_into  # type: ignore[attr-defined]
offset_activation.into = _offset_activation_into  # type: ignore[attr-defined]


@register_rule("clamp", "clamp_min", "clamp_max")
def bounded(gates: FrozenGates, func: Function, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Apply an activation between constant bounds; if they depend on ``z``, select argument or bound."""
    if not gates.depends(*args, *kwargs.values()):
        return offset_activation(gates, func, x, *args, **kwargs)
    low, high = _bounds(func, *args, **kwargs)
    value = x if low is None else _taken(gates, x, low, lambda: x >= low)
    return value if high is None else _taken(gates, value, high, lambda: value <= high)


def _bounded_into(gates: FrozenGates, func: Function, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    if not gates.depends(*args, *kwargs.values()):
        return _offset_activation_into(gates, func, x, *args, **kwargs)
    return x.copy_(bounded(gates, func, x, *args, **kwargs))


bounded.into = _bounded_into  # type: ignore[attr-defined]


def _taken(gates: FrozenGates, x: Tensor, bound: Any, inside: Function) -> Tensor:
    return torch.where(gates.save(inside), x, bound)


def _bounds(func: Function, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
    name = find_operation(func).name
    if name == "clamp":
        low, high = (*args, None, None)[:2]
        return low, kwargs.get("max", high)
    (bound,) = (*args, *kwargs.values())
    return (bound, None) if name == "clamp_min" else (None, bound)


def _value_and_quotient(
    func: Function, x: Tensor, offset: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    """Return ``f(x)`` in the dtype of ``x``, and ``(f(x) - f(0)) / x`` in float32 or better."""
    with torch.no_grad():
        wide = x.float() if x.dtype in LOW_PRECISION else x
        if offset is not None and wide.dtype == torch.float32 and x.device.type != "mps":
            wide = wide.double()  # near 0 the difference loses most digits of float32
        value = func(wide, *_plain(args), **_plain(kwargs))
        quotient = _quotient(value if offset is None else value - offset, wide)
        return value.to(x.dtype), quotient.float() if quotient.dtype != x.dtype and not x.is_complex() else quotient


def _plain(arguments: Any) -> Any:
    """Return bounds and the like with those that depend on ``z`` held."""
    return tree_map(detached, arguments)


def _quotient(value: Tensor, x: Tensor) -> Tensor:
    """Return ``value / x``, and 0 at ``x = 0``."""
    return (value / x).nan_to_num_()


def _differentiable_quotient(
    func: Function, x: Tensor, offset: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Tensor:
    """Return ``(f(x) - f(0)) / x`` with a derivative in ``x``; quotient and derivative are 0 at ``x = 0``.

    In closed form for GELU and SiLU. Others are computed in float64 where there is one, since the derivative of the
    quotient loses digits near 0.
    """
    name = find_operation(func).name
    if name == "silu":
        return x.sigmoid()
    if name == "gelu" and (*args, *kwargs.values()) in ((), ("none",)):
        return (1 + torch.erf(x / 2**0.5)) / 2
    wide = x if x.device.type == "mps" or x.is_complex() else x.double()
    safe = torch.where(wide == 0, 1, wide)
    value = func(safe, *args, **kwargs)
    return torch.where(wide == 0, 0, (value if offset is None else value - offset) / safe).to(x.dtype)


def _value_at_zero(func: Function, x: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return ``f(0)``: a number, None if it is 0, or a tensor if the bounds are tensors."""
    if not any(isinstance(argument, Tensor) for argument in (*args, *kwargs.values())):
        return _number_at_zero(func, args, tuple(kwargs.items()))
    with torch.no_grad():
        return func(torch.zeros_like(x.detach()), *_plain(args), **_plain(kwargs))


@cache
def _number_at_zero(func: Function, args: tuple[Any, ...], kwargs: tuple[tuple[str, Any], ...]) -> float | None:
    return float(func(torch.zeros(1, dtype=torch.float64), *args, **dict(kwargs))) or None


@register_rule("relu")
def relu(gates: FrozenGates, func: Function, x: Tensor) -> Tensor:
    """Return ``relu(x) = x * stop(1 where x > 0)``, whose gradient is autograd's."""
    if gates.written_out:
        return x * gates.save(lambda: (x > 0).to(x.dtype))
    if not gates.recording:
        return torch.ops.aten.threshold_backward(x, gates.save(never), 0)
    value = func(x)
    gates.save(lambda: value)
    return value


def _relu_into(gates: FrozenGates, func: Function, x: Tensor) -> Tensor:
    """Apply :func:`relu` in place."""
    if gates.written_out:
        return x.copy_(relu(gates, func, x.clone()))
    if not gates.recording:
        return torch.ops.aten.threshold_backward.grad_input(x, gates.save(never), 0, grad_input=x)
    value = x.relu_()
    gates.save(lambda: value)
    return value


relu.into = _relu_into  # type: ignore[attr-defined]


@register_rule("pow", "float_power")
def power(gates: FrozenGates, func: Function, x: Any, exponent: Any) -> Tensor:
    """Return ``x ** p = x * stop(x ** (p - 1))`` for ``p > 0``; otherwise a scale, which is held.

    For an exponent tensor this applies to each entry. An exponent that depends on ``z`` is held.
    """
    if not gates.depends(x):
        return gate(gates, power_of_a_constant, exponent, x, func)
    exponent = gates.save(lambda: exponent)
    if not isinstance(exponent, Tensor):
        if exponent == 1:
            return func(x, exponent)
        flows = exponent > 0 or (gates.flowing and exponent != 0)
        return (activation if flows else stop)(gates, func, x, exponent)
    flows = exponent != 0 if gates.flowing else exponent > 0
    value = gates.save(lambda: func(x, exponent))
    return x * gates.save(lambda: torch.where(flows, _quotient(value, x), 0)) + torch.where(flows, 0, value)


def power_of_a_constant(exponent: Tensor, base: Any, func: Function) -> Tensor:
    """Return ``base ** exponent``, as a function of the exponent."""
    return func(base, exponent)


@register_rule("prelu")
def prelu(gates: FrozenGates, func: Function, x: Tensor, weight: Tensor) -> Tensor:
    """Return ``x * stop(1 where x > 0, else w)``."""
    return x * gates.save(lambda: func(x, weight) / torch.where(x == 0, 1, x))


@register_rule("abs")
def magnitude(gates: FrozenGates, func: Function, x: Tensor) -> Tensor:
    """Return ``|x| = x * stop(sign x)``, for complex numbers ``Re(x * stop(conj(x) / |x|))``."""
    if x.is_complex():
        return (x * gates.save(lambda: x.sgn().conj().resolve_conj())).real
    return x * gates.save(lambda: x.sign())


@register_rule("copysign")
def copied_sign(gates: FrozenGates, func: Function, a: Tensor, b: Any) -> Tensor:
    """Return ``|a| sign(b) = a * stop(sign(a) sign(b))``."""
    return a * gates.save(lambda: func(torch.ones_like(a), b) * a.sign())


@register_rule("remainder", "fmod")
def remainder(gates: FrozenGates, func: Function, a: Any, b: Any) -> Tensor:
    """Return ``a - stop(n) b`` with the integer quotient ``n`` of ``a`` and ``b``."""
    whole = gates.save(lambda: ((a - func(a, b)) / b).round())
    return a - whole * b


@register_rule("frac")
def fractional_part(gates: FrozenGates, func: Function, x: Tensor) -> Tensor:
    """Return ``x - stop(trunc x)``."""
    return x - gates.save(lambda: x.trunc())


@register_rule("glu")
def gated_linear_unit(gates: FrozenGates, func: Function, x: Tensor, dim: int = -1) -> Tensor:
    """Return ``glu(a, b) = a * stop(sigmoid(b))``."""
    a, b = x.chunk(2, dim)
    return a * gates.save(lambda: b.sigmoid())


@register_rule("logsumexp")
def logsumexp(gates: FrozenGates, func: Function, x: Tensor, dim: Any, keepdim: bool = False) -> Tensor:
    """Return ``LSE(x) = sum stop(p) x + stop(H(p))`` with ``p = softmax(x)`` and its entropy ``H``."""
    p = gates.save(lambda: (x - func(x, dim, keepdim=True)).exp())
    value = _shares(p, x).sum(dim, keepdim=keepdim)
    return value + gates.save(lambda: func(x, dim, keepdim=keepdim) - value)


def _shares(p: Tensor, x: Tensor) -> Tensor:
    """Return ``p x``, and 0 where ``p = 0``, even for ``x = -inf``."""
    return p * torch.where(p == 0, 0, x)


@register_rule("logaddexp")
def logaddexp(gates: FrozenGates, func: Function, a: Tensor, b: Tensor) -> Tensor:
    """Return :func:`logsumexp` of two tensors."""
    p, q = gates.save(lambda: ((a - func(a, b)).exp(), (b - func(a, b)).exp()))
    value = _shares(p, a) + _shares(q, b)
    return value + gates.save(lambda: func(a, b) - value)


@register_rule("log_softmax")
def log_softmax(
    gates: FrozenGates, func: Function, x: Tensor, dim: int | None = None, *args: Any, dtype: Any = None, **kwargs: Any
) -> Any:
    """Return ``x - LSE(x)``; the normaliser cancels in questions that compare classes."""
    dtype = next((argument for argument in args if isinstance(argument, torch.dtype)), dtype)
    x = x if dtype is None else x.to(dtype)
    dim = (0 if x.dim() in (0, 1, 3) else 1) if dim is None else dim
    return x - logsumexp(gates, torch.logsumexp, x, dim, keepdim=True)


@register_rule(
    "dropout",
    "alpha_dropout",
    "feature_dropout",
    "feature_alpha_dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
    "native_dropout",
)
def dropout(gates: FrozenGates, func: Function, input: Tensor, p: float, training: bool | None) -> Any:
    """Return the input, as dropout does in eval mode.

    Raises:
        ValueError: dropout is active, so the network is not deterministic.
    """
    if training and p > 0:
        raise ValueError("the network drops out at random (train mode); call model.eval() first")
    kept_all = find_operation(func).name == "native_dropout"
    return (input, torch.ones_like(input, dtype=torch.bool)) if kept_all else input
