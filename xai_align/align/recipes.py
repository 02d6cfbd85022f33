"""Training recipes of the core: ALIGN and the methods it is compared with.

=========== ===========================================================================================
``erm``     cross entropy alone
``sgt``     saliency guided training (Ismail et al. 2021)
``dre``     ``erm`` and DRE's regulariser (Li et al. 2023)
``rrr``     right for the right reasons (Ross et al. 2017): needs given masks
``gradia``  distance of CAMs from given masks (Gao et al. 2022)
``care``    little evidence outside given masks, and some inside (Zhuang et al. 2019)
``align``   ``dre`` and alignment with a masker that is trained alongside (Hong et al. 2025)
``oracle``  ``align`` with given masks in place of the masker
``random``  ... with the given mask of another image
``inverse`` ... with one minus the given mask
``grey``    ... with the image itself in grey
=========== ===========================================================================================

They are registered by :mod:`xai_align.builtin`; :func:`~xai_align.align.recipe_by_name.recipe` builds them, and those
of other plugins.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal

from xai_align._tools.checks import check_choice
from xai_align.align.mask_sources import (
    Binarised,
    GivenMask,
    GreyImage,
    Inverted,
    LearnedMask,
    MaskOfAnotherImage,
    MaskSource,
)
from xai_align.align.masker_loss import Baseline
from xai_align.align.recipe_record import Recipe
from xai_align.align.terms.classifier_terms import Alignment, Classification, Mixup, Term
from xai_align.align.terms.evidence_sums import EvidenceSums
from xai_align.align.terms.map_distance import MapDistance
from xai_align.align.terms.masker_terms import Distinction, Smoothness, Sparsity
from xai_align.align.terms.other_backgrounds import OtherBackgrounds
from xai_align.align.terms.right_reasons import RightReasons, Score
from xai_align.align.terms.saliency_guided import Fill, SaliencyGuided
from xai_align.align.terms.term_options import Average
from xai_align.hookspecs import TrainingRecipeSpec

__all__ = ["RECIPES"]

Targets = Literal["soft", "binary"]
#: Form of the learned masks as targets of the alignment.
SOURCES_OF_TARGETS: dict[Targets, MaskSource] = {"soft": LearnedMask(), "binary": Binarised(LearnedMask())}


def erm(**classification: Any) -> Recipe:
    """Build the recipe of empirical risk minimisation: the labels only.

    Args:
        **classification: options of :class:`~xai_align.align.terms.classifier_terms.Classification`, here and in all
            other recipes.
    """
    return Recipe(name="erm", terms=(Classification(**classification),))


def sgt(*, saliency_guidance: float = 1.0, share: float = 0.5, fill: Fill = "noise", **classification: Any) -> Recipe:
    """Build saliency guided training; see :class:`~xai_align.align.terms.saliency_guided.SaliencyGuided`."""
    saliency_guided = SaliencyGuided(weight=saliency_guidance, share=share, fill=fill)
    return Recipe(name="sgt", terms=(Classification(**classification), saliency_guided))


def dre(*, mixup: float = 1.0, mixup_share: float = 1.0, **classification: Any) -> Recipe:
    """Build DRE: consistent and sparse CAMs under mixup; see :class:`~xai_align.align.terms.classifier_terms.Mixup`."""
    return Recipe(name="dre", terms=(Classification(**classification), *_mixup(mixup, mixup_share)))


def rrr(*, right_reasons: float = 1.0, score: Score = "all", **classification: Any) -> Recipe:
    """Build RRR with given masks; see :class:`~xai_align.align.terms.right_reasons.RightReasons`."""
    reasons = RightReasons(weight=right_reasons, score=score)
    return Recipe(name="rrr", terms=(reasons, Classification(**classification)), mask_source=GivenMask())


def gradia(*, distance: float = 1.0, **classification: Any) -> Recipe:
    """Build GRADIA with given masks; see :class:`~xai_align.align.terms.map_distance.MapDistance`."""
    terms = (Classification(**classification), MapDistance(weight=distance))
    return Recipe(name="gradia", terms=terms, mask_source=GivenMask())


def care(*, evidence: float = 0.01, threshold: float = 0.5, **classification: Any) -> Recipe:
    """Build CARE with given masks; see :class:`~xai_align.align.terms.evidence_sums.EvidenceSums`."""
    terms = (Classification(**classification), EvidenceSums(weight=evidence, threshold=threshold))
    return Recipe(name="care", terms=terms, mask_source=GivenMask())


def align(
    *,
    alignment: float = 1.0,
    mixup: float = 1.0,
    mixup_share: float = 0.5,
    sparsity: float = 2.0,
    smoothness: float = 0.1,
    right_reasons: float = 0.0,
    backgrounds: float = 0.0,
    confidence: float | None = None,
    average: Average = "image",
    baseline: Baseline = 0.0,
    targets: Targets = "soft",
    alignment_options: dict[str, Any] | None = None,
    **classification: Any,
) -> Recipe:
    """Build ALIGN: the classifier's CAMs are aligned with the masks, and the masks with the classifier's evidence.

    The weights are ours; the published description that we could read gives none.

    Args:
        alignment: lambda3.
        mixup: lambda4; 0 leaves the term out, and its forward pass.
        mixup_share: the share of the images that are mixed: with half of them the expected loss is the same, and the
            step is a fifth cheaper.
        sparsity: lambda1, of the mean of the mask.
        smoothness: lambda2.
        right_reasons: weight of input gradients outside the mask, an addition of ours; 0 leaves it out.
        backgrounds: experimental, ours: weight of the cross entropy on other backgrounds, see
            :class:`~xai_align.align.terms.other_backgrounds.OtherBackgrounds`; 0 leaves it out, and its forward pass.
        confidence: only images classified right with this probability train the masker; None: all do.
        average: of the alignment and the masker's terms: equal weight for each image, or for each class.
        baseline: values of removed pixels, see :func:`~xai_align.align.masker_loss.keep_and_drop`. For networks
            trained on photographs "another_image": they recognise low-contrast images too well for the default.
        targets: masks that CAMs are aligned with: "soft" as they are, or "binary", thresholded at one half. Soft
            masks have small values outside the evidence, which ask for evidence there.
        alignment_options: further options of :class:`~xai_align.align.terms.classifier_terms.Alignment`.
        **classification: options of :class:`~xai_align.align.terms.classifier_terms.Classification`.
    """
    check_choice("targets", targets, SOURCES_OF_TARGETS)
    common: dict[str, Any] = {"confidence": confidence, "average": average}
    return Recipe(
        name="align",
        terms=_alignment_terms(
            alignment, mixup, mixup_share, right_reasons, backgrounds, average, alignment_options, classification
        ),
        mask_source=SOURCES_OF_TARGETS[targets],
        masker_terms=(
            Distinction(**common),
            Sparsity(weight=sparsity, **common),
            Smoothness(weight=smoothness, **common),
        ),
        baseline=baseline,
    )


def aligned_to(
    name: str,
    mask_source: MaskSource,
    *,
    alignment: float = 1.0,
    mixup: float = 1.0,
    mixup_share: float = 0.5,
    right_reasons: float = 0.0,
    backgrounds: float = 0.0,
    average: Average = "image",
    alignment_options: dict[str, Any] | None = None,
    **classification: Any,
) -> Recipe:
    """Build a control: :func:`align` with masks that are not learned.

    Args:
        name: of the recipe.
        mask_source: gives the masks.
        alignment: this and the other options are those of :func:`align`.
        mixup: lambda4.
        mixup_share: the share of the images that are mixed.
        right_reasons: weight of input gradients outside the mask.
        backgrounds: weight of the cross entropy on other backgrounds.
        average: of the alignment.
        alignment_options: further options of :class:`~xai_align.align.terms.classifier_terms.Alignment`.
        **classification: options of :class:`~xai_align.align.terms.classifier_terms.Classification`.
    """
    terms = _alignment_terms(
        alignment, mixup, mixup_share, right_reasons, backgrounds, average, alignment_options, classification
    )
    return Recipe(name=name, terms=terms, mask_source=mask_source)


def _alignment_terms(
    alignment: float,
    mixup: float,
    mixup_share: float,
    right_reasons: float,
    backgrounds: float,
    average: Average,
    alignment_options: dict[str, Any] | None,
    classification: dict[str, Any],
) -> tuple[Term, ...]:
    """Return the terms of ALIGN's classifier; terms of weight zero are left out, right reasons come first."""
    aligned = Alignment(weight=alignment, average=average, **(alignment_options or {}))
    reasons = RightReasons(weight=right_reasons)
    return (
        *((reasons,) if right_reasons else ()),
        Classification(**classification),
        *((aligned,) if alignment else ()),
        *_mixup(mixup, mixup_share),
        *((OtherBackgrounds(weight=backgrounds),) if backgrounds else ()),
    )


def _mixup(weight: float, share: float) -> tuple[Term, ...]:
    term = Mixup(weight=weight, share=share)
    return (term,) if weight else ()


#: The training recipes, as the plugin contract has them.
RECIPES: list[TrainingRecipeSpec] = [
    TrainingRecipeSpec(name="erm", build=erm, summary="cross entropy of the labels alone"),
    TrainingRecipeSpec(name="sgt", build=sgt, summary="the prediction is unchanged without the least salient pixels"),
    TrainingRecipeSpec(name="dre", build=dre, summary="consistent and sparse CAMs under mixup: ALIGN without masks"),
    TrainingRecipeSpec(name="rrr", build=rrr, summary="no input gradient outside given masks"),
    TrainingRecipeSpec(name="gradia", build=gradia, summary="CAMs differ little from given masks"),
    TrainingRecipeSpec(name="care", build=care, summary="little evidence outside given masks, and some inside"),
    TrainingRecipeSpec(name="align", build=align, summary="CAMs lie where a masker, trained alongside, finds evidence"),
    TrainingRecipeSpec(
        name="oracle",
        build=partial(aligned_to, "oracle", GivenMask()),
        summary="align with given masks in place of the masker's",
    ),
    TrainingRecipeSpec(
        name="random",
        build=partial(aligned_to, "random", MaskOfAnotherImage(GivenMask())),
        summary="control: align with the given mask of another image",
    ),
    TrainingRecipeSpec(
        name="inverse",
        build=partial(aligned_to, "inverse", Inverted(GivenMask())),
        summary="control: align with one minus the given mask",
    ),
    TrainingRecipeSpec(
        name="grey",
        build=partial(aligned_to, "grey", GreyImage()),
        summary="control: align with the image in grey for a mask",
    ),
]
