"""PiNetAttribution: the exact readout with Captum's call, spread over the input."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from captum._utils.common import _format_output, _format_tensor_into_tuples, _is_tuple
from captum.attr import Attribution
from captum.log import log_usage
from torch import Tensor, nn

from captum_align.batches import read_out_in_batches
from captum_align.on_inputs import Kind, on_inputs
from xai_align._tools.thread_state import restores_thread_state
from xai_align.pinet.sharp_places import given_or_sharp

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xai_align.pinet.places import BiasName, Places, RuleName


class PiNetAttribution(Attribution):
    """What every input pixel adds to the answer, read out exactly from an unchanged network.

    With a feature space coarser than the input, each cell's contribution is
    spread over the pixels it covers (evenly; smoothly where cells of several
    sizes overlap) and evenly over the channels, so that the sum stays:
    ``attributions.sum() + bias == answer`` up to prefix tokens.

    Args:
        forward_func: the model, an ``nn.Module`` in eval mode that returns logits.
        layer: where to read: ``"input"``, a layer's name or module, or a ``FeatureSpace``; a list of these for a
            mixture. None: for convolutional networks that a plugin knows a sharp mixture of two places
            (:func:`~xai_align.pinet.sharp_places`); for others, or if a rule is given, where the plugins say (timm's:
            the head's input, or the patch embedding), else the input.
        weights: the shares of the places of a list; None: equal ones.
        rule: ``"gate"`` or ``"gamma"``, as in :func:`~xai_align.read_out`; None: ``"gate"``.
        gamma: the favour of the gamma rule.
        biases: ``"apart"`` or ``"placed"``, as in :func:`~xai_align.read_out`; None: ``"apart"``.

    Source: Lobet & Chiaromonte 2026 (arXiv 2601.04378).

    Example::

        pinet = PiNetAttribution(model)
        attributions, delta = pinet.attribute(images, target=281, return_convergence_delta=True)
    """

    def __init__(
        self,
        forward_func: nn.Module,
        layer: Places = None,
        *,
        weights: Sequence[float] | None = None,
        rule: RuleName | None = None,
        gamma: float | None = None,
        biases: BiasName | None = None,
    ) -> None:
        Attribution.__init__(self, forward_func)
        self.layer = layer
        given = {"weights": weights, "rule": rule, "gamma": gamma, "biases": biases}
        self._account: dict[str, Any] = {name: value for name, value in given.items() if value is not None}

    @log_usage()
    @restores_thread_state
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Any = None,
        additional_forward_args: Any = None,
        internal_batch_size: int | None = None,
        return_convergence_delta: bool = False,
        show_progress: bool = False,
        kind: Kind = "contribution",
    ) -> Any:
        """Contributions in the shape of ``inputs``.

        Args:
            inputs: tensor ``[N, ...]`` or tuple of tensors.
            target: what Captum's methods take, numpy integers and arrays, or a ``xai_align.Question``.
            additional_forward_args: further arguments of the model.
            internal_batch_size: read out this many examples at a time.
            return_convergence_delta: also return the completeness error ``[N]``,
                ``sum(contributions) + bias - answer``.
            show_progress: show a progress bar over the batches.
            kind: ``"coefficient"``: a trained PiNet's coefficients ``pi`` for the target instead, which don't add
                up to the answer; a coarser map is resized and not spread.

        Raises:
            TargetError: (an AssertionError) the target does not fit the output.
            ValueError: there are no coefficients, or inputs, model or layer are not fit for a readout; the message
                says what to do.
        """
        placed = on_inputs(kind)
        if kind == "coefficient" and return_convergence_delta:
            raise ValueError("coefficients don't add up to the answer, so there is no convergence delta; leave it out")
        is_tuple = _is_tuple(inputs)
        formatted = _format_tensor_into_tuples(inputs)
        readouts = read_out_in_batches(
            self.forward_func,
            formatted,
            target,
            given_or_sharp(self.forward_func, self.layer, self._account, formatted[0]),
            additional_forward_args,
            internal_batch_size=internal_batch_size,
            show_progress=show_progress,
            **self._account,
        )
        parts = [placed(readout, formatted) for readout in readouts]
        attributions = tuple(torch.cat(part) for part in zip(*parts, strict=True))
        result = _format_output(is_tuple, attributions)
        if return_convergence_delta:
            return result, torch.cat([readout.completeness_error for readout in readouts])
        return result

    def has_convergence_delta(self) -> bool:
        """True: the delta is the completeness error."""
        return True

    @restores_thread_state
    def compute_convergence_delta(
        self,
        attributions: Tensor | tuple[Tensor, ...],
        inputs: Tensor | tuple[Tensor, ...],
        target: Any = None,
        additional_forward_args: Any = None,
    ) -> Tensor:
        """``[N]``: by how much these attributions, with prefix and bias, miss the answer.

        There is no baseline input: the constant is the network's bias at ``z = 0``.
        """
        formatted = _format_tensor_into_tuples(inputs)
        readouts = read_out_in_batches(
            self.forward_func,
            formatted,
            target,
            given_or_sharp(self.forward_func, self.layer, self._account, formatted[0]),
            additional_forward_args,
            **self._account,
        )
        account = torch.cat([one.answer - one.bias - one.prefix - one.around for one in readouts])
        given = _format_tensor_into_tuples(attributions)
        return torch.stack([part.double().flatten(1).sum(1) for part in given]).sum(0) - account

    @property
    def multiplies_by_inputs(self) -> bool:
        """True: a contribution is coefficient times value."""
        return True

    @classmethod
    def get_name(cls) -> str:
        """The method's name in tables."""
        return "PiNet"
