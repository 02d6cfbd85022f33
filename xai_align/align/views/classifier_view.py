"""View of one step of the classifier for its terms: shared values are computed once, on first use."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor, nn

from xai_align.align.look import Look, look
from xai_align.align.saliency import Normalise, Order, at_least_float32, dead, saliency_at
from xai_align.align.views.batch import Everyone, TrainingBatch, class_balance
from xai_align.align.views.mixed_view import MixedView
from xai_align.align.views.side_pass import SidePass
from xai_align.align.views.step_draws import StepDraws
from xai_align.hookspecs import FeatureSpace


class ClassifierView:
    """View of one step of the classifier: the batch, and values that its terms share.

    A term is called with it and reads ``batch`` (images, labels), ``logits``, ``saliency`` (the normalised CAMs of the
    labels), ``mask``, ``draws`` (this step's random numbers) and ``progress``; ``side_pass`` runs other images. Forward
    passes run in the mode and autocast context the caller has set; values computed from them are float32 (float64 of a
    float64 model).

    Args:
        batch: the examples.
        classifier: gives logits ``[N, K]``.
        space: feature space of the CAMs.
        order: "first": a CAM's channel weights are constants. "second": gradients go through them.
        normalise: scaling of a CAM to [0, 1].
        masker: the masker, for guides that use it; it isn't trained here.
        guide: ``guide(batch, masker, generator, everyone)`` gives the masks that CAMs are compared with.
        generator: generator of this step, on the CPU, the same in all processes.
        progress: the share of the fit that is done, 0 to 1.
        everyone: all examples of the step; None: these are all.

    The example is a term that makes predictions agree under a horizontal flip.

    Example::

        >>> import torch
        >>> from torch import nn
        >>> from xai_align import FeatureSpace
        >>> from xai_align.align import ClassifierView, TrainingBatch
        >>> class Flipped:
        ...     name, weight = "flipped", 1.0
        ...     def __call__(self, view):
        ...         flipped = view.side_pass(view.batch.images.flip(3))
        ...         return (flipped.logits - view.logits).square().mean(1)
        >>> classifier = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 5))
        >>> batch = TrainingBatch(images=torch.randn(2, 3, 8, 8), labels=torch.tensor([0, 4]))
        >>> space = FeatureSpace(layer="0")
        >>> view = ClassifierView(batch, classifier=classifier, space=space, generator=torch.Generator())
        >>> Flipped()(view).shape, view.saliency.shape
        (torch.Size([2]), torch.Size([2, 1, 6, 6]))
    """

    def __init__(
        self,
        batch: TrainingBatch,
        *,
        classifier: nn.Module,
        space: FeatureSpace,
        order: Order = "first",
        normalise: Normalise = "max",
        masker: nn.Module | None = None,
        guide: Callable[..., Tensor | None] | None = None,
        generator: torch.Generator,
        progress: float = 0.0,
        everyone: Everyone | None = None,
    ) -> None:
        self.batch, self.classifier, self.space = batch, classifier, space
        self.order, self.normalise = order, normalise
        self.masker, self.guide = masker, guide
        self.generator, self.progress = generator, progress
        self.everyone = everyone or Everyone.just(batch)
        #: Slice of these examples among all of the step.
        self.mine = self.everyone.mine(batch)
        self.draws = StepDraws(generator, total=len(self.everyone.labels), mine=self.mine, device=batch.images.device)
        self._mixed: dict[tuple[float, float], MixedView] = {}

    @cached_property
    def from_pixels(self) -> tuple[Tensor, Look]:
        """Images as a tensor that requires grad, and their forward pass.

        :attr:`seen` is the same pass if this one is used first, so put terms that need input gradients first.
        """
        pixels = self.batch.images.detach().requires_grad_()
        return pixels, look(self.classifier, pixels, self.space)

    @cached_property
    def seen(self) -> Look:
        """Forward pass of the unchanged images."""
        if "from_pixels" in self.__dict__:
            return self.from_pixels[1]
        return look(self.classifier, self.batch.images, self.space)

    @cached_property
    def logits(self) -> Tensor:
        """Logits ``[N, K]``, float32 or float64."""
        return at_least_float32(self.seen.logits)

    @cached_property
    def saliency(self) -> Tensor:
        """Normalised CAMs of the labels, ``[N, 1, h, w]`` in [0, 1]."""
        return saliency_at(self.seen, self.batch.labels, order=self.order, how=self.normalise)

    @cached_property
    def dead(self) -> Tensor:
        """CAMs that are zero everywhere, ``[N]``, bool."""
        return dead(self.saliency)

    @cached_property
    def mask(self) -> Tensor | None:
        """The guide's masks as constants, ``[N, 1, H, W]``, float32 (NaN: unknown); None: there is no guide."""
        if self.guide is None:
            return None
        mask = self.guide(self.batch, self.masker, self.draws.generator("guide"), self.everyone)
        return None if mask is None else at_least_float32(mask.detach())

    @cached_property
    def per_class_weights(self) -> Tensor:
        """Weights ``[N]`` that turn a mean over images into the sum of class means over the number of classes."""
        return class_balance(self.everyone.labels, self.logits.shape[1])[self.mine]

    def side_pass(self, images: Tensor, *, order: Order | None = None) -> SidePass:
        """Run the classifier on other images of the same labels: attacked, masked or otherwise changed ones.

        The classifier stays in its current modes, and BatchNorm's running statistics are not updated. Every call is
        one forward pass.

        Args:
            images: ``[N, C, H, W]``, in the order of the batch.
            order: of the CAMs; None: the step's.

        Returns:
            Its logits ``[N, K]``, CAMs and normalised CAMs ``[N, 1, h, w]``.
        """
        return SidePass(
            self.classifier,
            self.space,
            images,
            self.batch.labels,
            order=order or self.order,
            normalise=self.normalise,
        )

    def mixed(self, *, alpha: float = 0.2, share: float = 1.0) -> MixedView:
        """Return images mixed with others of their class; one more forward pass, shared by all callers.

        Args:
            alpha: shares are drawn from Beta(alpha, alpha).
            share: share of the images that are mixed.
        """
        if (alpha, share) not in self._mixed:
            self._mixed[alpha, share] = MixedView(
                self.everyone,
                self.mine,
                self.draws,
                classifier=self.classifier,
                space=self.space,
                order=self.order,
                normalise=self.normalise,
                alpha=alpha,
                share=share,
            )
        return self._mixed[alpha, share]
