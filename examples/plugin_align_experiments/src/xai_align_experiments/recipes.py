"""The three recipes: each takes options by name and builds a new Recipe."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from xai_align.align import Classification, Distinction, Recipe, Smoothness, recipe
from xai_align_experiments.adversarial_training import Adversarial
from xai_align_experiments.annealed_area import AnnealedArea
from xai_align_experiments.explanation_consistency import ConsistencyWeighted, Scaling
from xai_align_experiments.straight_through_masks import StraightThroughMasks


def egat(
    *,
    adversarial: float = 1.0,
    consistency: float = 1.0,
    epsilon: float = 0.1,
    steps: int = 1,
    limits: tuple[float, float] | None = None,
    mixup: float = 1.0,
    mixup_share: float = 1.0,
    **classification: Any,
) -> Recipe:
    """Build the experimental recipe of explanation-guided adversarial training: DRE and an adversarial term.

    Args:
        adversarial: weight of the term; see :class:`~xai_align_experiments.adversarial_training.Adversarial` for it
            and the next four options.
        consistency: weight of the CAM's change inside the term.
        epsilon: the largest change of a value, in the units of the images.
        steps: of the attack.
        limits: the smallest and the largest value an image may have.
        mixup: weight of DRE's regulariser; 0 leaves it out.
        mixup_share: the share of the images that are mixed.
        **classification: options of :class:`xai_align.align.Classification`.
    """
    attacked = Adversarial(weight=adversarial, consistency=consistency, epsilon=epsilon, steps=steps, limits=limits)
    base = recipe("dre", mixup=mixup, mixup_share=mixup_share, **classification)
    labels, *regulariser = base.terms
    return replace(base, name="egat", terms=(labels, attacked, *regulariser))


def aim(
    *,
    area: float = 6.0,
    final_area: float = 0.35,
    until: float = 1.0,
    temperature: float = 1.0,
    alignment: float = 1.0,
    mixup: float = 1.0,
    mixup_share: float = 0.5,
    smoothness: float = 0.1,
    baseline: Any = 0.0,
    **classification: Any,
) -> Recipe:
    """Build the experimental recipe ``aim``: ALIGN with two devices of AIM's mask, which replace sparsity.

    Args:
        area: weight of :class:`~xai_align_experiments.annealed_area.AnnealedArea`.
        final_area: the share of the image that masks cover in the end.
        until: the share of the fit after which they do.
        temperature: of :class:`~xai_align_experiments.straight_through_masks.StraightThroughMasks`.
        alignment: this and the other options are those of the recipe ``align``.
        mixup: weight of DRE's regulariser.
        mixup_share: the share of the images that are mixed.
        smoothness: weight of the masks' total variation.
        baseline: replaces what a mask removes.
        **classification: options of :class:`xai_align.align.Classification`.
    """
    base = recipe(
        "align",
        alignment=alignment,
        mixup=mixup,
        mixup_share=mixup_share,
        baseline=baseline,
        targets="binary",
        **classification,
    )
    return replace(
        base,
        name="aim",
        masker_terms=(
            Distinction(),
            AnnealedArea(weight=area, last=final_area, until=until),
            Smoothness(weight=smoothness),
        ),
        masks_from=StraightThroughMasks(temperature=temperature),
    )


def consistency(
    *, epsilon: float = 0.1, steps: int = 1, background: float = 0.3, normalise: Scaling = "mean", **classification: Any
) -> Recipe:
    """Build the experimental recipe ``consistency``: cross entropy, weighted by the inconsistency of explanations.

    Args:
        epsilon: this and the next three options are those of
            :class:`~xai_align_experiments.explanation_consistency.ConsistencyWeighted`.
        steps: of the attack.
        background: the CAM's value below which a pixel belongs to the background.
        normalise: "mean": weights are divided by their mean; "none": they are not.
        **classification: options of :class:`xai_align.align.Classification`.
    """
    weighted = ConsistencyWeighted(
        epsilon=epsilon,
        steps=steps,
        background=background,
        normalise=normalise,
        classification=Classification(**classification),
    )
    return Recipe(name="consistency", terms=(weighted,))
