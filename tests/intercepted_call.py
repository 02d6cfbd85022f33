"""One call of an operation, plain and intercepted: its values, its derivative, and what the readout makes of it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from tests.operation_samples import Sample
from xai_align.pinet.gates.cut_off import CutOff
from xai_align.pinet.gates.frozen_gates import FrozenGates
from xai_align.pinet.gates.operation_table import classify
from xai_align.pinet.gates.rule_registry import UnknownOperation, find_operation

Function = Callable[..., Any]


@dataclass(frozen=True)
class Outcome:
    """What a call gave: a number ``s`` made of all its floating outputs, and its derivative, by place.

    Attributes:
        value: every floating tensor that came out, as real numbers.
        s: a fixed weighting of them.
        gradient: of ``s``; None where it depends on nothing.
    """

    value: list[Tensor]
    s: float
    gradient: list[Tensor] | None


@dataclass(frozen=True)
class Decomposition(Outcome):
    """The same under :class:`FrozenGates`.

    Attributes:
        bias: ``s`` where the tensors are 0 and the gates held.
        contributions: the sum of all of them.
        size: the sum of their sizes.
        cut_off: what was counted as cut off.
        held: whether a gate or a decision was made a constant.
    """

    bias: float = 0.0
    contributions: float = 0.0
    size: float = 0.0
    cut_off: tuple[CutOff, ...] = ()
    held: bool = False


def plain(func: Function, call: Sample, places: Sequence[int]) -> Outcome:
    """The values without gradients; the derivative if PyTorch has one."""
    leaves = _leaves(call, places)
    with torch.no_grad():
        values = _outputs(func, call, places, leaves)
    if find_operation(func).inplace == "self" and any(part.shape != _real(call.args[0]).shape for part in values):
        raise ValueError("written into a tensor of another shape")
    try:
        with torch.enable_grad():
            gradient = _gradient(_weighted(_outputs(func, call, places, leaves)), leaves)
    except (RuntimeError, NotImplementedError, TypeError):  # not differentiable, or no value for Python
        gradient = None
    return Outcome(values, float(_weighted(values)), gradient)


def moves(func: Function, call: Sample, places: Sequence[int]) -> bool:
    """Whether the values move with the tensors, as those of decisions don't: they stay, or jump."""
    generator = torch.Generator().manual_seed(3)
    leaves = [leaf.detach() for leaf in _leaves(call, places)]
    steps = [leaf + 1e-7 * torch.randn(leaf.shape, dtype=leaf.dtype, generator=generator) for leaf in leaves]
    with torch.no_grad():
        before, after = _outputs(func, call, places, leaves), _outputs(func, call, places, steps)
    pairs = [(a, b) for a, b in zip(before, after, strict=True) if a.shape == b.shape]
    differences = [((a - b).abs() / (1 + a.abs())).nan_to_num(nan=0.0) for a, b in pairs]
    return any(bool(((gap > 1e-12) & (gap < 1e-4)).any()) for gap in differences)


def intercepted(func: Function, call: Sample, places: Sequence[int], *, flowing: bool = False) -> Decomposition:
    leaves = _leaves(call, places)
    gates = FrozenGates(flowing=flowing, separate_views=True)
    gates.trace_stops = True
    zeros = [torch.zeros_like(leaf) for leaf in leaves]
    # copies, as a readout saves where the network overwrites what autograd needs
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(torch.clone, lambda x: x):
        value = _outputs(func, call, places, leaves, gates)
        s = _weighted(value)
    cut_off, held = gates.cut_off, gates.last_stop is not None
    gradient = _gradient(s, leaves)
    with gates.replay():
        at_zero = _outputs(func, call, places, zeros, None, gates)
    bias = float(_weighted(at_zero))
    terms = [] if gradient is None else [_real(g).mul(_real(x.detach())) for g, x in zip(gradient, leaves, strict=True)]
    total, size = (float(sum(part.sum() for part in parts)) for parts in (terms, [term.abs() for term in terms]))
    return Decomposition([part.detach() for part in value], float(s), gradient, bias, total, size, cut_off, held)


def affine_gap(func: Function, call: Sample, places: Sequence[int]) -> float:
    """How far ``f(.3 a + .7 b)`` is from ``.3 f(a) + .7 f(b)``, relative to the size of the values."""
    a = _leaves(call, places)
    generator = torch.Generator().manual_seed(5)
    b = [torch.randn(x.shape, dtype=x.dtype, generator=generator) for x in a]
    mixed = [0.3 * x + 0.7 * y for x, y in zip(a, b, strict=True)]
    values = [_outputs(func, call, places, [x.detach() for x in parts]) for parts in (a, b, mixed)]
    gap = size = 0.0
    for at_a, at_b, at_mix in zip(*values, strict=True):
        difference = (0.3 * at_a + 0.7 * at_b - at_mix).abs()
        gap = max(gap, float(difference.nan_to_num(nan=0.0).max()) if difference.numel() else 0.0)
        size = max(size, float(at_a.abs().nan_to_num(nan=0.0).max()) if at_a.numel() else 0.0, 1.0)
    return gap / max(size, 1.0)


def _leaves(call: Sample, places: Sequence[int]) -> list[Tensor]:
    leaves = tree_leaves(tuple(call))
    return [leaves[n].detach().clone().requires_grad_() for n in places]


def _outputs(
    func: Function,
    call: Sample,
    places: Sequence[int],
    leaves: Sequence[Tensor],
    mode: FrozenGates | None = None,
    replaying: FrozenGates | None = None,
) -> list[Tensor]:
    """The floating tensors that a call gives or writes into, in real numbers."""
    flat, spec = tree_flatten(tuple(call))
    given = [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in flat]
    for n, leaf in zip(places, leaves, strict=True):
        given[n] = leaf.clone()
    args, kwargs = tree_unflatten(given, spec)
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with mode or nullcontext():
            result = func(*args, **kwargs)
        with replaying.paused() if replaying else nullcontext():
            found = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
            if find_operation(func).inplace == "self" and not any(leaf is args[0] for leaf in found):
                found.append(args[0])
            return [_real(_numbers(leaf)) for leaf in found if leaf.is_floating_point() or leaf.is_complex()] + [
                torch.tensor(leaf, dtype=torch.float64)
                for leaf in tree_leaves(result)
                if isinstance(leaf, float | complex | np.ndarray)
                and not isinstance(leaf, complex)
                and np.asarray(leaf).dtype == np.float64
            ]


def _numbers(x: Tensor) -> Tensor:
    return x if x.layout == torch.strided else x.to_dense()


def _real(x: Tensor) -> Tensor:
    return torch.view_as_real(x.resolve_conj()) if x.is_complex() else x


def _weighted(values: Sequence[Tensor]) -> Tensor:
    generator = torch.Generator().manual_seed(11)
    total = torch.zeros((), dtype=torch.float64)
    for value in values:
        total = total + (value * (torch.rand(value.shape, dtype=torch.float64, generator=generator) + 0.5)).sum()
    return total


def _gradient(s: Tensor, leaves: Sequence[Tensor]) -> list[Tensor] | None:
    if not s.requires_grad:
        return None
    return list(torch.autograd.grad(s, leaves, materialize_grads=True, allow_unused=True))


def is_finite(outcome: Outcome) -> bool:
    return all(bool(part.isfinite().all()) for part in outcome.value)


# ---------------------------------------------------------------- whether the table tells the truth


def complaints(func: Function, call: Sample) -> list[str] | None:
    """What is wrong with the kind that :func:`classify` gives, found from one sample; None if it can't be run.

    Each word begins with "silent" where evidence would be lost without a word.
    """
    every = call.places()
    tried = [every] if len(every) == 1 else [every, every[:1]]
    found: list[str] = []
    usable = False
    for places in tried:
        try:
            wanted = plain(func, call, places)
        except (RuntimeError, NotImplementedError, TypeError, IndexError, ValueError):
            continue  # no sample for this spelling
        if is_finite(wanted):
            usable = True
            found += _complaints(func, call, places, wanted)
    return found if usable else None


def _complaints(func: Function, call: Sample, places: Sequence[int], wanted: Outcome) -> list[str]:
    kind = classify(func)
    moving = moves(func, call, places)
    try:
        found = intercepted(func, call, places)
    except UnknownOperation:
        return [] if kind == "refused" else [f"refused although {kind}"]
    except (ValueError, NotImplementedError) as error:
        told = "read out at a later layer" in str(error) or "call model.eval()" in str(error)
        return [] if told else [repr(error)]
    except Exception as error:
        return [f"fails: {error!r}"]
    if kind == "refused":
        return ["runs although refused"] if moving else []
    if "empty" in find_operation(func).name:
        return []  # no values yet
    wrong = []
    if not _same(wanted.value, found.value):
        wrong.append("gives another value")
    precision = max([torch.finfo(part.dtype).eps for part in found.value], default=0.0)
    if abs(found.contributions + found.bias - found.s) > max(1e-9, 8 * precision) * max(1.0, found.size, abs(found.s)):
        wrong.append(f"doesn't add up: {found.contributions} + {found.bias} is not {found.s}")
    lost = moving and found.gradient is None
    if kind == "linear":
        if lost and places == call.places():
            wrong.append("silent: its output moves with its input")
        gap = affine_gap(func, call, places)
        if gap > max(1e-9, 8 * precision):
            wrong.append(f"is not affine, by {gap}")
        if wanted.gradient is not None and (found.gradient is None or not _same(wanted.gradient, found.gradient)):
            wrong.append("has another derivative than the plain operation")
    if kind == "constant" and moving:
        wrong.append("silent: its output moves with its input")
    if kind in ("constant", "reading") and found.gradient is not None:
        wrong.append(f"hands a gradient on although {kind}")
    if kind == "reading" and moving and not found.cut_off:
        wrong.append("silent: not counted")
    if kind == "ruled" and lost and not found.held and not found.cut_off:
        wrong.append("silent: its output moves with its input")
    return [f"{problem} (tensors {list(places)} of {call})" for problem in wrong]


def _same(a: Sequence[Tensor], b: Sequence[Tensor]) -> bool:
    tolerances = [max(1e-9, 4 * torch.finfo(x.dtype).eps) for x in b]
    return len(a) == len(b) and all(
        x.shape == y.shape and x.dtype == y.dtype and torch.allclose(x, y, rtol=eps, atol=eps, equal_nan=True)
        for x, y, eps in zip(a, b, tolerances, strict=True)
    )
