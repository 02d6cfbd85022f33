"""Products, quotients and other homogeneous functions of several factors that depend on ``z``.

| operation | rewritten as |
|---|---|
| ``a b`` (elementwise, matrices, convolutions) | ``(a stop(b) + stop(a) b) / 2`` |
| ``n`` factors | an ``n``-th each way |
| ``f`` with ``f(t x) = t^d f(x)`` | ``stop(J) x / d``, which is ``f(x)`` by Euler's theorem |
| ``a / b`` | ``a / stop(b)`` |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from xai_align.pinet.gates.frozen_gates import FrozenGates, never
from xai_align.pinet.gates.gate_rules import stop
from xai_align.pinet.gates.rule_registry import find_operation, register_rule

Function = Callable[..., Any]

#: Products of their first two arguments; further arguments are a summand (the bias) or geometry.
PRODUCTS = """
    mul matmul mm bmm mv dot vdot vecdot linalg_vecdot linalg_matmul rmatmul inner outer ger kron cross linalg_cross
    linear bilinear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d conv_tbc convolution
    tensordot
"""


@register_rule(*PRODUCTS.split())
def product(gates: FrozenGates, func: Function, *args: Any, **kwargs: Any) -> Tensor:
    """Return ``a b = (a stop(b) + stop(a) b) / 2``, or run unchanged if only one side depends on ``z``."""
    factors = [place for place in (0, 1) if gates.depends(*args[place : place + 1])]
    return _each_way(gates, func, args, factors, **kwargs)


@register_rule("einsum", "chain_matmul")
def product_of_many(gates: FrozenGates, func: Function, *args: Any) -> Tensor:
    """Return a product of ``n`` factors, given separately or in a list, with an ``n``-th through each."""
    flat = [part for argument in args for part in (argument if isinstance(argument, list | tuple) else [argument])]
    return _each_way(gates, func, flat, [place for place, part in enumerate(flat) if gates.depends(part)])


@register_rule("linalg_multi_dot")
def product_of_a_list(gates: FrozenGates, func: Function, factors: Sequence[Tensor]) -> Tensor:
    """Apply :func:`product_of_many` to a list of factors."""
    return product_of_many(gates, lambda *parts: func(parts), *factors)


def _each_way(gates: FrozenGates, func: Function, args: Sequence[Any], factors: list[int], **kwargs: Any) -> Tensor:
    """Return the mean over the factors (indices into ``args``) of the product with all other factors held."""
    if len(factors) < 2:
        return func(*args, **kwargs)
    held = gates.save(lambda: {place: args[place] for place in factors})
    turns = [
        func(*[part if place == alive else held.get(place, part) for place, part in enumerate(args)], **kwargs)
        for alive in factors
    ]
    return reduce(torch.add, turns) / len(factors)


@register_rule("addmm", "addbmm", "baddbmm", "addmv", "addr")
def sum_and_product(
    gates: FrozenGates, func: Function, x: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1
) -> Tensor:
    """Return ``beta x + alpha a b``."""
    if not (gates.depends(a) and gates.depends(b)):
        return func(x, a, b, beta=beta, alpha=alpha)
    a_, b_ = gates.save(lambda: (a, b))
    return (func(x, a, b_, beta=beta, alpha=alpha) + func(x, a_, b, beta=beta, alpha=alpha)) / 2


@register_rule("addcmul")
def sum_and_elementwise_product(
    gates: FrozenGates, func: Function, x: Tensor, a: Tensor, b: Tensor, *, value: float = 1
) -> Tensor:
    """Return ``x + value a b``."""
    return x + value * product(gates, torch.mul, a, b)


@register_rule("addcdiv")
def sum_and_quotient(
    gates: FrozenGates, func: Function, x: Tensor, a: Tensor, b: Tensor, *, value: float = 1
) -> Tensor:
    """Return ``x + value a / stop(b)``."""
    return x + value * quotient(gates, torch.div, a, b)


@register_rule("div")
def quotient(gates: FrozenGates, func: Function, a: Any, b: Any, *, rounding_mode: str | None = None) -> Tensor:
    """Return ``a / stop(b)``; with rounding, a decision."""
    if rounding_mode is not None:
        return stop(gates, func, a, b, rounding_mode=rounding_mode)
    if not gates.depends(b):
        return func(a, b)
    if not gates.depends(a):
        # a scale; where the gates flow, b * stop(a / b^2)
        return b * gates.save(lambda: a / b / b) if gates.flowing else stop(gates, func, a, b)
    return func(a, gates.save(lambda: b))


@register_rule("lerp")
def interpolate_between(gates: FrozenGates, func: Function, a: Tensor, b: Tensor, weight: Any) -> Tensor:
    """Return ``a + w (b - a)``."""
    if not gates.depends(weight):
        return func(a, b, weight)
    return a + product(gates, torch.mul, weight, b) - product(gates, torch.mul, weight, a)


@register_rule("xlogy", "special_xlog1py", "ldexp", "polar")
def first_factor(gates: FrozenGates, func: Function, a: Any, b: Any) -> Tensor:
    """Return ``a g(b)`` with ``g(b)`` held: ``x log y``, ``x 2^e``, ``r e^(i phi)``."""
    return func(a, gates.save(lambda: b))


@register_rule("linalg_solve", "linalg_solve_triangular", "cholesky_solve")
def solved(gates: FrozenGates, func: Function, a: Tensor, b: Tensor, **kwargs: Any) -> Tensor:
    """Solve a linear system: linear in the right-hand side, with the matrix held."""
    if find_operation(func).name == "cholesky_solve":
        return func(a, gates.save(lambda: b), **kwargs)
    if gates.depends(a):
        a = gates.save(lambda: a)
        gates.stops(find_operation(func).name)
    return func(a, b, **kwargs)


@register_rule("grid_sample")
def sample(gates: FrozenGates, func: Function, x: Tensor, grid: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Sample an image on a grid: linear in the image, with the grid held."""
    return func(x, gates.save(lambda: grid), *args, **kwargs)


@register_rule("deform_conv2d")
def deformable_convolution(
    gates: FrozenGates, func: Function, x: Tensor, weight: Tensor, offset: Tensor, mask: Tensor, *args: Any
) -> Tensor:
    """Return the convolution of the sampled values, with sampling positions and modulation as gates."""
    offset, mask = gates.save(lambda: (offset, mask))
    return product(gates, lambda a, b: func(a, b, offset, mask, *args), x, weight)


@register_rule("roi_align", "ps_roi_align")
def regions(gates: FrozenGates, func: Function, x: Tensor, boxes: Any, *args: Any, **kwargs: Any) -> Any:
    """Pool regions of a feature map: linear in the map, with the boxes held."""
    return func(x, gates.save(lambda: boxes), *args, **kwargs)


@register_rule("cosine_similarity")
def cosine(gates: FrozenGates, func: Function, x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """Return ``(x1 / stop(|x1|)) . (x2 / stop(|x2|))``, the dot product of normalised vectors."""

    def unit(x: Tensor) -> Tensor:
        size = torch.linalg.vector_norm(x, dim=dim, keepdim=True).clamp_min(eps)
        return x / gates.save(lambda: size)

    x1, x2 = torch.broadcast_tensors(x1, x2)
    return product(gates, torch.mul, unit(x1), unit(x2)).sum(dim)


@register_rule("trapezoid", "trapz", "cumulative_trapezoid")
def trapezoid(gates: FrozenGates, func: Function, y: Tensor, x: Any = None, **kwargs: Any) -> Tensor:
    """Return the trapezoid rule's integral, a product of heights and steps."""
    return func(y, **kwargs) if x is None else product(gates, func, y, x, **kwargs)


@register_rule("gradient")
def finite_differences(gates: FrozenGates, func: Function, x: Tensor, *, spacing: Any = 1, **kwargs: Any) -> Any:
    """Return finite differences, linear with the spacing held."""
    return func(x, spacing=gates.save(lambda: spacing), **kwargs)


@register_rule("embedding")
def rows_of_a_table(gates: FrozenGates, func: Function, a: Tensor, b: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Return rows of the table, for ``F.embedding(ids, table)`` and ``aten.embedding(table, ids)``.

    Raises:
        NotImplementedError: ``max_norm``, which changes the table.
    """
    ids, table = (a, b) if b.is_floating_point() else (b, a)
    if kwargs.get("max_norm") is not None:
        raise NotImplementedError("an embedding with max_norm changes its table; read out at a layer after it")
    return table[ids]


# ---------------------------------------------------------------- homogeneous functions


def euler(gates: FrozenGates, func: Function, x: Tensor, degree: Any) -> Any:
    """Return ``f(x) = stop(J) x / d`` for ``f`` of degree ``d``: a number, or a tensor for the entries of ``f(x)``.

    Euler's theorem: ``f(t x) = t^d f(x)`` has ``J x = d f(x)``.
    """
    if gates.recording:
        gates.save(lambda: x.clone())
        value = func(x)
        share = value / degree
        return share + (value - share).detach()
    # double backward: some forward-mode derivatives are missing or silently zero (scatter_reduce of a product)
    return torch.autograd.functional.jvp(func, gates.save(never), x)[1] / degree


@register_rule("prod")
def product_of_entries(gates: FrozenGates, func: Function, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Return the product of ``n`` entries, with an ``n``-th through each."""
    dim = args[0] if args else None
    factors = x.numel() if dim is None or x.dim() == 0 else x.shape[dim]
    if factors < 2:
        return func(x, *args, **kwargs)
    return euler(gates, lambda x: func(x, *args, **kwargs), x, factors)


@register_rule("cumprod")
def cumulative_product(gates: FrozenGates, func: Function, x: Tensor, dim: int, **kwargs: Any) -> Tensor:
    """Return cumulative products, with a ``k``-th through each of the first ``k`` factors."""
    if x.dim() == 0:
        return func(x, dim, **kwargs)
    degree = torch.arange(1, x.shape[dim] + 1, device=x.device)
    degree = degree.view([-1 if axis == dim % x.dim() else 1 for axis in range(x.dim())])
    return euler(gates, lambda x: func(x, dim, **kwargs), x, degree)


@register_rule("matrix_power", "linalg_matrix_power")
def matrix_power(gates: FrozenGates, func: Function, x: Tensor, n: int) -> Tensor:
    """Return a matrix power, with an ``n``-th through each factor; inverses are held."""
    return euler(gates, lambda x: func(x, n), x, n) if n > 0 else stop(gates, func, x, n)


@register_rule("det", "linalg_det")
def determinant(gates: FrozenGates, func: Function, x: Tensor) -> Tensor:
    """Return a determinant, of degree ``n`` in an ``n x n`` matrix."""
    return euler(gates, func, x, x.shape[-1]) if x.shape[-1] else func(x)


@register_rule("hypot")
def hypotenuse(gates: FrozenGates, func: Function, a: Tensor, b: Tensor) -> Tensor:
    """Return ``a stop(a / h) + b stop(b / h)``."""
    value = gates.save(lambda: func(a, b))
    size = torch.where(value == 0, 1, value)
    return a * gates.save(lambda: a / size) + b * gates.save(lambda: b / size)


@register_rule("quantile", "nanquantile")
def piecewise_linear(gates: FrozenGates, func: Function, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Return a function of degree 1 of the selected entries, with their weights held."""
    args, kwargs = gates.save(lambda: (args, kwargs))
    return euler(gates, lambda x: func(x, *args, **kwargs), x, 1)


@register_rule("norm", "vector_norm", "frobenius_norm", "linalg_vector_norm")
def size(gates: FrozenGates, func: Function, x: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Return a norm, a scale that is held; of degree 1 where the gates flow."""
    if gates.flowing:
        return euler(gates, lambda x: func(x, *args, **kwargs), x, 1)
    return stop(gates, func, x, *args, **kwargs)


@register_rule("var", "std")
def variation(gates: FrozenGates, func: Function, x: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Return a variance or standard deviation, a scale that is held; of degree 2 or 1 where the gates flow."""
    if gates.flowing:
        degree = 2 if find_operation(func).name == "var" else 1
        return euler(gates, lambda x: func(x, *args, **kwargs), x, degree)
    return stop(gates, func, x, *args, **kwargs)


@register_rule("var_mean", "std_mean")
def variation_and_mean(gates: FrozenGates, func: Function, x: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Return the variance or standard deviation by :func:`variation`, and the mean unchanged."""
    which = torch.var if find_operation(func).name == "var_mean" else torch.std
    of_variation = variation(gates, which, x, *args, **kwargs)
    dim = args[0] if args and not isinstance(args[0], bool) else kwargs.get("dim")
    keepdim = kwargs.get("keepdim", args[2] if len(args) > 2 else False)
    return of_variation, x.mean(dim, keepdim=keepdim)


@register_rule("cdist")
def distances(
    gates: FrozenGates, func: Function, a: Tensor, b: Tensor, p: float = 2.0, *args: Any, **kwargs: Any
) -> Any:
    """Return distances, scales that are held; where the gates flow, a norm of the differences."""
    if not gates.flowing:
        return stop(gates, func, a, b, p, *args, **kwargs)
    return euler(gates, lambda d: torch.linalg.vector_norm(d, p, dim=-1), a.unsqueeze(-2) - b.unsqueeze(-3), 1)


@register_rule("dist")
def distance(gates: FrozenGates, func: Function, a: Tensor, b: Tensor, p: float = 2.0) -> Tensor:
    """Return a distance, a scale that is held; where the gates flow, a norm of the difference."""
    if not gates.flowing:
        return stop(gates, func, a, b, p)
    return euler(gates, lambda d: torch.linalg.vector_norm(d, p), a - b, 1)


@register_rule("pairwise_distance")
def pairwise_distance(
    gates: FrozenGates, func: Function, a: Tensor, b: Tensor, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False
) -> Tensor:
    """Apply :func:`distance` over the last axis."""
    if not gates.flowing:
        return stop(gates, func, a, b, p, eps, keepdim)
    return euler(gates, lambda d: torch.linalg.vector_norm(d, p, dim=-1, keepdim=keepdim), a - b + eps, 1)


@register_rule("bilinear")
def bilinear(gates: FrozenGates, func: Function, a: Tensor, b: Tensor, weight: Tensor, bias: Any = None) -> Tensor:
    """Return ``a W b + bias``; weights that depend on ``z`` are a further factor."""
    factors = [place for place, part in enumerate((a, b, weight)) if gates.depends(part)]
    value = _each_way(gates, F.bilinear, (a, b, weight), factors)
    return value if bias is None else value + bias
