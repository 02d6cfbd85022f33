"""Networks fine-tuned on one domain of PACS, by ALIGN and by the methods it is compared with.

All methods make the same number of updates of the classifier, on the same kind of pictures and with the same learning
rates.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import affine_grid, grid_sample

from benchmarks.align.pacs_networks import LITE0, Backbone
from benchmarks.shared.pacs import Pacs
from xai_align.align import AlignFit, AlignTrainer, Recipe, recipe
from xai_align.align.mask_sources import Inverted, LearnedMask
from xai_align.align.saliency import Normalise

BATCH = 16
#: Epochs of the classifier, those of them without masks, and epochs of the masker alone.
EPOCHS, WARM_UP, MASKER_ALONE = 5, 1, 2
MASKER_LEARNING_RATE = 3e-3
#: lambda3 and lambda4: of the alignment and of DRE's regulariser.
WEIGHT = 0.1
#: Smallest side of a random crop as a share of the picture's.
SMALLEST_CROP = 0.75
#: Share of a domain that is trained on.
TRAINED = 0.8

#: Weights that are trained: all, or the network's last blocks and its head, which is quicker.
Trained = Literal["all", "last"]


@dataclass(frozen=True)
class Setup:
    """Network, and which of its weights are trained."""

    backbone: Backbone = LITE0
    trained: Trained = "all"


@dataclass(frozen=True)
class Split:
    """Indices of pictures of one domain; classes have equal shares."""

    train: Tensor
    test: Tensor


def split_of(pacs: Pacs, source: int, seed: int) -> Split:
    """Split every class: 80 % to train, the rest to test."""
    generator = torch.Generator().manual_seed(seed)
    parts: list[tuple[Tensor, Tensor]] = []
    for label in range(len(pacs.class_names)):
        found = torch.nonzero((pacs.domains == source) & (pacs.labels == label))[:, 0]
        found = found[torch.randperm(len(found), generator=generator)]
        cut = round(TRAINED * len(found))
        parts.append((found[:cut], found[cut:]))
    return Split(*(torch.cat(part) for part in zip(*parts, strict=True)))


class Crops:
    """Batches of random crops, drawn anew in every epoch from PyTorch's generator.

    Masks ``[N, 1, H, W]``, if there are any, are cropped with their images.
    """

    def __init__(self, images: Tensor, labels: Tensor, masks: Tensor | None = None) -> None:
        self.images, self.labels, self.masks = images, labels, masks

    def __len__(self) -> int:
        return math.ceil(len(self.labels) / BATCH)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        for some in torch.randperm(len(self.labels)).tensor_split(len(self)):
            if self.masks is None:
                yield cropped(self.images[some]), self.labels[some]
            else:
                both = cropped(torch.cat([self.images[some], self.masks[some]], 1))
                yield both[:, :3].contiguous(memory_format=torch.channels_last), self.labels[some], both[:, 3:]


def cropped(images: Tensor) -> Tensor:
    """Return a random crop of each, resized to the same size, mirrored with probability one half."""
    count = len(images)
    side = SMALLEST_CROP + (1 - SMALLEST_CROP) * torch.rand(count)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0] = side * (1 - 2 * torch.randint(2, (count,)))
    theta[:, 1, 1] = side
    theta[:, :, 2] = (2 * torch.rand(count, 2) - 1) * (1 - side)[:, None]
    grid = affine_grid(theta, list(images.shape), align_corners=False)
    found = grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    return found.contiguous(memory_format=torch.channels_last)


def aligned(weight: float = WEIGHT, **options: Any) -> Recipe:
    """ALIGN with another picture as the fill of removed parts: this network still recognises a dimmed picture."""
    return recipe("align", alignment=weight, mixup=weight, mixup_share=0.5, baseline="another_image", **options)


@dataclass(frozen=True)
class Method:
    """Training recipe and its normalisation of CAMs to [0, 1]."""

    recipe: Callable[[], Recipe]
    normalise: Normalise = "max"


#: Training of the classifier. "gradia" and "care", which need masks from people, have pseudo-masks, and CAMs scaled as
#: in their authors' code; "grey": aligned with the grey image. "1": with the weights that are usual elsewhere.
#: "backgrounds": the same answers are required with pieces of other pictures outside the masks. "signed": CAMs are not
#: rectified, so that they cannot vanish. "inverse": aligned with one minus the learnt mask.
METHODS = {
    "erm": Method(partial(recipe, "erm")),
    "dre": Method(partial(recipe, "dre", mixup=WEIGHT, mixup_share=0.5)),
    "align": Method(aligned),
    "sgt": Method(partial(recipe, "sgt")),
    "gradia": Method(partial(recipe, "gradia"), "minmax"),
    "care": Method(partial(recipe, "care"), "signed"),
    "grey": Method(partial(recipe, "grey", alignment=WEIGHT, mixup=WEIGHT, mixup_share=0.5)),
    "dre 1": Method(partial(recipe, "dre", mixup_share=0.5)),
    "align 1": Method(partial(aligned, 1.0)),
    "signed": Method(aligned, "signed"),
    "signed 1": Method(partial(aligned, 1.0), "signed"),
    "backgrounds": Method(partial(aligned, backgrounds=1.0)),
    "inverse": Method(lambda: replace(aligned(), name="inverse", mask_source=Inverted(LearnedMask()))),
}


class OwnPace(torch.optim.AdamW):
    """AdamW with a cosine schedule from the full rate to zero over its own steps, whatever else is trained."""

    def __init__(self, parameters: list[nn.Parameter], rate: float, *, steps: int) -> None:
        super().__init__(parameters, rate)
        self._steps, self._made = steps, 0

    def step(self, closure: Any = None) -> Any:
        """Make one step; the trainer sets the full rate before each."""
        for group in self.param_groups:
            group["lr"] *= (1 + math.cos(math.pi * self._made / self._steps)) / 2
        self._made += 1
        return super().step(closure)


def fit(
    method: Method,
    images: Tensor,
    labels: Tensor,
    masks: Tensor | None = None,
    *,
    classes: int,
    seed: int,
    setup: Setup = Setup(),
) -> tuple[AlignFit, list[str]]:
    """Train on these pictures, with masks if the method needs them; return the fit and the classes of its warnings."""
    torch.manual_seed(seed)  # of the new head
    backbone = setup.backbone
    model = backbone.create(classes)
    if setup.trained == "last":
        model.requires_grad_(False)
        for part in backbone.last(model):
            part.requires_grad_(True)
    torch.manual_seed(seed)  # of the masker
    recipe = method.recipe()
    crops = Crops(images, labels, masks if recipe.needs_masks else None)
    alone = MASKER_ALONE if recipe.trains_masker else 0
    trainer = AlignTrainer(
        model,
        backbone.masker() if recipe.trains_masker else None,
        recipe=recipe,
        saliency=backbone.saliency,
        normalise=method.normalise,
        warmup_epochs=WARM_UP,
        masker_only_epochs=alone,
        masker_every=2,
        masker_learning_rate=MASKER_LEARNING_RATE,
        classifier_optimizer=lambda weights: OwnPace(list(weights), backbone.learning_rate, steps=EPOCHS * len(crops)),
        mixed_precision=backbone.precision,
        freeze_batch_norm=True,
        keep="last",
        seed=seed,
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = trainer.fit(crops, epochs=EPOCHS + alone)
    return found, sorted({warning.category.__name__ for warning in caught})
