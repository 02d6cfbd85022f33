"""The layer of a model that prototypes belong to, with the check that they do."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from xai_align.hookspecs import FeatureSpace
from xai_align.prototypes.fingerprint import check_fingerprint, fingerprint_of, fixed_image
from xai_align.prototypes.layer_maps import LayerMaps, mixing_space
from xai_align.prototypes.record import Prototypes


def space_of(model: nn.Module, prototypes: Prototypes, images: Tensor, own: Any = None) -> tuple[FeatureSpace, Tensor]:
    """Return the prototypes' layer in this model, and the maps ``[1, D, h, w]`` of a fixed image.

    Args:
        model: the network, unwrapped.
        prototypes: the fitted prototypes.
        images: ``[N, C, H, W]``.
        own: the feature space of a retrofitted network, for prototypes of its default layer.

    Raises:
        ValueError: the prototypes are of another network, layer or size.
    """
    try:
        space = mixing_space(
            model, own if prototypes.layer is None else prototypes.layer, images[:1], prototypes.output
        )
        maps = LayerMaps(model, space)(fixed_image(images))
    except ValueError as error:
        layer, network = prototypes.fingerprint["layer"], prototypes.fingerprint["network"]
        raise ValueError(
            f"these prototypes were fitted to layer '{layer}' of a {network}, and this {type(model).__name__} can't be "
            f"read at that layer: {error}"
        ) from error
    check_fingerprint(prototypes.fingerprint, fingerprint_of(model, space, maps, (images.shape[-2], images.shape[-1])))
    return space, maps
