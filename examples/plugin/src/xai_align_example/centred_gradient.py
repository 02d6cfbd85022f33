"""Gradient times the input's distance from its own mean."""

from __future__ import annotations

from typing import Any

import torch
from captum._utils.common import _format_output, _format_tensor_into_tuples, _is_tuple
from captum.attr import GradientAttribution
from captum.log import log_usage
from torch import Tensor


class CentredGradient(GradientAttribution):
    """First-order contribution of each position, compared with an evenly coloured picture of the same mean.

    ``forward_func`` is the model, or any function of the inputs; ``build`` of
    the plugin's record is this class, so it is called as ``CentredGradient(model)``.
    """

    @log_usage()
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Any = None,
        additional_forward_args: Any = None,
    ) -> Tensor | tuple[Tensor, ...]:
        """Return attributions in the shape of ``inputs``: a tensor for a tensor, a tuple for a tuple.

        Raises:
            TypeError: an input is not of a floating-point type and has no gradient.
            ValueError: an input has no axis other than the batch to take a mean over.
        """
        given = _format_tensor_into_tuples(inputs)
        for position, tensor in enumerate(given):
            _check_input(tensor, position)
        # The caller may be inside no_grad or inference_mode. Leaves of our own keep requires_grad
        # and .grad of the caller's tensors as they are.
        with torch.inference_mode(False), torch.enable_grad():
            leaves = tuple(tensor.detach().clone().requires_grad_() for tensor in given)
            # Captum's helper selects all forms of target, and uses torch.autograd.grad, which
            # leaves no gradient on the parameters.
            gradients = self.gradient_func(self.forward_func, leaves, target, additional_forward_args)
        attributions = tuple(
            (gradient * _centred(leaf.detach())).contiguous() for gradient, leaf in zip(gradients, leaves, strict=True)
        )
        return _format_output(_is_tuple(inputs), attributions)

    @property
    def multiplies_by_inputs(self) -> bool:
        """Return True: these are contributions and not sensitivities, for Captum's metrics."""
        return True


def _check_input(tensor: Tensor, position: int) -> None:
    if not tensor.is_floating_point():
        raise TypeError(f"input {position} is of type {tensor.dtype}, which has no gradient; pass floats")
    if tensor.dim() < 2:
        raise ValueError(f"input {position} has shape {tuple(tensor.shape)}; it needs an axis other than the batch")


def _centred(tensor: Tensor) -> Tensor:
    """``tensor`` minus its mean over space, per channel; over the features if there are no positions."""
    axes = tuple(range(2, tensor.dim())) or (1,)
    return tensor - tensor.mean(dim=axes, keepdim=True)
