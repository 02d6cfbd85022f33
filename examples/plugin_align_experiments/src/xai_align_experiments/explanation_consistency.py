"""Experimental: examples whose explanation changes when their background is attacked get a larger weight.

    x' = x attacked where the heat map is low
    E  = similarity of the heat maps of x and x', times that of the predictions
    loss_i = v_i CE_i,   v = 1 - E, as measured when the example was last seen

After Wu et al. (IEEE TMM 2024, arXiv 2408.04600): no further labels, and no gradient through the explanation. Our
reading: heat maps are compared by their cosine, predictions by the probability that they share, E is the product; the
background is where the normalised CAM of the label is below a threshold; the weights are divided by their mean, so that
the step does not shrink as explanations become consistent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from xai_align.align import Classification, ClassifierPass, RunningMeans, check_number, evaluation_pass, normalised
from xai_align_experiments.projected_gradient import ProjectedGradient

#: Whether weights are divided by the mean of all weights in memory, or taken as they are.
Scaling = Literal["mean", "none"]


@dataclass(kw_only=True)
class ConsistencyWeighted:
    """Experimental: the classification loss, each example weighted by the inconsistency of its explanation.

    An example that was not seen before, or whose CAM was zero everywhere, has weight one. Each step takes three further
    forward passes in eval mode.

    Attributes:
        weight: weight of the term.
        classification: the loss that is weighted.
        epsilon: the largest change of a background pixel, in the units of the images.
        steps: number of steps of the attack.
        background: the value of the heat map, in [0, 1], below which a pixel belongs to the background.
        normalise: "mean": weights are ``v / mean v``; "none": they are ``v``.

    Raises:
        ValueError: an option is out of range.
    """

    name: ClassVar[str] = "consistency_weighted"
    needs_mask_source: ClassVar[bool] = False
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
        if self.normalise not in ("mean", "none"):
            raise ValueError(f"normalise is {self.normalise!r}; give 'mean' or 'none'")
        self._attack = ProjectedGradient(epsilon=self.epsilon, steps=self.steps)

    def __call__(self, forward: ClassifierPass) -> Tensor:
        """Return the weighted losses, ``[N]``, and save the consistency measured now for the next time.

        Raises:
            ValueError: the batch has no indices.
            RuntimeError: there are several processes, each of which would keep a part of the values.
        """
        if forward.batch.indices is None:
            raise ValueError(
                "explanation consistency keeps a value for each example, but the batch has no indices; let the loader "
                "yield TrainingBatch(images=..., labels=..., indices=...) with each example's index in the data set"
            )
        _check_one_process()
        indices = forward.batch.indices.cpu()
        losses = self.classification(forward)
        weights = self.weights_of(indices).to(losses)
        consistency = self.examine(forward)
        self._means.add("consistency", consistency, consistency.isfinite())
        self._found[indices] = (1 - consistency).detach().cpu().float()
        return weights * losses

    def weights_of(self, indices: Tensor) -> Tensor:
        """Return the weights of examples, ``[N]``, from the consistency measured when they were last seen.

        Args:
            indices: ``[N]``, int64: their indices in the data set.
        """
        self._make_room(indices)
        found = self._found[indices]
        if self.normalise == "mean":
            mean = self._found.nanmean()
            found = found / mean if mean > 1e-6 else torch.ones_like(found)
        return found.nan_to_num(nan=1.0)

    def examine(self, forward: ClassifierPass) -> Tensor:
        """Return the consistency E of each example, ``[N]`` in [0, 1]; NaN where the CAM is zero everywhere."""
        images, labels = forward.batch.images.detach(), forward.batch.labels
        with evaluation_pass(forward.classifier):
            before = forward.side_pass(images, order="first")
            cam = before.cam.detach()
            attacked = self._attack(
                images,
                labels,
                forward.classifier,
                torch.full_like(images, 0.5),
                where=background_of(cam, self.background, (images.shape[2], images.shape[3])),
            )
            after = forward.side_pass(attacked, order="first")
            cam_after = after.cam.detach()
        similarity = F.cosine_similarity(cam.flatten(1), cam_after.flatten(1), dim=1).clamp(0, 1)
        found = similarity * shared_probability(before.logits.detach(), after.logits.detach())
        return torch.where((cam == 0).flatten(1).all(1), torch.nan, found)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the state: ``inconsistency``, ``[examples]``, float32, NaN where nothing is known."""
        return {"inconsistency": self._found.clone()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore the state."""
        self._found = state["inconsistency"].detach().cpu().float().clone()

    def report(self) -> dict[str, float]:
        """Return the mean consistency since the last report."""
        return self._means.report()

    def _make_room(self, indices: Tensor) -> None:
        if int(indices.min()) < 0:
            raise ValueError(f"an example has the index {int(indices.min())}; indices count from 0")
        missing = int(indices.max()) + 1 - len(self._found)
        if missing > 0:
            self._found = torch.cat([self._found, torch.full((missing,), float("nan"))])


def background_of(cam: Tensor, threshold: float, size: tuple[int, int]) -> Tensor:
    """Return where a CAM, divided by its maximum and resized to the image, is low: ``[N, 1, H, W]``, bool."""
    heat = F.interpolate(normalised(cam), size, mode="bilinear", align_corners=False)
    return heat < threshold


def shared_probability(logits: Tensor, others: Tensor) -> Tensor:
    """Return ``sum_k min(p_k, p'_k)``, ``[N]``: 1 for equal predictions, 0 for those with nothing in common."""
    return torch.minimum(logits.softmax(-1), others.softmax(-1)).sum(-1)


def _check_one_process() -> None:
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
        raise RuntimeError(
            f"explanation consistency was started in {distributed.get_world_size()} processes, and each would keep "
            "values for its own examples only; run it in one"
        )
