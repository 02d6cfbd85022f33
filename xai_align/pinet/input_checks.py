"""Checks of model and inputs before a readout, with helpful errors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointError

from xai_align._tools.counted import counted
from xai_align._tools.model_state import check_eager, check_evaluation_mode, check_has_values
from xai_align._tools.saved_copies import is_overwriting
from xai_align.features.run_with_features import cloned
from xai_align.pinet.rounding import misses, wide


def check_model(model: Any) -> None:
    """Raise if ``model`` cannot be read out.

    Raises:
        TypeError: it is not an ``nn.Module``, or is scripted or quantised.
        ValueError: it is in train mode where that matters, or has no classifier, or parameters without values.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"a readout needs the torch.nn.Module itself, got {type(model).__name__}; wrap functions in a module"
        )
    check_eager(model)
    if getattr(model, "num_classes", None) == 0 and not _has_own_head(model):
        raise ValueError(
            f"{type(model).__name__} has no classifier (num_classes is 0), so there are no logits to ask about; "
            "build it with num_classes=..., or call reset_classifier(...) and load or train a head"
        )
    check_has_values(model)
    check_evaluation_mode(model)


def _has_own_head(model: nn.Module) -> bool:
    """Return whether a model built without a classifier was given one by hand."""
    get_classifier = getattr(model, "get_classifier", None)
    head = get_classifier() if callable(get_classifier) else None
    return isinstance(head, nn.Module) and not isinstance(head, nn.Identity)


def check_inputs(model: nn.Module, inputs: Sequence[Any], extra: Sequence[Any] = (), *, at_input: bool = True) -> None:
    """Raise unless ``inputs`` are batches of finite floating-point tensors of the model's dtype on its device.

    A model that converts its inputs itself also accepts another dtype.

    Args:
        model: the network.
        inputs: one or several batches.
        extra: further arguments of the model.
        at_input: whether attributions are to the inputs; token ids are allowed if a layer behind the embedding is read.

    Raises:
        TypeError: an input is not a tensor, or none is floating-point.
        ValueError: a batch is empty, batch sizes differ, values are NaN or infinite, or dtype or device differ.
    """
    for x in inputs:
        if not isinstance(x, Tensor):
            raise TypeError(
                f"inputs are a tensor or a tuple of tensors, got {type(x).__name__}"
                + ("; give the model's named arguments as additional_forward_args" if isinstance(x, dict) else "")
            )
        if x.is_complex():
            raise TypeError(
                "the inputs are complex; give real and imaginary parts, torch.view_as_real(x), and join them"
            )
        if x.layout != torch.strided:
            raise TypeError(f"the inputs have layout {x.layout}; give dense tensors, x.to_dense()")
    sizes = [x.shape[0] if x.dim() else None for x in inputs]
    if not inputs or None in sizes or 0 in sizes or len(set(sizes)) > 1:
        shapes = ", ".join(str(list(x.shape)) for x in inputs) or "nothing"
        raise ValueError(f"inputs are batches with the same, positive number of examples first; got {shapes}")
    floating = [x for x in inputs if x.is_floating_point()]
    if not floating and at_input:
        raise TypeError(
            f"no input is floating ({inputs[0].dtype}), so nothing can be attributed to it: for token ids, read out at "
            "the embedding (feature_space= its name); for pixels, convert with .float()"
        )
    for x in floating:
        if not bool(torch.isfinite(x).all()):
            wrong = (~torch.isfinite(x)).reshape(len(x), -1).any(1)
            raise ValueError(f"the inputs of example(s) {wrong.nonzero().flatten().tolist()} hold NaN or infinity")
    _check_like_model(model, inputs, extra)


def forward_arguments(given: Any) -> tuple[Any, ...]:
    """Return a tuple of arguments from Captum's forms: None, one argument, or a tuple of several."""
    if given is None:
        return ()
    return given if isinstance(given, tuple) else (given,)


def check_logits(output: Any, examples: int | None = None) -> Tensor:
    """Return the model's output after checking that it is a finite floating-point tensor with one row per example.

    Args:
        output: the output.
        examples: the number of examples; None: not checked.

    Raises:
        TypeError: it is something else.
        ValueError: it holds NaN or infinity, or has another number of rows.
    """
    if not isinstance(output, Tensor) or not output.is_floating_point() or output.dim() == 0:
        found = (
            f"a tensor of {output.dtype}, shape {list(output.shape)}"
            if isinstance(output, Tensor)
            else type(output).__name__
        )
        raise TypeError(
            f"the model returned {found}; a readout needs logits [N, ...]: say which output they are with output=... "
            "where there is such an option, or wrap the model so that it returns them alone"
        )
    if examples is not None and len(output) != examples:
        shape = [examples, *output.shape] if examples == 1 else [examples, "..."]
        needed = ", ".join(map(str, shape[:-1] if output.shape[1:] == (1,) and examples == 1 else shape))
        raise ValueError(
            f"the model's output has {counted(len(output), 'row')} for {counted(examples, 'example')}; a readout needs "
            f"one row for each, logits [{needed}]: does the model drop or merge axes, as squeeze() and reshape() do?"
        )
    _check_finite(output)
    return output


def _check_finite(logits: Tensor) -> None:
    """Raise if logits are not finite, as after a training that diverged.

    Raises:
        ValueError: they are not.
    """
    if not bool(torch.isfinite(logits).all()):
        wrong = (~torch.isfinite(logits.detach())).reshape(len(logits), -1).any(1).nonzero().flatten().tolist()
        raise ValueError(f"the logits of example(s) {wrong} hold NaN or infinity; there is nothing to explain")


#: Difference of answers between batches, as a share of the largest one, that shows that a network mixes its batch; the
#: second for answers in half precision. Kernels for another batch size round far less, also TF32's.
OF_THE_BATCH, OF_THE_BATCH_IN_HALF = 0.005, 0.05


def check_repeats(logits: Tensor, again: Tensor) -> None:
    """Raise if a model's logits differ between a pass of it and one of its copy by more than rounding.

    A method that compares passes would explain the random numbers, or another function, and not the inputs.

    Raises:
        ValueError: they do, or are not finite.
    """
    _check_finite(logits)
    own, other = wide(logits.detach()), wide(again.detach())
    if own.shape != other.shape or bool(misses((own - other).abs().max(), own.abs().max(), 64, logits.dtype)):
        raise ValueError(
            "the model gives other logits at a second pass on the same inputs, so its passes can't be compared: it "
            "draws random numbers in eval mode, as F.dropout(x) does without training=self.training, keeps state "
            "between calls, or looks up modules by their identity, which a structural copy does not have; switch that "
            "off"
        )


def check_independent(logits: Tensor, in_another_batch: Tensor) -> None:
    """Raise if examples have other logits in another batch, by more than kernels for another batch size round.

    A method that runs many versions of an example in one batch would explain its neighbours in the batch.

    Raises:
        ValueError: they differ by more than :data:`OF_THE_BATCH` of the largest logit, or are not finite.
    """
    _check_finite(logits)
    share = OF_THE_BATCH_IN_HALF if logits.dtype in (torch.float16, torch.bfloat16) else OF_THE_BATCH
    own, other = wide(logits.detach()), wide(in_another_batch.detach())
    if own.shape != other.shape or not bool((own - other).abs().max() <= share * own.abs().max()):
        raise ValueError(
            "the model gives other logits for the same inputs in another batch, so it mixes the examples of a batch, "
            "as a mean over the first axis does, or draws random numbers in eval mode; use a model that answers about "
            "each example alone"
        )


def check_comparable(answer: Callable[[Tensor], Tensor], example: Tensor, logits: Tensor) -> None:
    """Raise if a model answers differently about an example at a second pass, or beside another image.

    Args:
        answer: returns the logits ``[N, ...]`` of a copy of the model.
        example: ``[1, C, H, W]``.
        logits: of the model itself for the example.

    Raises:
        ValueError: as :func:`check_repeats` and :func:`check_independent`.
    """
    check_repeats(logits, answer(example.clone()))
    check_independent(logits, answer(torch.cat([example, 1 - example]))[:1])


@contextmanager
def explained_failures(inputs: Sequence[Tensor]) -> Iterator[None]:
    """Add a note on the inputs to errors that the model raises, keeping their type."""
    try:
        with _named_checkpointing():
            yield
    except Exception as error:
        if len(inputs) == 1 and inputs[0].dim() == 3 and isinstance(error, RuntimeError | ValueError | IndexError):
            error.add_note("(is this one image without a batch? give images [N, C, H, W]: x[None])")
        given = ", ".join(f"{list(x.shape)} {x.dtype}" for x in inputs)
        error.add_note(f"(while reading out the model on inputs {given})")
        raise


@contextmanager
def named_gradient_errors() -> Iterator[None]:
    """Add advice to errors of autograd: of ``torch.utils.checkpoint``, and of tensors that the network overwrites.

    Raises:
        ValueError: in place of such an error.
    """
    try:
        with _named_checkpointing():
            yield
    except RuntimeError as error:
        if not is_overwriting(error):
            raise
        raise ValueError(
            "the model writes in place into a tensor that its gradient needs, so PyTorch can't differentiate it; in "
            "its forward, write x = x * 2 for x *= 2 and x.mul_(2), and leave inplace=True out; or take the exact "
            "readout, which copies such tensors"
        ) from error


@contextmanager
def _named_checkpointing() -> Iterator[None]:
    """Add advice to errors of ``torch.utils.checkpoint``.

    Raises:
        ValueError: in place of such an error.
    """
    try:
        yield
    except (CheckpointError, RuntimeError) as error:
        if not isinstance(error, CheckpointError) and "torch.utils.checkpoint" not in str(error):
            raise
        raise ValueError(
            "the model calls torch.utils.checkpoint, which hides the operations inside from a readout and runs them "
            "again; switch activation checkpointing off"
        ) from error


def _check_like_model(model: nn.Module, inputs: Sequence[Tensor], extra: Sequence[Any]) -> None:
    parameters = [p for p in model.parameters() if p.is_floating_point()]
    if not parameters:
        return
    parameter = parameters[0]
    dtypes = {p.dtype for p in parameters}
    for x in filter(Tensor.is_floating_point, inputs):
        if x.device != parameter.device:
            raise ValueError(
                f"the inputs are on {x.device}, the model is on {parameter.device}; move one with .to(...)"
            )
        if x.dtype in dtypes or torch.is_autocast_enabled(x.device.type):
            continue
        try:
            with torch.no_grad():
                model(*cloned([*inputs, *extra]))
        except RuntimeError as error:
            raise ValueError(
                f"the inputs are {x.dtype}, the model is {parameter.dtype}; convert one with .to(...), or use autocast"
            ) from error
