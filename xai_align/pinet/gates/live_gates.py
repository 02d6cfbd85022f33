"""Frozen gates whose values are themselves differentiable, so that a coefficient has a gradient in the parameters.

A readout's coefficient is ``beta = d F / d z'`` at ``z' = z``, where ``F(z'; g)`` is the network behind the layer with
its gates ``g`` held. For the derivative of ``beta`` in a parameter, ``g`` must be held with respect to ``z'`` and free
with respect to the parameters. Three passes do that:

1. record: which operations depend on the layer, and which values are gates;
2. measure: the network runs on ``z`` with autograd on, and each gate is computed again, ``g(z, theta)``;
3. replay: the network runs on a leaf ``z'`` of the same value, with the gates of the second pass.

``F`` is affine in ``z'``, so ``beta`` depends on ``z'`` no more, and all its derivatives go through ``g`` and weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from xai_align.pinet.gates.frozen_gates import FrozenGates, never
from xai_align.pinet.gates.tape import OutOfStep

T = TypeVar("T")


class LiveGates(FrozenGates):
    """Gates that are recorded, measured with their gradients, and held at the measured values.

    Args:
        model: as for :class:`FrozenGates`.

    Example::

        gates = LiveGates()
        with gates:
            network(z.detach().requires_grad_().clone())
        with gates.measure():
            network(z)  # computes each gate, with its gradient
        with gates.replay(counterfactual=False):
            answer = network(held)  # held = z.detach().requires_grad_()
        (beta,) = torch.autograd.grad(answer, held, create_graph=True)
    """

    written_out = True

    def __init__(self, model: Any = None) -> None:
        super().__init__(model)
        self._measuring = False
        self._measured: list[Any] = []
        self._next = 0

    @property
    def gated(self) -> bool:
        """Whether the recorded pass has gates; without any it is affine in the layer as it is."""
        return len(self._tape) > 0

    def held(self, values: T) -> T:
        """Return the arguments of a gate unchanged, with their gradients."""
        return values

    def save(self, compute: Callable[[], T]) -> T:
        """Return the gate: a constant when recording, with its gradient when measuring, and the measured one after."""
        if self.recording:
            return super().save(compute)
        if self._measuring:
            if compute is never:
                raise NotImplementedError(
                    f"{' '.join(self._running_module()).strip()} computes something behind the layer whose gate has no "
                    "gradient, such as detached values or a block under no_grad; give a later layer"
                )
            self._tape.saved()  # keeps in step
            self._measured.append(compute())
            return self._measured[-1]
        self._tape.saved()
        self._next += 1
        if self._next > len(self._measured):
            raise OutOfStep
        return self._measured[self._next - 1]

    @contextmanager
    def measure(self) -> Iterator[None]:
        """Run the recorded pass again and compute its gates with their gradients.

        Raises:
            OutOfStep: the pass did not use the same gates.
        """
        self._measuring, self._measured, self._next = True, [], 0
        try:
            with self.replay(counterfactual=False):
                yield
        finally:
            self._measuring = False

    def clear(self) -> None:
        """Discard all values."""
        super().clear()
        self._measured = []
