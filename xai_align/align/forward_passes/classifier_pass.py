"""Forward passes of one step of the classifier for its terms: shared values are computed once, on first use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor, nn

from xai_align.align.captured_pass import CapturedPass
from xai_align.align.forward_passes.label_saliency import LabelSaliency
from xai_align.align.forward_passes.mixup_pass import MixupPass
from xai_align.align.forward_passes.side_pass import SidePass
from xai_align.align.forward_passes.step_random import StepRandom
from xai_align.align.forward_passes.training_batch import GlobalBatch, TrainingBatch, class_balance
from xai_align.align.saliency import Normalise, Order, at_least_float32, dead
from xai_align.align.saliency_of_readouts import Saliency
from xai_align.hookspecs import FeatureSpace


class ClassifierPass:
    """Forward passes of one step of the classifier: the batch, and values that its terms share.

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
        saliency: "gradcam", or "readout": the exact readout in place of the CAM.
        masker: the masker, for mask sources that use it; it isn't trained here.
        mask_source: gives the masks that CAMs are compared with, see
            :class:`~xai_align.align.mask_sources.MaskSource`.
        generator: generator of this step, on the CPU, the same in all processes.
        progress: the share of the fit that is done, 0 to 1.
        global_batch: all examples of the step; None: these are all.

    The example is a term that makes predictions agree under a horizontal flip.

    Example::

        >>> import torch
        >>> from torch import nn
        >>> from xai_align import FeatureSpace
        >>> from xai_align.align import ClassifierPass, TrainingBatch
        >>> class Flipped:
        ...     name, weight = "flipped", 1.0
        ...     def __call__(self, forward):
        ...         flipped = forward.side_pass(forward.batch.images.flip(3))
        ...         return (flipped.logits - forward.logits).square().mean(1)
        >>> classifier = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 5))
        >>> batch = TrainingBatch(images=torch.randn(2, 3, 8, 8), labels=torch.tensor([0, 4]))
        >>> space = FeatureSpace(layer="0")
        >>> forward = ClassifierPass(batch, classifier=classifier, space=space, generator=torch.Generator())
        >>> Flipped()(forward).shape, forward.saliency.shape
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
        saliency: Saliency = "gradcam",
        masker: nn.Module | None = None,
        mask_source: Callable[..., Tensor | None] | None = None,
        generator: torch.Generator,
        progress: float = 0.0,
        global_batch: GlobalBatch | None = None,
    ) -> None:
        self.batch, self.classifier = batch, classifier
        self.of_labels = LabelSaliency(
            classifier=classifier, space=space, kind=saliency, order=order, normalise=normalise
        )
        self.masker, self.mask_source = masker, mask_source
        self.generator, self.progress = generator, progress
        self.global_batch = global_batch or GlobalBatch.just(batch)
        #: Slice of these examples among all of the step.
        self.local = self.global_batch.slice_of(batch)
        self.draws = StepRandom(
            generator, total=len(self.global_batch.labels), local=self.local, device=batch.images.device
        )
        self._mixed: dict[tuple[float, float], MixupPass] = {}

    @cached_property
    def from_pixels(self) -> tuple[Tensor, CapturedPass]:
        """Images as a tensor that requires grad, and their forward pass.

        :attr:`seen` is the same pass if this one is used first, so put terms that need input gradients first.
        """
        pixels = self.batch.images.detach().requires_grad_()
        return pixels, self.of_labels.capture(pixels)

    @cached_property
    def seen(self) -> CapturedPass:
        """Forward pass of the unchanged images."""
        if "from_pixels" in self.__dict__:
            return self.from_pixels[1]
        return self.of_labels.capture(self.batch.images)

    @cached_property
    def logits(self) -> Tensor:
        """Logits ``[N, K]``, float32 or float64."""
        return at_least_float32(self.seen.logits)

    @cached_property
    def saliency(self) -> Tensor:
        """Normalised CAMs of the labels, ``[N, 1, h, w]`` in [0, 1]."""
        return self.of_labels.normalised(self.batch.images, self.batch.labels, lambda: self.seen)

    @cached_property
    def dead(self) -> Tensor:
        """CAMs that are zero everywhere, ``[N]``, bool."""
        return dead(self.saliency)

    @cached_property
    def mask(self) -> Tensor | None:
        """Masks of the mask source as constants, ``[N, 1, H, W]``, float32 (NaN: unknown); None: no mask source."""
        if self.mask_source is None:
            return None
        mask = self.mask_source(self.batch, self.masker, self.draws.generator("guide"), self.global_batch)
        return None if mask is None else at_least_float32(mask.detach())

    @cached_property
    def per_class_weights(self) -> Tensor:
        """Weights ``[N]`` that turn a mean over images into the sum of class means over the number of classes."""
        return class_balance(self.global_batch.labels, self.logits.shape[1])[self.local]

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
        return SidePass(replace(self.of_labels, order=order or self.of_labels.order), images, self.batch.labels)

    def mixed(self, *, alpha: float = 0.2, share: float = 1.0) -> MixupPass:
        """Return images mixed with others of their class; one more forward pass, shared by all callers.

        Args:
            alpha: shares are drawn from Beta(alpha, alpha).
            share: share of the images that are mixed.
        """
        if (alpha, share) not in self._mixed:
            self._mixed[alpha, share] = MixupPass(
                self.global_batch, self.local, self.draws, self.of_labels, alpha=alpha, share=share
            )
        return self._mixed[alpha, share]
