"""Feature maps of a layer, with channels and the image's grid apart, for tokens as for convolutions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from xai_align._tools.full_precision import full_precision
from xai_align._tools.replica import LOW_PRECISION, Replica
from xai_align.features.cut_network import as_raster
from xai_align.features.resolve_layer import Layer, resolve_layer
from xai_align.features.routes import Route, route_through
from xai_align.features.split_at_layer import at_a_module
from xai_align.hookspecs import FeatureSpace
from xai_align.pinet.readout_layers import readout_space


def mixing_space(
    model: nn.Module, layer: Layer = None, image: Tensor | None = None, output: str | int | None = None
) -> FeatureSpace:
    """Return the feature space whose channels are mixed.

    Args:
        model: the network.
        layer: as for :func:`~xai_align.read_out`. None: the head's input; where the head reads class tokens alone, the
            last patch tokens that affect the answer.
        image: ``[1, C, H, W]``, used only for shape, dtype and device.
        output: which of the model's outputs are the logits.

    Raises:
        ValueError: there is no such layer.
    """
    if layer is not None:
        space = readout_space(model, layer, image, output)
    else:
        try:
            space = readout_space(model, "head", image, output)
        except ValueError:
            space = resolve_layer(model, None, purpose="map", image=image, output=output)
    if space.split is None or image is None or isinstance(space.split.features(image.clone()), Tensor):
        return space
    # modules of transformers return their map inside an object, which only a pass through the module opens
    return at_a_module(space)


class LayerMaps:
    """Function from images ``[N, C, H, W]`` to the layer's maps ``[N, D, h, w]``; tokens without a place are left out.

    A copy of the network runs, and no further than the layer.

    Args:
        model: the network, in eval mode.
        space: the layer.
    """

    def __init__(self, model: nn.Module, space: FeatureSpace) -> None:
        low = any(parameter.dtype in LOW_PRECISION for parameter in model.parameters())
        copy = Replica(model, dtype=torch.float32 if low else None)
        self._dtype = torch.float32 if low else None
        self._model, self.space = copy.module, copy.rebind(space)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Return the maps.

        Raises:
            ValueError: the layer gives several tensors, or has no grid.
        """
        images = images if self._dtype is None else images.to(self._dtype)
        with full_precision(images):  # as the readout, also if the caller's autocast is on
            route = route_through(self._model, [self.space], (images,), ())
            z = route.z if self.space.split is not None else self._until_the_layer(route)
        if not isinstance(z, Tensor):
            raise ValueError(
                f"layer '{self.space.layer}' gives several tensors; channels are mixed in one: name a layer"
            )
        raster = as_raster(z, self.space, (images.shape[-2], images.shape[-1]))[0]
        if raster.dim() != 4:
            raise ValueError(f"layer '{self.space.layer}' gives maps {list(raster.shape)}; expected [N, D, h, w]")
        return raster.detach().contiguous()

    @torch.no_grad()
    def check_runs_once(self, image: Tensor) -> None:
        """Raise if the layer runs more than once in a pass of an image ``[1, C, H, W]``: it would have several maps.

        Raises:
            ValueError: it does.
        """
        image = image.clone() if self._dtype is None else image.to(self._dtype)
        if self.space.split is None:
            route_through(self._model, [self.space], (image,), ()).returned(lambda number, z: z)

    def _until_the_layer(self, route: Route) -> Any:
        try:
            route.run(_stop_here)
        except _Reached as reached:
            return reached.z
        raise ValueError(f"layer '{self.space.layer}' did not run in the forward pass")


class _Reached(Exception):
    """End of a pass at the layer, with its output."""

    def __init__(self, z: Tensor) -> None:
        super().__init__()
        self.z = z


def _stop_here(number: int, z: Tensor) -> Tensor:
    raise _Reached(z)
