"""Readout of a class's logit that can be used in a loss: its map has gradients in the network's parameters.

    logit_y = sum_p c_p + rest,     c_p = sum_c beta_cp z_cp,     beta = d logit_y / d z with the gates held

Where the network behind the layer is affine, as pooling and a linear layer are, ``beta`` is the weight row of the class
as it reaches each cell, and a backward pass through the head alone gives it. Elsewhere the gates are measured with
their gradients, see :mod:`~xai_align.pinet.gates.live_gates`.

The network runs as a copy in eval mode that has the model's own parameters: gradients arrive at the model, and its
modes, hooks, buffers and random state are never touched. So the map is that of :func:`~xai_align.read_out` for the
same parameters, and an image's map does not depend on the others of its batch, whatever the model's modes.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from xai_align._tools.full_precision import full_precision
from xai_align._tools.logits import select_logits
from xai_align._tools.model_state import structure
from xai_align._tools.replica import LOW_PRECISION, Replica
from xai_align._tools.thread_state import restores_thread_state
from xai_align.features.routes import route_through
from xai_align.features.spatial import contribution_map
from xai_align.features.split_at_layer import at_a_module
from xai_align.features.unwrapping import unwrapped
from xai_align.hookspecs import FeatureSpace
from xai_align.pinet.gates.dependence import is_foreign, latest_node
from xai_align.pinet.gates.live_gates import LiveGates

__all__ = ["DifferentiableReadout", "differentiable_readout"]

#: For each network its structure, and the layers behind which that is affine for images of a shape and dtype.
_affine: WeakKeyDictionary[nn.Module, tuple[int, dict[Any, bool]]] = WeakKeyDictionary()


@dataclass(frozen=True)
class DifferentiableReadout:
    """Map of a class's logit, part of the graph: ``answer = map.sum((1, 2)) + rest``.

    Attributes:
        logits: ``[N, K]``, of the network in eval mode.
        answer: ``[N]``, the logit of each image's class.
        map: ``[N, h, w]``, contributions in logits, signed.
        rest: ``[N]``: bias, prefix tokens, and evidence that bypasses the layer.
    """

    logits: Tensor
    answer: Tensor
    map: Tensor
    rest: Tensor


@restores_thread_state
def differentiable_readout(
    model: nn.Module, images: Tensor, target: Tensor, space: FeatureSpace
) -> DifferentiableReadout:
    """Read out the logits of ``target`` at a layer, with gradients in the model's parameters.

    It takes one forward pass where the head is affine, and three elsewhere.

    Args:
        model: images ``[N, C, H, W]`` to logits ``[N, K]``, of float32 or float64.
        images: ``[N, C, H, W]``.
        target: ``[N]``, int64: the class of each.
        space: the layer, of one tensor that is a map or a grid of tokens.

    Raises:
        UnknownOperation: the network computes something behind the layer that no rule covers.
        NotImplementedError: a gate has no gradient.
        ValueError: the target is not a class of the model, the parameters are of half precision, the layer is not
            reached, has several tensors or no grid, or the logits do not depend on it.

    Source: the decomposition of Lobet & Chiaromonte 2026 (arXiv 2601.04378); its second-order form is ours.

    Example::

        readout = differentiable_readout(model, images, labels, FeatureSpace(layer="conv2"))
        readout.map.relu().mean().backward()  # reaches the model's parameters
    """
    inner, _ = unwrapped(model)
    if any(p.dtype in LOW_PRECISION for p in inner.parameters()):
        raise ValueError(
            "the model's parameters are of half precision, in which a readout is not exact; keep them in float32, and "
            "compute in half precision with mixed_precision='bf16'"
        )
    space = at_a_module(space)
    copy = Replica(inner, evaluate=True, inplace=False, live=True)
    with full_precision(images), torch.inference_mode(False), torch.enable_grad():
        images = images.clone() if images.is_inference() else images.detach()
        run = _Run(copy.module, copy.rebind(space), images)
        key = (space.layer, tuple(images.shape[1:]), images.dtype)
        state, known = _affine.get(inner, (None, {}))
        if state != structure(inner):  # a head was replaced, say
            _affine[inner] = (structure(inner), known := {})
        if known.get(key):
            return run.by_head(target)
        gates = LiveGates(copy.module)
        try:
            run.record(gates)
            known[key] = not gates.gated
            return run.by_gates(gates, target) if gates.gated else run.by_head(target)
        finally:
            gates.clear()


class _Run:
    """Passes of one batch through the copy; of a split network, only the head runs again."""

    def __init__(self, module: nn.Module, space: FeatureSpace, images: Tensor) -> None:
        self.module, self.space, self.images = module, space, images
        self.size = (images.shape[-2], images.shape[-1])
        self.features = None if space.split is None else space.split.features(images.clone())

    def record(self, gates: LiveGates) -> None:
        """Record the pass behind the layer."""

        def alive(z: Tensor) -> Tensor:
            with gates.paused():
                return z.detach().requires_grad_().clone()

        gates.since = latest_node()
        logits = self._logits(alive, gates)
        if not logits.requires_grad or is_foreign(logits, gates.since):
            raise ValueError(_UNREACHED.format(self.space.layer))

    def by_head(self, target: Tensor) -> DifferentiableReadout:
        """Read out an affine head: ``beta`` is its derivative as it is."""
        z, logits = self._z_and_logits(nullcontext(), nullcontext())
        return self._readout(z, logits, z, logits, target)

    def by_gates(self, gates: LiveGates, target: Tensor) -> DifferentiableReadout:
        """Read out by the gates: ``beta = d F(z'; g) / d z'`` with ``g`` as measured."""
        z, logits = self._z_and_logits(gates.measure(), gates.paused())
        held = z.detach().requires_grad_()

        def put(_: Tensor) -> Tensor:
            with gates.paused():
                return held.clone()

        answers = self._logits(put, gates.replay(counterfactual=False))
        return self._readout(z, logits, held, answers, target)

    def _readout(
        self, z: Tensor, logits: Tensor, held: Tensor, answers: Tensor, target: Tensor
    ) -> DifferentiableReadout:
        if logits.dim() != 2 or target.shape != logits.shape[:1] or target.dtype != torch.int64:
            raise ValueError(
                f"the logits have shape {list(logits.shape)} and the target {list(target.shape)}, {target.dtype}; they "
                "must be [N, K] and [N], int64"
            )
        if not bool(((target >= 0) & (target < logits.shape[1])).all()):
            raise ValueError(f"the target {target.tolist()} names a class that {logits.shape[1]} logits do not have")
        chosen = target.to(logits.device)[:, None]
        (beta,) = torch.autograd.grad(answers.gather(1, chosen).sum(), held, create_graph=True, allow_unused=True)
        if beta is None:
            raise ValueError(_UNREACHED.format(self.space.layer))
        cells = contribution_map(beta * z, self.space, self.size)
        answer = logits.gather(1, chosen).squeeze(1)
        return DifferentiableReadout(logits, answer, cells, answer - cells.sum((1, 2)))

    def _z_and_logits(
        self, around: AbstractContextManager[Any], outside: AbstractContextManager[Any]
    ) -> tuple[Tensor, Tensor]:
        held: list[Tensor] = []

        def hold(z: Tensor) -> Tensor:
            with outside:
                # as it is if nothing before it has a gradient
                held.append(z if z.requires_grad else z.detach().requires_grad_())
                return held[0].clone()

        logits = self._logits(hold, around)
        return held[0], logits

    def _logits(self, put: Callable[[Tensor], Tensor], around: AbstractContextManager[Any]) -> Tensor:
        """Return the logits ``[N, K]``, with the layer's tensor replaced by the result of ``put``."""
        count = 0

        def once(number: int, z: Tensor) -> Tensor:
            nonlocal count
            count += 1
            if count > 1:
                raise ValueError(f"the layer '{self.space.layer}' has several tensors; choose one with a single tensor")
            return put(z)

        if self.space.split is None:
            route = route_through(self.module, [self.space], (self.images,), ())
            given = route.given()
            with around:
                logits: Tensor = route.run(once, given)
        elif isinstance(self.features, Tensor):
            with around:
                logits = select_logits(self.space.split.head(once(0, self.features)))
        if count == 0:
            raise ValueError(f"the layer '{self.space.layer}' gives no single floating tensor; choose another one")
        return logits


_UNREACHED = "the logits do not depend on the layer '{}'; choose a layer that they depend on"
