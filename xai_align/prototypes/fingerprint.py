"""Identification of prototypes by a network's weights, a layer, its channels and grid, and the size of the images.

Networks with equal weights can have different forward passes, so the features of a fixed image are compared as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from xai_align._tools.counted import counted
from xai_align._tools.drawn import uniform
from xai_align._tools.model_state import state_of
from xai_align.features.unwrapping import network_of
from xai_align.hookspecs import FeatureSpace
from xai_align.training.digest import digest_of

#: Relative differences of the features of the fixed image up to this are attributed to rounding.
ROUNDING = 1e-2

_digests: WeakKeyDictionary[nn.Module, tuple[int, str]] = WeakKeyDictionary()


def fixed_image(like: Tensor) -> Tensor:
    """Return one image of noise in [0, 1), of the shape, dtype and device of images ``[N, C, H, W]``."""
    return uniform((1, *like.shape[1:]), torch.Generator().manual_seed(0)).to(like)


def fingerprint_of(model: nn.Module, space: FeatureSpace, maps: Tensor, image_size: tuple[int, int]) -> dict[str, Any]:
    """Return the fingerprint, in JSON types, for this layer's maps ``[1, D, h, w]`` of the :func:`fixed_image`."""
    network = network_of(model)[0]
    features = [float(maps.double().mean()), float(maps.double().std(correction=0))]
    return {
        "features": features if all(map(isfinite, features)) else None,
        "network": type(network).__name__,
        "weights": _digest(network),
        "layer": space.layer if isinstance(space.layer, str) else ", ".join(space.layer),
        "channels": maps.shape[1],
        "grid": list(maps.shape[2:]),
        "image_size": list(image_size),
    }


def check_fingerprint(own: dict[str, Any], found: dict[str, Any]) -> None:
    """Raise unless prototypes with the fingerprint ``own`` belong to a model with the fingerprint ``found``.

    Raises:
        ValueError: they do not; the message says what differs.
    """
    if own["network"] != found["network"]:
        what = f"were fitted to a {own['network']}, and the model is a {found['network']}"
    elif own["layer"] != found["layer"]:
        what = f"are of layer '{own['layer']}', and the layer is '{found['layer']}'"
    elif own["channels"] != found["channels"]:
        what = f"are of {counted(own['channels'], 'channel')}, and the layer has {found['channels']}"
    elif own["image_size"] != found["image_size"] or own["grid"] != found["grid"]:
        sizes = [f"{rows} x {columns}" for rows, columns in (own["image_size"], found["image_size"])]
        what = f"were fitted to images of {sizes[0]} pixels, and these have {sizes[1]}"
    elif own["weights"] != found["weights"]:
        what = f"were fitted to a {own['network']} with other weights"
    elif _differ(own.get("features"), found["features"]):
        what = (
            f"were fitted to a {own['network']} with the same weights and other features for a fixed image: the code "
            "of its forward pass differs"
        )
    else:
        return
    raise ValueError(f"these prototypes {what}; take those of this network, or fit them: xai-align fit-epic")


def _differ(own: Sequence[float] | None, found: Sequence[float] | None) -> bool:
    """Return whether means or spreads are known and differ by more than rounding."""
    if own is None or found is None:
        return False
    return any(abs(a - b) > ROUNDING * max(own[1], abs(own[0])) for a, b in zip(own, found, strict=True))


def _digest(network: nn.Module) -> str:
    state = state_of(network)
    known = _digests.get(network)
    if known is None or known[0] != state:
        known = _digests[network] = (state, digest_of(network.state_dict()))
    return known[1]
