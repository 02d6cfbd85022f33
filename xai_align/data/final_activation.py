"""Activation at the end of a network: after a sigmoid or a softmax, outputs are probabilities, not logits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from xai_align._tools.logits import select_logits
from xai_align._tools.random_state import kept_random_state
from xai_align._tools.replica import Replica
from xai_align._tools.thread_state import hides_interrupt, restores_thread_state

if TYPE_CHECKING:
    from xai_align.hookspecs import LoadedModel

#: Nodes of the autograd graph that make probabilities.
_PROBABILITIES = {"Sigmoid": "sigmoid", "Hardsigmoid": "hard sigmoid", "Softmax": "softmax", "SafeSoftmax": "softmax"}
#: Nodes that change no value: shapes, selections, copies and casts.
_VALUES_KEPT = frozenset(
    "View UnsafeView ReshapeAlias Squeeze Unsqueeze Expand Permute Transpose T Select Slice Index IndexSelect Clone "
    "Alias ToCopy Clamp ClampMin ClampMax Unbind Split".split()
)


@restores_thread_state
def final_activation(model: nn.Module, inputs: Tensor, output: str | int | None = None) -> str:
    """Return the name of the sigmoid or softmax whose values are the model's outputs; "" if none is found.

    A structural copy of the model is run with gradients, and the last node of the autograd graph is read; for a network
    that cannot be run like this, or detaches its outputs, "" is returned. A log-softmax is ignored: it gives logits.

    Args:
        model: any network.
        inputs: one batch, of which the first example is run.
        output: which of the model's outputs are the logits.

    Example::

        final_activation(nn.Sequential(nn.Linear(3, 2), nn.Softmax(1)), torch.ones(1, 3))  # "softmax"
    """
    try:
        with torch.inference_mode(False), torch.enable_grad(), kept_random_state():
            x = inputs[:1].detach().clone().requires_grad_().clone()  # no leaf, so that it may be changed in place
            node: Any = select_logits(Replica(model).module(x), output).grad_fn
    except Exception as error:  # third parties' networks may refuse gradients in any way: then nothing is known
        if hides_interrupt(error):
            raise
        return ""
    while node is not None:
        name = type(node).__name__.partition("Backward")[0].lstrip("_")
        if name in _PROBABILITIES:
            return _PROBABILITIES[name]
        if name not in _VALUES_KEPT:
            return ""
        node = node.next_functions[0][0] if node.next_functions else None
    return ""


def check_outputs_are_logits(loaded: LoadedModel, inputs: Tensor) -> None:
    """Raise if the model's outputs are probabilities, unless they are stated to be numbers, "regression".

    Raises:
        ValueError: the network ends in a sigmoid or softmax.
    """
    if loaded.output_kind == "regression":
        return
    found = final_activation(loaded.model, inputs, loaded.output_field)
    if found:
        raise ValueError(
            f"the network ends in a {found}: its outputs are probabilities, and logits are needed. Give the network "
            f"without the {found}, or, to explain the probability itself, say --output-kind regression"
        )
