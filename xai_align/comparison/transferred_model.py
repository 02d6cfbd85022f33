"""Second model that evaluates explanations of a first one, from the first one's inputs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from xai_align._tools.counted import counted
from xai_align._tools.logits import select_logits
from xai_align.data.final_activation import check_outputs_are_logits
from xai_align.data.output_description import describe_output
from xai_align.explanation import logits_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from xai_align.hookspecs import LoadedModel


class TransferredModel(nn.Module):
    """Wrapper of ``judge`` for inputs that were preprocessed for another model.

    Inputs are renormalised to the mean and standard deviation of ``judge``, and
    resized if its input size differs: it gets the pixels that were explained,
    with the same ones perturbed.
    """

    def __init__(self, prepared_for: LoadedModel, judge: LoadedModel, size: Sequence[int]) -> None:
        super().__init__()
        self.model = judge.model
        self.output = judge.output_field
        self.size = tuple(size)
        self.training = judge.model.training  # not train(): that would change the mode of the model
        (mean, std), (judged_mean, judged_std) = _scale(prepared_for), _scale(judge)
        scales = [torch.tensor(one).reshape(-1, 1, 1) for one in (std, judged_std)]
        means = [torch.tensor(one).reshape(-1, 1, 1) for one in (mean, judged_mean)]
        # (x * s1 + m1 - m2) / s2
        self.register_buffer("scale", scales[0] / scales[1])
        self.register_buffer("shift", (means[0] - means[1]) / scales[1])

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits ``[N, K]`` of the judge."""
        x = x * self.scale.to(x) + self.shift.to(x)  # type: ignore[operator]
        if tuple(x.shape[-2:]) != self.size:
            x = nn.functional.interpolate(x, self.size, mode="bilinear", antialias=True, align_corners=False)
        return select_logits(self.model(x), self.output)


def _scale(loaded: LoadedModel) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if loaded.scale is None:
        raise ValueError(
            f"the mean and std that {type(loaded.model).__name__}'s inputs were normalised with are not known, so that "
            "they can't be turned into another model's; give LoadedModel(mean=..., std=...)"
        )
    return loaded.scale


def check_same_classes(explained: LoadedModel, judge: LoadedModel, logits: Tensor, judged: Tensor) -> None:
    """Raise if two models don't have the same classes.

    Raises:
        ValueError: their number or names differ.
    """
    if math.prod(judged.shape[1:]) != math.prod(logits.shape[1:]):
        raise ValueError(
            f"the model to transfer to has {counted(judged.shape[1], 'class')}, the explained one {logits.shape[1]}; "
            "only models for the same classes can judge each other's explanations"
        )
    names = (explained.class_names, judge.class_names)
    if not all(names):
        return
    if len(names[0]) != len(names[1]):
        raise ValueError(
            f"the model to transfer to has {counted(len(names[1]), 'class name')}, the explained one {len(names[0])}; "
            "give both the names of all classes, or leave them out"
        )
    for i, (one, other) in enumerate(zip(*names, strict=True)):
        if one.casefold() != other.casefold():
            raise ValueError(f"class {i} is '{one}' to one model and '{other}' to the other")


def transferred(
    loaded: LoadedModel, other: LoadedModel, probe: Tensor, logits: Tensor, theirs: tuple[Tensor, Tensor]
) -> TransferredModel:
    """Return another model for metrics, with the first one's classes.

    Args:
        loaded: the model that is explained.
        other: the model that metrics evaluate.
        probe: an input of the first.
        logits: its logits.
        theirs: the other model's input and logits.

    Raises:
        ValueError: the other model gives no logits, or has other classes.
    """
    x, answers = theirs
    describe_output(other, answers)
    check_outputs_are_logits(other, x)
    judge = TransferredModel(loaded, other, x.shape[2:])
    check_same_classes(loaded, other, logits, logits_of(judge, probe))
    return judge
