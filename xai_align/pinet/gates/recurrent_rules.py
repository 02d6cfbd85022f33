"""Rules for recurrent layers and cells: gates are held, states flow.

| cell | rewritten as |
|---|---|
| RNN | ``h' = f(W x + U h)``, tanh or ReLU as an activation |
| LSTM | ``c' = stop(f) c + stop(i) tanh(g)``, ``h' = stop(o) tanh(c')`` |
| GRU | ``n = tanh(W x + stop(r) (U h))``, ``h' = (1 - stop(z)) n + stop(z) h`` |
"""

from __future__ import annotations

from collections.abc import Callable
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
    i, f, o = gates.keep(lambda: (i.sigmoid(), f.sigmoid(), o.sigmoid()))
    c = f * c + i * activation(gates, torch.tanh, g)
    return o * activation(gates, torch.tanh, c), c


def _gru_cell(
    gates: FrozenGates, from_input: Tensor, state: tuple[Tensor, ...], w: Tensor, b: Tensor | None
) -> tuple[Tensor, ...]:
    (h,) = state
    r_input, z_input, n_input = from_input.chunk(3, -1)
    r_hidden, z_hidden, n_hidden = _linear(gates, h, w, b).chunk(3, -1)
    r, z = gates.keep(lambda: ((r_input + r_hidden).sigmoid(), (z_input + z_hidden).sigmoid()))
    n = activation(gates, torch.tanh, n_input + r * n_hidden)
    return ((1 - z) * n + z * h,)


_CELLS: dict[str, Cell] = {
    "lstm": _lstm_cell,
    "gru": _gru_cell,
    "rnn_tanh": _tanh_cell,
    "rnn_relu": _relu_cell,
}


@register_rule("lstm", "gru", "rnn_tanh", "rnn_relu")
def recurrent_layer(
    gates: FrozenGates,
    func: Function,
    x: Tensor,
    state: Any,
    weights: list[Tensor],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, ...]:
    """Run every step of every layer by its cell.

    Raises:
        NotImplementedError: projections or packed sequences.
        ValueError: dropout between layers is active.
    """
    name = find_operation(func).name
    cell = _CELLS[name]
    states = tuple(state) if name == "lstm" else (state,)
    per_cell = 4 if has_biases else 2
    directions = 2 if bidirectional else 1
    # a packed sequence comes as (data, batch_sizes, state, weights, ...)
    if not isinstance(weights, list | tuple) or len(weights) != per_cell * num_layers * directions:
        raise NotImplementedError(
            f"{name.upper()} with projections or a packed sequence has no rule; read out at a later layer"
        )
    if train and dropout > 0 and num_layers > 1:
        raise ValueError("the network drops out at random (train mode); call model.eval() first")
    sequence = x.transpose(0, 1) if batch_first else x
    last: list[tuple[Tensor, ...]] = []
    for layer in range(num_layers):
        outputs = []
        for direction in range(directions):
            number = layer * directions + direction
            w_input, w_hidden, *biases = weights[number * per_cell : (number + 1) * per_cell]
            b_input, b_hidden = biases or (None, None)
            from_input = _linear(gates, sequence.flip(0) if direction else sequence, w_input, b_input)
            now = tuple(part[number] for part in states)
            steps = []
            for step in from_input:
                now = cell(gates, step, now, w_hidden, b_hidden)
                steps.append(now[0])
            out = torch.stack(steps)
            outputs.append(out.flip(0) if direction else out)
            last.append(now)
        sequence = torch.cat(outputs, -1)
    final = tuple(torch.stack(parts) for parts in zip(*last, strict=True))
    return sequence.transpose(0, 1) if batch_first else sequence, *final


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
