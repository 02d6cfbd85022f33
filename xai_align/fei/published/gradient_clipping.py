"""Selective gradient clipping of FEI as a context manager: gradients that don't reroute the computation.

The reference runs once, and the outputs of its activations are stored in the
order of their calls. In a forward pass of the yielded copy, a hook on the output
of every such call clips the gradient by the rule
(:mod:`~xai_align.fei.published.clipping_rules`): at every activation of the backward pass,
so clips compound.

For ReLU this equals clipping at its input: where ``a > 0`` the gradients at input
and output are equal, and where ``a == 0`` the gradient is zero.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from xai_align._tools.callers_level import callers_level
from xai_align._tools.did_you_mean import did_you_mean
from xai_align._tools.model_state import check_evaluation_mode
from xai_align._tools.replica import Replica
from xai_align.features.resolve_layer import Layers, layer_names
from xai_align.fei.published.activation_calls import batch_size, check_visible
from xai_align.fei.published.clipped_passes import ClippedCall, ClippedPasses, Clipping, NothingToClip, ReferencePass
from xai_align.fei.published.clipping_rules import RULES, ClippingMode, ClippingRule, find_clipping_rule
from xai_align.pinet.input_checks import forward_arguments
from xai_align.question import QuestionModel

__all__ = ["ClippedCall", "Clipping", "ClippingMode", "NothingClipped", "NothingToClip", "clip_gradients"]


class NothingClipped(UserWarning):
    """Warning that no gradient reached a clipped activation, so nothing was clipped.

    Example::

        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("error", NothingClipped)
            try:
                with clip_gradients(model, images):
                    model(images)  # not the copy, clipping.model
            except NothingClipped as warning:
                print(warning)
    """


@contextmanager
def clip_gradients(
    model: nn.Module,
    reference_inputs: Any,
    *,
    mode: ClippingMode = "ibm",
    layers: Layers | None = None,
    additional_forward_args: Any = None,
) -> Iterator[Clipping]:
    """Clip gradients at the activations of a copy of ``model``, for a loss that is to be *minimised*.

    Run the copy, ``clipping.model``, any number of times, on the reference's batch size ``B``
    or on ``B * K`` inputs, the ``K`` copies of image 0 first (as from ``repeat_interleave``).
    Activations must keep the batch in axis 0; windows of an image may be inside it, in that
    order.

    The copy shares the parameters' memory, without their gradients. ``model`` itself is not changed: nothing is clipped
    when it runs, also inside the block, and other threads may use it meanwhile.

    For ReLU the rules are FEI's. For ReLU6, GELU, SiLU and Hardswish they are our
    extension: applied to the output, where "silent" means an output of 0 or less.

    Example::

        alpha = torch.full((2, 1, 32, 32), 0.5, requires_grad=True)
        with clip_gradients(model, images) as clipping:
            loss = -clipping.model(alpha * images)[:, 281].sum()
            (gradient,) = torch.autograd.grad(loss, alpha)  # [N, 1, H, W]

    Args:
        model: in eval mode; a :class:`~xai_align.question.QuestionModel` is unwrapped.
        reference_inputs: ``[B, ...]``, or a tuple of such: the inputs whose computation is preserved.
            They run on entry, in the current autocast context.
        mode: the rule; "none" clips nothing.
        layers: names of modules; only activations that run inside them are clipped. None: all whose output has
            spatial positions. Those of shape ``[N, C]``, in a classifier of several linear layers, are not clipped,
            as in the published code, which stops at the first linear layer. Name layers to clip them.
        additional_forward_args: further arguments of the model for the reference, as in Captum.

    Yields:
        The :class:`Clipping`: the ``model`` to run, what is clipped, and how much has been.

    Raises:
        NothingToClip: there is no activation to clip.
        TypeError: the model is not an ``nn.Module``.
        ValueError: an unknown mode or layer; a model in train mode or with compiled parts; an output for
            the reference that is not finite; inside, a batch size that is not a multiple of the reference's.
        RuntimeError: inside, the model calls other activations than for the reference.

    Warns:
        NothingClipped: the block ended, and no gradient reached a clipped activation.

    Source: Zhang & McMillan (arXiv 2509.04588); "silent" and ``layers`` are ours.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"gradients are clipped inside a torch.nn.Module; got {type(model).__name__}")
    rule = find_clipping_rule(mode)
    check_evaluation_mode(model)
    inner = model.model if isinstance(model, QuestionModel) else model
    inside = None if layers is None else found_layers(model, inner, layers)
    if rule is None:
        yield Clipping("none", Replica(model).module)
        return
    check_visible(inner)
    inputs = forward_arguments(reference_inputs)
    if not batch_size(inputs):
        raise ValueError("the reference holds no inputs; give a tensor [B, ...] with B of at least 1")
    reference = _reference(model, inner, rule, inside, (*inputs, *forward_arguments(additional_forward_args)))
    copy = Replica(model)
    clipping = Clipping(mode, copy.module, reference.records())
    ClippedPasses(reference, clipping).watch(copy.of(inner))
    yield clipping
    if not clipping.gradient_entries:
        warnings.warn(
            "no gradient passed through a clipped activation: inside the block, run clipping.model (not the "
            "model itself) on inputs that require grad, and take the gradient there",
            NothingClipped,
            stacklevel=callers_level(),
        )


@contextmanager
def clipped_copy(
    model: nn.Module,
    images: Tensor,
    additional_forward_args: tuple[Any, ...],
    *,
    mode: ClippingMode,
    layers: Layers | None = None,
) -> Iterator[tuple[nn.Module, tuple[str, ...]]]:
    """Yield the copy of :func:`clip_gradients`, and the clipped activations, e.g. "features.1 (relu)".

    With a mode it is an :class:`~xai_align.fei.composites.Interception`.
    """
    with clip_gradients(
        model, images, mode=mode, layers=layers, additional_forward_args=additional_forward_args
    ) as clipping:
        yield clipping.model, tuple(f"{call.layer or 'the model itself'} ({call.kind})" for call in clipping.calls)


def clippable_calls(
    model: nn.Module, images: Tensor, additional_forward_args: Any = None, *, layers: Layers | None = None
) -> tuple[ClippedCall, ...]:
    """Return the activations that :func:`clip_gradients` would clip, found by a pass on images ``[N, C, H, W]``.

    Raises:
        NothingToClip, TypeError, ValueError: as there.
    """
    inner = model.model if isinstance(model, QuestionModel) else model
    check_visible(inner)
    inside = None if layers is None else found_layers(model, inner, layers)
    return _reference(
        model, inner, RULES["ibm"], inside, (images, *forward_arguments(additional_forward_args))
    ).records()


def _reference(
    model: nn.Module, inner: nn.Module, rule: ClippingRule, inside: frozenset[str] | None, arguments: tuple[Any, ...]
) -> ReferencePass:
    copy = Replica(model)
    reference = ReferencePass(copy.of(inner), rule, inside)
    reference.run(copy.module, arguments)
    return reference


def found_layers(model: nn.Module, inner: nn.Module, layers: Layers | str) -> frozenset[str]:
    """Return the layers' names in ``inner``; names relative to ``model`` are accepted too."""
    ours = dict(inner.named_modules(remove_duplicate=False))
    everything = {**dict(model.named_modules(remove_duplicate=False)), **ours}
    first_names = {module: name for name, module in inner.named_modules()}  # a shared module has several
    names = [layers] if isinstance(layers, str) else layer_names(inner, layers) or []
    found = {name: first_names.get(everything.get(name, model)) for name in names}
    for name, first_name in found.items():
        if not first_name:
            raise ValueError(f"layer '{name}' not found; this model has {_nearby(name, ours)}")
    return frozenset(filter(None, found.values()))


def _nearby(name: str, modules: Mapping[str, nn.Module]) -> str:
    """Describe the names near the missing layer, e.g. blocks.0 ... blocks.11."""
    parent = name.rpartition(".")[0]
    while parent not in modules:
        parent = parent.rpartition(".")[0]
    there = [f"{parent}.{child}" if parent else child for child, _ in modules[parent].named_children()]
    shown = f"{there[0]} ... {there[-1]}" if len(there) > 4 else ", ".join(there) or "no layers inside"
    return shown + did_you_mean(name, [known for known in modules if known])
