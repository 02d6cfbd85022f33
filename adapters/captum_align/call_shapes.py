"""Call shapes of Captum's methods, reduced to one: which argument is the baseline and which the target."""

from __future__ import annotations

import inspect
import warnings
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
from torch import Tensor

from captum_align.module_of import module_of
from xai_align.adapter_tools import callers_level, did_you_mean
from xai_align.question import Question

#: Arguments of ``attribute`` after the inputs, in the order of Captum's IntegratedGradients.
AFTER_BASELINES = (
    "baselines",
    "target",
    "additional_forward_args",
    "n_steps",
    "method",
    "internal_batch_size",
    "return_convergence_delta",
)
#: The same for Captum's methods without a baseline (Saliency, InputXGradient), followed by ours.
AFTER_TARGET = (
    "target",
    "additional_forward_args",
    "internal_batch_size",
    "return_convergence_delta",
    "show_progress",
    "kind",
)
#: Settings of approximations that an exact readout does not make.
WITHOUT_EFFECT = ("n_steps", "method", "n_samples", "perturbations_per_eval", "grad_kwargs", "verbose")
#: Options of Captum's methods that would change the meaning of the result, and what to do instead.
REFUSED = {
    "abs": "attributions are signed; take .abs() of the result",
    "relu_attributions": "attributions are signed; take .relu() of the result",
    "attr_dim_summation": "every channel has its own term; take .sum(1, keepdim=True) of the result",
    "feature_mask": "every element of the input has its own term; sum the attributions over each feature",
    "sliding_window_shapes": "nothing is occluded; sum the attributions over each window",
    "strides": "nothing is occluded; sum the attributions over each window",
    "stdevs": "no noise is added; wrap the method in NoiseTunnel",
    "custom_attribution_func": "contributions are coefficient times value; change them after the call",
    "attribute_to_layer_input": "this class has no layer whose input could be used; use LayerPiNetAttribution",
}


@dataclass(frozen=True, kw_only=True)
class CaptumCall:
    """Arguments of a call of ``attribute``, by name.

    Attributes:
        baselines: the inputs to compare with; None: no comparison.
        target: any target of Captum's methods, or a question.
        options: the other arguments that were given.
        guessed: the lone argument after the inputs is a number that was taken for the target.
    """

    baselines: Any = None
    target: Any = None
    options: dict[str, Any] = field(default_factory=dict)
    guessed: bool = False

    def warn_of_guess(self, logits: Tensor) -> None:
        """Warn that a number was taken for the target if the model has one output, whose target needs no number."""
        if self.guessed and logits[0].numel() == 1:
            warnings.warn(
                f"{self.target!r} was taken for the target, as in Captum's Saliency, of a model with one output; for a "
                "baseline, as in IntegratedGradients, write baselines=..., else target=...",
                stacklevel=callers_level(),
            )


def captum_call(
    method: Any, inputs: Any, args: tuple[Any, ...], named: dict[str, Any], accepted: tuple[str, ...]
) -> CaptumCall:
    """Return the arguments of a call of ``attribute(inputs, *args, **named)`` by name, whichever order it follows.

    Captum has two orders, ``(inputs, baselines, target, ...)`` and ``(inputs, target, ...)``. What is given decides:
    floating-point values are baselines, class indices and questions are targets. Where both are numbers, the order is
    that of IntegratedGradients. A lone class index is the target.

    Args:
        method: the attribution method, with ``forward_func``; it warns once about options that have no effect.
        inputs: the inputs.
        args: positional arguments after the inputs.
        named: keyword arguments.
        accepted: names of the options that the method has.

    Raises:
        TypeError: an argument is given twice, is ambiguous, or has no meaning for this method.
    """
    by_place, guessed = _by_place(method, inputs, args, named)
    twice = [name for name in by_place if name in named]
    if twice:
        raise TypeError(f"attribute() got two values for {', '.join(map(repr, twice))}, by position and by name")
    options = _with_effect(method, {**by_place, **named}, accepted)
    return CaptumCall(
        baselines=options.pop("baselines", None), target=options.pop("target", None), options=options, guessed=guessed
    )


def _by_place(method: Any, inputs: Any, args: tuple[Any, ...], named: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    if not args:
        return {}, False
    first, second = args[0], args[1] if len(args) > 1 else None
    takes_baseline, guessed = _has_baseline(method, inputs, args, named)
    if takes_baseline and _may_be_target(first, inputs) and _is_index(first) and _may_be_target(second, inputs):
        _warn_of_order(method, inputs, first, second)
    order: tuple[str, ...] = AFTER_BASELINES if takes_baseline else AFTER_TARGET
    if takes_baseline and len(args) > 3 and isinstance(args[3], bool):  # as in Captum's DeepLift
        order = (*AFTER_BASELINES[:3], "return_convergence_delta")
    if len(args) > len(order):
        raise TypeError(
            f"attribute() takes {len(order)} arguments after the inputs, got {len(args)}; give them by name"
        )
    found = dict(zip(order, args, strict=False))
    if isinstance(found.get("additional_forward_args"), bool | float):
        raise TypeError(
            f"{found['additional_forward_args']} is in the position of additional_forward_args; give options, such as "
            "those of Captum's Saliency, DeepLift and GradientShap, by name"
        )
    steps = found.get("n_steps")
    if steps is not None and not _is_index(steps):
        raise TypeError(
            f"a {type(steps).__name__} is in the position of IntegratedGradients' n_steps; give options of other "
            "methods, such as feature_mask, by name"
        )
    size = found.get("internal_batch_size")
    if isinstance(size, bool):
        raise TypeError(f"{size} is in the position of internal_batch_size; give options of other methods by name")
    return found, guessed


def _has_baseline(method: Any, inputs: Any, args: tuple[Any, ...], named: dict[str, Any]) -> tuple[bool, bool]:
    """Return whether the first argument is the baseline, and whether the opposite was a guess."""
    first = args[0]
    baseline, target = _may_be_baseline(first, inputs), _may_be_target(first, inputs)
    if "baselines" in named:
        return False, False
    if "target" in named:
        return True, False
    if first is None:
        # (inputs, None, target), or a model with one output
        return len(args) > 1 and _may_be_target(args[1], inputs), False
    if baseline and target:
        if len(args) > 1:
            return _may_be_target(args[1], inputs), False
        return False, True
    if len(args) == 1 and _is_float(first):
        return False, False  # no class; the target's own check says so
    if not baseline and not target:
        # the target's own check says what is wrong with it, unless it can only be a baseline
        return _holds_floats(first) or callable(first), False
    return baseline, False


def _may_be_target(value: Any, inputs: Any) -> bool:
    if isinstance(value, Question):
        return True
    if isinstance(value, Tensor | np.ndarray):
        integers = (
            not (value.is_floating_point() or value.is_complex())
            if isinstance(value, Tensor)
            else (np.issubdtype(value.dtype, np.integer))
        )
        return bool(integers) and value.ndim <= 1 and not (value.ndim == 1 and _is_like(value, inputs))
    if isinstance(value, range):
        return True
    if isinstance(value, list):
        return bool(value) and all(isinstance(one, Question | tuple) or _is_index(one) for one in value)
    if isinstance(value, tuple):
        return bool(value) and all(map(_is_index, value))
    return _is_index(value)


def _may_be_baseline(value: Any, inputs: Any) -> bool:
    """Return whether this is a number, a tensor, or a tuple of them, one for each input."""
    parts = inputs if isinstance(inputs, tuple) else (inputs,)
    if isinstance(value, tuple):
        return len(value) == len(parts) and all(
            _may_be_baseline(one, part) for one, part in zip(value, parts, strict=True)
        )
    if isinstance(value, Tensor):
        return value.is_floating_point() or (value.dim() > 0 and _is_like(value, inputs))
    if isinstance(value, np.ndarray):
        return np.issubdtype(value.dtype, np.floating) or _is_like(value, inputs)
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def _is_like(value: Any, inputs: Any) -> bool:
    """Return whether this has the shape of the first input, or of one example of it."""
    first = inputs[0] if isinstance(inputs, tuple) and inputs else inputs
    if not isinstance(first, Tensor):
        return False
    return tuple(value.shape) == tuple(first.shape) or tuple(value.shape) == (1, *first.shape[1:]) != (1,)


def _holds_floats(value: Any) -> bool:
    parts = value if isinstance(value, tuple) else (value,)
    return any(
        isinstance(one, float | np.floating)
        or (isinstance(one, Tensor) and one.is_floating_point())
        or (isinstance(one, np.ndarray) and np.issubdtype(one.dtype, np.floating))
        for one in parts
    )


def _is_float(value: Any) -> bool:
    return isinstance(value, float | np.floating) or (isinstance(value, Tensor) and value.dim() == 0)


def _is_index(value: Any) -> bool:
    if isinstance(value, bool | np.bool_):
        return False
    return isinstance(value, int | np.integer)


def _warn_of_order(method: Any, inputs: Any, first: Any, second: Any) -> None:
    """Warn if the model could take the second number as one of its own arguments."""
    if _forward_takes(method.forward_func, len(inputs) if isinstance(inputs, tuple) else 1):
        warnings.warn(
            f"in attribute(inputs, {first!r}, {second!r}) the baseline is {first!r} and the target is {second!r}, as "
            "in Captum's IntegratedGradients; if these are a target and an argument of the model, write target=... and "
            "additional_forward_args=...",
            stacklevel=callers_level(),
        )


def _forward_takes(model: Any, given: int) -> bool:
    """Return whether the model's forward function can take more positional arguments than the inputs."""
    module = module_of(model)
    try:
        parameters = list(inspect.signature(module.forward).parameters.values())
    except (TypeError, ValueError):
        return True
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    several = any(one.kind is inspect.Parameter.VAR_POSITIONAL for one in parameters)
    return several or len([one for one in parameters if one.kind in kinds]) > given


def _with_effect(method: Any, options: dict[str, Any], accepted: tuple[str, ...]) -> dict[str, Any]:
    """Return the options without those that have no effect, about which one warning is issued.

    Raises:
        TypeError: an option would change the meaning of the result, or is unknown.
    """
    known = ("baselines", "target", "additional_forward_args", *accepted)
    left, idle = {}, []
    for name, value in options.items():
        if name in known:
            left[name] = value
        elif value is None or (name in REFUSED and value is False):
            continue
        elif name in WITHOUT_EFFECT:
            idle.append(name)
        elif name in REFUSED:
            raise TypeError(f"{type(method).__name__} has no option '{name}': {REFUSED[name]}")
        else:
            raise TypeError(
                f"{type(method).__name__}.attribute has no option '{name}'{did_you_mean(name, known)} "
                f"It has {', '.join(known)}"
            )
    if idle and not getattr(method, "_has_warned", False):
        method._has_warned = True
        warnings.warn(
            f"{', '.join(idle)}: no effect, since a readout is exact and takes no steps or samples (shown once)",
            stacklevel=callers_level(),
        )
    return left


def delta_call(attributions: Any, args: tuple[Any, ...], named: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of ``compute_convergence_delta(attributions, *args, **named)`` by our argument names.

    Raises:
        TypeError: an argument is unknown or given twice, there are no inputs, or they or attributions are not tensors.
        ValueError: attributions and inputs are not of as many examples.
    """
    _check_batches("attributions", attributions)
    ours = {"start_point": "baselines", "end_point": "inputs"}
    given = {ours.get(name, name): value for name, value in named.items()}
    pair = len(args) > 1 and _looks_like_inputs(args[1]) and not _may_be_target(args[1], args[0])
    starts = pair or "inputs" in given
    order = ("baselines", "inputs") if starts else ("inputs",)
    order = (*order, "target", "additional_forward_args")
    found = dict(zip(order, args, strict=False))
    twice = [name for name in found if name in given]
    unknown = [name for name in given if name not in ("baselines", "inputs", "target", "additional_forward_args")]
    if twice or unknown or len(args) > len(order):
        raise TypeError(
            "compute_convergence_delta takes (attributions, start_point, end_point, target, additional_forward_args) "
            "or (attributions, inputs, target, additional_forward_args)"
        )
    found |= given
    if "inputs" not in found:
        raise TypeError("compute_convergence_delta needs the inputs: end_point, or inputs")
    _check_batches("inputs", found["inputs"])
    counts = _examples(attributions), _examples(found["inputs"])
    if counts[0] != counts[1]:
        raise ValueError(
            f"attributions of {counts[0]} examples for inputs of {counts[1]}; give those of these inputs (baselines go "
            "before the inputs, or by name)"
        )
    return found


def _looks_like_inputs(value: Any) -> bool:
    """Return whether this is a batch, or a tuple of them."""
    parts = value if isinstance(value, tuple) else (value,)
    return bool(parts) and all(isinstance(part, Tensor) and part.dim() > 0 for part in parts)


def _check_batches(name: str, value: Any) -> None:
    """Raise unless this is a batch, or a tuple of them."""
    if not _looks_like_inputs(value):
        parts = value if isinstance(value, tuple) else (value,)
        raise TypeError(f"{name} are a tensor [N, ...] or a tuple of them, got {', '.join(map(_kind, parts)) or '()'}")


def _kind(value: Any) -> str:
    """Return what this is, for a message."""
    return f"a tensor of shape {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def _examples(value: Any) -> int:
    """Return the number of examples of a batch, or of the first of a tuple of batches."""
    return len(value[0] if isinstance(value, tuple) else value)


def check_shapes(attributions: Any, expected: Any, what: str) -> None:
    """Raise if attributions don't have the shapes that ``attribute`` gives them.

    Raises:
        ValueError: they don't.
    """
    given, wanted = (
        [list(one.shape) for one in (value if isinstance(value, tuple) else (value,))]
        for value in (attributions, expected)
    )
    if given != wanted:
        raise ValueError(
            f"attributions of shape {', '.join(map(str, given))}, but {what} {', '.join(map(str, wanted))}; give what "
            "attribute returned for these inputs"
        )


def check_construction(layer: Any) -> None:
    """Raise if ``multiply_by_inputs`` of Captum's methods is in the position of the layer.

    Raises:
        TypeError: it does.
    """
    if isinstance(layer, bool):
        raise TypeError(f"the second argument is the layer, got {layer}; give multiply_by_inputs by name")


def check_coefficients(baselines: Any) -> None:
    """Raise if a difference of coefficients is asked for.

    Raises:
        TypeError: it is.
    """
    if baselines is not None:
        raise TypeError(
            "multiply_by_inputs=False gives the coefficients of one input, whose gates are held; those of a baseline "
            "have other gates, and their difference means nothing: leave out baselines, or multiply_by_inputs=False"
        )


def no_sum() -> NoReturn:
    """Raise, since coefficients alone have no sum.

    Raises:
        ValueError: always.
    """
    raise ValueError(
        "coefficients (multiply_by_inputs=False) don't sum to the answer before they are multiplied by the inputs; "
        "attribute(..., return_convergence_delta=True) gives the delta of the products"
    )
