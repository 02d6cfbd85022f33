"""Checks before training that classifier, masker and data are compatible, so that mistakes show at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from xai_align._tools.model_state import check_eager, evaluating, parameters_of
from xai_align._tools.random_state import fixed_random_state
from xai_align._tools.refused_images import refused_images
from xai_align.align.captured_pass import capture
from xai_align.align.forward_passes.training_batch import TrainingBatch
from xai_align.align.masker import Masker
from xai_align.align.options import AlignOptions
from xai_align.align.recipe_record import Recipe
from xai_align.align.saliency import cam_at
from xai_align.align.saliency_of_readouts import check_readout, saliency_space
from xai_align.features.resolve_layer import Layer
from xai_align.features.unwrapping import unwrapped
from xai_align.hookspecs import FeatureSpace
from xai_align.training.epoch_plan import derived_seed

#: Number of images of a batch that the networks are tested with.
TRIED = 2


def network_inside(classifier: Any) -> nn.Module:
    """Return the network to train: the one inside compiled and data-parallel wrappers, which share its weights.

    Raises:
        TypeError: it is not a module, or scripted or quantised.
    """
    inner = unwrapped(classifier)[0]
    if not isinstance(inner, nn.Module):
        raise TypeError(
            f"the classifier is a {type(inner).__name__}; give a torch.nn.Module from images [N, C, H, W] to logits "
            "[N, K]. A function can be put into the forward of one"
        )
    check_eager(inner)
    return inner


def fresh_masker(images: Tensor, seed: int) -> Masker:
    """Return a masker for these images, with initial weights determined by the seed."""
    with fixed_random_state(derived_seed(seed, "masker")):
        return Masker(images.shape[1]).to(images.device, images.dtype)


def cam_space_and_classes(
    classifier: nn.Module, batch: TrainingBatch, layer: Layer, options: AlignOptions, name: str = "the batch"
) -> tuple[FeatureSpace, int]:
    """Return the feature space of the classifier's maps, and the number of classes.

    Raises:
        ValueError: it does not take the images, its output is not ``[N, K]``, the layer isn't reached, or the logits
            don't depend on it.
    """
    images = batch.images[:TRIED]
    with evaluating(classifier):
        with refused_images(classifier, images, f"{name}: the images"), torch.no_grad():
            classifier(images.clone())
        space = saliency_space(classifier, images, layer, saliency=options.saliency)
        seen = capture(classifier, images, space)
        if options.saliency == "gradcam":
            cam_at(seen, seen.logits.argmax(1), order=options.order)
    if not seen.logits.isfinite().all():
        raise ValueError("the classifier gives NaN or infinite logits before any training; check its weights")
    if options.saliency == "readout":
        check_readout(classifier, images, seen.logits.argmax(1), space)
    return space, seen.logits.shape[1]


def check_masker(masker: nn.Module, classifier: nn.Module, batch: TrainingBatch) -> None:
    """Run a masker and check its masks.

    Raises:
        ValueError: its masks have a wrong shape or values, it shares parameters with the classifier, or has another
            dtype.
    """
    ours = {id(p) for p in parameters_of(classifier)}
    shared = [name for name, p in masker.named_parameters() if id(p) in ours]
    if shared:
        raise ValueError(
            f"the masker and the classifier share parameters ('{shared[0]}' of the masker); while one of them is "
            "trained the other must not change, so give the masker a copy: copy.deepcopy(...)"
        )
    images = batch.images[:TRIED]
    odd = [name for name, p in masker.named_parameters() if p.dtype != images.dtype]
    if odd:
        raise ValueError(
            f"the masker's '{odd[0]}' is not {images.dtype} as the classifier is; convert it with .to(dtype)"
        )
    with evaluating(masker), torch.no_grad():
        masks = masker(images)
    wanted = [len(images), 1, *images.shape[2:]]
    if not isinstance(masks, Tensor) or list(masks.shape) != wanted:
        found = list(masks.shape) if isinstance(masks, Tensor) else f"a {type(masks).__name__}"
        raise ValueError(f"the masker gives {found} for images {list(images.shape)}; it must give masks {wanted}")
    if not (masks.min() >= 0 and masks.max() <= 1):
        raise ValueError(
            f"the masker gives values between {masks.min().item():.3g} and {masks.max().item():.3g}; masks lie in "
            "[0, 1], so let it end in a sigmoid"
        )


def check_recipe(recipe: Recipe, batch: TrainingBatch) -> None:
    """Raise if the batches lack data that the recipe needs.

    Raises:
        ValueError: masks or indices are missing.
    """
    if recipe.needs_masks and batch.masks is None:
        raise ValueError(
            f"the recipe '{recipe.name}' needs masks, and the batches have none; yield (images, labels, masks) with "
            "masks [N, 1, H, W] in [0, 1], NaN where unknown"
        )
    if recipe.needs_indices and batch.indices is None:
        raise ValueError(
            f"the recipe '{recipe.name}' has a state per example, and the batches have no indices; give "
            "read_batch=..., a function that returns TrainingBatch(images=, labels=, indices=)"
        )
