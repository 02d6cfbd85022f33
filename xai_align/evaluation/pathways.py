"""How far perturbed inputs drive the hidden layers of a network from where they were.

Definitions as in the evaluation of FEI (Zhang & McMillan, arXiv 2509.04588),
for the output ``a`` of a layer for the input as it is and ``b`` for the
perturbed one, over the layer's units:

* ``mse``: mean of ``(a - b)^2``; in the layer's own units, not to be averaged over layers
* ``relative``: ``||a - b||^2 / ||a||^2``
* ``active``: share of the units with ``a > 0`` that have ``b > 0`` too
* ``inactive``: share of the units with ``a <= 0`` that have ``b <= 0`` too
* ``correlation``: Pearson's, of all units; 0 where ``b`` doesn't vary
* ``cosine``: of the two as vectors; 0 where ``b`` is 0
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from xai_align.plugin_loading import did_you_mean
from xai_align.plugins import stages
from xai_align.question import QuestionModel

#: The measures, in the order of the last axis of :attr:`Pathways.values`.
MEASURES = ("mse", "relative", "active", "inactive", "correlation", "cosine")


@dataclass(frozen=True)
class Pathways:
    """Deviations of hidden layers along a curve.

    Attributes:
        layers: names of the layers.
        values: ``[N, F, L, M]``: for each example, fraction, layer and measure of :data:`MEASURES`.
            NaN where a measure has no value: no active unit, a layer without variation.
    """

    layers: tuple[str, ...]
    values: Tensor

    def of(self, measure: str) -> Tensor:
        """``[N, F, L]``: one measure.

        Raises:
            ValueError: there is no such measure.
        """
        if measure not in MEASURES:
            raise ValueError(f"there is no measure '{measure}'; known: {', '.join(MEASURES)}")
        return self.values[..., MEASURES.index(measure)]


def deviations(clean: Tensor, now: Tensor) -> Tensor:
    """``[N, 6]``: the :data:`MEASURES` between two batches of a layer's outputs, ``[N, ...]`` each."""
    a, b = clean.flatten(1), now.flatten(1)
    units = a.shape[1]
    changed = (a - b).square().sum(1)
    aa, bb, ab = a.square().sum(1), b.square().sum(1), (a * b).sum(1)
    active, still = a > 0, b > 0
    both, either = (active & still).sum(1), (active | still).sum(1)
    count = active.sum(1)
    centred_a, centred_b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    covariance = (centred_a * centred_b).sum(1)
    return torch.stack(
        [
            changed / units,
            changed / aa,
            both / count,
            (units - either) / (units - count),
            _cosine(covariance, centred_a.square().sum(1), centred_b.square().sum(1)),
            _cosine(ab, aa, bb),
        ],
        dim=1,
    )


def _cosine(ab: Tensor, aa: Tensor, bb: Tensor) -> Tensor:
    """``ab / sqrt(aa bb)``; 0 where there is no ``b``, NaN where there is no ``a`` to compare it with."""
    return torch.where((bb == 0) & (aa > 0), 0.0, ab / (aa.sqrt() * bb.sqrt()))


class LayerWatch:
    """Keeps what named modules put out during a forward pass, while it is ``awake``."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        self.awake = True
        self._seen: dict[str, Tensor] = {}

    @classmethod
    @contextmanager
    def on(cls, model: Any, names: Sequence[str] | None) -> Iterator[LayerWatch]:
        """Watch these modules of a model inside; by default the stages that a plugin names.

        Raises:
            TypeError: it is no ``nn.Module``.
            ValueError: a module is not found, or no stages are known.
        """
        if not isinstance(model, nn.Module):
            raise TypeError(f"hidden layers need the torch.nn.Module itself, got {type(model).__name__}")
        inner = model.model if isinstance(model, QuestionModel) else model
        chosen = tuple(names) if names is not None else stages(inner)
        if not chosen:
            raise ValueError(
                f"no plugin knows the stages of {type(inner).__name__}; name the layers to watch, "
                f"e.g. layers={[name for name, _ in inner.named_children()][:3]}"
            )
        modules = dict(inner.named_modules())
        for name in chosen:
            if name not in modules or not name:
                raise ValueError(f"layer '{name}' not found{did_you_mean(name, modules)}")
        watch = cls(chosen)
        handles = []
        try:
            for name in chosen:
                handles.append(modules[name].register_forward_hook(watch._keeper(name)))
            yield watch
        finally:
            for handle in handles:
                handle.remove()

    def take(self) -> dict[str, Tensor]:
        """The outputs of the last pass in float32 or wider, in the order of the names.

        Raises:
            ValueError: a layer did not run.
        """
        silent = [name for name in self.names if name not in self._seen]
        if silent:
            raise ValueError(f"layer '{silent[0]}' did not run; choose layers that the model calls")
        taken, self._seen = {name: self._seen[name] for name in self.names}, {}
        return taken

    def _keeper(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def keep(module: nn.Module, args: Any, out: Any) -> None:
            if not self.awake:
                return
            out = out[0] if isinstance(out, tuple | list) and out else out
            if not isinstance(out, Tensor):
                raise ValueError(f"layer '{name}' puts out a {type(out).__name__}; choose one that gives a tensor")
            if name in self._seen:
                raise ValueError(f"layer '{name}' runs more than once in a pass; choose layers that run once")
            half = out.dtype in (torch.float16, torch.bfloat16)
            # a copy: a later module may work in place on the same memory
            self._seen[name] = out.detach().float() if half else out.detach().clone()

        return keep
