"""Table of the checks in running order, with advice for when one fails."""

from __future__ import annotations

from xai_align.testing import answer_checks, target_checks, trace_checks
from xai_align.testing.subject import Check

CORE_CHECKS: tuple[Check, ...] = (
    Check(
        run=answer_checks.shape,
        advice="spread or expand the map to the shape of the inputs, e.g. map.expand_as(inputs) / channels",
    ),
    Check(
        run=answer_checks.tuples,
        advice="remember whether the inputs were a tuple, work on tuples, and return the form that was given",
    ),
    Check(
        run=answer_checks.several_inputs,
        advice="attribute to every tensor of the tuple, in its own shape (or skip this check and say so)",
    ),
    Check(
        run=answer_checks.further_arguments,
        advice="call the model with (*inputs, *additional_forward_args)",
    ),
    Check(
        run=target_checks.targets,
        advice="select with captum._utils.common._run_forward, or convert targets to one form with "
        "xai_align.question.as_questions",
    ),
    Check(
        run=target_checks.numpy_targets,
        advice="pass the target through xai_align.question.captum_target first",
        optional=True,
    ),
    Check(
        run=target_checks.wrong_target,
        advice="let the error of the selection through, or raise xai_align.question.TargetError",
    ),
    Check(
        run=answer_checks.batch_mates,
        advice="normalise, average and draw per example, never over the batch",
    ),
    Check(
        run=answer_checks.determinism,
        advice="draw from a torch.Generator of your own with a fixed seed",
    ),
    Check(
        run=answer_checks.without_grad,
        advice="compute gradients inside `with torch.enable_grad():`",
    ),
    Check(
        run=answer_checks.dtype,
        advice="make new tensors like the inputs (torch.zeros_like, x.new_zeros) and convert nothing",
    ),
    Check(
        run=answer_checks.device,
        advice="make new tensors like the inputs and never call .cpu() on the way",
    ),
    Check(
        run=answer_checks.detached,
        advice="return attributions.detach()",
        optional=True,
    ),
    Check(
        run=trace_checks.no_trace,
        advice="use torch.autograd.grad on copies of the inputs, remove every hook in a `finally`, "
        "and guard the model with xai_align._tools.model_state",
    ),
    Check(
        run=trace_checks.no_trace_after_error,
        advice="restore things in a `finally` or a context manager",
    ),
    Check(
        run=trace_checks.inputs_after_error,
        advice="set requires_grad on copies: x.detach().clone().requires_grad_()",
        optional=True,
    ),
)
