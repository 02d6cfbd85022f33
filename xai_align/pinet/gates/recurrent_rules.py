"""Rules for recurrent layers and cells: gates are held, states flow.

| cell | rewritten as |
|---|---|
| RNN | ``h' = f(W x + U h)``, tanh or ReLU as an activation |
| LSTM | ``c' = stop(f) c + stop(i) tanh(g)``, ``h' = stop(o) tanh(c')`` |
| GRU | ``n = tanh(W x + stop(r) (U h))``, ``h' = (1 - stop(z)) n + stop(z) h`` |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from xai_align.pinet.gates.frozen_gates import FrozenGates
from xai_align.pinet.gates.gate_rules import activation, relu
from xai_align.pinet.gates.product_rules import product
from xai_align.pinet.gates.rule_registry import find_operation, register_rule

Function = Callable[..., Any]
#: ``(gates, from_input, state, w_hidden, b_hidden)`` to the next state; a state is one tensor or two.
Cell: TypeAlias = Callable[[FrozenGates, Tensor, tuple[Tensor, ...], Tensor, Tensor | None], tuple[Tensor, ...]]


def _linear(gates: FrozenGates, x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
    """Apply a linear layer, as a product if its weights depend on ``z``."""
    return product(gates, F.linear, x, w, b)


def _tanh_cell(
    gates: FrozenGates, from_input: Tensor, state: tuple[Tensor, ...], w: Tensor, b: Tensor | None
) -> tuple[Tensor, ...]:
    return (activation(gates, torch.tanh, from_input + _linear(gates, state[0], w, b)),)


def _relu_cell(
    gates: FrozenGates, from_input: Tensor, state: tuple[Tensor, ...], w: Tensor, b: Tensor | None
) -> tuple[Tensor, ...]:
    return (relu(gates, torch.relu, from_input + _linear(gates, state[0], w, b)),)


def _lstm_cell(
    gates: FrozenGates, from_input: Tensor, state: tuple[Tensor, ...], w: Tensor, b: Tensor | None
) -> tuple[Tensor, ...]:
    h, c = state
    i, f, g, o = (from_input + _linear(gates, h, w, b)).chunk(4, -1)
    i, f, o = gates.save(lambda: (i.sigmoid(), f.sigmoid(), o.sigmoid()))
    c = f * c + i * activation(gates, torch.tanh, g)
    return o * activation(gates, torch.tanh, c), c


def _gru_cell(
    gates: FrozenGates, from_input: Tensor, state: tuple[Tensor, ...], w: Tensor, b: Tensor | None
) -> tuple[Tensor, ...]:
    (h,) = state
    r_input, z_input, n_input = from_input.chunk(3, -1)
    r_hidden, z_hidden, n_hidden = _linear(gates, h, w, b).chunk(3, -1)
    r, z = gates.save(lambda: ((r_input + r_hidden).sigmoid(), (z_input + z_hidden).sigmoid()))
    n = activation(gates, torch.tanh, n_input + r * n_hidden)
    return ((1 - z) * n + z * h,)


_CELLS: dict[str, Cell] = {
    "lstm": _lstm_cell,
    "gru": _gru_cell,
    "rnn_tanh": _tanh_cell,
    "rnn_relu": _relu_cell,
}


@register_rule("lstm", "gru", "rnn_tanh", "rnn_relu")
def recurrent_layer(gates: FrozenGates, func: Function, x: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    """Run every step of every layer by its cell.

    The arguments are ``(x, state, weights, biases?, layers, dropout, train, bidirectional, batch_first)``, and of a
    packed sequence ``(data, batch_sizes, state, weights, biases?, layers, dropout, train, bidirectional)``.

    Raises:
        ValueError: dropout between layers is active.
    """
    if isinstance(arguments[2], list | tuple):
        batch_sizes, state, weights, *options, bidirectional = arguments
        steps, batch_first = x.split(batch_sizes.tolist()), False
    else:
        state, weights, *options, bidirectional, batch_first = arguments
        steps = (x.transpose(0, 1) if batch_first else x).unbind()
    has_biases, num_layers, dropout, train = options
    if train and dropout > 0 and num_layers > 1:
        raise ValueError("the network drops out at random (train mode); call model.eval() first")
    name = find_operation(func).name
    states = tuple(state) if name == "lstm" else (state,)
    directions = 2 if bidirectional else 1
    per_cell = len(weights) // (num_layers * directions)
    last: list[tuple[Tensor, ...]] = []
    for layer in range(num_layers):
        outputs = []
        for direction in range(directions):
            number = layer * directions + direction
            of_cell = weights[number * per_cell : (number + 1) * per_cell]
            now = tuple(part[number] for part in states)
            ordered, now = _run_cells(
                gates, _CELLS[name], steps[::-1] if direction else steps, now, of_cell, has_biases
            )
            outputs.append(ordered[::-1] if direction else ordered)
            last.append(now)
        steps = tuple(torch.cat(parts, -1) for parts in zip(*outputs, strict=True))
    final = tuple(torch.stack(parts) for parts in zip(*last, strict=True))
    if isinstance(arguments[2], list | tuple):
        return torch.cat(steps), *final
    return torch.stack(steps, 1 if batch_first else 0), *final


def _run_cells(
    gates: FrozenGates,
    cell: Cell,
    steps: Sequence[Tensor],
    now: tuple[Tensor, ...],
    weights: Sequence[Tensor],
    has_biases: bool,
) -> tuple[list[Tensor], tuple[Tensor, ...]]:
    """Return a layer's output at each step, and its last state, in the order of ``steps``.

    In a packed sequence, a step has the rows of the sequences that are long enough; the state of the others stays.
    """
    w_input, w_hidden, *more = weights
    b_input, b_hidden = more[:2] if has_biases else (None, None)
    w_projection = more[-1] if len(weights) in (3, 5) else None  # h = W_hr o tanh(c)
    outputs = []
    from_inputs = _linear(gates, torch.cat(tuple(steps)), w_input, b_input).split([len(step) for step in steps])
    for step in from_inputs:
        rows = len(step)
        new = cell(gates, step, tuple(part[:rows] for part in now), w_hidden, b_hidden)
        if w_projection is not None:
            new = (_linear(gates, new[0], w_projection, None), *new[1:])
        outputs.append(new[0])
        now = tuple(a if rows == len(b) else torch.cat((a, b[rows:])) for a, b in zip(new, now, strict=True))
    return outputs, now


@register_rule("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell")
def recurrent_cell(
    gates: FrozenGates,
    func: Function,
    x: Tensor,
    state: Any,
    w_input: Tensor,
    w_hidden: Tensor,
    b_input: Tensor | None = None,
    b_hidden: Tensor | None = None,
) -> Any:
    """Run one step."""
    name = find_operation(func).name.removesuffix("_cell")
    states = tuple(state) if name == "lstm" else (state,)
    found = _CELLS[name](gates, _linear(gates, x, w_input, b_input), states, w_hidden, b_hidden)
    return found if name == "lstm" else found[0]
