"""Experimental: adversarial training in which explanations have to keep still too.

    max over |x' - x| <= epsilon:   CE(f(x'), y)        the attack
    CE(f(x'), y) + lambda mean |a(x') - a(x)|           what is learned from it; a: the label's CAM

After EGAT (explanation-guided adversarial training, arXiv 2603.01938). Its formulas could not be read: that
the attack is projected gradient ascent, that CAMs are compared by their mean absolute difference, and the
weights are our reading of its description, which names adversarial examples made on the fly, a saliency loss
such as Grad-CAM's, and mixup.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xai_align._tools.model_state import evaluating
from xai_align._tools.random_state import kept_random_state
from xai_align.align.look import check_logits, look
from xai_align.align.saliency import at_least_float32, saliency_at
from xai_align.align.terms.running_means import RunningMeans
from xai_align.align.terms.term_options import check_number
from xai_align.align.views.classifier_view import ClassifierView
from xai_align.align.views.side_pass import statistics_kept
from xai_align.pinet.second_look import full_precision

#: ``attack(images, labels, classifier, noise)`` gives attacked images; noise: ``[N, C, H, W]``, uniform on [0, 1).
Attack = Callable[[Tensor, Tensor, nn.Module, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class ProjectedGradient:
    """Ascent of the cross entropy by signed steps, within a box around each image (Madry et al. 2018).

    One step from a random start is "fast" adversarial training (Wong et al. 2020).

    Attributes:
        epsilon: how far a value may move, in the units of the images as the classifier takes them: for images
            normalised with a spread of .225, 8/255 is about .14.
        steps: how many.
        step_size: of each; None: 1.25 epsilon for one step, 2.5 epsilon / steps for several.
        limits: the least and the largest value that there is; None: not looked at.

    Raises:
        ValueError: options out of range.
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
            raise ValueError(f"limits are {self.limits!r}; give the least value and a larger one")

    def __call__(
        self, images: Tensor, labels: Tensor, classifier: nn.Module, noise: Tensor, *, where: Tensor | None = None
    ) -> Tensor:
        """``[N, C, H, W]``: attacked images, each within the box around its own.

        The classifier is in eval mode meanwhile; its statistics, its gradients and the random state stay.

        Args:
            images: ``[N, C, H, W]``.
            labels: ``[N]``, int64.
            classifier: gives logits ``[N, K]``.
            noise: ``[N, C, H, W]`` on [0, 1): where in the box to start; 0.5: at the image.
            where: ``[N, 1, H, W]``, bool: the places that may change; None: all.
        """
        images = images.detach()
        free = torch.ones_like(images[:, :1]) if where is None else where.to(images)
        size = self.step_size
        if size is None:
            size = 1.25 * self.epsilon if self.steps == 1 else 2.5 * self.epsilon / self.steps
        move = self._allowed((2 * noise.to(images) - 1) * self.epsilon * free, images)
        with torch.enable_grad(), evaluating(classifier), kept_random_state():
            for _ in range(self.steps):
                uphill = loss_gradient(classifier, images + move, labels)
                move = self._allowed(move + size * uphill.sign() * free, images)
        return images + move

    def _allowed(self, move: Tensor, images: Tensor) -> Tensor:
        move = move.clamp(-self.epsilon, self.epsilon)
        return move if self.limits is None else (images + move).clamp(*self.limits) - images


def loss_gradient(classifier: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """``[N, C, H, W]``: the gradient of each image's cross entropy, as a constant, in the mode the classifier is in."""
    pixels = images.detach().requires_grad_()
    logits = classifier(pixels)
    check_logits(logits, len(images))
    with full_precision(logits):
        loss = F.cross_entropy(at_least_float32(logits), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, pixels)
    return gradient


@dataclass(kw_only=True)
class Adversarial:
    """Experimental: cross entropy of attacked images, and how far their CAMs moved.

    Attributes:
        weight: of the term.
        classification: of ``CE(f(x'), y)``.
        consistency: of ``mean |a(x') - a(x)|``; 0: no CAM is computed.
        epsilon: how far a value may move; see :class:`ProjectedGradient` for this and the next two.
        steps: of the attack.
        limits: the least and the largest value that there is.
        attack: another attack; the three options above are then not looked at.

    Raises:
        ValueError: options out of range.
    """

    name: ClassVar[str] = "adversarial"
    needs_guide: ClassVar[bool] = False

    weight: float = 1.0
    classification: float = 1.0
    consistency: float = 1.0
    epsilon: float = 0.1
    steps: int = 1
    limits: tuple[float, float] | None = None
    attack: Attack | None = None
    _means: RunningMeans = field(default_factory=RunningMeans, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for part in ("weight", "classification", "consistency"):
            check_number(part, getattr(self, part))
        if self.attack is None:
            self.attack = ProjectedGradient(epsilon=self.epsilon, steps=self.steps, limits=self.limits)

    def __call__(self, view: ClassifierView) -> Tensor:
        """``[N]``: the value of each image; gradients go through both CAMs, not through the attack."""
        assert self.attack is not None
        images, labels = view.batch.images, view.batch.labels
        noise = view.draws.uniform("attack", *images.shape[1:])
        attacked = self.attack(images, labels, view.classifier, noise).detach()
        with statistics_kept(view.classifier):
            seen = look(view.classifier, attacked, view.space)
        entropy = F.cross_entropy(at_least_float32(seen.logits), labels, reduction="none")
        self._means.add("adversarial_classification", entropy)
        if not self.consistency:
            return self.classification * entropy
        attacked = saliency_at(seen, labels, order=view.order, how=view.normalise)
        moved = (attacked - view.saliency).abs().mean((1, 2, 3))
        self._means.add("adversarial_consistency", moved)
        return self.classification * entropy + self.consistency * moved

    def report(self) -> dict[str, float]:
        """Means of the two parts since the last report."""
        return self._means.report()
