"""pytorch-grad-cam's targets, functions of one example's output, as questions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor

from xai_align.question import Index, Question, TargetError, as_questions

#: Target of pytorch-grad-cam: a function from one example's output (without the batch axis) to a number.
Target = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class TargetQuestion(Question):
    """Question given by a function of one example's output.

    A readout explains its first-order form at the logits ``z``, with the gradient held
    constant: ``t(z) = sum_k (dt/dz_k) z_k + rest``. For a linear target this is
    the target itself and ``rest`` is its constant. Methods that differentiate or
    perturb the network use ``t`` unchanged.

    A target that doesn't change with the output's scale, such as a cosine, has a first-order form whose sum is 0. Its
    norm is held constant instead, as a readout does with one inside a network: ``t(z) = h(z) / |z|`` with
    ``h(z) = |z| t(z)``, and ``w = (dh/dz) / |z| = dt/dz + t(z) z / |z|^2``, whose sum is ``t(z)``.

    Attributes:
        target: the function. Two questions are equal if it is the same object.

    Example::

        from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget

        question = TargetQuestion(target=ClassifierOutputSoftmaxTarget(281))
        readout = read_out(model, images, question)
    """

    targets: tuple[Index, ...] = ()
    target: Target | None = None

    def answer(self, logits: Tensor) -> Tensor:
        """Return the target's scalar for one example's output, differentiable.

        Raises:
            TargetError: the target does not return a single number.
        """
        assert self.target is not None
        value = self.target(logits)
        if not isinstance(value, Tensor) or value.numel() != 1:
            found = f"shape {list(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
            raise TargetError(
                f"the target {_name(self.target)} gave {found} for an output of shape {list(logits.shape)}; "
                "a target gives a tensor with one number for one example"
            )
        return value.reshape(())

    def linear_form(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Return weights ``w`` and ``r = t(z) - sum(w z)``: the target's gradient, or with its norm held constant.

        Raises:
            TargetError: the target cannot be differentiated there.
        """
        with torch.inference_mode(False), torch.enable_grad():
            z = logits.detach().clone().requires_grad_()
            value = self.answer(z)
            if not value.requires_grad:
                raise TargetError(
                    f"the target {_name(self.target)} does not depend on the output in a way that can be "
                    "differentiated; compute it with torch operations, without .detach() or .item()"
                )
            (weights,) = torch.autograd.grad(value, z)
        z, t = z.detach(), value.detach()
        if self._is_of_degree_zero(z, t):
            weights = weights + t * z / z.square().sum()  # w = dt/dz + t z / |z|^2
        return weights, t - (weights * z).sum()

    def _is_of_degree_zero(self, z: Tensor, t: Tensor) -> bool:
        """Return whether the target is the same for multiples of these logits, and not a constant zero."""
        if not bool(z.any()) or not bool(t):
            return False
        with torch.inference_mode(False), torch.no_grad():
            others = [self.answer(factor * z) for factor in (0.5, 2.0, 3.0)]
        tolerance = 20 * torch.finfo(t.dtype).eps * t.abs()
        return all(bool((other - t).abs() <= tolerance) for other in others)

    @property
    def is_linear(self) -> bool:
        """Return False, because the linearity of a function cannot be known."""
        return False

    def text(self, class_names: Sequence[str]) -> str:
        """Return ``why NAME?`` with the name of the target's class or function."""
        return f"why {_name(self.target)}?"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TargetQuestion) and other.target is self.target

    def __hash__(self) -> int:
        return id(self.target)


def predicted_class(output: Tensor) -> Tensor:
    """Return the largest logit of one example, the target for ``targets=None``.

    Raises:
        TargetError: the output is dense, so there is no single predicted class.
    """
    if output.dim() > 1:
        raise TargetError(
            f"an output of shape {list(output.shape)} for an example has no one predicted class; "
            "say in targets what to explain"
        )
    flat = output.reshape(-1)
    return flat[int(flat.argmax())]


def questions_of(targets: Any, num_examples: int) -> list[Question]:
    """Return one question per example.

    Args:
        targets: a list with a target of pytorch-grad-cam, an int or a
            :class:`~xai_align.Question` per example; one of these for all; or any argument of
            :func:`xai_align.question.as_questions`. None: the predicted class.
        num_examples: the size of the batch.

    Raises:
        TargetError: the form is not one of these, or its length is not the batch's.
    """
    if targets is None:
        return [TargetQuestion(target=predicted_class)] * num_examples
    if isinstance(targets, list | tuple) and any(_is_target(one) for one in targets):
        return as_questions([_question(one) for one in targets], num_examples)
    return as_questions(_question(targets), num_examples)


def _question(target: Any) -> Any:
    if not _is_target(target):
        return target
    if type(target) is ClassifierOutputTarget:
        return Question.why(target.category)
    return TargetQuestion(target=target)


def _is_target(one: Any) -> bool:
    return callable(one) and not isinstance(one, Question | Tensor)


def _name(target: Any) -> str:
    return str(getattr(target, "__name__", None) or type(target).__name__)
