"""Networks whose output is not a tensor, such as detectors, through pytorch-grad-cam's targets: a score per example."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class TargetScores(nn.Module):
    """Network that gives ``[N]``: each example's target, a function of its part of the model's output.

    Args:
        model: gives a list with one entry for each example, e.g. the boxes, labels and scores of a detector.
        targets: one for each example.

    Example::

        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

        TargetScores(model, [ClassifierOutputTarget(281)] * 2)(images)  # [2]
    """

    def __init__(self, model: nn.Module, targets: Sequence[Callable[[Any], Any]]) -> None:
        super().__init__()
        self.model = model
        self.targets = tuple(targets)
        self.training = model.training  # not train(), which would change the model too

    def forward(self, images: Tensor) -> Tensor:
        """Return the scores."""
        outputs = self.model(images)
        # methods that perturb repeat one example
        targets = self.targets if len(self.targets) == len(images) else self.targets[:1] * len(images)
        scores = [torch.as_tensor(target(output)) for target, output in zip(targets, outputs, strict=True)]
        return torch.stack([score.to(images).reshape(()) for score in scores])


def is_one_for_each(output: Any, count: int) -> bool:
    """Return whether an output is a list of records, one for each example."""
    return isinstance(output, list | tuple) and len(output) == count and all(isinstance(one, dict) for one in output)
