"""Forward passes of gradient clipping: the reference pass, and those whose gradients are clipped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from xai_align._tools.thread_state import restores_thread_state
from xai_align.fei.published.activation_calls import CLIPPABLE, ActivationWatch, running_modules
from xai_align.fei.published.clipping_rules import ClippingRule, let_pass
from xai_align.pinet.gates.rule_registry import is_inplace


class NothingToClip(ValueError):
    """Error of a model without an activation that could be clipped.

    Example::

        linear = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10)).eval()
        try:
            found = optimize_masks(linear, images, solver="nested", n_iter=5)
        except NothingToClip:
            found = optimize_masks(linear, images, solver="nested", n_iter=5, clip="none")
    """


@dataclass(frozen=True)
class ClippedCall:
    """Activation call that is clipped.

    Attributes:
        layer: the innermost module that was running; "" for the model itself.
        kind: "relu", "relu6", "gelu", "silu" or "hardswish".
        units: number of units per image.
    """

    layer: str
    kind: str
    units: int


@dataclass
class Clipping:
    """Clipped calls, and counts of clipped gradient entries so far.

    Attributes:
        mode: the rule's name.
        model: the module to run inside the block, a replica that shares the model's parameters without their gradients.
        calls: the calls that are clipped, in the model's order.
        gradient_entries: number of gradient entries that passed the clipped calls.
    """

    mode: str
    model: nn.Module = field(repr=False)
    calls: tuple[ClippedCall, ...] = ()
    gradient_entries: int = 0
    _clipped: dict[torch.device, Tensor] = field(default_factory=dict, repr=False)

    @property
    def clipped_entries(self) -> int:
        """Number of these entries that were set to zero and had not been zero (synchronises with the device)."""
        return sum(int(count) for count in self._clipped.values())

    @property
    def extended(self) -> tuple[str, ...]:
        """Clipped kinds other than ReLU; for them the rule is our extension."""
        return tuple(dict.fromkeys(call.kind for call in self.calls if call.kind != "relu"))

    def count(self, g: Tensor, kept: Tensor) -> None:
        """Count a gradient and the entries that were kept."""
        self.gradient_entries += g.numel()
        changed = (kept.detach() != g.detach()).sum()
        so_far = self._clipped.get(g.device)
        self._clipped[g.device] = changed if so_far is None else so_far + changed


@dataclass(frozen=True)
class ReferenceCall:
    """Activation call of the reference pass.

    Attributes:
        kind: as in :class:`ClippedCall`, and so is ``layer``.
        shape: of the output.
        dtype: of the output.
        remembered: values that the rule needs, in the output's shape; None if the call is not clipped.
    """

    kind: str
    layer: str
    shape: torch.Size
    dtype: torch.dtype
    remembered: Tensor | None

    def __str__(self) -> str:
        return f"{self.kind} in " + (f"'{self.layer}'" if self.layer else "the model itself")


class ReferencePass(ActivationWatch):
    """Reference pass that stores, for each call, the values that the rule needs.

    Args:
        model: the network that is watched, a replica.
        rule: the rule.
        layers: names of the modules of ``model`` inside which to clip; None: wherever an output has spatial positions.
    """

    def __init__(self, model: nn.Module, rule: ClippingRule, layers: frozenset[str] | None) -> None:
        super().__init__()
        self.rule = rule
        self.batch = 1
        self.calls: list[ReferenceCall] = []
        self._model, self._layers = model, layers
        self._names = {id(module): name for name, module in model.named_modules()}
        self._others: Counter[str] = Counter()

    @restores_thread_state
    def run(self, model: nn.Module, inputs: tuple[Any, ...]) -> None:
        """Run ``model``, which is the watched network or calls it.

        Raises:
            NothingToClip: no call is to be clipped.
            ValueError: the output is not finite.
        """
        self.watch(self._model)
        with torch.no_grad():
            # of clones, as the network may write into its input
            output = model(*(one.clone() if isinstance(one, Tensor) else one for one in inputs))
        numbers = [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
        if not all(bool(one.isfinite().all()) for one in numbers):
            raise ValueError("the model's output for the reference holds NaN or infinite values; check the inputs")
        if all(call.remembered is None for call in self.calls):
            raise NothingToClip(f"there is no activation to clip: {self._found()}. The rule 'none' turns clipping off")

    def records(self) -> tuple[ClippedCall, ...]:
        """Return the calls that will be clipped."""
        return tuple(
            ClippedCall(call.layer, call.kind, call.shape.numel() // self.batch)
            for call in self.calls
            if call.remembered is not None
        )

    def begin(self, batch: int | None) -> None:
        """Reset: only the last pass counts."""
        self.batch, self.calls, self._others = batch or 1, [], Counter()

    def see(self, kind: str, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Store the call, and the values of its output that the rule needs."""
        out = func(*args, **kwargs)
        if kind not in CLIPPABLE:
            self._others[kind] += 1
            return out
        running = running_modules(self._model, self._names)
        chosen = out.dim() > 2 if self._layers is None else not self._layers.isdisjoint(running)
        remembered = self.rule.remember(out) if chosen else None
        self.calls.append(ReferenceCall(kind, running[0] if running else "", out.shape, out.dtype, remembered))
        return out

    def _found(self) -> str:
        if self.calls:
            calls = ", ".join(dict.fromkeys(map(str, self.calls)))
            if self._layers is None:
                return f"outputs without positions, [N, C], are not clipped unless layers=[...] names one: {calls}"
            return f"none runs inside the given layers; the model calls {calls}"
        others = ", ".join(f"{kind} (called {count} times)" for kind, count in self._others.items())
        return f"the model calls none of {', '.join(CLIPPABLE)}; it calls {others or 'no other activation'}"


class ClippedPasses(ActivationWatch):
    """Forward passes that are matched with the reference, call by call, with hooks on the outputs."""

    def __init__(self, reference: ReferencePass, clipping: Clipping) -> None:
        super().__init__()
        self._rule, self._batch, self._calls = reference.rule, reference.batch, reference.calls
        self._clipping = clipping
        self._position, self._copies = 0, 1

    def begin(self, batch: int | None) -> None:
        """Restart at the first call, and determine the number of copies of each image."""
        batch = self._batch if batch is None else batch
        if batch == 0 or batch % self._batch:
            raise ValueError(
                f"the model is given {batch} inputs, and the reference has {self._batch}; "
                "give a whole multiple, all copies of image 0 first (repeat_interleave)"
            )
        self._position, self._copies = 0, batch // self._batch

    def see(self, kind: str, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Compute the activation, and hook its output."""
        if kind not in CLIPPABLE:
            return func(*args, **kwargs)
        view = _written_view(func, args, kwargs)
        out = func(*args, **kwargs) if view is None else func(view.clone(), *args[1:], **kwargs)
        call = self._counterpart(kind, out)
        split = None if out.shape == call.shape else self._split(call, out)
        if call.remembered is not None and out.requires_grad:
            self._hook(out, call.remembered, split)
        return out if view is None else view.copy_(out)

    def end(self) -> None:
        """Check that no call is missing."""
        if self._position != len(self._calls):
            raise RuntimeError(_OUT_OF_STEP + f"{len(self._calls)} activations were called, now {self._position}")

    def _counterpart(self, kind: str, out: Tensor) -> ReferenceCall:
        """Return the corresponding call of the reference."""
        if self._position == len(self._calls):
            raise RuntimeError(_OUT_OF_STEP + f"{len(self._calls)} activations were called, now there are more")
        call = self._calls[self._position]
        self._position += 1
        if call.kind != kind:
            raise RuntimeError(_OUT_OF_STEP + f"activation {self._position} was {call}, now it is {kind}")
        if self._rule.needs_values and out.dtype != call.dtype:
            raise RuntimeError(
                _OUT_OF_STEP + f"activation {self._position} was {call} in {call.dtype}, now in {out.dtype}; "
                "enter clip_gradients under the same autocast"
            )
        return call

    def _split(self, call: ReferenceCall, out: Tensor) -> tuple[int, int, int]:
        """Return the split of axis 0 of ``out`` into images, copies, and entries per copy (1, or its windows)."""
        images, axis = self._batch, call.shape[0] if call.shape else 0
        if axis % images or tuple(out.shape) != (axis * self._copies, *call.shape[1:]):
            raise RuntimeError(
                _OUT_OF_STEP
                + f"activation {self._position} was {call} and gave {list(call.shape)} for {images} inputs, "
                f"now {list(out.shape)} for {images * self._copies}"
            )
        return images, self._copies, axis // images

    def _hook(self, out: Tensor, remembered: Tensor, split: tuple[int, int, int] | None) -> None:
        now = out.detach()
        if split is not None:
            images, _, rest = split
            remembered, now = remembered.unflatten(0, (images, 1, rest)), now.unflatten(0, split)
        # Booleans, computed now: the output may be modified in place before the backward pass.
        passes = self._rule.passes(remembered, now)
        clipping = self._clipping

        def clip(g: Tensor) -> Tensor:
            kept = let_pass(g if split is None else g.unflatten(0, split), passes).reshape(g.shape)
            clipping.count(g, kept)
            return kept

        out.register_hook(clip)


def _written_view(func: Callable[..., Any], args: Any, kwargs: Mapping[str, Any]) -> Tensor | None:
    """Return the view that this call writes into, if it is one that requires a gradient.

    The gradient of its base bypasses the view's own hooks. So the activation is
    computed separately, hooked, and copied in.
    """
    x = args[0] if args else None
    if not isinstance(x, Tensor) or not (is_inplace(func) or kwargs.get("inplace")):
        return None
    return x if x.requires_grad and x._is_view() and torch.is_grad_enabled() else None


_OUT_OF_STEP = (
    "the model called other activations than in the reference pass (control flow that depends on values or sizes?), "
    "so its units cannot be compared: "
)
