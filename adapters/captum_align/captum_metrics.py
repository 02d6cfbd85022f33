"""Captum's metrics infidelity and max-sensitivity, as metrics that run by name.

Both are from Yeh et al. 2019, arXiv 1901.09392. Captum computes them; here every example is
measured separately with the same random numbers, so that its value depends neither on the
call nor on the rest of the batch, and the caller's random state is preserved.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from captum._utils.common import _format_additional_forward_args, _format_tensor_into_tuples
from captum.metrics import infidelity as captum_infidelity
from captum.metrics import infidelity_perturb_func_decorator
from captum.metrics import sensitivity_max as captum_sensitivity_max
from torch import Tensor

from captum_align.baseline_method import posed
from captum_align.own_copies import gradients_on, own_model
from xai_align.adapter_tools import (
    batches_of,
    check_evaluation_mode,
    check_not_empty,
    fixed_random_state,
    restores_thread_state,
)
from xai_align.question import QuestionModel, captum_target

if TYPE_CHECKING:
    from collections.abc import Callable


@restores_thread_state
def infidelity(
    forward_func: Any,
    inputs: Any,
    attributions: Any,
    *,
    target: Any = None,
    additional_forward_args: Any = None,
    baselines: Any = None,
    noise: float = 0.003,
    multiply_by_inputs: bool = False,
    perturb_func: Callable[..., Any] | None = None,
    n_perturb_samples: int = 10,
    max_examples_per_batch: int | None = None,
    normalize: bool = False,
    seed: int = 0,
) -> Tensor:
    """Return ``E_I (I . A - (f(x) - f(x - I)))^2``, ``[N]``: how badly attributions predict small perturbations.

    Args:
        forward_func: the model, or a function of the inputs.
        inputs: ``[N, ...]``, or a tuple of tensors.
        attributions: in the shape of the inputs.
        target: any target of Captum, numpy integers and arrays, or questions.
        additional_forward_args: further arguments of the model.
        baselines: as in Captum; with ``multiply_by_inputs``, the reference of the inputs.
        noise: the standard deviation of the normal perturbation ``I``, in units of the inputs.
        multiply_by_inputs: attributions include the factor (input - baseline), so ``I`` is divided by it, as
            Captum does for such methods. For inputs near 0 this divides by almost zero; then pass a
            ``perturb_func`` that removes whole features.
        perturb_func: as in Captum, replaces the noise; then ``noise`` and ``multiply_by_inputs`` are not used.
        n_perturb_samples: the number of perturbations.
        max_examples_per_batch: the number of perturbed inputs run at once.
        normalize: first scale each example's attributions for the best fit, as Captum does.
        seed: the seed of the random numbers.

    Raises:
        ValueError: shapes don't match, there are no examples, attributions are not finite, or the model is in train
            mode.
        TargetError: (an AssertionError) the target is not understood.
    """
    if perturb_func is None:
        perturb_func = _noise_in_shares(noise) if multiply_by_inputs else _noise(noise)

    def of_one(
        model: Any, x: tuple[Tensor, ...], maps: tuple[Tensor, ...], asked: Any, extra: Any, base: Any
    ) -> Tensor:
        return captum_infidelity(
            model,
            perturb_func,
            x,
            maps,
            baselines=base,
            additional_forward_args=extra,
            target=asked,
            n_perturb_samples=n_perturb_samples,
            max_examples_per_batch=max_examples_per_batch,
            normalize=normalize,
        )

    given, maps = _matching(inputs, attributions)
    check_evaluation_mode(forward_func)
    model, target = posed(forward_func, target, len(given[0]))
    extra = _format_additional_forward_args(additional_forward_args)
    bases = _one_each(baselines, given)
    values = []
    model = own_model(model)
    with gradients_on():
        cut = batches_of(given, target, extra, 1)
        for index, (x, asked, rest) in enumerate(cut):
            with fixed_random_state(seed):
                own = tuple(one[index : index + 1] for one in maps)
                values.append(of_one(model, x, own, asked, rest, bases[index]))
    return torch.cat(values).detach()


@restores_thread_state
def sensitivity(
    forward_func: Any,
    inputs: Any,
    attributions: Any,
    *,
    explain: Callable[[Any, Any], Any],
    target: Any = None,
    perturb_radius: float = 0.02,
    perturb_func: Callable[..., Any] | None = None,
    n_perturb_samples: int = 10,
    norm_ord: Any = "fro",
    max_examples_per_batch: int | None = None,
    seed: int = 0,
) -> Tensor:
    """Return ``max_d |E(x + d) - E(x)| / |E(x)|``, ``[N]``: the largest change under small perturbations.

    Args:
        forward_func: the model, not run; only its mode is checked.
        inputs: ``[N, ...]``, or a tuple of tensors.
        attributions: in the shape of the inputs; Captum computes them again with ``explain``.
        explain: ``explain(inputs, target)`` returns attributions, of several perturbed versions of one example.
        target: any target of Captum, numpy integers and arrays, or questions; ``explain`` gets the example's own.
        perturb_radius: the largest change of each entry of an input, in units of the inputs.
        perturb_func: as in Captum, replaces uniform noise within the radius.
        n_perturb_samples: the number of perturbations.
        norm_ord: the norm; "fro" is the root of the sum of squares.
        max_examples_per_batch: the number of perturbed inputs explained at once.
        seed: the seed of the random numbers.

    Raises:
        ValueError: shapes don't match, there are no examples, attributions are not finite, or the model is in train
            mode.
        TargetError: (an AssertionError) the target is not understood.
    """
    given, _ = _matching(inputs, attributions)
    check_evaluation_mode(forward_func)
    single = isinstance(inputs, Tensor)
    options = {} if perturb_func is None else {"perturb_func": perturb_func}
    asked_of_all = target if isinstance(forward_func, QuestionModel) and target is None else captum_target(target)
    values = []
    for x, asked, _ in batches_of(given, asked_of_all, None, 1):
        its_own = _its_own(asked)

        def explained(perturbed: Any, its_own: Any = its_own) -> Any:
            several = _format_tensor_into_tuples(perturbed)
            with torch.enable_grad():
                maps = explain(several[0] if single else several, its_own)
            return tuple(one.detach() for one in _format_tensor_into_tuples(maps))

        with fixed_random_state(seed):
            values.append(
                captum_sensitivity_max(
                    explained,
                    tuple(one.detach() for one in x),
                    perturb_radius=perturb_radius,
                    n_perturb_samples=n_perturb_samples,
                    norm_ord=norm_ord,
                    max_examples_per_batch=max_examples_per_batch,
                    **options,
                )
            )
    return torch.cat(values).detach()


def _noise(spread: float) -> Callable[..., Any]:
    """Return a ``perturb_func`` of normal noise ``I`` and ``x - I``, drawn on the CPU, so equal on every device."""
    if not spread > 0:
        raise ValueError(f"noise is {spread}; give a positive standard deviation")

    def perturb(inputs: Any, baselines: Any = None) -> Any:
        several = _format_tensor_into_tuples(inputs)
        moves = tuple(spread * torch.randn(x.shape, dtype=x.dtype).to(x.device) for x in several)
        moved = tuple(x - move for x, move in zip(several, moves, strict=True))
        return (moves, moved) if isinstance(inputs, tuple) else (moves[0], moved[0])

    return perturb


def _noise_in_shares(spread: float) -> Callable[..., Any]:
    """Return the same with ``I`` divided by input minus baseline, as Captum does it."""
    perturb = _noise(spread)
    return infidelity_perturb_func_decorator(True)(lambda inputs, baselines=None: perturb(inputs)[1])


def _matching(inputs: Any, attributions: Any) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Return inputs and attributions as tuples of tensors after checking that their shapes match."""
    given, maps = _format_tensor_into_tuples(inputs), _format_tensor_into_tuples(attributions)
    shapes = [tuple(x.shape) for x in given], [tuple(x.shape) for x in maps]
    if shapes[0] != shapes[1]:
        raise ValueError(f"attributions have shapes {shapes[1]} and inputs {shapes[0]}; they must be the same")
    check_not_empty(given)
    if not all(bool(one.isfinite().all()) for one in maps):
        raise ValueError("attributions hold NaN or infinity; they cannot be measured")
    return given, tuple(one.detach() for one in maps)


def _one_each(baselines: Any, given: tuple[Tensor, ...]) -> list[Any]:
    """Return the baselines of each example: the rows of a batched tensor, or anything else for all examples."""
    several = baselines if isinstance(baselines, tuple) else (baselines,) * bool(baselines is not None)
    count = len(given[0])
    return [
        None
        if baselines is None
        else tuple(b[i : i + 1] if isinstance(b, Tensor) and b.dim() and len(b) == count else b for b in several)
        for i in range(count)
    ]


def _its_own(asked: Any) -> Any:
    """Return the target of a single example in a form that fits any number of copies."""
    if isinstance(asked, list):
        return asked[0]
    return int(asked) if isinstance(asked, Tensor) else asked
