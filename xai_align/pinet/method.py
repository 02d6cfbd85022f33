"""The exact readout as an attribution method, with Captum's interface."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from xai_align._tools.did_you_mean import did_you_mean
from xai_align._tools.thread_state import restores_thread_state
from xai_align.pinet.batches import read_out_in_batches
from xai_align.pinet.on_inputs import Kind, contributions_on_sequences, on_inputs
from xai_align.pinet.readout_layers import BiasName, ReadoutLayers, RuleName
from xai_align.pinet.records import Readout
from xai_align.pinet.rounding import total_of


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
        baselines: Any = None,
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
            baselines: inputs to compare with, as in :meth:`attribute`.
            **decomposition: ``weights``, ``rule``, ``gamma``, ``biases`` for this call only.

        Raises:
            TypeError: there is no such option.
            TargetError: (an AssertionError) the target does not fit the output.
            ValueError: inputs, model or layer are not suitable for a readout; the message names the remedy.
        """
        parts = inputs if isinstance(inputs, tuple) else (inputs,)
        decomposition = self._decomposition | _given(**_known(decomposition))
        return read_out_in_batches(
            self.network,
            parts,
            question,
            self.layers,
            additional_forward_args=additional_forward_args,
            internal_batch_size=internal_batch_size,
            show_progress=show_progress,
            output=output,
            baselines=baselines,
            **decomposition,
        )

    @property
    def network(self) -> Any:
        """Return the model that is read out."""
        return self.forward_func

    @property
    def layers(self) -> ReadoutLayers:
        """Return the layer or layers, as layers of :attr:`network`."""
        return self.layer

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
        *,
        baselines: Any = None,
        return_bias: bool = False,
    ) -> Any:
        """Return contributions in the shape of ``inputs``; with the bias, they sum to the answer.

        Args:
            inputs: tensor ``[N, ...]`` or tuple of tensors.
            target: any target of Captum's methods, numpy integers and arrays, or an ``xai_align.Question``.
            additional_forward_args: further arguments of the model.
            internal_batch_size: read out this many examples at a time.
            return_convergence_delta: also return the completeness error ``[N]``,
                ``sum(contributions) + bias - answer``. The bias is part of that sum, so a delta of 0 does not mean that
                the contributions alone sum to the answer.
            show_progress: show a progress bar over the batches.
            kind: ``"coefficient"``: a trained PiNet's coefficients ``pi`` for the target instead, which don't add
                up to the answer; a coarser map is resized and not spread.
            baselines: explain the difference to these inputs: a number, a tensor or array (one example, or as many as
                the inputs), or a tuple of them. Attributions are then those of the inputs minus those of the baselines,
                and so is the bias, and ``sum(attributions) + bias == F(inputs) - F(baselines)``. Another number of
                examples, or a function that returns baselines, is a distribution: the difference to the mean over it.
                None: no comparison, the whole answer.
            return_bias: also return ``[N]``, the part of the answer that has no position in the inputs, so that
                ``attributions.flatten(1).sum(1) + bias`` is the answer.

        Returns:
            The attributions; or a tuple of them, the delta and the bias, without those that were not requested.

        Raises:
            TypeError: a baseline is neither a number nor a tensor.
            TargetError: (an AssertionError) the target does not fit the output.
            ValueError: there are no coefficients, or inputs, model or layer are not suitable for a readout; the message
                names the remedy.
        """
        check_kind(kind, adds_up=return_convergence_delta or return_bias or baselines is not None)
        readout = self.read_out(
            inputs,
            target,
            additional_forward_args=additional_forward_args,
            internal_batch_size=internal_batch_size,
            show_progress=show_progress,
            baselines=baselines,
        )
        return self.attributions_of(
            readout, inputs, additional_forward_args, kind, return_convergence_delta, return_bias
        )

    def attributions_of(
        self,
        readout: Readout,
        inputs: Tensor | tuple[Tensor, ...],
        additional_forward_args: Any = None,
        kind: Kind = "contribution",
        return_convergence_delta: bool = False,
        return_bias: bool = False,
    ) -> Any:
        """Return what :meth:`attribute` does, for a readout of these inputs."""
        parts = inputs if isinstance(inputs, tuple) else (inputs,)
        inside = readout.feature_space.layer != "input" and not readout.placed and kind == "contribution"
        attributions: Any
        if inside and len(parts) == 1 and parts[0].dim() in (3, 5):
            attributions = (contributions_on_sequences(readout, self.network, parts[0], additional_forward_args),)
        else:
            attributions = on_inputs(kind)(readout, parts)
        attributions = attributions if isinstance(inputs, tuple) else attributions[0]
        bias = readout.bias + readout.prefix + readout.around
        further = [readout.completeness_error] * return_convergence_delta + [bias] * return_bias
        return (attributions, *further) if further else attributions

    @restores_thread_state
    def compute_convergence_delta(
        self,
        attributions: Tensor | tuple[Tensor, ...],
        inputs: Tensor | tuple[Tensor, ...],
        target: Any = None,
        additional_forward_args: Any = None,
        *,
        baselines: Any = None,
    ) -> Tensor:
        """Return ``[N]``, the sum of these attributions, prefix and bias minus the answer.

        Without ``baselines`` the constant is the network's bias at ``z = 0``; with them, the difference of the biases,
        and the answer is ``F(inputs) - F(baselines)``.
        """
        readout = self.read_out(inputs, target, additional_forward_args=additional_forward_args, baselines=baselines)
        given = attributions if isinstance(attributions, tuple) else (attributions,)
        return total_of(given) - (readout.answer - readout.bias - readout.prefix - readout.around)


def check_kind(kind: Kind, *, adds_up: bool) -> None:
    """Raise if attributions of this kind can't be given, or don't add up although their sum is requested.

    Raises:
        ValueError: there is no such kind, or it has no sum.
    """
    on_inputs(kind)
    if kind == "coefficient" and adds_up:
        raise ValueError(
            "coefficients don't add up to the answer, so there is no convergence delta; leave it out, and baselines "
            "and return_bias too"
        )


def _known(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options if a readout has them."""
    known = ["weights", "rule", "gamma", "biases"]
    for name in options:
        if name not in known:
            takes = [*known, "additional_forward_args", "internal_batch_size", "show_progress", "output", "baselines"]
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
