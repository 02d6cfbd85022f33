"""Evaluation of a trained classifier and its masker on unseen images of one domain."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from xai_align._tools.replica import Replica
from xai_align._tools.thread_state import restores_thread_state
from xai_align.align.forward_passes.training_batch import TrainingBatch
from xai_align.align.saliency import grad_cam, normalised
from xai_align.align.saliency_of_readouts import Saliency, readout_saliency
from xai_align.evaluation import comprehensiveness, sufficiency
from xai_align.hookspecs import FeatureSpace
from xai_align.perturbation.ranking import TieWarning


@dataclass(frozen=True, kw_only=True)
class MapScores:
    """Scores of one kind of map, averaged over the evaluated images; NaN if there were none.

    Attributes:
        sufficiency: mean drop of the predicted class's probability when only the top of the map is kept; lower is
            better. The shares of the image are fixed (1, 5, 10, 20, 50 %), so maps of any area can be compared.
        comprehensiveness: mean drop when the top is removed; higher is better.
        mean: mean of the map's values; for a mask, about the share of the image that it covers.
    """

    sufficiency: float
    comprehensiveness: float
    mean: float


@dataclass(frozen=True, kw_only=True)
class DomainScores:
    """Scores of one domain.

    Attributes:
        images: number of classified images.
        accuracy: share of correct predictions.
        macro_accuracy: mean accuracy over the classes that occur.
        worst_class: lowest accuracy of a class.
        judged: number of images whose maps were evaluated.
        maps: scores of "cam", the normalised Grad-CAM of the predicted class, and of "mask".
    """

    images: int
    accuracy: float
    macro_accuracy: float
    worst_class: float
    judged: int
    maps: dict[str, MapScores] = field(default_factory=dict)


@restores_thread_state
def score_domain(
    classifier: nn.Module,
    batches: Iterable[TrainingBatch],
    *,
    masker: nn.Module | None = None,
    space: str | FeatureSpace | None = None,
    judged: int = 64,
    fill: float = 0.0,
    saliency: Saliency | None = None,
) -> DomainScores:
    """Compute the accuracy over all batches, and the faithfulness of the maps of the first images.

    Scores of maps depend on the classifier as well as on the map, so compare them between classifiers with care.

    Args:
        classifier: images ``[N, C, H, W]`` to logits ``[N, K]``. It and the masker run in eval mode and are not
            changed.
        batches: batches of the domain; the maps of the first images are evaluated.
        masker: the masker; None: only CAMs are evaluated.
        space: feature space of the CAM; None: found automatically.
        judged: number of images whose maps are evaluated.
        fill: value of removed pixels, in the units of the images.
        saliency: the map that is scored as "cam", as an ALIGN trainer has it; None: Grad-CAM.

    Raises:
        ValueError: there are no images.
    """
    right: list[Tensor] = []
    labels: list[Tensor] = []
    values: dict[str, list[Tensor]] = {}
    left = judged
    where = next(classifier.parameters()).device
    for batch in batches:
        images = batch.images.to(where)
        with torch.no_grad():
            predicted = Replica(classifier, evaluate=True).module(images.clone()).argmax(1)
        right.append(predicted.cpu() == batch.labels.cpu())
        labels.append(batch.labels.cpu())
        if left > 0:
            found = maps_of(classifier, masker, images[:left], predicted[:left], space, saliency)
            for name, maps in found.items():
                values.setdefault(name, []).append(_judged(classifier, images[:left], maps, fill))
            left -= len(images)
    if not labels:
        raise ValueError("there are no images to test with")
    return _scores(torch.cat(right), torch.cat(labels), {name: torch.cat(found) for name, found in values.items()})


@restores_thread_state
def maps_of(
    classifier: nn.Module,
    masker: nn.Module | None,
    images: Tensor,
    classes: Tensor,
    space: str | FeatureSpace | None = None,
    saliency: Saliency | None = None,
) -> dict[str, Tensor]:
    """Return ``cam``, the Grad-CAM or readout of ``classes [N]``, and, with a masker, ``mask``.

    Both are ``[N, 1, H, W]`` in [0, 1] and detached. CAMs are interpolated bilinearly to the images' size.
    Copies of the networks run, in eval mode.
    """
    if saliency == "readout":
        cam = readout_saliency(classifier, images, classes, layer=space).detach()
    else:
        copy = Replica(classifier, evaluate=True)
        with torch.enable_grad():
            cam = normalised(grad_cam(copy.module, images, classes, layer=copy.rebind(space)).detach())
    size = images.shape[-2:]
    maps = {"cam": nn.functional.interpolate(cam, size, mode="bilinear", align_corners=False)}
    if masker is not None:
        with torch.no_grad():
            maps["mask"] = Replica(masker, evaluate=True).module(images.clone())
    return maps


def _judged(classifier: nn.Module, images: Tensor, maps: Tensor, fill: float) -> Tensor:
    """Return sufficiency, comprehensiveness and mean of each map, ``[N, 3]``."""
    classifier = Replica(classifier, evaluate=True).module
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TieWarning)  # pixels where a CAM is zero are tied
        flat = maps[:, 0].to(images.dtype)
        kept = sufficiency(classifier, images, flat, baselines=fill)
        removed = comprehensiveness(classifier, images, flat, baselines=fill)
    return torch.stack([kept.double(), removed.double(), flat.double().mean((1, 2))], 1).cpu()


def _scores(right: Tensor, labels: Tensor, values: dict[str, Tensor]) -> DomainScores:
    per_class = [float(right[labels == label].double().mean()) for label in labels.unique()]
    return DomainScores(
        images=len(labels),
        accuracy=float(right.double().mean()),
        macro_accuracy=math.fsum(per_class) / len(per_class),
        worst_class=min(per_class),
        judged=max((len(rows) for rows in values.values()), default=0),
        maps={name: MapScores(**_means(rows)) for name, rows in values.items()},
    )


def _means(rows: Tensor) -> dict[str, float]:
    # a constant map ranks nothing: its sufficiency is undefined and left out of the means
    means = rows.nanmean(0).tolist()
    return dict(zip(("sufficiency", "comprehensiveness", "mean"), means, strict=True))
