"""Guides: sources of the masks that CAMs are aligned with.

A guide is called ``guide(batch, masker, generator, everyone)`` and gives masks
``[N, 1, H, W]`` in [0, 1] (NaN where unknown), or None. All but the learned mask are controls: a perfect
mask, a wrong one and none at all."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from xai_align._tools.model_state import evaluating
from xai_align.align.views.batch import Everyone, TrainingBatch

#: Luma of red, green and blue (ITU-R BT.601).
LUMA = (0.299, 0.587, 0.114)


class Guide(Protocol):
    """Protocol of a guide, which gives masks for a batch.

    Attributes:
        needs_masks: whether batches must carry masks.
        needs_masker: whether the guide uses a masker.
    """

    @property
    def needs_masks(self) -> bool: ...  # noqa: D102

    @property
    def needs_masker(self) -> bool: ...  # noqa: D102

    def __call__(
        self, batch: TrainingBatch, masker: nn.Module | None, generator: torch.Generator, everyone: Everyone
    ) -> Tensor | None:
        """Return masks ``[N, 1, H, W]`` in [0, 1], or None for no guidance in this step."""
        ...


@dataclass(frozen=True)
class LearnedMask:
    """Guide by the masker's masks, as constants: ALIGN's own guide."""

    needs_masks: bool = field(default=False, init=False)
    needs_masker: bool = field(default=True, init=False)

    def __call__(
        self, batch: TrainingBatch, masker: nn.Module | None, generator: torch.Generator, everyone: Everyone
    ) -> Tensor:
        """Run the masker in eval mode, without gradients.

        Raises:
            ValueError: there is no masker.
        """
        if masker is None:
            raise ValueError("the learned mask is the guide, but there is no masker; give one with masker=...")
        with torch.no_grad(), evaluating(masker):
            mask: Tensor = masker(batch.images)
        return mask.detach()


@dataclass(frozen=True)
class GivenMask:
    """Guide by the masks that come with the examples: the oracle."""

    needs_masks: bool = field(default=True, init=False)
    needs_masker: bool = field(default=False, init=False)

    def __call__(
        self, batch: TrainingBatch, masker: nn.Module | None, generator: torch.Generator, everyone: Everyone
    ) -> Tensor:
        """Return the batch's masks.

        Raises:
            ValueError: the batch has none.
        """
        if batch.masks is None:
            raise ValueError(
                "this recipe is guided by given masks, but the batch has none; let the loader yield "
                "(images, labels, masks) with masks [N, 1, H, W] in [0, 1], NaN where unknown"
            )
        return batch.masks


@dataclass(frozen=True)
class OnAnotherGuide:
    """Base class of guides that change the masks of another guide.

    Attributes:
        of: the guide that gives the masks.
    """

    of: Guide

    @property
    def needs_masks(self) -> bool:
        """Value of the inner guide."""
        return self.of.needs_masks

    @property
    def needs_masker(self) -> bool:
        """Value of the inner guide."""
        return self.of.needs_masker


@dataclass(frozen=True)
class OfAnotherImage(OnAnotherGuide):
    """Guide by the mask of another image of the step: plausible masks that are independent of the image."""

    def __call__(
        self, batch: TrainingBatch, masker: nn.Module | None, generator: torch.Generator, everyone: Everyone
    ) -> Tensor | None:
        """Permute the step's masks along one random cycle through all images; NaN (unknown) for a step of one image.

        Raises:
            ValueError: as the inner guide.
        """
        masks = self.of(everyone.as_batch(), masker, generator, everyone)
        if masks is None:
            return None
        total = len(masks)
        if total == 1:
            return torch.full_like(masks, float("nan"))
        # one cycle through all images: none gets its own mask
        round_trip = torch.randperm(total, generator=generator)
        giver = torch.empty_like(round_trip)
        giver[round_trip] = round_trip.roll(-1)
        return masks[giver[everyone.mine(batch)].to(masks.device)]


@dataclass(frozen=True)
class Inverted(OnAnotherGuide):
    """Guide by one minus another guide's masks: evidence in the wrong regions."""

    def __call__(
        self, batch: TrainingBatch, masker: nn.Module | None, generator: torch.Generator, everyone: Everyone
    ) -> Tensor | None:
        """Return ``1 - mask``; unknown stays unknown."""
        mask = self.of(batch, masker, generator, everyone)
        return None if mask is None else 1 - mask


@dataclass(frozen=True)
class Binarised(OnAnotherGuide):
    """Guide by another guide's masks as zeros and ones, without a gradient."""

    def __call__(
        self, batch: TrainingBatch, masker: nn.Module | None, generator: torch.Generator, everyone: Everyone
    ) -> Tensor | None:
        """Return 1 above one half, else 0; unknown stays unknown."""
        mask = self.of(batch, masker, generator, everyone)
        return None if mask is None else torch.where(mask.isnan(), mask, (mask > 0.5).to(mask))


@dataclass(frozen=True)
class GreyImage:
    """Guide by the greyscale image, from its darkest (0) to its brightest (1) pixel; a constant image is 0.

    From the published description's ablation, where a grey copy of the image did nearly as well as the
    learned mask in accuracy.
    """

    needs_masks: bool = field(default=False, init=False)
    needs_masker: bool = field(default=False, init=False)

    def __call__(
        self, batch: TrainingBatch, masker: nn.Module | None, generator: torch.Generator, everyone: Everyone
    ) -> Tensor:
        """Return the luma of three channels, or the mean of any other number of channels."""
        images = batch.images.detach().to(torch.promote_types(batch.images.dtype, torch.float32))
        channels = images.shape[1]
        weights = images.new_tensor(LUMA if channels == len(LUMA) else [1 / channels] * channels)
        grey = (images * weights[:, None, None]).sum(1, keepdim=True)
        darkest, brightest = grey.amin((2, 3), keepdim=True), grey.amax((2, 3), keepdim=True)
        return (grey - darkest) / (brightest - darkest).clamp(min=1e-8)
