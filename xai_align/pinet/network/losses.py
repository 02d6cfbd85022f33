"""Training loss of a PiNet: a weighted sum of terms over a batch.

The formulas are in :mod:`~xai_align.pinet.network.loss_formulas`; here they are applied to a
model. One forward pass gives all terms except feedback and erasing, which run a second
pass, on an image computed from the first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, fields
from typing import Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from xai_align._tools.full_precision import full_precision
from xai_align._tools.model_state import modules_of
from xai_align.pinet.network.loss_formulas import (
    TASKS,
    Task,
    asked,
    detected_signal,
    distillation_loss,
    edge_loss,
    erased,
    erasing_loss,
    feedback_loss,
    gate_of,
    mask_loss,
    parsimony_loss,
    prediction_loss,
    unnormalised,
    yes_or_no,
)

__all__ = [
    "Batch",
    "PiNetLoss",
    "Seen",
    "Task",
    "distillation_loss",
    "edge_loss",
    "erasing_loss",
    "feedback_loss",
    "mask_loss",
    "parsimony_loss",
    "prediction_loss",
]


class Seen(Protocol):
    """Interface of a second look, as the losses use it."""

    @property
    def logits(self) -> Tensor:
        """``[N, K]``."""

    @property
    def coefficients(self) -> Tensor:
        """``[N, K or 1, C or 1, h, w]``."""

    @property
    def coefficient_maps(self) -> Tensor:
        """``[N, K, h, w]``."""


class Explains(Protocol):
    """Interface of a model that returns its logits with all their terms."""

    def explain(self, x: Tensor) -> Seen:
        """Run one differentiable forward pass."""


@dataclass(frozen=True)
class Batch:
    """Batch of training examples.

    Attributes:
        images: ``[N, C, H, W]``.
        targets: as in :func:`~xai_align.pinet.network.loss_formulas.prediction_loss`.
        masks: ``[N, K or 1, h, w]``, NaN where unknown; None: no masks.
        teacher: ``[N, K]``, the teacher's logits.
    """

    images: Tensor
    targets: Tensor
    masks: Tensor | None = None
    teacher: Tensor | None = None


@dataclass(frozen=True)
class PiNetLoss:
    """Weighted sum of loss terms; a term of weight zero is not computed.

    Args:
        task: "multiclass", "multilabel", "binary" (one logit), "regression" or "segmentation".
        prediction: weight of the prediction loss. Zero: labels are ignored, and the teacher's answer replaces them.
        feedback: weight of the recursive feedback (the paper: 1000), for the coefficients of the labelled class.
        parsimony: weight of the squared coefficients.
        masks: weight of the masks (the paper: 1000). A single mask of an example with K maps is that of its class.
        distillation: weight of the divergence from the teacher's logits.
        temperature: temperature of the distillation.
        erasing: weight of the erasing loss (ours).
        edges: weight of the maps' edges where the image has none (ours).
        second_pass_statistics: whether batch norms update their running statistics in the second pass too:
            "updated" (the paper's code) or "kept" (its images do not occur at test time).
        mean: subtracted from the images, per channel.
        std: the divisor of their normalisation, per channel.

    Raises:
        ValueError: there is no such task, a weight is negative, all weights are zero, or a term is not defined
            for the task.

    Source: Lobet & Chiaromonte 2026 (arXiv 2601.04378); distillation, erasing and edges are additions.

    Example::

        from xai_align.pinet.network.losses import Batch

        pinet = conv_pinet(5, in_channels=3, width=8)
        loss, terms = PiNetLoss("multiclass", parsimony=1e-4)(pinet, Batch(images, labels))
        loss.backward()
    """

    task: Task
    _: KW_ONLY
    prediction: float = 1.0
    feedback: float = 0.0
    parsimony: float = 0.0
    masks: float = 0.0
    distillation: float = 0.0
    temperature: float = 1.0
    erasing: float = 0.0
    edges: float = 0.0
    second_pass_statistics: Literal["updated", "kept"] = "kept"
    mean: Sequence[float] = (0.0,)
    std: Sequence[float] = (1.0,)

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ValueError(f"there is no task '{self.task}'; choose one of {', '.join(TASKS)}")
        for name, weight in self.weights.items():
            if not 0 <= weight < float("inf"):
                raise ValueError(f"the weight of '{name}' is {weight}; give zero or a positive number")
        if not any(self.weights.values()):
            raise ValueError("every weight is zero, so there is nothing to learn; weight at least one term")
        if not self.temperature > 0:
            raise ValueError(f"the temperature is {self.temperature}; give a positive number")
        if self.second_pass_statistics not in ("updated", "kept"):
            raise ValueError(f"second_pass_statistics is '{self.second_pass_statistics}'; choose 'updated' or 'kept'")
        if not all(value > 0 for value in self.std):
            raise ValueError(
                f"std is {tuple(self.std)}; give the standard deviation of the images' normalisation, above zero"
            )
        if self.task in ("regression", "segmentation"):
            for name in ("feedback", "erasing", "distillation"):
                if self.weights[name]:
                    raise ValueError(f"'{name}' asks whether a class is there; a {self.task} has no such answer")
        if not self.prediction and not self.distillation:
            raise ValueError("neither labels (prediction) nor a teacher (distillation) are learnt from; weight one")

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each term."""
        names = ("prediction", "feedback", "parsimony", "masks", "distillation", "erasing", "edges")
        return {name: float(getattr(self, name)) for name in names}

    @property
    def names(self) -> tuple[str, ...]:
        """The terms with a non-zero weight."""
        return tuple(name for name, weight in self.weights.items() if weight)

    def settings(self) -> dict[str, object]:
        """Return all options as JSON values; other values, such as objects of a subclass, become their class name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        plain = {
            name: value if isinstance(value, bool | int | float | str | None) else type(value).__name__
            for name, value in values.items()
        }
        return plain | {"mean": list(self.mean), "std": list(self.std)}

    def __call__(self, model: Explains, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss, a scalar, and its unweighted terms."""
        terms = self.terms(model, model.explain(batch.images), batch)
        return self.total(terms), terms

    def total(self, terms: dict[str, Tensor]) -> Tensor:
        """Return the weighted sum of terms."""
        return torch.stack([self.weights[name] * value for name, value in terms.items()]).sum()

    def of_answer(self, seen: Seen, batch: Batch) -> Tensor:
        """Return the validation loss: the weighted prediction and distillation terms, a scalar."""
        terms = ("prediction", "distillation")
        return self.total({name: self.term(name, seen, batch) for name in terms if self.weights[name]})

    def terms(self, model: Explains, seen: Seen, batch: Batch) -> dict[str, Tensor]:
        """Return every term with a non-zero weight, unweighted."""
        batch = self.labelled(batch)
        terms = {name: self.term(name, seen, batch) for name in self.names if name not in ("feedback", "erasing")}
        if self.feedback or self.erasing:
            found = asked(self.task, seen.coefficients, batch.targets)
            gate = gate_of(found.to(batch.images), batch.images)
            with _statistics(model, self.second_pass_statistics):
                if self.feedback:
                    again = model.explain(detected_signal(batch.images, gate, self.mean, self.std))
                    terms["feedback"] = feedback_loss(found, asked(self.task, again.coefficients, batch.targets))
                if self.erasing:
                    without = model.explain(erased(batch.images, gate))
                    terms["erasing"] = erasing_loss(self.task, without.logits, batch.targets)
        return {name: terms[name] for name in self.names}

    def labelled(self, batch: Batch) -> Batch:
        """Return the batch, with the teacher's answers as labels if labels are ignored."""
        if self.prediction or batch.teacher is None:
            return batch
        if self.task == "multiclass":
            return Batch(batch.images, batch.teacher.argmax(1), batch.masks, batch.teacher)
        return Batch(batch.images, (batch.teacher > 0).to(batch.teacher), batch.masks, batch.teacher)

    def term(self, name: str, seen: Seen, batch: Batch) -> Tensor:
        """Return a term of the first pass, a scalar. A subclass adding one puts its weight in :attr:`weights`."""
        with full_precision(batch.images):  # sums over thousands of cells
            match name:
                case "prediction":
                    return prediction_loss(self.task, seen.logits, seen.coefficient_maps, batch.targets)
                case "parsimony":
                    return parsimony_loss(seen.coefficients)
                case "masks":
                    return self._mask_term(seen, batch)
                case "edges":
                    return edge_loss(seen.coefficient_maps, unnormalised(batch.images, self.mean, self.std))
                case _:
                    return self._distillation_term(seen, batch)

    def _mask_term(self, seen: Seen, batch: Batch) -> Tensor:
        if batch.masks is None:
            return seen.logits.new_zeros(())
        pi = seen.coefficients.mean(2)  # one coefficient per position
        masks = batch.masks.to(pi)
        if masks.shape[1] < pi.shape[1]:  # one mask, K maps
            pi = asked(self.task, pi[:, :, None], batch.targets)
        elif masks.shape[1] > pi.shape[1]:  # the classes share a map: its mask is the union
            masks = masks.amax(1, keepdim=True)
        return mask_loss(pi, masks)

    def _distillation_term(self, seen: Seen, batch: Batch) -> Tensor:
        if batch.teacher is None:
            raise ValueError("distillation needs the logits of a teacher; give fit_pinet a teacher")
        pair = (seen.logits, batch.teacher)
        if self.task != "multiclass":
            pair = (yes_or_no(seen.logits), yes_or_no(batch.teacher))
        return distillation_loss(*pair, temperature=self.temperature)


@contextmanager
def _statistics(model: object, wanted: Literal["updated", "kept"]) -> Iterator[None]:
    """Keep batch norms' running statistics unchanged inside, if requested; they still normalise by the batch's."""
    found = modules_of(model) if wanted == "kept" and isinstance(model, nn.Module) else []
    switched = [one for one in found if isinstance(one, _BatchNorm) and one.training and one.track_running_stats]
    try:
        for one in switched:
            one.track_running_stats = False
        yield
    finally:
        for one in switched:
            one.track_running_stats = True
