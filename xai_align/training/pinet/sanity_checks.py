"""Checks before training that the model matches the task, and the teacher the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from xai_align._tools.inference_tensors import ordinary
from xai_align._tools.model_state import check_evaluation_mode, parameters_of
from xai_align._tools.refused_images import refused_images
from xai_align.pinet.network.frozen_encoder import FrozenEncoder
from xai_align.pinet.network.losses import PiNetLoss, Task
from xai_align.training.pinet.batches import Teacher
from xai_align.training.pinet.dataset_validation import length_of
from xai_align.training.pinet.items import Collate, checked_image


def teacher_for(
    model: nn.Module, teacher: Teacher | None, loss: PiNetLoss, trained: Mapping[str, nn.Parameter]
) -> Teacher | None:
    """Return the teacher: the given one, or the frozen backbone inside the model; None: no distillation.

    Raises:
        ValueError: one is needed and missing, or training would change it; the message says what to do.
    """
    if not loss.distillation:
        return teacher
    if teacher is None:
        teacher = _frozen_backbone(model)
    if teacher is None:
        raise ValueError(
            "distillation needs a teacher, and the model has no frozen backbone with logits of its own; "
            "give teacher=..., a function from images to logits"
        )
    if not isinstance(teacher, nn.Module):
        return teacher
    check_evaluation_mode(teacher)
    ours = {id(p) for p in trained.values()}
    if any(id(p) in ours for p in parameters_of(teacher)):
        raise ValueError(
            "the teacher shares parameters with what is trained, so it would change during training; "
            "give a copy: teacher=copy.deepcopy(...)"
        )
    return teacher


def _frozen_backbone(model: nn.Module) -> nn.Module | None:
    """Return the whole network that a frozen encoder takes its features from."""
    encoder = getattr(model, "encoder", None)
    backbone = getattr(encoder.inner, "backbone", None) if isinstance(encoder, FrozenEncoder) else None
    return backbone if isinstance(backbone, nn.Module) else None


def check_model(
    model: nn.Module, train: Any, loss: PiNetLoss, trained: Mapping[str, nn.Parameter]
) -> tuple[Collate, dict[str, nn.Parameter]]:
    """Return the checks of items for this model, and the parameters that its output depends on, from one image.

    With unused parameters, several processes would wait for each other's gradients forever.

    Raises:
        TypeError: the model, the data set or its first item has a wrong type.
        ValueError: there are no items, the model's output does not match the task, or depends on no parameter.
    """
    if not callable(getattr(model, "explain", None)):
        raise TypeError(
            f"a {type(model).__name__} has no explain(x) that returns the terms of its logits; put a SecondLookHead on "
            "its features: PiNet(encoder, head), or timm_align.retrofit(..., head='second_look')"
        )
    length_of(train, "the training data")
    first = train[0]
    image = ordinary(checked_image(first[0] if isinstance(first, tuple | list) and first else first))
    parameter = parameters_of(model)[0]
    model.eval()
    with refused_images(model, image[None], "as a batch, the images of the training data"):
        seen = model.explain(image[None].to(parameter.device, parameter.dtype))  # type: ignore[operator]
    if not isinstance(seen.logits, Tensor) or seen.logits.dim() != 2 or not seen.logits.isfinite().all():
        raise ValueError(f"the model gives logits {list(seen.logits.shape)} with NaN or infinity, or not [N, K]")
    classes = seen.logits.shape[1]
    _check_classes(loss.task, classes)
    rows, columns = seen.coefficients.shape[-2:]
    collate = Collate(loss.task, classes, (rows, columns), parameter.dtype, labelled=loss.prediction > 0)
    return collate, _taking_part(seen.logits.sum() + seen.coefficients.sum(), trained)


def _taking_part(answer: Tensor, trained: Mapping[str, nn.Parameter]) -> dict[str, nn.Parameter]:
    """Return the parameters that have a gradient; the others no longer require one."""
    if not answer.requires_grad:
        raise ValueError("what the model explains depends on no parameter that requires grad; is it all frozen?")
    gradients = torch.autograd.grad(answer, list(trained.values()), allow_unused=True)
    missing = [name for name, gradient in zip(trained, gradients, strict=True) if gradient is None]
    for name in missing:
        trained[name].requires_grad_(False)
    return {name: parameter for name, parameter in trained.items() if name not in missing}


def _check_classes(task: Task, classes: int) -> None:
    if task == "binary" and classes != 1:
        raise ValueError(f"the task is binary, so the model needs one logit; it has {classes} (try 'multiclass')")
    if task == "multiclass" and classes < 2:
        raise ValueError("the task is multiclass and the model has one logit; make it with two classes or more")
