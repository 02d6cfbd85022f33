"""Bias contributions to the answer, kept at the positions where they act.

With gates held, an answer read out early in a network is mostly bias: a unit's bias counts at every position where
its gate is open. These terms have positions just as contributions do. With ``beta`` the derivative of the answer
in a layer's output and ``b`` the layer's bias,

    answer = sum(contributions) + sum over layers, positions p, channels c (b_c * beta_cp) + rest,

so the bias contributions form one map per layer, on that layer's own grid. This is the exact form of FullGrad's
bias gradients (Srinivas & Fleuret 2019). A constant that a network adds on a grid is a bias too: a position embedding
is evidence about a patch's place (Bakish et al. 2025). The rest has no position: biases behind the pooling, on class
tokens and within windows, and biases of layers that are not intercepted here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from xai_align.features.spatial import contribution_map, layout_of
from xai_align.hookspecs import FeatureSpace
from xai_align.pinet.gates.convolution_rule import CONVOLUTIONS
from xai_align.pinet.gates.frozen_gates import FrozenGates
from xai_align.pinet.gates.rule_registry import Rule, find_rule

Operation = Callable[..., Any]
#: Largest ratio between the aspect ratios of a grid and the image for which the grid is taken to cover the image.
PROPORTIONS = 1.34


class BiasesApart:
    """Default treatment of biases: their sum is one number per example."""

    def rules(self, within: Mapping[Any, Rule]) -> Mapping[Any, Rule]:
        """Return the rules unchanged."""
        return within

    def pass_space(self, number: int, space: FeatureSpace, z: Tensor) -> None:
        """Do nothing when the pass reaches a feature space."""

    def start_replay(self, number: int) -> None:
        """Do nothing when a replay starts."""

    def anew(self) -> BiasesApart:
        """Return a new object without recorded biases."""
        return self

    def of(self, number: int) -> tuple[Tensor, ...]:
        """Return no maps."""
        return ()


class PlacedBiases(BiasesApart):
    """Recorder of every bias behind a feature space, which omits biases with a position from the replay.

    Args:
        count: examples in the batch.
        image_size: rows and columns of the input.
        tokens: returns spaces of tokens ``[N, L, C]`` by ``L``, for other layers with tokens; called where they occur.
    """

    def __init__(
        self, count: int, image_size: tuple[int, int], tokens: Callable[[], Mapping[int, FeatureSpace]] = dict
    ) -> None:
        self._count, self._image_size = count, image_size
        #: Contribution of each bias, ``[N, h, w]``; None until the backward pass reaches it.
        self._maps: list[Tensor | None] = []
        #: The biases as recorded.
        self._biases: list[Tensor] = []
        #: Number and grid of the tokens, where there are tokens.
        self._tokens: dict[int, FeatureSpace] = {}
        self._others = tokens
        self._asked = False
        #: Number of biases before each space, by the space's index.
        self._before: dict[int, int] = {}
        #: In a replay: the number of biases so far, and of the first that is left out.
        self._replayed: int
        self._left_out_from: int

    def pass_space(self, number: int, space: FeatureSpace, z: Tensor) -> None:
        """Assign biases from here on to the decomposition at this feature space."""
        self._before.setdefault(number, len(self._maps))
        if z.dim() == 3 and layout_of(z, space) == "NLC":
            self._tokens[z.shape[1]] = space

    def anew(self) -> PlacedBiases:
        """Return a new object without recorded biases."""
        return PlacedBiases(self._count, self._image_size, self._others)

    def start_replay(self, number: int) -> None:
        """Start the replay from the space with this index, without the biases behind it."""
        self._replayed, self._left_out_from = 0, self._before[number]

    def of(self, number: int) -> tuple[Tensor, ...]:
        """Return maps ``[N, h, w]`` of the contributions of biases behind a space, one per grid size."""
        found: dict[torch.Size, Tensor] = {}
        for cells in self._maps[self._before[number] :]:
            if cells is not None:  # a gradient arrived there
                found[cells.shape] = found[cells.shape] + cells if cells.shape in found else cells
        return tuple(found.values())

    def rules(self, within: Mapping[Any, Rule]) -> Mapping[Any, Rule]:
        """Return rules for layers with biases, which wrap those ``within`` or the registered ones."""

        def inner(func: Any) -> Rule:
            rule = within.get(func) or find_rule(getattr(torch, func) if isinstance(func, str) else func)
            assert rule is not None
            return rule

        listening: dict[Any, Rule] = {func: partial(self._convolution, inner(func)) for func in CONVOLUTIONS}
        listening[F.linear] = partial(self._linear, inner(F.linear))
        listening[F.batch_norm] = partial(self._batch_norm, inner(F.batch_norm))
        listening[F.layer_norm] = partial(self._layer_norm, inner(F.layer_norm))
        listening["add"] = partial(self._sum, inner("add"), 1)
        listening["sub"] = partial(self._sum, inner("sub"), -1)
        return {**within, **listening}

    def _convolution(
        self, inner: Rule, gates: FrozenGates, func: Operation, input: Tensor, weight: Tensor,
        bias: Tensor | None = None, *geometry: Any, **more: Any,
    ) -> Any:  # fmt: skip
        if bias is None or input.dim() != 4 or gates.depends(weight, bias):
            return inner(gates, func, input, weight, bias, *geometry, **more)
        value = inner(gates, func, input, weight, None, *geometry, **more)
        return self._with(gates, value, bias.view(-1, 1, 1), "NCHW")

    def _linear(
        self,
        inner: Rule,
        gates: FrozenGates,
        func: Operation,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
    ) -> Any:
        if bias is None or gates.depends(weight, bias):
            return inner(gates, func, input, weight, bias)
        return self._with(gates, inner(gates, func, input, weight, None), bias, "NHWC")

    def _batch_norm(
        self, inner: Rule, gates: FrozenGates, func: Operation, x: Tensor, running_mean: Any, running_var: Any,
        weight: Tensor | None, bias: Tensor | None, training: bool, momentum: float, eps: float,
    ) -> Any:  # fmt: skip
        if training or x.dim() != 4:
            return inner(gates, func, x, running_mean, running_var, weight, bias, training, momentum, eps)
        # (x - mean) / sigma * weight + bias, in its two parts
        value = inner(gates, func, x, torch.zeros_like(running_mean), running_var, weight, None, False, momentum, eps)
        offset = -running_mean * (running_var + eps).rsqrt()
        offset = offset if weight is None else offset * weight
        offset = offset if bias is None else offset + bias
        return self._with(gates, value, offset.to(x.dtype).view(-1, 1, 1), "NCHW")

    def _layer_norm(
        self, inner: Rule, gates: FrozenGates, func: Operation, x: Tensor, normalized_shape: Sequence[int],
        weight: Tensor | None, bias: Tensor | None, eps: float,
    ) -> Any:  # fmt: skip
        if bias is None or len(normalized_shape) != 1:
            return inner(gates, func, x, normalized_shape, weight, bias, eps)
        return self._with(gates, inner(gates, func, x, normalized_shape, weight, None, eps), bias, "NHWC")

    def _sum(self, inner: Rule, sign: int, gates: FrozenGates, func: Operation, a: Any, b: Any, **more: Any) -> Any:
        of_a, of_b = gates.depends(a), gates.depends(b)
        if of_a and of_b:
            return inner(gates, func, a, b, **more)
        value, constant = (a, b) if of_a else (b, a)
        on_grid = isinstance(constant, Tensor) and constant.is_floating_point() and constant.dim() > 0
        if more or not on_grid or (sign < 0 and not of_a) or not _fits(constant, value):
            return func(a, b, **more)
        rows = value.shape[2:] if value.dim() == 4 else (0, 0)
        return self._with(gates, value, sign * constant, "NCHW" if self._covers(*rows) else "NHWC")

    def _with(self, gates: FrozenGates, value: Tensor, bias: Tensor, layout: Any) -> Tensor:
        """Add the bias to a value, and record it if its positions lie in the image."""
        bias, space = bias.to(value.dtype), self._space_of(value, layout)
        if space is None or not gates.recall(
            lambda: value.requires_grad
        ):  # the network may run a part of itself under no_grad
            return value + bias
        number = self._replayed if not gates.recording else len(self._maps)
        if not gates.recording:
            self._replayed += 1
            if number < self._left_out_from:
                return value + bias
            # other inputs may give another value where it is evidence that bypasses the space
            return _with_prefix(value, bias, space) + (bias - self._biases[number])
        self._maps.append(None)
        self._biases.append(bias.detach().clone())
        value = value + bias

        def listen(beta: Tensor) -> None:
            self._maps[number] = contribution_map(beta * bias, space, self._image_size)

        value.register_hook(listen)
        return value

    def _space_of(self, value: Tensor, layout: Any) -> FeatureSpace | None:
        if len(value) != self._count:  # windows or patches, each as a separate example
            return None
        if value.dim() == 3:
            return self._space_of_tokens(value.shape[1])
        if value.dim() != 4 or not self._covers(*(value.shape[2:] if layout == "NCHW" else value.shape[1:3])):
            return None
        return FeatureSpace(layer="biases", layout=layout)

    def _space_of_tokens(self, count: int) -> FeatureSpace | None:
        if count not in self._tokens and not self._asked:
            self._tokens = {**self._others(), **self._tokens}
            self._asked = True
        return self._tokens.get(count)

    def _covers(self, rows: int, columns: int) -> bool:
        """Return whether a grid of more than one cell has the proportions of the image."""
        height, width = self._image_size
        return rows * columns > 1 and 1 / PROPORTIONS < rows * width / (columns * height) < PROPORTIONS


def _fits(constant: Tensor, value: Any) -> bool:
    """Return whether a constant is added to a value without enlarging it."""
    return isinstance(value, Tensor) and torch.broadcast_shapes(constant.shape, value.shape) == value.shape


def _with_prefix(value: Tensor, bias: Tensor, space: FeatureSpace) -> Tensor:
    """Return the value with the bias on prefix and suffix tokens alone, which have no position in the image."""
    if not (space.prefix_tokens or space.suffix_tokens) or value.dim() != 3:
        return value
    bias = bias.expand(value.shape).clone()
    bias[:, space.patches(value.shape[1])] = 0
    return value + bias
