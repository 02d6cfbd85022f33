"""Experimental: examples whose explanation doesn't keep still when their background changes weigh more.

    x' = x attacked where the heat map is low
    E  = similarity of the heat maps of x and x', and of the predictions
    loss_i = v_i CE_i,   v = 1 - E, as it was found when the example was last seen

After Wu et al. (IEEE TMM 2024, arXiv 2408.04600): no further labels, and no gradient through the explanation.
Our reading: heat maps are compared by their cosine, predictions by the probability that they share, E is the
product; the background is where the normalised CAM of the label is below a threshold; the weights are divided by
their mean, so that the step doesn't shrink while explanations become steadier.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from xai_align._tools.choices import check_choice
from xai_align._tools.model_state import evaluating
from xai_align._tools.random_state import kept_random_state
from xai_align.align.look import Look, look
from xai_align.align.saliency import at_least_float32, cam_at, dead, normalised
from xai_align.align.terms.adversarial import ProjectedGradient
from xai_align.align.terms.classifier_terms import Classification
from xai_align.align.terms.running_means import RunningMeans
from xai_align.align.terms.term_options import check_number
from xai_align.align.views.classifier_view import ClassifierView

#: Whether weights are divided by the mean of all that are remembered, or taken as they are.
Scaling = Literal["mean", "none"]


@dataclass(kw_only=True)
class ConsistencyWeighted:
    """Experimental: the classification loss, each example weighed by how inconsistent its explanation was.

    An example that was not seen before, or whose CAM was dead, has weight one. Each step takes three further
    forward passes in eval mode.

    Attributes:
        weight: of the term.
        classification: the loss that is weighed.
        epsilon: how far background pixels may move, in the units of the images.
        steps: of the attack.
        background: where the heat map, in [0, 1], is below this.
        normalise: "mean": weights are ``v / mean v``; "none": they are ``v``.

    Raises:
        ValueError: options out of range.
    """

    name: ClassVar[str] = "consistency_weighted"
    needs_guide: ClassVar[bool] = False
    needs_indices: ClassVar[bool] = True

    weight: float = 1.0
    classification: Classification = field(default_factory=Classification)
    epsilon: float = 0.1
    steps: int = 1
    background: float = 0.3
    normalise: Scaling = "mean"
    #: By example: ``1 - E``; NaN: not known.
    _found: Tensor = field(default_factory=lambda: torch.empty(0), init=False, repr=False, compare=False)
    _means: RunningMeans = field(default_factory=RunningMeans, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_number("weight", self.weight)
        check_number("background", self.background, most=1.0)
        check_choice("normalise", self.normalise, ("mean", "none"))
        self._attack = ProjectedGradient(epsilon=self.epsilon, steps=self.steps)

    def __call__(self, view: ClassifierView) -> Tensor:
        """``[N]``: the weighted losses. What is found now is remembered for the next time.

        Raises:
            ValueError: the batch has no indices.
            RuntimeError: there are several processes, each of which would remember a part.
        """
        if view.batch.indices is None:
            raise ValueError(
                "explanation consistency remembers each example, but the batch has no indices; let the loader yield "
                "TrainingBatch(images=..., labels=..., indices=...) with each example's place in the data set"
            )
        _check_one_process()
        indices = view.batch.indices.cpu()
        losses = self.classification(view)
        weights = self.weights_of(indices).to(losses)
        consistency = self.examine(view)
        self._means.add("consistency", consistency, consistency.isfinite())
        self._remember(indices, 1 - consistency)
        return weights * losses

    def weights_of(self, indices: Tensor) -> Tensor:
        """``[N]``: what examples weigh, from what was found when they were last seen.

        Args:
            indices: ``[N]``, int64: their places in the data set.
        """
        self._make_room(indices)
        found = self._found[indices]
        if self.normalise == "mean":
            mean = self._found.nanmean()
            found = found / mean if mean > 1e-6 else torch.ones_like(found)
        return found.nan_to_num(nan=1.0)

    def examine(self, view: ClassifierView) -> Tensor:
        """``[N]``: the consistency E of each example, in [0, 1]; NaN where the CAM is dead."""
        images, labels = view.batch.images.detach(), view.batch.labels
        with torch.enable_grad(), evaluating(view.classifier), kept_random_state():
            before = look(view.classifier, images, view.space)
            cam = cam_at(before, labels).detach()
            attacked = self._attack(
                images,
                labels,
                view.classifier,
                torch.full_like(images, 0.5),
                where=background_of(cam, self.background, (images.shape[2], images.shape[3])),
            )
            after = look(view.classifier, attacked, view.space)
            cam_after = cam_at(after, labels).detach()
        similarity = F.cosine_similarity(cam.flatten(1), cam_after.flatten(1), dim=1).clamp(0, 1)
        found = similarity * shared_probability(before, after)
        return torch.where(dead(cam), torch.nan, found)

    def state_dict(self) -> dict[str, Tensor]:
        """What is remembered: ``inconsistency``, ``[examples]``, float32, NaN where nothing is."""
        return {"inconsistency": self._found.clone()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on with what was remembered."""
        self._found = state["inconsistency"].detach().cpu().float().clone()

    def report(self) -> dict[str, float]:
        """The mean consistency since the last report."""
        return self._means.report()

    def _remember(self, indices: Tensor, values: Tensor) -> None:
        self._found[indices] = values.detach().cpu().float()

    def _make_room(self, indices: Tensor) -> None:
        if int(indices.min()) < 0:
            raise ValueError(f"an example has the index {int(indices.min())}; indices count from 0")
        missing = int(indices.max()) + 1 - len(self._found)
        if missing > 0:
            self._found = torch.cat([self._found, torch.full((missing,), float("nan"))])


def background_of(cam: Tensor, threshold: float, size: tuple[int, int]) -> Tensor:
    """``[N, 1, H, W]``, bool: where a CAM, divided by its maximum and brought to the image's size, is low."""
    heat = F.interpolate(normalised(cam), size, mode="bilinear", align_corners=False)
    return heat < threshold


def shared_probability(one: Look, other: Look) -> Tensor:
    """``[N]``: ``sum_k min(p_k, p'_k)``: 1 for equal predictions, 0 for those with nothing in common."""
    p, q = (at_least_float32(look.logits.detach()).softmax(-1) for look in (one, other))
    return torch.minimum(p, q).sum(-1)


def _check_one_process() -> None:
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
        raise RuntimeError(
            f"explanation consistency was started in {distributed.get_world_size()} processes, and each would remember "
            "only what it sees; run it in one"
        )
