"""Experimental: adversarial training in which explanations must not change either.

    max over |x' - x| <= epsilon:   CE(f(x'), y)        the attack
    CE(f(x'), y) + lambda mean |a(x') - a(x)|           the loss; a: the label's CAM

After EGAT (explanation-guided adversarial training, arXiv 2603.01938). Its formulas could not be read: that the attack
is projected gradient ascent, that CAMs are compared by their mean absolute difference, and the weights are our reading
of its description, which names adversarial examples made on the fly, a saliency loss such as Grad-CAM's, and mixup.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from xai_align.align import ClassifierPass, RunningMeans, check_number
from xai_align_experiments.projected_gradient import ProjectedGradient

#: ``attack(images, labels, classifier, noise)`` gives attacked images; noise: ``[N, C, H, W]``, uniform on [0, 1).
Attack = Callable[[Tensor, Tensor, nn.Module, Tensor], Tensor]


@dataclass(kw_only=True)
class Adversarial:
    """Experimental: cross entropy of attacked images, and the change of their CAMs.

    Attributes:
        weight: weight of the term.
        classification: weight of ``CE(f(x'), y)``.
        consistency: weight of ``mean |a(x') - a(x)|``; 0: no CAM is computed.
        epsilon: the largest change of a value; see
            :class:`~xai_align_experiments.projected_gradient.ProjectedGradient` for this and the next two.
        steps: number of steps of the attack.
        limits: the smallest and the largest value an image may have.
        attack: another attack, in place of the three options above.

    Raises:
        ValueError: an option is out of range.
    """

    name: ClassVar[str] = "adversarial"
    needs_mask_source: ClassVar[bool] = False

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

    def __call__(self, forward: ClassifierPass) -> Tensor:
        """Return the value of each image, ``[N]``; gradients go through both CAMs, not through the attack."""
        assert self.attack is not None
        images, labels = forward.batch.images, forward.batch.labels
        noise = forward.draws.uniform("attack", *images.shape[1:])
        attacked = forward.side_pass(self.attack(images, labels, forward.classifier, noise).detach())
        entropy = F.cross_entropy(attacked.logits, labels, reduction="none")
        self._means.add("adversarial_classification", entropy)
        if not self.consistency:
            return self.classification * entropy
        moved = (attacked.saliency - forward.saliency).abs().mean((1, 2, 3))
        self._means.add("adversarial_consistency", moved)
        return self.classification * entropy + self.consistency * moved

    def report(self) -> dict[str, float]:
        """Return the means of the two parts since the last report."""
        return self._means.report()
