"""Record of evidence that a network detaches from the graph, and the names for what did it."""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

import torch

#: Prefix of :attr:`CutOff.how` for a custom autograd function.
AUTOGRAD_FUNCTION = "autograd function "
_DID = {
    "detach": "detaches its input",
    "detach_": "detaches its input",
    "data": "reads .data",
    "no_grad": "runs under torch.no_grad()",
    "inference_mode": "runs under torch.inference_mode()",
}


class CutOff(NamedTuple):
    """Evidence that a network detached from the graph.

    Attributes:
        how: "detach", "item", "numpy", "no_grad", "inference_mode", "autograd function NAME" and the like.
        where: name of the innermost running module; "" for the network itself.
        kind: class of that module.
        times: number of occurrences.
    """

    how: str
    where: str
    kind: str
    times: int

    def __str__(self) -> str:
        """Return one clause: "module 'head' (Linear) detaches its input"."""
        by = f"module '{self.where}' ({self.kind})" if self.where else f"the forward pass of {self.kind}"
        did = _DID.get(self.how, f"reads values with {self.how}()")
        if self.how.startswith(AUTOGRAD_FUNCTION):
            did = f"runs the {self.how}, whose own backward decides which evidence passes"
        return f"{by} {did}" + (f", {self.times} times" if self.times > 1 else "")


def running_autograd_function() -> type[torch.autograd.Function] | None:
    """Return the custom autograd function whose ``forward`` is on the call stack, if any."""
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code.co_name == "forward":
            found: Any = getattr(next(iter(frame.f_locals.values()), None), "_forward_cls", None)  # of its ctx
            if found is None:  # a function with setup_context gets no ctx
                found = frame.f_globals.get(frame.f_code.co_qualname.removesuffix(".forward"))
            if isinstance(found, type) and issubclass(found, torch.autograd.Function):
                return found
        frame = frame.f_back
    return None
