"""Projected gradient ascent: images that are changed a little, so that the classifier is wrong."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xai_align.align import check_number, evaluation_pass


@dataclass(frozen=True, kw_only=True)
class ProjectedGradient:
    """Ascent of the cross entropy by signed steps, within a box around each image (Madry et al. 2018).

    One step from a random start is "fast" adversarial training (Wong et al. 2020).

    Attributes:
        epsilon: the largest change of a value, in the units of the classifier's input images: for images
            normalised with a spread of .225, 8/255 is about .14.
        steps: number of steps.
        step_size: size of a step; None: 1.25 epsilon for one step, 2.5 epsilon / steps for several.
        limits: the smallest and the largest value an image may have; None: any.

    Raises:
        ValueError: an option is out of range.
    """

    epsilon: float
    steps: int = 1
    step_size: float | None = None
    limits: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        check_number("epsilon", self.epsilon)
        if not isinstance(self.steps, int) or isinstance(self.steps, bool) or self.steps < 1:
            raise ValueError(f"steps is {self.steps!r}; give a whole number of at least 1")
        if self.step_size is not None:
            check_number("step_size", self.step_size)
        if self.limits is not None and not self.limits[0] < self.limits[1]:
            raise ValueError(f"limits are {self.limits!r}; give the smallest value and a larger one")

    def __call__(
        self, images: Tensor, labels: Tensor, classifier: nn.Module, noise: Tensor, *, where: Tensor | None = None
    ) -> Tensor:
        """Return attacked images ``[N, C, H, W]``, each within the box around its own.

        The classifier runs in eval mode; its statistics, its gradients and the random state are not changed.

        Args:
            images: ``[N, C, H, W]``.
            labels: ``[N]``, int64.
            classifier: returns logits ``[N, K]``.
            noise: ``[N, C, H, W]`` on [0, 1): the start within the box; 0.5 is the image itself.
            where: ``[N, 1, H, W]``, bool: the pixels that may change; None: all.
        """
        images = images.detach()
        free = torch.ones_like(images[:, :1]) if where is None else where.to(images)
        size = self.step_size
        if size is None:
            size = 1.25 * self.epsilon if self.steps == 1 else 2.5 * self.epsilon / self.steps
        move = self._allowed((2 * noise.to(images) - 1) * self.epsilon * free, images)
        with evaluation_pass(classifier):
            for _ in range(self.steps):
                uphill = loss_gradient(classifier, images + move, labels)
                move = self._allowed(move + size * uphill.sign() * free, images)
        return images + move

    def _allowed(self, move: Tensor, images: Tensor) -> Tensor:
        move = move.clamp(-self.epsilon, self.epsilon)
        return move if self.limits is None else (images + move).clamp(*self.limits) - images


def loss_gradient(classifier: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Return the gradient of each image's cross entropy, ``[N, C, H, W]``, a constant."""
    pixels = images.detach().requires_grad_()
    logits = classifier(pixels)
    with torch.autocast(logits.device.type, enabled=False):
        single = logits.to(torch.promote_types(logits.dtype, torch.float32))
        loss = F.cross_entropy(single, labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, pixels)
    return gradient
