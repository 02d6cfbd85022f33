"""Scores of a classifier and its masker: accuracy, positions of CAMs and masks, and faithfulness of CAMs.

CAMs are Grad-CAMs of the predicted class at the last feature map, resized bilinearly to the picture.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.align.digits_data import Domains, Pictures
from benchmarks.align.hard_auc import hard_auc
from xai_align.align.saliency import grad_cam
from xai_align.evaluation.faithfulness import area, comprehensiveness_of, sufficiency_of
from xai_align.evaluation.localisation import energy_inside
from xai_align.perturbation.curve import perturbation_curves
from xai_align.perturbation.questioned import curve_values
from xai_align.perturbation.ranking import TieWarning
from xai_align.perturbation.spec import PerturbationSpec, steps

#: Sufficiency and comprehensiveness are means over these shares of the picture.
SHARES = (0.05, 0.1, 0.2, 0.5)
#: Fills of removed pixels: 0 is the data set's mean colour.
FILLS: Mapping[str, object] = {"mean": 0.0, "blur": "blur"}
#: Steps from the blurred picture to the picture, of the insertion curve.
INSERTION_STEPS = 16
#: Number of pictures on which sufficiency and comprehensiveness are measured.
JUDGED = 500
#: Threshold above which a mask is on.
ON = 0.5
AT_ONCE = 250


def scores(classifier: nn.Module, masker: nn.Module | None, domains: Domains) -> dict[str, float]:
    """Return all numbers of a fit by name; both networks are in eval mode."""
    found: dict[str, float] = {}
    for name, pictures in (("id", domains.in_domain), ("ood", domains.out_of_domain)):
        predicted = answers(classifier, pictures.images)
        found[f"{name}_accuracy"] = float((predicted == pictures.labels).double().mean())
        found[f"{name}_hard_auc"] = hard_auc(predicted, pictures.labels)
        cams = cams_of(classifier, pictures.images, predicted)
        inside = energy_inside(cams, pictures.masks[:, 0] > 0)
        found[f"{name}_energy"] = float(inside.nanmean())
        found[f"{name}_dead"] = float(inside.isnan().double().mean())
        if masker is not None:
            found |= {f"{name}_{what}": value for what, value in of_masks(masker, pictures).items()}
    judged = domains.in_domain.images[:JUDGED]
    predicted = answers(classifier, judged)
    return found | faithfulness(classifier, judged, predicted, cams_of(classifier, judged, predicted))


@torch.no_grad()
def answers(classifier: nn.Module, images: Tensor) -> Tensor:
    """Return the predicted classes ``[N]``."""
    return torch.cat([classifier(x).argmax(1) for x in images.split(AT_ONCE)])


def cams_of(classifier: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    """Return CAMs ``[N, 1, H, W]``, not negative."""
    parts = zip(images.split(AT_ONCE), classes.split(AT_ONCE), strict=True)
    with torch.no_grad():
        cams = torch.cat([grad_cam(classifier, x, y) for x, y in parts])
    return F.interpolate(cams, images.shape[-2:], mode="bilinear", align_corners=False)


@torch.no_grad()
def of_masks(masker: nn.Module, pictures: Pictures) -> dict[str, float]:
    """Return the median IoU with the digits, the share of pictures below .5, and the masks' mean."""
    masks = torch.cat([masker(x) for x in pictures.images.split(AT_ONCE)])
    ious = iou(masks > ON, pictures.masks > 0)
    return {
        "iou": float(ious.median()),
        "iou_below_half": float((ious < 0.5).double().mean()),
        "mask_mean": float(masks.mean()),
        "mask_spread": float(masks.std()),
    }


def iou(found: Tensor, true: Tensor) -> Tensor:
    """Return the intersection over union of bool masks ``[N, 1, H, W]``; 0 where both are empty."""
    both, either = (found & true).sum((1, 2, 3)), (found | true).sum((1, 2, 3))
    return both / either.clamp(min=1)


def faithfulness(classifier: nn.Module, images: Tensor, labels: Tensor, cams: Tensor) -> dict[str, float]:
    """Return sufficiency (low is good) and comprehensiveness (high is good) of CAMs for each fill, without dead CAMs.

    Also the area under the insertion curve from a blurred picture, of the probability of the class ``labels``.
    """
    series = [PerturbationSpec(fill, "lerf", tuple(1 - k for k in SHARES)) for fill in FILLS.values()]
    series += [PerturbationSpec(fill, "morf", SHARES) for fill in FILLS.values()]
    series.append(PerturbationSpec("blur", "lerf", steps(INSERTION_STEPS)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TieWarning)  # where a CAM is zero the order is that of the pixels
        curves = perturbation_curves(
            classifier, images, cams, series, internal_batch_size=AT_ONCE, autocast=torch.bfloat16
        )
    kept, gone, inserted = curves[: len(FILLS)], curves[len(FILLS) : -1], curves[-1]
    found = {"insertion_auc": float(area(inserted.fractions, curve_values(inserted, labels.tolist())[1]).nanmean())}
    for fill, keep, drop in zip(FILLS, kept, gone, strict=True):
        found[f"sufficiency_{fill}"] = float(sufficiency_of(keep).nanmean())
        found[f"comprehensiveness_{fill}"] = float(comprehensiveness_of(drop).nanmean())
    return found
