"""Identification of prototypes by a network's weights, a layer, its channels and grid, and the size of the images."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from xai_align._tools.counted import counted
from xai_align._tools.model_state import state_of
from xai_align.features.unwrapping import network_of
from xai_align.hookspecs import FeatureSpace
from xai_align.training.digest import digest_of

_digests: WeakKeyDictionary[nn.Module, tuple[int, str]] = WeakKeyDictionary()


def fingerprint_of(model: nn.Module, space: FeatureSpace, maps: Tensor, image_size: tuple[int, int]) -> dict[str, Any]:
    """Return the fingerprint, in JSON types, for maps ``[N, D, h, w]`` of this layer."""
    network = network_of(model)[0]
    return {
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
    else:
        return
    raise ValueError(f"these prototypes {what}; take those of this network, or fit them: xai-align fit-epic")


def _digest(network: nn.Module) -> str:
    state = state_of(network)
    known = _digests.get(network)
    if known is None or known[0] != state:
        known = _digests[network] = (state, digest_of(network.state_dict()))
    return known[1]
