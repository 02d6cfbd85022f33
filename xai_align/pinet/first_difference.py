"""Search for the first module whose output under the rules differs from that of the plain network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from xai_align._tools.thread_state import hides_interrupt
from xai_align.features.routes import route_through
from xai_align.hookspecs import FeatureSpace
from xai_align.pinet.gates.frozen_gates import FrozenGates
from xai_align.pinet.rounding import misses


def first_difference(
    new_copy: Callable[[], nn.Module], inputs: Sequence[Any], extra: Sequence[Any], gates: FrozenGates
) -> str:
    """Return a clause naming the first module whose output under ``gates`` differs, or "" if there is none.

    Args:
        new_copy: makes a copy of the network, whose modules get hooks.
        inputs: the network's inputs.
        extra: further arguments of the network.
        gates: the interception, with nothing recorded yet.
    """
    try:
        with torch.no_grad():
            plain = _outputs(new_copy(), inputs, extra, None)
        ruled = _outputs(new_copy(), inputs, extra, gates)
    except Exception as error:
        if hides_interrupt(error):
            raise
        return ""
    for (name, a), (_, b) in zip(plain, ruled, strict=False):
        if a.is_nested or b.is_nested:
            continue
        if a.shape != b.shape or bool(misses((a - b).abs().max(), a.abs().max(), 64, a.dtype)):
            return name
    return ""


def _outputs(
    copy: nn.Module, inputs: Sequence[Any], extra: Sequence[Any], gates: FrozenGates | None
) -> list[tuple[str, Tensor]]:
    """Return name and output of every module in execution order, under ``gates`` or plainly."""
    seen: list[tuple[str, Tensor]] = []

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.is_floating_point():
                with gates.paused() if gates else nullcontext():
                    seen.append((name, output.detach().clone()))

        return hook

    def alive(number: int, z: Tensor) -> Tensor:
        if gates is None:
            return z
        with gates.paused():
            return z.detach().requires_grad_().clone()

    for name, module in copy.named_modules():
        module.register_forward_hook(note(f"'{name}' ({type(module).__name__})"))
    route = route_through(copy, [FeatureSpace(layer="input")], inputs, extra)
    with torch.enable_grad(), gates or nullcontext():
        route.forward(inputs, alive)
    return seen
