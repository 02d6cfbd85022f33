"""Exact readout of an answer: ``answer = sum(contributions) + bias``, with terms for placed biases and bypasses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from xai_align._tools.random_state import RandomState
from xai_align._tools.thread_state import restores_thread_state
from xai_align.features.unwrapping import unwrapped
from xai_align.pinet.default_layers import default_layers
from xai_align.pinet.gates.frozen_gates import draws
from xai_align.pinet.input_checks import check_inputs, check_model, explained_failures, forward_arguments
from xai_align.pinet.mixture import mixed
from xai_align.pinet.passes import read_layers
from xai_align.pinet.readout_layers import (
    BiasName,
    ReadoutLayers,
    RuleName,
    as_readout_layers,
    as_weights,
    readout_space,
    with_options,
)
from xai_align.pinet.records import Readout, as_readout
from xai_align.pinet.request import Request, image_size
from xai_align.question import QuestionModel, as_questions


@restores_thread_state
def read_out(
    model: nn.Module,
    inputs: Tensor | tuple[Tensor, ...],
    question: Any = None,
    feature_space: ReadoutLayers = None,
    *,
    weights: Sequence[float] | None = None,
    rule: RuleName | None = None,
    gamma: float | None = None,
    biases: BiasName | None = None,
    additional_forward_args: Any = None,
    output: str | int | None = None,
) -> Readout:
    """Return the exact contribution of every coordinate of a feature space to the answer to a question.

    The model is not changed. Where the head behind the feature space is affine,
    the readout is local and needs no backward pass of the backbone; elsewhere
    it takes one forward pass, one backward pass, and one forward pass for the check.

    The decomposition of a network's answer is not unique, and early in a network some
    are much sharper than others. ``rule``, ``biases`` and mixtures select one of several
    exact decompositions. For an affine head, all rules give the same one.

    Args:
        model: any ``nn.Module`` in eval mode whose output is logits ``[N, K]`` (or ``[N]``, or dense).
        inputs: floating tensor ``[N, ...]``, or a tuple of them.
        question: a :class:`~xai_align.Question`, one per example, or any target that Captum accepts.
        feature_space: ``"input"``, ``"head"`` (the head's input; local if the head is affine), a layer's name, a
            module, a :class:`~xai_align.FeatureSpace` (which may cut several tensors jointly), or a
            :class:`~xai_align.pinet.ReadoutLayer`. A list of these: the convex mixture of their readouts. None: the
            default, found by the structure of the network (:func:`~xai_align.pinet.default_layers`).
        weights: the weights of the layers of a list, 0 or more, with sum 1. None: equal weights.
        rule: ``"gate"``: the coefficients of the frozen gates. ``"gamma"``: terms that agree in sign with the value
            of their unit count more (:mod:`~xai_align.pinet.gates.gamma_rule`). None: the default's own, ``"gate"``
            for layers that are named.
        gamma: the strength of the gamma rule; None: the default's own, 0.25 for layers that are named.
        biases: ``"apart"``: one number; ``"placed"``: bias contributions are kept as maps, at the positions where
            they act (:mod:`~xai_align.pinet.gates.placed_biases`), for image inputs. None: the default's own,
            ``"apart"`` for layers that are named.
        additional_forward_args: further arguments of the model, as in Captum.
        output: which of the model's outputs are the logits, by field or position. None: the field named "logits", or
            the only floating tensor.

    Returns:
        A :class:`Readout`; a :class:`~xai_align.pinet.MixedReadout` for a list of several layers.

    Raises:
        TargetError: the question names a class that the output does not have.
        UnknownOperation: the network computes something that no rule covers.
        CompletenessError: the parts do not add up.
        ValueError: inputs, model, layer, rule or weights are not suitable for a readout; the message names the remedy.

    Source: Lobet & Chiaromonte 2026 (arXiv 2601.04378); the frozen gates are the detaching of
    B-cos networks and layer-wise relevance propagation.

    Example::

        readout = read_out(model, images, Question.why_not(281, 282), "conv2")
        readout.map()  # [2, 32, 32]; with readout.bias, sums to readout.answer
    """
    parts = inputs if isinstance(inputs, tuple) else (inputs,)
    # only tensors that depend on the feature space may require grad
    parts = tuple(part.detach() if isinstance(part, Tensor) else part for part in parts)
    model, own_layer = unwrapped(model)
    asked = None
    if isinstance(model, QuestionModel):
        asked = model
        model, own_layer = unwrapped(model.model)
    check_model(model)
    feature_space = own_layer if feature_space is None else feature_space
    extra = forward_arguments(additional_forward_args)
    check_inputs(model, parts, extra, at_input=feature_space is None)
    with _random_state_kept(), explained_failures(parts):
        if feature_space is None:
            defaults = default_layers(model, parts, extra, output)
            layers = [with_options(layer, rule, gamma, biases) for layer in defaults]
        else:
            layers = as_readout_layers(feature_space, rule, gamma, biases)
        shares = as_weights(weights, len(layers))
        spaces = [readout_space(model, layer.feature_space, parts[0][:1], output) for layer in layers]
        check_inputs(model, parts, extra, at_input=any(space.layer == "input" for space in spaces))
        questions = (asked.questions_for if asked else as_questions)(question, len(parts[0]))
        found = read_layers(Request(model, layers, spaces, parts, extra, questions, output))
    several, size = isinstance(inputs, tuple), image_size(parts)
    readouts = [
        as_readout(decomposition, space, several=several, image_size=size, local=local)
        for (decomposition, local), space in zip(found, spaces, strict=True)
    ]
    return readouts[0] if len(readouts) == 1 else mixed(readouts, shares)


@contextmanager
def _random_state_kept() -> Iterator[None]:
    """Restore the random state, but only if the network draws from it, because other threads share it."""
    draws.drew = False
    state = RandomState.now()
    try:
        yield
    finally:
        if draws.drew:
            state.restore()
