"""Captum's methods as baselines: with numpy targets, questions and defaults, run on a copy of the model."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from captum._utils.common import (
    _format_additional_forward_args,
    _format_output,
    _format_tensor_into_tuples,
    _is_tuple,
)
from captum.attr import Attribution
from captum.log import log_usage
from torch import Tensor, nn

from captum_align.default_options import nothing
from captum_align.own_copies import gradients_on, own_leaf, own_model_and_layers
from captum_align.without_futures import WithoutFutures
from xai_align.adapter_tools import (
    batches_of,
    check_evaluation_mode,
    check_not_empty,
    fixed_random_state,
    restores_thread_state,
)
from xai_align.pinet.input_checks import named_gradient_errors
from xai_align.question import Question, QuestionModel, TargetError, ask, captum_target

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, kw_only=True)
class BaselineSpec:
    """Specification of a Captum method.

    Attributes:
        method: its class; the first argument of the constructor is the model.
        defaults: options of ``attribute`` for which Captum has no default, from the inputs and
            the given options.
        hooks_modules: it sets hooks on modules, so it needs an ``nn.Module``.
        draws: it draws random numbers; then each example is explained separately with the
            same numbers, so that its map depends neither on the call nor on the rest of the batch.
    """

    method: type[Any]
    defaults: Callable[[tuple[Tensor, ...], dict[str, Any]], dict[str, Any]] = nothing
    hooks_modules: bool = False
    draws: bool = False


class BaselineMethod(WithoutFutures, Attribution):
    """Captum method, with Captum's call.

    Args:
        forward_func: the model, a ``QuestionModel``, or any function of the inputs if the method takes one.
        spec: the method's specification.
        **options: options of the method's constructor, or of its ``attribute``, for every call.

    Raises:
        TypeError: the method has no such option, or needs an ``nn.Module``.
    """

    def __init__(self, forward_func: Any, spec: BaselineSpec, **options: Any) -> None:
        Attribution.__init__(self, forward_func)
        if spec.hooks_modules and not isinstance(forward_func, nn.Module):
            raise TypeError(
                f"{spec.method.__name__} hooks the layers of a network and needs the "
                f"torch.nn.Module itself, got {type(forward_func).__name__}"
            )
        self.spec = spec
        built_with = _constructor_options(spec.method)
        self._construction = {name: value for name, value in options.items() if name in built_with}
        self._options = {name: value for name, value in options.items() if name not in built_with}
        _check_options(spec.method, self._options)
        self._method = spec.method(forward_func, **self._construction)

    @log_usage()
    @restores_thread_state
    def attribute(
        self,
        inputs: Tensor | tuple[Tensor, ...],
        target: Any = None,
        additional_forward_args: Any = None,
        **options: Any,
    ) -> Any:
        """Return attributions in the shape of ``inputs``, detached.

        Args:
            inputs: tensor ``[N, ...]`` or tuple of tensors.
            target: any target of Captum's methods, numpy integers and arrays, or an ``xai_align.Question``.
            additional_forward_args: further arguments of the model.
            **options: further arguments of the method's own ``attribute``, e.g. ``n_steps=50``. With
                ``return_convergence_delta=True`` the result is ``(attributions, delta)``.

        Raises:
            TypeError: the method has no such option.
            TargetError: (an AssertionError) the target is not understood.
            AssertionError, IndexError: raised by Captum for a target that does not fit the output.
            ValueError: there are no examples, or the model is in train mode where that matters.
        """
        _check_options(self.spec.method, options)
        check_evaluation_mode(self.forward_func)
        given = _format_tensor_into_tuples(inputs)
        check_not_empty(given)
        model, target = posed(self.forward_func, target, len(given[0]))
        extra = _format_additional_forward_args(additional_forward_args)
        model, construction = own_model_and_layers(model, self._construction, hooks_modules=self.spec.hooks_modules)
        with gradients_on(), named_gradient_errors():
            leaves = tuple(own_leaf(x) for x in given)
            options = {**self._options, **options}
            options = {**self.spec.defaults(leaves, options), **options}
            attributions, delta = self._run(model, construction, leaves, target, extra, options)
        result = _format_output(_is_tuple(inputs), attributions)
        return result if delta is None else (result, delta)

    def _run(
        self,
        model: Any,
        construction: dict[str, Any],
        leaves: tuple[Tensor, ...],
        target: Any,
        extra: Any,
        options: dict[str, Any],
    ) -> tuple[tuple[Tensor, ...], Tensor | None]:
        method = self.spec.method(model, **construction)
        if not self.spec.draws:
            return _attribute(method, leaves, target, extra, options)
        parts = []
        for leaf, asked, rest in batches_of(leaves, target, extra, 1):
            with fixed_random_state():
                parts.append(_attribute(method, leaf, asked, rest, options))
        attributions = tuple(torch.cat(part) for part in zip(*(maps for maps, _ in parts), strict=True))
        deltas = [delta for _, delta in parts if delta is not None]
        return attributions, torch.cat(deltas) if deltas else None

    def has_convergence_delta(self) -> bool:
        """Return the method's own value."""
        return bool(self._method.has_convergence_delta())

    def compute_convergence_delta(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return the method's own convergence delta."""
        return self._method.compute_convergence_delta(*args, **kwargs)

    @property
    def multiplies_by_inputs(self) -> bool:
        """Return the method's own value."""
        return bool(self._method.multiplies_by_inputs)

    def get_name(self) -> str:
        """Return the method's name in tables, in Captum's spelling."""
        return str(self._method.get_name())


def posed(model: Any, target: Any, num_examples: int) -> tuple[Any, Any]:
    """Return model and target in Captum's forms, equivalent to ``target``."""
    target = captum_target(target)
    asks = isinstance(target, Question) or (
        isinstance(target, list) and any(isinstance(one, Question) for one in target)
    )
    if not asks:
        return model, target
    if isinstance(model, QuestionModel):
        raise TargetError("this model answers questions already; give the target that ask() gave, or the plain model")
    if not isinstance(model, nn.Module):
        raise TypeError(f"a question needs the torch.nn.Module itself, got {type(model).__name__}")
    return ask(model, target, num_examples)


def _attribute(
    method: Any, leaves: tuple[Tensor, ...], target: Any, extra: Any, options: dict[str, Any]
) -> tuple[tuple[Tensor, ...], Tensor | None]:
    """Return Captum's result: the maps as a tuple, and the convergence delta if requested."""
    answer = method.attribute(leaves, target=target, additional_forward_args=extra, **options)
    maps, delta = answer if options.get("return_convergence_delta") else (answer, None)
    # occlusion returns float32 for any input dtype
    maps = tuple(_like(leaf, one.detach().contiguous()) for leaf, one in zip(leaves, maps, strict=True))
    return maps, None if delta is None else delta.detach()


def _like(leaf: Tensor, attributions: Tensor) -> Tensor:
    return attributions.to(leaf.dtype) if leaf.is_floating_point() else attributions


def _constructor_options(method: type[Any]) -> set[str]:
    return set(list(inspect.signature(method).parameters)[1:])


def _check_options(method: type[Any], options: dict[str, Any]) -> None:
    parameters = inspect.signature(method.attribute).parameters
    known = [
        name
        for name, parameter in parameters.items()
        if parameter.kind is not parameter.VAR_KEYWORD and name not in ("self", "inputs")
    ]
    unknown = [name for name in options if name not in known]
    if unknown:
        raise TypeError(f"{method.__name__} has no option {', '.join(map(repr, unknown))}; it has {', '.join(known)}")
