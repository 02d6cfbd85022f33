"""The exact readout as an attribution method, with Captum's call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from xai_align._tools.did_you_mean import did_you_mean
from xai_align._tools.thread_state import restores_thread_state
from xai_align.pinet.batches import read_out_in_batches
from xai_align.pinet.on_inputs import Kind, on_inputs
from xai_align.pinet.readout_layers import BiasName, ReadoutLayers, RuleName
from xai_align.pinet.records import Readout


class PiNetMethod:
    """Contribution of every input pixel to the answer, by the exact readout of an unchanged network.

    With a feature space coarser than the input, each cell's contribution is
    spread over the pixels it covers (evenly; smoothly where cells of several
    sizes overlap) and evenly over the channels, which preserves the sum:
    ``attributions.sum() + bias == answer`` up to prefix tokens.

    Args:
        forward_func: the model, an ``nn.Module`` in eval mode that returns logits.
        layer: the layer to read out: ``"input"``, ``"head"``, a layer's name or module, or a ``FeatureSpace``; a list
            of these for a mixture. None: the default of :func:`~xai_align.read_out`.
        weights: the weights of the layers of a list; None: equal weights.
        rule: ``"gate"`` or ``"gamma"``, as in :func:`~xai_align.read_out`.
        gamma: the strength of the gamma rule.
        biases: ``"apart"`` or ``"placed"``, as in :func:`~xai_align.read_out`.

    Source: Lobet & Chiaromonte 2026 (arXiv 2601.04378).

    Example::

        attributions = PiNetMethod(model).attribute(images, target=281)
        readout = PiNetMethod(model, layer="input").read_out(images, Question.why_not(281, 282))
    """

    def __init__(
        self,
        forward_func: nn.Module,
        layer: ReadoutLayers = None,
        *,
        weights: Sequence[float] | None = None,
        rule: RuleName | None = None,
        gamma: float | None = None,
        biases: BiasName | None = None,
    ) -> None:
        self.forward_func = forward_func
        self.layer = layer
        self._decomposition = _given(weights=weights, rule=rule, gamma=gamma, biases=biases)

    @restores_thread_state
    def read_out(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        question: Any = None,
        *,
        output: str | int | None = None,
        additional_forward_args: Any = None,
        internal_batch_size: int | None = None,
        show_progress: bool = False,
        **decomposition: Any,
    ) -> Readout:
        """Return the exact decomposition of the answer for all examples, as :func:`~xai_align.read_out`.

        Args:
            inputs: tensor ``[N, ...]`` or tuple of tensors.
            question: a :class:`~xai_align.Question`, one per example, or any target that Captum accepts.
            output: which of the model's outputs are the logits.
            additional_forward_args: further arguments of the model.
            internal_batch_size: read out this many examples at a time.
            show_progress: show a progress bar over the batches.
            **decomposition: ``weights``, ``rule``, ``gamma``, ``biases`` for this call only.

        Raises:
            TypeError: there is no such option.
            TargetError: (an AssertionError) the target does not fit the output.
            ValueError: inputs, model or layer are not suitable for a readout; the message names the remedy.
        """
        parts = inputs if isinstance(inputs, tuple) else (inputs,)
        decomposition = self._decomposition | _given(**_known(decomposition))
        return read_out_in_batches(
            self.forward_func,
            parts,
            question,
            self.layer,
            additional_forward_args=additional_forward_args,
            internal_batch_size=internal_batch_size,
            show_progress=show_progress,
            output=output,
            **decomposition,
        )

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
        """Return contributions in the shape of ``inputs``.

        Args:
            inputs: tensor ``[N, ...]`` or tuple of tensors.
            target: any target of Captum's methods, numpy integers and arrays, or an ``xai_align.Question``.
            additional_forward_args: further arguments of the model.
            internal_batch_size: read out this many examples at a time.
            return_convergence_delta: also return the completeness error ``[N]``,
                ``sum(contributions) + bias - answer``.
            show_progress: show a progress bar over the batches.
            kind: ``"coefficient"``: a trained PiNet's coefficients ``pi`` for the target instead, which don't add
                up to the answer; a coarser map is resized and not spread.

        Raises:
            TargetError: (an AssertionError) the target does not fit the output.
            ValueError: there are no coefficients, or inputs, model or layer are not suitable for a readout; the message
                names the remedy.
        """
        placed = on_inputs(kind)
        if kind == "coefficient" and return_convergence_delta:
            raise ValueError("coefficients don't add up to the answer, so there is no convergence delta; leave it out")
        readout = self.read_out(
            inputs,
            target,
            additional_forward_args=additional_forward_args,
            internal_batch_size=internal_batch_size,
            show_progress=show_progress,
        )
        attributions: Any = placed(readout, inputs if isinstance(inputs, tuple) else (inputs,))
        attributions = attributions if isinstance(inputs, tuple) else attributions[0]
        return (attributions, readout.completeness_error) if return_convergence_delta else attributions

    @restores_thread_state
    def compute_convergence_delta(
        self,
        attributions: Tensor | tuple[Tensor, ...],
        inputs: Tensor | tuple[Tensor, ...],
        target: Any = None,
        additional_forward_args: Any = None,
    ) -> Tensor:
        """Return ``[N]``, the sum of these attributions, prefix and bias minus the answer.

        There is no baseline input; the constant is the network's bias at ``z = 0``.
        """
        readout = self.read_out(inputs, target, additional_forward_args=additional_forward_args)
        given = attributions if isinstance(attributions, tuple) else (attributions,)
        total = torch.stack([part.double().flatten(1).sum(1) for part in given]).sum(0)
        return total - (readout.answer - readout.bias - readout.prefix - readout.around)


def _known(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options if a readout has them."""
    known = ["weights", "rule", "gamma", "biases"]
    for name in options:
        if name not in known:
            takes = [*known, "additional_forward_args", "internal_batch_size", "show_progress", "output"]
            near = did_you_mean(name, takes)
            raise TypeError(f"the exact readout has no option '{name}'{near} It has {', '.join(takes)}")
    return options


def _given(
    *,
    weights: Sequence[float] | None = None,
    rule: RuleName | None = None,
    gamma: float | None = None,
    biases: BiasName | None = None,
) -> dict[str, Any]:
    """Return the given options that select the decomposition, without those that are None."""
    options = {"weights": weights, "rule": rule, "gamma": gamma, "biases": biases}
    return {name: value for name, value in options.items() if value is not None}
