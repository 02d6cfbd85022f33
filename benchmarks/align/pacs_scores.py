"""Scores of a classifier trained on one domain of PACS, in that domain and in the others."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from benchmarks.align.hard_auc import hard_auc
from xai_align.align.saliency import dead, grad_cam
from xai_align.align.saliency_of_readouts import Saliency, readout_evidence
from xai_align.evaluation.faithfulness import area, comprehensiveness_of, sufficiency_of
from xai_align.perturbation import PerturbationSpec, perturbation_curves
from xai_align.perturbation.questioned import curve_values
from xai_align.perturbation.spec import steps

#: Shares of a picture's pixels that are kept, or removed.
SHARES = (0.05, 0.1, 0.2, 0.5)
#: Fill of removed pixels: 0 is the mean colour in the network's units.
FILLS: dict[str, float | str] = {"mean": 0.0, "blur": "blur"}
#: Steps of the insertion curve.
INSERTION_STEPS = 16
AT_ONCE = 32


@dataclass(frozen=True)
class Asked:
    """Pictures of one domain, and the indices of those whose CAMs are judged."""

    images: Tensor
    labels: Tensor
    judged: Tensor


def scores(
    classifier: nn.Module, masker: nn.Module | None, asked: Asked, *, saliency: Saliency = "gradcam"
) -> dict[str, float]:
    """Return accuracy, scores of CAMs of the predicted class, and statistics of masks; both networks in eval mode.

    With the exact readout in place of Grad-CAM, "CAMs" are its positive parts.
    """
    predicted = torch.cat([probabilities(classifier, x) for x in asked.images.split(AT_ONCE)]).argmax(1)
    right = (predicted == asked.labels).double()
    by_class = [float(right[asked.labels == label].mean()) for label in asked.labels.unique()]
    found = {
        "accuracy": float(right.mean()),
        "macro accuracy": sum(by_class) / len(by_class),
        "worst class": min(by_class),
        "hard-label AUC": hard_auc(predicted, asked.labels),
    }
    images, classes = asked.images[asked.judged], predicted[asked.judged]
    cams = cams_of(classifier, images, classes, saliency)
    found |= of_cams(classifier, images, classes, cams)
    return found if masker is None else found | of_masks(classifier, masker, images, classes)


@torch.no_grad()
def shown(
    classifier: nn.Module, masker: nn.Module | None, images: Tensor, *, saliency: Saliency = "gradcam"
) -> dict[str, Tensor]:
    """Return data for pictures of some examples: predicted classes, CAMs, and masks if there are any."""
    predicted = probabilities(classifier, images).argmax(1)
    found = {"predicted": predicted, "cams": cams_of(classifier, images, predicted, saliency)}
    return found if masker is None else found | {"masks": masker(images).half()}


def of_cams(classifier: nn.Module, images: Tensor, classes: Tensor, cams: Tensor) -> dict[str, float]:
    """Return sufficiency (low is good), comprehensiveness (high is good), means over :data:`SHARES`, and insertion AUC.

    The insertion curve goes from a blurred picture to the picture.
    """
    maps = interpolate(cams, images.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
    series = [PerturbationSpec(fill, "morf", SHARES) for fill in FILLS.values()]
    series += [PerturbationSpec(fill, "lerf", tuple(1 - share for share in SHARES)) for fill in FILLS.values()]
    series.append(PerturbationSpec("blur", "lerf", steps(INSERTION_STEPS)))
    # positions with equal CAM values, such as zero, are ranked at random, in the same order for all networks
    ties = torch.rand(maps.shape, generator=torch.Generator().manual_seed(0)) * 1e-4
    ranked = maps / maps.amax((1, 2), keepdim=True).clamp(min=1e-12) + ties
    curves = perturbation_curves(classifier, images, ranked, series, internal_batch_size=AT_ONCE)
    without, alone, inserted = curves[: len(FILLS)], curves[len(FILLS) : -1], curves[-1]
    found = {
        "dead CAMs": float(dead(cams).double().mean()),
        "insertion AUC": float(area(inserted.fractions, curve_values(inserted, classes.tolist())[1]).nanmean()),
    }
    for fill, gone, kept in zip(FILLS, without, alone, strict=True):
        found[f"sufficiency, {fill}"] = float(sufficiency_of(kept).nanmean())
        found[f"comprehensiveness, {fill}"] = float(comprehensiveness_of(gone).nanmean())
    return found


@torch.no_grad()
def cams_of(classifier: nn.Module, images: Tensor, classes: Tensor, saliency: Saliency) -> Tensor:
    """Return CAMs at the head's input, ``[N, 1, h, w]``, or positive parts of exact readouts, in full precision."""
    parts = zip(images.split(AT_ONCE), classes.split(AT_ONCE), strict=True)
    with torch.autocast(images.device.type, enabled=False):
        if saliency == "readout":
            return torch.cat([readout_evidence(classifier, x, y).relu() for x, y in parts])
        return torch.cat([grad_cam(classifier, x, y) for x, y in parts])


@torch.no_grad()
def of_masks(classifier: nn.Module, masker: nn.Module, images: Tensor, classes: Tensor) -> dict[str, float]:
    """Return statistics of masks, and the predicted class's probability with the kept and with the dropped part."""
    masks = torch.cat([masker(x) for x in images.split(AT_ONCE)])
    others = images.roll(len(images) // 2, 0)
    kept, dropped = images * masks + others * (1 - masks), images * (1 - masks) + others * masks
    p_keep, p_drop = (
        torch.cat([probabilities(classifier, x) for x in part.split(AT_ONCE)]).gather(1, classes[:, None])
        for part in (kept, dropped)
    )
    mean = masks.mean(0, keepdim=True)
    return {
        "mask mean": float(masks.mean()),
        "mask spread": float(masks.flatten(1).std(1).mean()),
        # share of the variance that is between pictures; 0: the same mask for all
        "mask own": float((masks - mean).square().mean() / (masks - masks.mean()).square().mean().clamp(min=1e-12)),
        "mask above .9": float((masks > 0.9).double().mean()),
        "mask below .1": float((masks < 0.1).double().mean()),
        "p with what is kept": float(p_keep.mean()),
        "p with what is dropped": float(p_drop.mean()),
    }


@torch.no_grad()
def probabilities(classifier: nn.Module, images: Tensor) -> Tensor:
    """Return probabilities ``[N, K]``."""
    found: Tensor = classifier(images)
    return found.softmax(1)
