"""Deviations of a network's hidden layers under perturbed inputs.

Definitions as in the evaluation of FEI (Zhang & McMillan, arXiv 2509.04588),
for the output ``a`` of a layer for the clean input and ``b`` for the perturbed
one, over the layer's units:

* ``mse``: mean of ``(a - b)^2``; on the layer's own scale, so don't average it over layers
* ``relative``: ``||a - b||^2 / ||a||^2``
* ``active``: share of the units with ``a > 0`` that have ``b > 0`` too
* ``inactive``: share of the units with ``a <= 0`` that have ``b <= 0`` too
* ``correlation``: Pearson's r over all units; 0 where ``b`` is constant
* ``cosine``: cosine similarity; 0 where ``b`` is 0
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from xai_align._tools.checks import check_choice
from xai_align._tools.did_you_mean import did_you_mean
from xai_align.features.unwrapping import network_of
from xai_align.plugins import stages

#: The measures, in the order of the last axis of :attr:`LayerDeviations.values`.
MEASURES = ("mse", "relative", "active", "inactive", "correlation", "cosine")


@dataclass(frozen=True)
class LayerDeviations:
    """Deviations of hidden layers along a curve.

    Attributes:
        layers: names of the layers.
        values: ``[N, F, L, M]``: for each example, fraction, layer and measure of :data:`MEASURES`.
            NaN where a measure is not defined: no active unit, a constant layer.
    """

    layers: tuple[str, ...]
    values: Tensor

    def of(self, measure: str) -> Tensor:
        """Return one measure, ``[N, F, L]``.

        Raises:
            ValueError: there is no such measure.
        """
        check_choice("measure", measure, MEASURES)
        return self.values[..., MEASURES.index(measure)]


class CleanLayer:
    """A layer's outputs for the clean inputs, ``[N, ...]``, with the statistics for comparisons with them."""

    def __init__(self, clean: Tensor) -> None:
        channels_last = clean.dim() == 4 and clean.is_contiguous(memory_format=torch.channels_last)
        self._order = (0, 2, 3, 1) if channels_last else tuple(range(clean.dim()))
        self.a = self._flat(clean)
        self.aa = _dots(self.a, self.a)
        self.mean = self.a.mean(1)
        self.variation = _variation(self.a - self.mean[:, None], self.aa)
        self.active = self.a > 0
        self.count = self.active.sum(1)

    def deviations(self, rows: Sequence[int], now: Tensor) -> Tensor:
        """Return the :data:`MEASURES` of outputs ``[M, ...]`` for perturbed inputs of these rows, ``[M, 6]``."""
        b, parts = self._flat(now), []
        start = 0
        for row, several in groupby(rows):
            end = start + len(list(several))
            parts.append(self._of_row(row, b[start:end]))
            start = end
        return torch.cat(parts)

    def _of_row(self, row: int, b: Tensor) -> Tensor:
        a, aa, units = self.a[row], self.aa[row], self.a.shape[1]
        count, active = self.count[row], b > 0
        both, others = (active & self.active[row]).sum(1), active.sum(1)
        changed, centred = b - a, b - b.mean(1, keepdim=True)
        dd, ab, bb = _dots(changed, changed), b @ a, _dots(b, b)
        covariance = centred @ (a - self.mean[row])
        return torch.stack(
            [
                dd / units,
                dd / aa,
                both / count,
                (units - count - others + both) / (units - count),
                _cosine(covariance, self.variation[row], _variation(centred, bb)),
                _cosine(ab, aa, bb),
            ],
            dim=1,
        )

    def _flat(self, output: Tensor) -> Tensor:
        half = output.dtype in (torch.float16, torch.bfloat16)
        return (output.float() if half else output).detach().permute(self._order).flatten(1)


def check_batch_first(outputs: Mapping[str, Tensor], count: int) -> None:
    """Raise unless each layer's output has one entry for each of ``count`` examples.

    Raises:
        ValueError: one does not, such as that of a layer that works on windows of the images.
    """
    for name, output in outputs.items():
        if output.dim() == 0 or len(output) != count:
            raise ValueError(
                f"the output of layer '{name}' has shape {list(output.shape)} for {count} examples: its first axis "
                "is not the batch; choose layers whose outputs have one entry for each example"
            )


def deviations(clean: Tensor, now: Tensor) -> Tensor:
    """Return the :data:`MEASURES` between two batches of a layer's outputs, ``[N, ...]`` each, as ``[N, 6]``."""
    return CleanLayer(clean).deviations(range(len(clean)), now)


def _dots(a: Tensor, b: Tensor) -> Tensor:
    """Return the dot products of the rows of two tables ``[N, U]``."""
    return torch.einsum("nu,nu->n", a, b)


def _variation(centred: Tensor, squares: Tensor) -> Tensor:
    """Return the sums of squares of centred rows ``[N, U]``; 0 where rounding explains them, as of a constant layer.

    Args:
        centred: the rows less their means.
        squares: the sums of squares of the rows themselves, ``[N]``.
    """
    rounding = 16 * torch.finfo(centred.dtype).eps  # of a mean, relative to the values
    found = _dots(centred, centred)
    return torch.where(found <= rounding**2 * squares, 0.0, found)


def _cosine(ab: Tensor, aa: Tensor, bb: Tensor) -> Tensor:
    """Return ``ab / sqrt(aa bb)``; 0 where ``bb`` is 0, NaN where ``aa`` is 0."""
    return torch.where((bb == 0) & (aa > 0), 0.0, ab / (aa.sqrt() * bb.sqrt()))


class LayerHooks:
    """Forward hooks that pass the outputs of named modules to a callback during a forward pass."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        self._callback: Callable[[str, Tensor], Any] | None = None
        self._seen: dict[str, Any] = {}

    @contextmanager
    def calling(self, callback: Callable[[str, Tensor], Any]) -> Iterator[dict[str, Any]]:
        """Call ``callback(name, output)`` for every layer inside the block, and yield its results by name.

        Raises:
            ValueError: a layer did not run, ran twice or did not return a tensor.
        """
        self._callback, self._seen = callback, {}
        try:
            yield self._seen
        finally:
            self._callback = None
        silent = [name for name in self.names if name not in self._seen]
        if silent:
            raise ValueError(f"layer '{silent[0]}' did not run; choose layers that the model calls")

    @classmethod
    def on(cls, replica: nn.Module, names: Sequence[str] | None) -> LayerHooks:
        """Hook these modules of a replica, for its whole lifetime; by default the stages that a plugin names.

        Raises:
            ValueError: a module is not found, or no stages are known.
        """
        inner, _ = network_of(replica)
        chosen = tuple(names) if names is not None else stages(inner)
        if not chosen:
            raise ValueError(
                f"{type(inner).__name__} has no layers that are known as its stages; name the layers, "
                f"e.g. layers={[name for name, _ in inner.named_children()][:3]}"
            )
        modules = dict(inner.named_modules())
        for name in chosen:
            if name not in modules or not name:
                outermost = ", ".join(one for one, _ in inner.named_children())
                raise ValueError(
                    f"layer '{name}' not found{did_you_mean(name, modules)} The outermost layers are {outermost}"
                )
        hooks = cls(chosen)
        for name in chosen:
            modules[name].register_forward_hook(hooks._hook(name))
        return hooks

    def _hook(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, args: Any, out: Any) -> None:
            if self._callback is None:
                return
            out = out[0] if isinstance(out, tuple | list) and out else out
            if not isinstance(out, Tensor):
                raise ValueError(f"layer '{name}' returns a {type(out).__name__}; choose one that returns a tensor")
            if name in self._seen:
                raise ValueError(f"layer '{name}' runs more than once in a pass; choose layers that run once")
            self._seen[name] = self._callback(name, out)

        return hook
