"""Terms of the classifier's loss: small callables from a forward pass to one value for each image.

    L_clf = L_cls + lambda3 L_egl + lambda4 L_reg        ALIGN, from the published description

The trainer adds ``weight * term(forward)`` and takes the mean over the step's images. A custom term has a ``name``, a
``weight`` and a call ``term(forward) -> [N]``. Optional are ``report() -> dict`` (for the log), ``state_dict()`` /
``load_state_dict()`` (its state), ``needs_mask_source`` (left out of the warm-up), and ``differentiates_twice`` (the
term contains a gradient: attention then runs without kernels that have no second derivative).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from xai_align._tools.checks import check_choice, check_number
from xai_align._tools.counted import counted
from xai_align.align.alignment_loss import Balance, Meet, alignment_loss
from xai_align.align.forward_passes.classifier_pass import ClassifierPass
from xai_align.align.terms.needed_mask import needed_mask
from xai_align.align.terms.running_means import RunningMeans
from xai_align.align.terms.term_options import AVERAGES, Average

#: Function from logits ``[N, K]`` and labels ``[N]`` to a loss for each image.
Criterion = Callable[[Tensor, Tensor], Tensor]


class Term(Protocol):
    """Protocol of a term of the classifier's loss."""

    @property
    def name(self) -> str: ...  # noqa: D102

    weight: float

    def __call__(self, forward: ClassifierPass) -> Tensor:
        """Return one value for each image, ``[N]``, float32."""
        ...


@dataclass(kw_only=True)
class Classification:
    """Term that is the cross entropy of the labels, or a custom criterion.

    Attributes:
        weight: of the term.
        label_smoothing: the share of the probability that is spread over all classes.
        class_weights: one for each class. As in PyTorch, the mean is weighted, here over the step's images.
        criterion: ``criterion(logits, labels)`` returns one loss for each image, as with ``reduction="none"``. It
            excludes the two options above.

    Raises:
        ValueError: options out of range, or class weights together with a criterion.

    Example::

        >>> from xai_align.align import Classification, Recipe
        >>> recipe = Recipe(name="weighted", terms=(Classification(class_weights=[1.0, 3.0]),))
        >>> recipe.terms[0].class_weights
        tensor([1., 3.])
    """

    name: ClassVar[str] = "classification"
    needs_mask_source: ClassVar[bool] = False

    weight: float = 1.0
    label_smoothing: float = 0.0
    class_weights: Tensor | Sequence[float] | None = None
    criterion: Criterion | None = None

    def __post_init__(self) -> None:
        check_number("the classification's weight", self.weight)
        check_number("label_smoothing", self.label_smoothing, most=1.0)
        if self.criterion is not None and (self.class_weights is not None or self.label_smoothing):
            raise ValueError(
                "a criterion was given, and class_weights or label_smoothing beside it; give those to the criterion"
            )
        if self.class_weights is not None:
            self.class_weights = torch.as_tensor(self.class_weights, dtype=torch.float32)
            if self.class_weights.dim() != 1 or not bool((self.class_weights >= 0).all()):
                raise ValueError("class_weights are one number for each class, none of them negative")

    def __call__(self, forward: ClassifierPass) -> Tensor:
        """Return the loss of each image, ``[N]``.

        Raises:
            ValueError: there isn't a weight for each class, or the criterion doesn't return a loss for each image.
        """
        return classification_loss(self, forward.logits, forward.batch.labels, forward.global_batch.labels)


def classification_loss(options: Classification, logits: Tensor, labels: Tensor, global_labels: Tensor) -> Tensor:
    """Return the loss of :class:`Classification` for any logits of the batch, e.g. of changed images, ``[N]``.

    Raises:
        ValueError: there isn't a weight for each class, or the criterion doesn't return a loss for each image.
    """
    if options.criterion is not None:
        losses = options.criterion(logits, labels)
        if tuple(losses.shape) != (len(labels),):
            raise ValueError(
                f"the criterion gave {list(losses.shape)} for {counted(len(labels), 'image')}; it has to give one "
                "loss for each: with PyTorch's losses say reduction='none'"
            )
        return losses
    weights = options.class_weights
    if weights is None:
        return F.cross_entropy(logits, labels, label_smoothing=options.label_smoothing, reduction="none")
    assert isinstance(weights, Tensor)
    if len(weights) != logits.shape[1]:
        raise ValueError(f"there are {len(weights)} class_weights for {logits.shape[1]} classes; give one for each")
    weights = weights.to(logits)
    losses = F.cross_entropy(logits, labels, weight=weights, label_smoothing=options.label_smoothing, reduction="none")
    # so that the mean over the step is sum(w_i * loss_i) / sum(w_i)
    return losses / weights[global_labels].mean().clamp(min=1e-12)


@dataclass(kw_only=True)
class Alignment:
    """Term ``L_egl = BCE(CAM of the label, the mask source's mask)``: aligns CAMs with masks.

    Images whose CAM is zero everywhere count as zero, and so do those with an unknown mask. Of a partially known mask,
    the known part counts.

    Attributes:
        weight: lambda3.
        meet: "mask_down": the mask is averaged to the CAM's size. "cam_up": the CAM is upsampled to the mask's.
        eps: CAMs are clamped to [eps, 1 - eps], since the gradient of a cross entropy is unbounded at 0 and 1.
        balance: weights of inside and outside of the mask, see
            :func:`~xai_align.align.alignment_loss.alignment_loss`.
        average: equal weight for each image, or for each class.

    Raises:
        ValueError: options out of range.
    """

    name: ClassVar[str] = "alignment"
    needs_mask_source: ClassVar[bool] = True

    weight: float = 1.0
    meet: Meet = "mask_down"
    eps: float = 1e-3
    balance: Balance = "area"
    average: Average = "image"
    _means: RunningMeans = field(default_factory=RunningMeans, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_number("the alignment's weight", self.weight)
        check_choice("meet", self.meet, get_args(Meet))
        check_number("eps", self.eps, above=0, below=0.5)
        check_choice("balance", self.balance, get_args(Balance))
        check_choice("average", self.average, AVERAGES)

    def __call__(self, forward: ClassifierPass) -> Tensor:
        """Return the loss of each image, ``[N]``.

        Raises:
            ValueError: there is no mask source.
        """
        mask = needed_mask(forward, self.name)
        loss = alignment_loss(forward.saliency, mask, meet=self.meet, eps=self.eps, balance=self.balance)
        counts = ~mask.isnan().flatten(1).all(1) & ~forward.dead
        for part in ("inside", "outside", "excess"):
            self._means.add(part, getattr(loss, part), counts)
        self._means.add("dead_cams", forward.dead.float())
        values = torch.where(counts, loss.total, 0)
        return values * forward.per_class_weights if self.average == "class" else values

    def report(self) -> dict[str, float]:
        """Return means since the last report: ``inside``, ``outside``, ``excess``, and the share of dead CAMs."""
        return self._means.report()


@dataclass(kw_only=True)
class Mixup:
    """Term of DRE's regulariser: CAMs of images mixed within a class mix alike, and CAMs are sparse.

        exp    = mean |a(x_mix) - (lam a(x1) + (1 - lam) a(x2))|
        sparse = (mean a(x1) + mean a(x_mix)) / 2
        mixCE  = CE(f(x_mix), y)

    Source: DRE (Li et al., CVPR 2023) and its code, batched: one pass of the mixed images instead of two for each
    class, and plain means. In ALIGN's published description it is ``L_reg``.

    Attributes:
        weight: lambda4.
        consistency: weight of ``exp``.
        sparsity: weight of ``sparse``.
        classification: weight of ``mixCE``.
        alpha: shares are drawn from Beta(alpha, alpha).
        share: share of images that are mixed; it scales the cost of the term, not its expected value.
        average: "class" as in DRE, or "image".

    Raises:
        ValueError: options out of range.
    """

    name: ClassVar[str] = "mixup"
    needs_mask_source: ClassVar[bool] = False

    weight: float = 1.0
    consistency: float = 1.0
    sparsity: float = 0.5
    classification: float = 0.1
    alpha: float = 0.2
    share: float = 1.0
    average: Average = "class"
    _means: RunningMeans = field(default_factory=RunningMeans, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_number("the mixup's weight", self.weight)
        for part in ("consistency", "sparsity", "classification"):
            check_number(part, getattr(self, part))
        check_number("alpha", self.alpha, least=1e-6)
        check_number("share", self.share, least=1e-3, most=1.0)
        check_choice("average", self.average, AVERAGES)

    def __call__(self, forward: ClassifierPass) -> Tensor:
        """Return the value of each image, ``[N]``; zero for those that aren't mixed."""
        mix = forward.mixed(alpha=self.alpha, share=self.share)
        values = forward.logits.new_zeros(len(forward.batch))
        if not len(mix):
            return values
        lam = mix.lam[:, None, None, None]
        own, partner = forward.saliency[mix.rows], mix.partners_saliency(forward.saliency)
        exp = (mix.saliency - (lam * own + (1 - lam) * partner)).abs().mean((1, 2, 3))
        sparse = (own.mean((1, 2, 3)) + mix.saliency.mean((1, 2, 3))) / 2
        mix_ce = F.cross_entropy(mix.seen.logits.to(values.dtype), mix.labels, reduction="none")
        for part, found in (("consistency", exp), ("sparsity", sparse), ("classification", mix_ce)):
            self._means.add(f"mixup_{part}", found)
        total = self.consistency * exp + self.sparsity * sparse + self.classification * mix_ce
        values = values.index_put((mix.rows,), (mix.scale * total).to(values.dtype))
        return values * forward.per_class_weights if self.average == "class" else values

    def report(self) -> dict[str, float]:
        """Return means of the three parts since the last report."""
        return self._means.report()
