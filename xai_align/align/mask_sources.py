"""Sources of the masks that CAMs are aligned with.

A mask source is called ``mask_source(batch, masker, generator, global_batch)`` and gives masks
``[N, 1, H, W]`` in [0, 1] (NaN where unknown), or None. All but the learned mask are controls: a perfect
mask, a wrong one and none at all."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from xai_align._tools.drawn import permutation
from xai_align._tools.model_state import evaluating
from xai_align.align.forward_passes.training_batch import GlobalBatch, TrainingBatch

#: Luma of red, green and blue (ITU-R BT.601).
LUMA = (0.299, 0.587, 0.114)


class MaskSource(Protocol):
    """Protocol of a mask source, which gives masks for a batch.

    Attributes:
        needs_masks: whether batches must carry masks.
        needs_masker: whether the mask source uses a masker.
    """

    @property
    def needs_masks(self) -> bool: ...  # noqa: D102

    @property
    def needs_masker(self) -> bool: ...  # noqa: D102

    def __call__(
        self, batch: TrainingBatch, masker: nn.Module | None, generator: torch.Generator, global_batch: GlobalBatch
    ) -> Tensor | None:
        """Return masks ``[N, 1, H, W]`` in [0, 1], or None for no masks in this step."""
        ...


@dataclass(frozen=True)
class LearnedMask:
    """Masks of the masker, as constants: ALIGN's own mask source."""

    needs_masks: bool = field(default=False, init=False)
    needs_masker: bool = field(default=True, init=False)

    def __call__(
        self, batch: TrainingBatch, masker: nn.Module | None, generator: torch.Generator, global_batch: GlobalBatch
    ) -> Tensor:
        """Run the masker in eval mode, without gradients.

        Raises:
            ValueError: there is no masker.
        """
        if masker is None:
            raise ValueError("the learned mask is the mask source, but there is no masker; give one with masker=...")
        with torch.no_grad(), evaluating(masker):
            mask: Tensor = masker(batch.images)
        return mask.detach()


@dataclass(frozen=True)
class GivenMask:
    """Masks that come with the examples: the oracle."""

    needs_masks: bool = field(default=True, init=False)
    needs_masker: bool = field(default=False, init=False)

    def __call__(
        self, batch: TrainingBatch, masker: nn.Module | None, generator: torch.Generator, global_batch: GlobalBatch
    ) -> Tensor:
        """Return the batch's masks.

        Raises:
            ValueError: the batch has none.
        """
        if batch.masks is None:
            raise ValueError(
                "this recipe uses given masks, but the batch has none; let the loader yield "
                "(images, labels, masks) with masks [N, 1, H, W] in [0, 1], NaN where unknown"
            )
        return batch.masks


@dataclass(frozen=True)
class DerivedMask:
    """Base class of mask sources that change the masks of another mask source.

    Attributes:
        of: the mask source that gives the masks.
    """

    of: MaskSource

    @property
    def needs_masks(self) -> bool:
        """Value of the inner mask source."""
        return self.of.needs_masks

    @property
    def needs_masker(self) -> bool:
        """Value of the inner mask source."""
        return self.of.needs_masker


@dataclass(frozen=True)
class MaskOfAnotherImage(DerivedMask):
    """Mask of another image of the step: plausible masks that are independent of the image."""

    def __call__(
        self, batch: TrainingBatch, masker: nn.Module | None, generator: torch.Generator, global_batch: GlobalBatch
    ) -> Tensor | None:
        """Permute the step's masks along one random cycle through all images; NaN (unknown) for a step of one image.

        Raises:
            ValueError: as the inner mask source.
        """
        masks = self.of(global_batch.as_batch(), masker, generator, global_batch)
        if masks is None:
            return None
        total = len(masks)
        if total == 1:
            return torch.full_like(masks, float("nan"))
        # one cycle through all images: none gets its own mask
        cycle = permutation(total, generator)
        source = torch.empty_like(cycle)
        source[cycle] = cycle.roll(-1)
        return masks[source[global_batch.slice_of(batch)].to(masks.device)]


@dataclass(frozen=True)
class Inverted(DerivedMask):
    """One minus the masks of another mask source: evidence in the wrong regions."""

    def __call__(
        self, batch: TrainingBatch, masker: nn.Module | None, generator: torch.Generator, global_batch: GlobalBatch
    ) -> Tensor | None:
        """Return ``1 - mask``; unknown stays unknown."""
        mask = self.of(batch, masker, generator, global_batch)
        return None if mask is None else 1 - mask


@dataclass(frozen=True)
class Binarised(DerivedMask):
    """Masks of another mask source as zeros and ones, without a gradient."""

    def __call__(
        self, batch: TrainingBatch, masker: nn.Module | None, generator: torch.Generator, global_batch: GlobalBatch
    ) -> Tensor | None:
        """Return 1 above one half, else 0; unknown stays unknown."""
        mask = self.of(batch, masker, generator, global_batch)
        return None if mask is None else torch.where(mask.isnan(), mask, (mask > 0.5).to(mask))


@dataclass(frozen=True)
class GreyImage:
    """Greyscale image, from its darkest (0) to its brightest (1) pixel; a constant image is 0.

    From the published description's ablation, where a grey copy of the image did nearly as well as the
    learned mask in accuracy.
    """

    needs_masks: bool = field(default=False, init=False)
    needs_masker: bool = field(default=False, init=False)

    def __call__(
        self, batch: TrainingBatch, masker: nn.Module | None, generator: torch.Generator, global_batch: GlobalBatch
    ) -> Tensor:
        """Return the luma of three channels, or the mean of any other number of channels."""
        images = batch.images.detach().to(torch.promote_types(batch.images.dtype, torch.float32))
        channels = images.shape[1]
        weights = images.new_tensor(LUMA if channels == len(LUMA) else [1 / channels] * channels)
        grey = (images * weights[:, None, None]).sum(1, keepdim=True)
        darkest, brightest = grey.amin((2, 3), keepdim=True), grey.amax((2, 3), keepdim=True)
        return (grey - darkest) / (brightest - darkest).clamp(min=1e-8)
