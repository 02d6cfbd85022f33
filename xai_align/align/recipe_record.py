"""A training recipe: the terms of both losses, the source of the masks, and how a masker is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from xai_align.align.forward_passes.masker_pass import MaskerPass
from xai_align.align.mask_sources import MaskSource
from xai_align.align.masker_loss import Baseline
from xai_align.align.terms.classifier_terms import Term
from xai_align.align.terms.masker_terms import MaskerTerm


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A training recipe: the losses of a classifier, and of a masker if there is one.

    Attributes:
        name: of the recipe.
        terms: of the classifier's loss, in the order in which they are computed.
        mask_source: gives the masks that loss terms compare with.
        masker_terms: of the masker's loss; none: no masker is trained.
        baseline: the values of removed pixels in the masker's step.
        masks_from: ``masks_from(forward)`` turns the soft masks ``forward.soft`` (or their logits,
            ``forward.soft_logits``) into the masks that the masker's step uses, ``[N, 1, H, W]`` in [0, 1]; None: the
            soft masks.

    Raises:
        ValueError: there are no terms, two have the same name, or a mask source is needed and missing.

    Example::

        >>> from dataclasses import replace
        >>> from xai_align.align import Classification, Recipe, recipe
        >>> smoothed = Recipe(name="smoothed", terms=(Classification(label_smoothing=0.1),))
        >>> smoothed.trains_masker
        False
        >>> sparse = replace(recipe("align"), name="no_smoothness", masker_terms=recipe("align").masker_terms[:2])
        >>> [term.name for term in sparse.masker_terms]
        ['distinction', 'sparsity']
    """

    name: str
    terms: tuple[Term, ...]
    mask_source: MaskSource | None = None
    masker_terms: tuple[MaskerTerm, ...] = ()
    baseline: Baseline = 0.0
    masks_from: Callable[[MaskerPass], Tensor] | None = None

    def __post_init__(self) -> None:
        if not self.terms:
            raise ValueError(f"the recipe '{self.name}' has no terms; give at least Classification()")
        for some in (self.terms, self.masker_terms):
            names = [term.name for term in some]
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise ValueError(f"the recipe '{self.name}' has {twice[0]!r} twice; give each term a name of its own")
        lost = [term.name for term in self.terms if needs_mask_source(term)]
        if lost and self.mask_source is None:
            raise ValueError(
                f"'{lost[0]}' compares with a mask source's masks; give the recipe mask_source=LearnedMask() or another"
            )
        if self.mask_source is not None and self.mask_source.needs_masker and not self.masker_terms:
            raise ValueError("the mask source needs a masker, but no masker is trained; give masker_terms too")

    @property
    def trains_masker(self) -> bool:
        """True if the recipe trains a masker."""
        return bool(self.masker_terms)

    @property
    def needs_masks(self) -> bool:
        """True if batches must have masks."""
        return self.mask_source is not None and self.mask_source.needs_masks

    @property
    def needs_indices(self) -> bool:
        """True if batches must have the examples' indices."""
        return any(getattr(term, "needs_indices", False) for term in self.terms)


def needs_mask_source(term: Term | MaskerTerm) -> bool:
    """Return whether a term compares with masks, so that it is left out of the warm-up."""
    return bool(getattr(term, "needs_mask_source", False))
