"""Where the classifier is told to look: masks that its CAMs are compared with.

A guide is called ``guide(batch, masker, generator, everyone)`` and gives masks
``[N, 1, H, W]`` in [0, 1] (NaN where nothing is known), or None. All but the learned
mask are there for comparison: what a perfect mask, a wrong one and no mask at all do."""

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
    """Gives masks for a batch.

    Attributes:
        needs_masks: whether batches must carry masks.
        needs_masker: whether a masker is asked.
    """

    @property
    def needs_masks(self) -> bool: ...  # noqa: D102

    @property
    def needs_masker(self) -> bool: ...  # noqa: D102

    def __call__(
        self, batch: TrainingBatch, masker: nn.Module | None, generator: torch.Generator, everyone: Everyone
    ) -> Tensor | None:
        """``[N, 1, H, W]`` in [0, 1], or None: no guidance this time."""
        ...


@dataclass(frozen=True)
class LearnedMask:
    """What the masker says, as a constant: ALIGN's own guide."""

    needs_masks: bool = field(default=False, init=False)
    needs_masker: bool = field(default=True, init=False)

    def __call__(
        self, batch: TrainingBatch, masker: nn.Module | None, generator: torch.Generator, everyone: Everyone
    ) -> Tensor:
        """The masker in eval mode, without gradients.

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
    """The masks that came with the examples: the oracle."""

    needs_masks: bool = field(default=True, init=False)
    needs_masker: bool = field(default=False, init=False)

    def __call__(
        self, batch: TrainingBatch, masker: nn.Module | None, generator: torch.Generator, everyone: Everyone
    ) -> Tensor:
        """The batch's masks.

        Raises:
            ValueError: it has none.
        """
        if batch.masks is None:
            raise ValueError(
                "this recipe is guided by given masks, but the batch has none; let the loader yield "
                "(images, labels, masks) with masks [N, 1, H, W] in [0, 1], NaN where unknown"
            )
        return batch.masks


@dataclass(frozen=True)
class OnAnotherGuide:
    """What guides share that change another one's masks.

    Attributes:
        of: the guide that gives the masks.
    """

    of: Guide

    @property
    def needs_masks(self) -> bool:
        """As the guide within."""
        return self.of.needs_masks

    @property
    def needs_masker(self) -> bool:
        """As the guide within."""
        return self.of.needs_masker


@dataclass(frozen=True)
class OfAnotherImage(OnAnotherGuide):
    """The mask of another image of the step, never one's own: plausible masks that know nothing of the image."""

    def __call__(
        self, batch: TrainingBatch, masker: nn.Module | None, generator: torch.Generator, everyone: Everyone
    ) -> Tensor | None:
        """Everyone's masks, handed on along one random round of all images; NaN (unknown) for a step of one image.

        Raises:
            ValueError: as the guide within.
        """
        masks = self.of(everyone.as_batch(), masker, generator, everyone)
        if masks is None:
            return None
        total = len(masks)
        if total == 1:
            return torch.full_like(masks, float("nan"))
        # one closed round through all images: nobody meets themselves
        round_trip = torch.randperm(total, generator=generator)
        giver = torch.empty_like(round_trip)
        giver[round_trip] = round_trip.roll(-1)
        return masks[giver[everyone.mine(batch)].to(masks.device)]


@dataclass(frozen=True)
class Inverted(OnAnotherGuide):
    """One minus a mask: everything is where it should not be."""

    def __call__(
        self, batch: TrainingBatch, masker: nn.Module | None, generator: torch.Generator, everyone: Everyone
    ) -> Tensor | None:
        """``1 - mask``; unknown stays unknown."""
        mask = self.of(batch, masker, generator, everyone)
        return None if mask is None else 1 - mask


@dataclass(frozen=True)
class Binarised(OnAnotherGuide):
    """A guide's masks as zeros and ones, without a gradient."""

    def __call__(
        self, batch: TrainingBatch, masker: nn.Module | None, generator: torch.Generator, everyone: Everyone
    ) -> Tensor | None:
        """1 above one half, else 0; unknown stays unknown."""
        mask = self.of(batch, masker, generator, everyone)
        return None if mask is None else torch.where(mask.isnan(), mask, (mask > 0.5).to(mask))


@dataclass(frozen=True)
class GreyImage:
    """The image itself in grey, from its darkest (0) to its brightest (1) pixel; a flat image is 0.

    From the published description's ablation, where a grey copy of the image did nearly as well as the
    learned mask in accuracy.
    """

    needs_masks: bool = field(default=False, init=False)
    needs_masker: bool = field(default=False, init=False)

    def __call__(
        self, batch: TrainingBatch, masker: nn.Module | None, generator: torch.Generator, everyone: Everyone
    ) -> Tensor:
        """Luma of three channels; the mean of any other number."""
        images = batch.images.detach().to(torch.promote_types(batch.images.dtype, torch.float32))
        channels = images.shape[1]
        weights = images.new_tensor(LUMA if channels == len(LUMA) else [1 / channels] * channels)
        grey = (images * weights[:, None, None]).sum(1, keepdim=True)
        darkest, brightest = grey.amin((2, 3), keepdim=True), grey.amax((2, 3), keepdim=True)
        return (grey - darkest) / (brightest - darkest).clamp(min=1e-8)
