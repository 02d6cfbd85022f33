"""A training recipe: the terms of both losses, the source of the masks, and how a masker is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from xai_align.align.guides import Guide
from xai_align.align.masker_loss import Baseline
from xai_align.align.terms.classifier_terms import Term
from xai_align.align.terms.masker_terms import MaskerTerm
from xai_align.align.views.masker_view import MaskerView


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A training recipe: the losses of a classifier, and of a masker if there is one.

    Attributes:
        name: of the recipe.
        terms: of the classifier's loss, in the order in which they are computed.
        guide: gives the masks that terms compare with.
        masker_terms: of the masker's loss; none: no masker is trained.
        baseline: the values of removed pixels in the masker's step.
        masks_from: ``masks_from(view)`` turns the masker's soft masks ``view.soft`` (or ``view.soft_logits``) into the
            masks that the masker's step tries, ``[N, 1, H, W]`` in [0, 1]; None: the soft masks.

    Raises:
        ValueError: there are no terms, two have the same name, or a guide is needed and missing.

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
    guide: Guide | None = None
    masker_terms: tuple[MaskerTerm, ...] = ()
    baseline: Baseline = 0.0
    masks_from: Callable[[MaskerView], Tensor] | None = None

    def __post_init__(self) -> None:
        if not self.terms:
            raise ValueError(f"the recipe '{self.name}' has no terms; give at least Classification()")
        for some in (self.terms, self.masker_terms):
            names = [term.name for term in some]
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise ValueError(f"the recipe '{self.name}' has {twice[0]!r} twice; give each term a name of its own")
        lost = [term.name for term in self.terms if getattr(term, "needs_guide", False)]
        if lost and self.guide is None:
            raise ValueError(
                f"'{lost[0]}' compares with a guide's masks; give the recipe guide=LearnedMask() or another"
            )
        if self.guide is not None and self.guide.needs_masker and not self.masker_terms:
            raise ValueError("the guide asks a masker, but no masker is trained; give masker_terms too")

    @property
    def trains_masker(self) -> bool:
        """True if the recipe trains a masker."""
        return bool(self.masker_terms)

    @property
    def needs_masks(self) -> bool:
        """True if batches must have masks."""
        return self.guide is not None and self.guide.needs_masks

    @property
    def needs_indices(self) -> bool:
        """True if batches must have the examples' indices."""
        return any(getattr(term, "needs_indices", False) for term in self.terms)
