"""The frozen-gate rules for elementwise operations, products and selections.

Each computes the operation's own value as an instance-wise linear function of
what depends on ``z``. ``stop(v)`` of the formulas is ``gates.keep(lambda: v)``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, reduce
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.nn import functional as F
from torch.utils._pytree import tree_map

from xai_align.pinet.frozen_gates import FrozenGates, depends, detached
from xai_align.pinet.rule_registry import is_inplace, register_rule

Operation = Callable[..., Any]

# ---------------------------------------------------------------- stop(f(x))


GATES = """
    sigmoid hardsigmoid softmax softmin log_softmax logsigmoid logsumexp exp exp2 log log2 log10 sqrt rsqrt reciprocal
    rdiv rpow norm vector_norm matrix_norm frobenius_norm linalg_norm linalg_vector_norm linalg_matrix_norm var std
    var_mean std_mean cdist pairwise_distance cosine_similarity cos erfc logit prod cumprod
"""
DECISIONS = """
    gt ge lt le eq ne greater greater_equal less less_equal not_equal isnan isinf isfinite isclose allclose equal
    argmax argmin argsort searchsorted bucketize sign sgn signbit round floor ceil trunc fix nonzero count_nonzero
    logical_not logical_and logical_or logical_xor any all unique histc bincount multinomial heaviside one_hot
    floor_divide floordiv ifloordiv aminmax invert contains
"""
#: Values that leave the graph: read by Python, detached, turned into whole numbers.
READINGS = "detach data item tolist numpy array bool int index complex long short byte char"


@register_rule(*GATES.split(), *DECISIONS.split(), *READINGS.split())
def stop(gates: FrozenGates, func: Operation, *args: Any, **kwargs: Any) -> Any:
    """``stop(f(x))``: gates, scales, attention weights and decisions are constants of this input."""
    args, kwargs = tree_map(detached, (args, kwargs))
    return gates.keep(lambda: func(*args, **kwargs))


@register_rule("to", "type", "type_as", "float", "double", "half", "bfloat16", "_to_copy")
def cast(gates: FrozenGates, func: Operation, *args: Any, **kwargs: Any) -> Any:
    """Between floating types linear, to whole numbers a decision."""
    if func is Tensor.__float__:
        return stop(gates, func, *args, **kwargs)
    value = func(*args, **kwargs)
    if not isinstance(value, Tensor) or value.requires_grad:  # x.type() is a word
        return value
    return gates.keep(lambda: value)


# ---------------------------------------------------------------- x * stop(f(x) / x)


class Gated(torch.autograd.Function):
    """The value of ``found = (value, gate)``, with the derivative ``gate`` towards ``x``."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, found: tuple[Tensor, Tensor]) -> Tensor:
        """The value, as it was found."""
        value, gate = found  # in a tuple, so that autograd takes the value for an output and not for a view of an input
        ctx.save_for_backward(gate)
        return value

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """``gate`` times what comes back."""
        (gate,) = ctx.saved_tensors
        return gradient * gate, None


class GatedInPlace(torch.autograd.Function):
    """:class:`Gated` for ``found = (write, gate)``, where ``write(x)`` puts the value into ``x``."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, found: tuple[Callable[[Tensor], Tensor], Tensor]) -> Tensor:
        """``x``, holding the value."""
        write, gate = found
        ctx.save_for_backward(gate)
        ctx.mark_dirty(x)
        return write(x)

    backward = Gated.backward


#: Zero where their argument is.
ACTIVATIONS = """
    relu relu6 leaky_relu rrelu gelu silu hardswish mish elu selu celu softsign tanh hardshrink softshrink tanhshrink
    nan_to_num square normalize local_response_norm expm1 log1p sin sinh tan asin arcsin asinh arcsinh atan arctan
    atanh arctanh erf
"""
#: These may not be, which depends on their bounds.
OFFSET_ACTIVATIONS = "hardtanh threshold softplus clamp clip clamp_min clamp_max"


@register_rule(*ACTIVATIONS.split())
def activation(gates: FrozenGates, func: Operation, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """``f(x) = x * stop(f(x) / x)``, the quotient 0 where ``x`` is."""
    return _activation(gates, func, x, None, *args, **kwargs)


@register_rule(*OFFSET_ACTIVATIONS.split())
def offset_activation(gates: FrozenGates, func: Operation, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """``f(x) = x * stop((f(x) - f(0)) / x) + f(0)``."""
    return _activation(gates, func, x, _value_at_zero(func, x, args, kwargs), *args, **kwargs)


def _activation(gates: FrozenGates, func: Operation, x: Tensor, offset: Any, *args: Any, **kwargs: Any) -> Tensor:
    inplace = is_inplace(func) or kwargs.get("inplace") is True or any(argument is True for argument in args)
    if not gates.recording:
        gate = gates.keep(lambda: x)
        result = x.mul_(gate) if inplace else x * gate
        return result if offset is None else result.add_(offset)
    with torch.no_grad():
        value = _out_of_place(func, x.detach(), args, kwargs)
        gate = _quotient(value if offset is None else value - offset, x, spare=inplace and offset is None)
    gates.keep(lambda: gate)
    if inplace:
        gates.about_to_write(x)
        return GatedInPlace.apply(x, (lambda x: func(x, *args, **kwargs), gate))
    return Gated.apply(x, (value, gate))


def _quotient(value: Tensor, x: Tensor, *, spare: bool) -> Tensor:
    """``f(x) / x``, and 0 where ``x`` is; over ``value`` itself if that is to spare."""
    return (value.div_(x) if spare else value / x).nan_to_num_(nan=0.0)


def _out_of_place(func: Operation, x: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """``f(x)`` with ``x`` left as it is, whichever spelling was called."""
    if is_inplace(func):
        return func(x.clone(), *args, **kwargs)
    flags = {"inplace": False} if "inplace" in kwargs else {}
    return func(x, *[False if argument is True else argument for argument in args], **{**kwargs, **flags})


def _value_at_zero(func: Operation, x: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``f(0)``: a number, None if it is 0, or a tensor if the bounds are tensors."""
    if not any(isinstance(argument, Tensor) for argument in (*args, *kwargs.values())):
        return _number_at_zero(func, args, tuple(kwargs.items()))
    with torch.no_grad():
        return _out_of_place(func, torch.zeros_like(x.detach()), args, kwargs)


@cache
def _number_at_zero(func: Operation, args: tuple[Any, ...], kwargs: tuple[tuple[str, Any], ...]) -> float | None:
    with torch.inference_mode(False), torch.no_grad():
        return float(func(torch.zeros(1), *args, **dict(kwargs))) or None


@register_rule(F.relu6, F.hardtanh)
def clipped_at_zero(gates: FrozenGates, func: Operation, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """``min(relu(x), c) = x * stop(clip(c / x, 0, 1))``: what ReLU6 is, with one pass less."""
    low, high, inplace = _clip_bounds(func, *args, **kwargs)
    if low != 0 or not gates.recording:
        return offset_activation(gates, func, x, *args, **kwargs)
    gate = gates.keep(lambda: (high / x.detach()).clamp_(0, 1))
    if inplace:
        gates.about_to_write(x)
        return GatedInPlace.apply(x, (lambda x: func(x, *args, **kwargs), gate))
    with torch.no_grad():
        value = func(x.detach(), *args, **kwargs)
    return Gated.apply(x, (value, gate))


def _clip_bounds(func: Operation, *args: Any, **kwargs: Any) -> tuple[float, float, bool]:
    if func is F.relu6:
        return 0.0, 6.0, bool(args[0] if args else kwargs.get("inplace", False))
    given = dict(zip(("min_val", "max_val", "inplace"), args, strict=False)) | kwargs
    return given.get("min_val", -1.0), given.get("max_val", 1.0), bool(given.get("inplace", False))


@register_rule("pow", "float_power")
def power(gates: FrozenGates, func: Operation, x: Any, exponent: Any, **kwargs: Any) -> Tensor:
    """``x ** p`` with a number ``p >= 1`` is an activation, everything else a scale."""
    if depends(exponent) or not isinstance(exponent, int | float) or exponent < 1:
        return stop(gates, func, x, exponent, **kwargs)
    if exponent == 1:
        return func(x, exponent, **kwargs)
    return activation(gates, func, x, exponent, **kwargs)


@register_rule("prelu")
def prelu(gates: FrozenGates, func: Operation, x: Tensor, weight: Tensor) -> Tensor:
    """``x * stop(1 where x > 0, else w)``."""
    return x * gates.keep(lambda: func(x, weight) / torch.where(x == 0, 1, x))


@register_rule("abs", "absolute")
def magnitude(gates: FrozenGates, func: Operation, x: Tensor) -> Tensor:
    """``|x| = x * stop(sign x)``."""
    return x * gates.keep(lambda: x.sign())


@register_rule("glu")
def gated_linear_unit(gates: FrozenGates, func: Operation, x: Tensor, dim: int = -1) -> Tensor:
    """``glu(a, b) = a * stop(sigmoid(b))``."""
    a, b = x.chunk(2, dim)
    return a * gates.keep(lambda: b.sigmoid())


@register_rule(
    "dropout",
    "alpha_dropout",
    "feature_dropout",
    "feature_alpha_dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
)
def dropout(
    gates: FrozenGates,
    func: Operation,
    x: Tensor,
    p: float = 0.5,
    training: bool = True,
    *args: Any,
    **kwargs: Any,
) -> Any:
    """Off, it is the identity; on, the network has no one answer."""
    if training and p > 0:
        raise ValueError("the network drops out at random (train mode); call model.eval() first")
    return x


# ---------------------------------------------------------------- products


#: Of their first two arguments; what may follow is a summand (the bias) or geometry.
PRODUCTS = """
    mul multiply matmul mm bmm mv dot vdot vecdot linalg_vecdot inner outer ger kron cross linear bilinear conv1d conv2d
    conv3d conv_transpose1d conv_transpose2d conv_transpose3d conv_tbc convolution tensordot
"""


@register_rule(*PRODUCTS.split())
def product(gates: FrozenGates, func: Operation, *args: Any, **kwargs: Any) -> Tensor:
    """``a b = (a stop(b) + stop(a) b) / 2``; linear as it is where one side only depends on ``z``."""
    return _each_way(gates, func, args, [place for place in (0, 1) if depends(*args[place : place + 1])], **kwargs)


@register_rule("einsum", "chain_matmul")
def product_of_many(gates: FrozenGates, func: Operation, *args: Any, **kwargs: Any) -> Tensor:
    """An ``n``-th each way for ``n`` factors, given one by one or in a list."""
    flat = [part for argument in args for part in (argument if isinstance(argument, list | tuple) else [argument])]
    return _each_way(gates, func, flat, [place for place, part in enumerate(flat) if depends(part)], **kwargs)


def _each_way(gates: FrozenGates, func: Operation, args: Sequence[Any], factors: list[int], **kwargs: Any) -> Tensor:
    """The mean over the factors (their places in ``args``) of the product with all the other factors held."""
    if len(factors) < 2:
        return func(*args, **kwargs)
    held = dict(zip(factors, gates.keep(lambda: [args[place] for place in factors]), strict=True))
    turns = [
        func(*[part if place == alive else held.get(place, part) for place, part in enumerate(args)], **kwargs)
        for alive in factors
    ]
    return reduce(torch.add, turns) / len(factors)


@register_rule("addmm", "addbmm", "baddbmm", "addmv", "addr")
def sum_and_product(
    gates: FrozenGates, func: Operation, x: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1
) -> Tensor:
    """``beta x + alpha a b``."""
    if not (depends(a) and depends(b)):
        return func(x, a, b, beta=beta, alpha=alpha)
    a_, b_ = gates.keep(lambda: (a, b))
    return (func(x, a, b_, beta=beta, alpha=alpha) + func(x, a_, b, beta=beta, alpha=alpha)) / 2


@register_rule("addcmul")
def sum_and_elementwise_product(
    gates: FrozenGates, func: Operation, x: Tensor, a: Tensor, b: Tensor, *, value: float = 1
) -> Tensor:
    """``x + value a b``."""
    return x + value * product(gates, torch.mul, a, b)


@register_rule("addcdiv")
def sum_and_quotient(
    gates: FrozenGates, func: Operation, x: Tensor, a: Tensor, b: Tensor, *, value: float = 1
) -> Tensor:
    """``x + value a / stop(b)``."""
    return x + value * quotient(gates, torch.div, a, b)


@register_rule("div", "divide", "true_divide")
def quotient(gates: FrozenGates, func: Operation, a: Any, b: Any, **kwargs: Any) -> Tensor:
    """``a / stop(b)``; rounded, a decision."""
    if not depends(b) and kwargs.get("rounding_mode") is None:
        return func(a, b, **kwargs)
    if not depends(a) or kwargs.get("rounding_mode") is not None:
        return stop(gates, func, a, b, **kwargs)
    return func(a, gates.keep(lambda: b), **kwargs)


@register_rule("lerp")
def interpolate_between(gates: FrozenGates, func: Operation, a: Tensor, b: Tensor, weight: Any) -> Tensor:
    """``a + w (b - a)``."""
    if not depends(weight):
        return func(a, b, weight)
    return a + product(gates, torch.mul, weight, b) - product(gates, torch.mul, weight, a)


@register_rule("grid_sample", "grid_sampler")
def sample(gates: FrozenGates, func: Operation, x: Tensor, grid: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Linear in the picture, where to look is a decision."""
    return func(x, gates.keep(lambda: grid) if depends(grid) else grid, *args, **kwargs)


# ---------------------------------------------------------------- selections: the winner, its place held


@register_rule("maximum", "fmax")
def larger(gates: FrozenGates, func: Operation, a: Tensor, b: Tensor) -> Tensor:
    """The larger of two, which one held."""
    return torch.where(gates.keep(lambda: a >= b), a, b)


@register_rule("minimum", "fmin")
def smaller(gates: FrozenGates, func: Operation, a: Tensor, b: Tensor) -> Tensor:
    """The smaller of two, which one held."""
    return torch.where(gates.keep(lambda: a <= b), a, b)


@register_rule("where")
def choice(gates: FrozenGates, func: Operation, *args: Any, **kwargs: Any) -> Any:
    """Linear in what is chosen from; the condition is held already."""
    return func(*args, **kwargs) if len(args) + len(kwargs) > 1 else stop(gates, func, *args)


@register_rule("max", "min")
def extreme(gates: FrozenGates, func: Operation, x: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Over everything, over a dimension, or of two tensors: the winner, its place held."""
    if args and isinstance(args[0], Tensor):
        return (larger if func.__name__ == "max" else smaller)(gates, func, x, args[0])
    if not args and not kwargs:
        place = gates.keep(lambda: x.flatten().argmax() if func.__name__ == "max" else x.flatten().argmin())
        return x.flatten()[place]
    dim = args[0] if args else kwargs["dim"]
    keepdim = args[1] if len(args) > 1 else kwargs.get("keepdim", False)
    places = gates.keep(lambda: func(x, dim, keepdim=True).indices)
    values = x.gather(dim, places)
    kind = torch.return_types.max if func.__name__ == "max" else torch.return_types.min
    return kind((values, places) if keepdim else (values.squeeze(dim), places.squeeze(dim)))


@register_rule("amax", "amin")
def extreme_over_dimensions(
    gates: FrozenGates, func: Operation, x: Tensor, dim: Any = (), keepdim: bool = False
) -> Tensor:
    """The first winner, its place held (autograd would share ties)."""
    dims = sorted({d % x.dim() for d in ((dim,) if isinstance(dim, int) else dim)}) or list(range(x.dim()))
    moved = x.movedim(dims, list(range(-len(dims), 0))).flatten(-len(dims))
    find = torch.argmax if func.__name__ == "amax" else torch.argmin
    values = moved.gather(-1, gates.keep(lambda: find(moved, -1, keepdim=True))).squeeze(-1)
    return values.reshape([1 if d in dims else size for d, size in enumerate(x.shape)]) if keepdim else values


@register_rule("topk", "sort", "kthvalue", "median", "mode", "cummax", "cummin")
def ordered(gates: FrozenGates, func: Operation, x: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Values taken by indices that are held."""
    found = gates.keep(lambda: tuple(func(x, *args, **kwargs)))
    place_of_dim = 1 if func.__name__ in ("topk", "kthvalue") else 0
    dim = kwargs.get("dim", args[place_of_dim] if len(args) > place_of_dim else -1)
    places = found[1]
    lost_dim = places.dim() < x.dim()
    values = x.gather(dim, places.unsqueeze(dim) if lost_dim else places)
    return getattr(torch.return_types, func.__name__)((values.squeeze(dim) if lost_dim else values, places))
