"""Forward passes of one step of the masker for its terms: shared values are computed once, on first use."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor, nn

from xai_align.align.captured_pass import check_logits
from xai_align.align.forward_passes.step_random import StepRandom
from xai_align.align.forward_passes.training_batch import GlobalBatch, TrainingBatch, class_balance
from xai_align.align.masker_loss import BASELINES, Baseline, keep_and_drop
from xai_align.align.saliency import at_least_float32


class MaskerPass:
    """Forward passes of one step of the masker: the batch, its masks, and predictions for what is kept and removed.

    A term is called with it and reads ``batch`` (images, labels), ``masks``, ``p_keep`` and ``p_drop`` (the label's
    probability for the kept and for the dropped part), ``draws`` (this step's random numbers) and ``progress``. The
    trainer puts the classifier in eval mode, with frozen parameters.

    Args:
        batch: the examples.
        classifier: gives logits ``[N, K]``.
        masker: images to masks ``[N, 1, H, W]`` in [0, 1].
        generator: generator of this step, on the CPU, the same in all processes.
        progress: the share of the fit that is done, 0 to 1.
        baseline: values of removed pixels.
        masks_from: ``masks_from(forward)`` makes the masks of this step from ``forward.soft``; None: they are
            ``forward.soft``.
        global_batch: all examples of the step; None: these are all.

    Example::

        >>> import torch
        >>> from torch import nn
        >>> from xai_align.align import Masker, MaskerPass, TrainingBatch
        >>> classifier = nn.Sequential(nn.Flatten(), nn.Linear(192, 3)).eval()
        >>> batch = TrainingBatch(images=torch.randn(2, 3, 8, 8), labels=torch.tensor([0, 2]))
        >>> forward = MaskerPass(batch, classifier=classifier, masker=Masker(), generator=torch.Generator())
        >>> forward.masks.shape, forward.p_keep.shape
        (torch.Size([2, 1, 8, 8]), torch.Size([2]))
    """

    def __init__(
        self,
        batch: TrainingBatch,
        *,
        classifier: nn.Module,
        masker: nn.Module,
        generator: torch.Generator,
        progress: float = 0.0,
        baseline: Baseline = 0.0,
        masks_from: Callable[[MaskerPass], Tensor] | None = None,
        global_batch: GlobalBatch | None = None,
    ) -> None:
        self.batch, self.classifier, self.masker = batch, classifier, masker
        self.generator, self.progress, self.baseline = generator, progress, baseline
        self.masks_from = masks_from
        self.global_batch = global_batch or GlobalBatch.just(batch)
        #: Slice of these examples among all of the step.
        self.local = self.global_batch.slice_of(batch)
        self.draws = StepRandom(
            generator, total=len(self.global_batch.labels), local=self.local, device=batch.images.device
        )

    @cached_property
    def soft(self) -> Tensor:
        """Output of the masker, ``[N, 1, H, W]`` in [0, 1]."""
        if "soft_logits" in self.__dict__:
            return self.soft_logits.sigmoid()
        return at_least_float32(self.masker(self.batch.images.clone()))

    @cached_property
    def soft_logits(self) -> Tensor:
        """Logits of :attr:`soft`, ``[N, 1, H, W]``, from the masker's ``logits(images)`` if it has this method."""
        logits: Callable[[Tensor], Tensor] | None = getattr(self.masker, "logits", None)
        if logits is None:
            return self.soft.clamp(1e-6, 1 - 1e-6).logit()
        return at_least_float32(logits(self.batch.images))

    @cached_property
    def masks(self) -> Tensor:
        """Masks that the images are multiplied by, ``[N, 1, H, W]`` in [0, 1]."""
        return self.soft if self.masks_from is None else self.masks_from(self)

    @cached_property
    def probabilities(self) -> Tensor:
        """Probabilities for the kept and the dropped part, ``[2, N, K]``; one forward pass of 2N images."""
        kept, dropped = keep_and_drop(self.batch.images, self.masks, self._baseline())
        return self._probabilities(torch.cat([kept, dropped])).unflatten(0, (2, len(self.batch)))

    @cached_property
    def p_keep(self) -> Tensor:
        """The label's probability for the kept part, ``[N]``."""
        return self._of_label(self.probabilities[0])

    @cached_property
    def p_drop(self) -> Tensor:
        """The label's probability for the dropped part, ``[N]``."""
        return self._of_label(self.probabilities[1])

    @cached_property
    def p_whole(self) -> Tensor:
        """Probabilities for the whole images, ``[N, K]``, detached; one more forward pass, if used."""
        with torch.no_grad():
            return self._probabilities(self.batch.images.clone())

    @cached_property
    def correct(self) -> Tensor:
        """Whole images that are classified correctly, ``[N]``, bool."""
        return self.p_whole.argmax(-1) == self.batch.labels

    def trusted(self, confidence: float) -> Tensor:
        """Return which images are classified correctly, with at least this probability, ``[N]``, bool."""
        return self.correct & (self._of_label(self.p_whole) >= confidence)

    @cached_property
    def per_class_weights(self) -> Tensor:
        """Weights ``[N]`` that turn a mean over images into the sum of class means over the number of classes."""
        return class_balance(self.global_batch.labels, self.probabilities.shape[-1])[self.local]

    def _baseline(self) -> Baseline:
        """Return the baseline of these images; a function of the images is called with all of the step's."""
        named = BASELINES.get(self.baseline) if isinstance(self.baseline, str) else None
        function = named or self.baseline
        if len(self.batch) == len(self.global_batch.labels) or isinstance(function, Tensor) or not callable(function):
            return self.baseline
        with torch.no_grad():
            values: Tensor = function(self.global_batch.images.clone())  # it may write into them
        return values.expand_as(self.global_batch.images)[self.local]

    def _probabilities(self, images: Tensor) -> Tensor:
        logits = self.classifier(images)
        check_logits(logits, len(images))
        return at_least_float32(logits).softmax(-1)

    def _of_label(self, probabilities: Tensor) -> Tensor:
        return probabilities.gather(-1, self.batch.labels[:, None]).squeeze(-1)
