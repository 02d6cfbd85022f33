"""Recurrent layers of every shape, against cells that are written out step by step with their gates detached."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.frozen_function import assert_decomposes, assert_of_one_kind, decompose, held, number, one_by_one

SEQUENCE = number(1, 4, 2, 3)  # [L, N, features]
LAYERS = {"tanh": nn.RNN, "relu": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}
CELLS = {"tanh": nn.RNNCell, "relu": nn.RNNCell, "lstm": nn.LSTMCell, "gru": nn.GRUCell}
#: A state: the output, and of an LSTM its memory.
State = tuple[Tensor, ...]


def made(kinds: dict[str, Any], kind: str, *sizes: int, **options: Any) -> Any:
    torch.manual_seed(0)
    nonlinearity = {"nonlinearity": kind} if kind in ("tanh", "relu") else {}
    layer = kinds[kind](*sizes, **nonlinearity, **options).double().eval().requires_grad_(False)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    return layer


def tanh(x: Tensor) -> Tensor:
    return x * held(x.tanh(), x)


def step(kind: str, x: Tensor, state: State, w: Tensor, u: Tensor, b: Any = 0.0, d: Any = 0.0) -> State:
    """The next state, from the published formulas."""
    left, right = x @ w.mT + b, state[0] @ u.mT + d
    if kind in ("tanh", "relu"):
        total = left + right
        return (tanh(total) if kind == "tanh" else total * (total > 0),)
    if kind == "lstm":
        i, f, g, o = (left + right).chunk(4, -1)
        c = f.sigmoid().detach() * state[1] + i.sigmoid().detach() * tanh(g)
        return o.sigmoid().detach() * tanh(c), c
    (r, z, n), (r_, z_, n_) = left.chunk(3, -1), right.chunk(3, -1)
    z = (z + z_).sigmoid().detach()
    return ((1 - z) * tanh(n + (r + r_).sigmoid().detach() * n_) + z * state[0],)


def by_hand(kind: str, layer: Any, x: Tensor, states: list[State]) -> tuple[Tensor, list[State]]:
    """The outputs ``[L, N, features]`` and every cell's last state."""
    last: list[State] = []
    for number_of_layer in range(layer.num_layers):
        outputs = []
        for suffix in [f"_l{number_of_layer}", f"_l{number_of_layer}_reverse"][: 2 if layer.bidirectional else 1]:
            names = ["weight_ih", "weight_hh"] + (["bias_ih", "bias_hh"] if layer.bias else [])
            weights = [getattr(layer, name + suffix) for name in names]
            state, out = states[len(last)], []
            for one in reversed(list(x)) if suffix.endswith("reverse") else x:
                state = step(kind, one, state, *weights)
                if layer.proj_size:
                    state = (state[0] @ getattr(layer, "weight_hr" + suffix).mT, state[1])
                out.append(state[0])
            outputs.append(torch.stack(out[::-1] if suffix.endswith("reverse") else out))
            last.append(state)
        x = torch.cat(outputs, -1)
    return x, last


SHAPES = list(product([1, 2], [False, True], [False, True], [False, True]))


@pytest.mark.parametrize(("layers", "bidirectional", "batch_first", "bias"), SHAPES)
@pytest.mark.parametrize("kind", LAYERS)
def test_layers(kind, layers, bidirectional, batch_first, bias):
    options = {"bidirectional": bidirectional, "batch_first": batch_first, "bias": bias}
    layer = made(LAYERS, kind, 3, 5, layers, **options)
    cells = layers * (2 if bidirectional else 1)
    inputs = [SEQUENCE, *(number(seed, cells, 2, 5) for seed in ((2, 3) if kind == "lstm" else (2,)))]

    def operation(x: Tensor, *states: Tensor) -> Any:
        out, last = layer(x.transpose(0, 1) if batch_first else x, states if kind == "lstm" else states[0])
        return out.transpose(0, 1) if batch_first else out, last

    def reference(x: Tensor, *states: Tensor) -> Any:
        out, last = by_hand(kind, layer, x, [tuple(one[at] for one in states) for at in range(cells)])
        return out, tuple(torch.stack(parts) for parts in zip(*last, strict=True))

    assert_decomposes(decompose(operation, inputs), inputs, reference)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", CELLS)
def test_cells(kind, bias):
    cell = made(CELLS, kind, 3, 5, bias=bias)
    weights = [cell.weight_ih, cell.weight_hh, *([cell.bias_ih, cell.bias_hh] if bias else [])]
    inputs = [SEQUENCE[0], *(number(seed, 2, 5) for seed in ((2, 3) if kind == "lstm" else (2,)))]

    def operation(x: Tensor, *state: Tensor) -> Any:
        return cell(x, state if kind == "lstm" else state[0])

    found = decompose(operation, inputs)
    assert_of_one_kind(found, operation(*inputs))
    assert_decomposes(found, inputs, lambda x, *state: step(kind, x, state, *weights))


def test_weights_of_ones_own_are_a_factor():
    inputs = [SEQUENCE[0], number(2, 2, 2), number(3, 2, 3), number(4, 2, 2), number(5, 4)[2:]]
    found = decompose(lambda x, h, w, u, b: torch.rnn_tanh_cell(x, h, w, u, b, b * 2), inputs)

    def reference(x: Tensor, h: Tensor, w: Tensor, u: Tensor, b: Tensor) -> Tensor:
        matmul: Callable[[Tensor, Tensor], Tensor] = torch.matmul
        return tanh(one_by_one(matmul, x, w.mT) + b + one_by_one(matmul, h, u.mT) + 2 * b)

    assert_decomposes(found, inputs, reference)


@pytest.mark.parametrize("kind", LAYERS)
def test_the_type_of_what_comes_is_that_of_torch(kind):
    layer = made(LAYERS, kind, 3, 2)
    out, last = layer(SEQUENCE)
    kept: list[Any] = []
    decompose(lambda x: kept.append(layer(x)) or kept[-1][0], [SEQUENCE])
    for found, state in kept[:1]:
        assert torch.allclose(found, out, rtol=1e-12)
        for one, other in zip(state, last, strict=True):
            assert torch.allclose(one, other, rtol=1e-12)


@pytest.mark.parametrize(("layers", "bidirectional", "bias"), list(product([1, 2], [False, True], [False, True])))
@pytest.mark.parametrize("kind", LAYERS)
def test_a_packed_sequence_is_each_sequence_alone(kind, layers, bidirectional, bias):
    layer = made(LAYERS, kind, 3, 5, layers, bidirectional=bidirectional, bias=bias)
    cells, lengths, padded = layers * (2 if bidirectional else 1), [2, 4, 3], number(1, 4, 3, 3)
    inputs = [padded, *(number(seed, cells, 3, 5) for seed in ((2, 3) if kind == "lstm" else (2,)))]

    def operation(x: Tensor, *states: Tensor) -> Any:
        packed = nn.utils.rnn.pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=False)
        out, last = layer(packed, states if kind == "lstm" else states[0])
        return nn.utils.rnn.pad_packed_sequence(out)[0], last

    def reference(x: Tensor, *states: Tensor) -> Any:
        alone = [
            by_hand(kind, layer, x[:length, [n]], [tuple(one[at, [n]] for one in states) for at in range(cells)])
            for n, length in enumerate(lengths)
        ]
        out = torch.cat([nn.functional.pad(one, (0, 0, 0, 0, 0, 4 - len(one))) for one, _ in alone], 1)
        last = [
            [torch.cat(one) for one in zip(*parts, strict=True)]
            for parts in zip(*(state for _, state in alone), strict=True)
        ]
        return out, tuple(torch.stack(parts) for parts in zip(*last, strict=True))

    assert_decomposes(decompose(operation, inputs), inputs, reference)


@pytest.mark.parametrize("bias", [True, False])
def test_projections(bias):
    layer = made(LAYERS, "lstm", 3, 5, 2, proj_size=2, bidirectional=True, bias=bias)
    inputs = [SEQUENCE, number(2, 4, 2, 2), number(3, 4, 2, 5)]

    def reference(x: Tensor, h: Tensor, c: Tensor) -> Any:
        out, last = by_hand("lstm", layer, x, [(h[at], c[at]) for at in range(4)])
        return out, tuple(torch.stack(parts) for parts in zip(*last, strict=True))

    assert_decomposes(decompose(lambda x, *states: layer(x, states), inputs), inputs, reference)


def test_dropout_between_layers_at_work_is_refused():
    layer = made(LAYERS, "gru", 3, 2, 2, dropout=0.5)
    decompose(lambda x: layer(x)[0], [SEQUENCE])
    with pytest.raises(ValueError, match=r"model\.eval\(\)"):
        decompose(lambda x: layer.train()(x)[0], [SEQUENCE])


@pytest.mark.filterwarnings("ignore:dropout option adds dropout after all but last")
def test_dropout_of_nothing_is_none():
    for layers, dropout in ((1, 0.5), (2, 0.0)):
        layer = made(LAYERS, "gru", 3, 2, layers, dropout=dropout).train()
        start = torch.zeros(layers, 2, 2, dtype=torch.float64)
        found = decompose(lambda x, layer=layer: layer(x)[0], [SEQUENCE])
        reference = lambda x, layer=layer, start=start: by_hand("gru", layer, x, [(one,) for one in start])[0]  # noqa: E731
        assert_decomposes(found, [SEQUENCE], reference)
