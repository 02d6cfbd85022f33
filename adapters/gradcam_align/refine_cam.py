"""RefineCAM by name: the package's product of CAMs at several layers, run on copies of the model."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from pytorch_grad_cam.utils.image import scale_cam_image
from torch import Tensor, nn

from gradcam_align.baseline_method import BaselineMethod, one_batch_of_images
from gradcam_align.baseline_specs import SPECS, package_class
from xai_align import plugins
from xai_align.adapter_tools import callers_level, restores_thread_state
from xai_align.features.grid_layers import grid_layers
from xai_align.features.resolve_layer import Layer, resolve_layer
from xai_align.features.routes import layer_name
from xai_align.features.unwrapping import unwrapped
from xai_align.question import QuestionModel

#: Number of layers in the paper.
LAYERS = 4


class RefineCAMMethod:
    """RefineCAM of pytorch-grad-cam (Domeniconi et al., arXiv 2605.14641), with Captum's call.

    The map of another of the package's methods at each layer, scaled to 0..1, and the product of them, scaled to
    0..1 by the package: only its order is meaningful, not its size. Where a layer's map is zero, so is the product;
    a map that is zero everywhere gives a warning. The channels of a pixel get equal parts.

    Args:
        forward_func: an ``nn.Module`` on one batch of images, or a ``QuestionModel`` of one.
        layer: the finest layer, a stage of the network by name or module; the stages after it are added.
        layers: all layers: names, modules or ``FeatureSpace`` records. None: from ``layer`` on, or else the last four
            stages that a plugin names, as in the paper, or the last layers of the last four grids of cells; before a
            class token the first norm of each block.
        method: a method of :data:`~gradcam_align.baseline_specs.SPECS`; the package's default is "gradcam++".

    Raises:
        TypeError: the model is not an ``nn.Module``.
        ValueError: there is no such method, both ``layer`` and ``layers`` are given, no layers are known, or ``layer``
            is not a stage.
        ImportError: the installed version of the package has no RefineCAM.
    """

    #: Attribute that Captum's code uses.
    multiplies_by_inputs = True

    def __init__(
        self, forward_func: Any, layer: Layer = None, *, layers: Sequence[Any] | None = None, method: str = "gradcam++"
    ) -> None:
        self.refine = package_class("RefineCAM")
        if not isinstance(forward_func, nn.Module):
            raise TypeError(f"refinecam needs a torch.nn.Module, got {type(forward_func).__name__}")
        if method not in SPECS:
            raise ValueError(f"refinecam has no method {method!r} to refine; give one of {', '.join(SPECS)}")
        if layer is not None and layers is not None:
            raise ValueError("layer is the finest of the stages and layers are all of them; give one of the two")
        if layers is not None and (not isinstance(layers, list | tuple) or not layers):
            raise ValueError(f"layers is {layers!r}; give a list of names, modules or FeatureSpace records")
        self.forward_func, self.layer, self.layers, self.method = forward_func, layer, layers, method

    @restores_thread_state
    @torch.no_grad()  # a decorator also leaves `__wrapped__`, which Captum's NoiseTunnel calls
    def attribute(
        self, inputs: Tensor | tuple[Tensor, ...], target: Any = None, additional_forward_args: Any = None
    ) -> Any:
        """Return the map in the shape of ``inputs``, detached; arguments and errors as of ``BaselineMethod``."""

        def cam(model: Any, target_layers: list[Any], reshape: Any) -> Callable[..., np.ndarray]:
            method = BaselineMethod(self.forward_func, self.method, target_layers[0])

            def scaled(images: Any, target: Any, eigen_smooth: bool) -> np.ndarray:
                maps = method.attribute(images, target=target, additional_forward_args=additional_forward_args)
                one = maps[0] if isinstance(maps, tuple) else maps
                return scale_cam_image(one.sum(1).float().cpu().numpy())

            return scaled

        with torch.inference_mode(False):
            images = one_batch_of_images(self.method, inputs)
            product = self.refine(self.forward_func, self._all_layers(images), None, base_method=cam)(inputs, target)
            _warn_of_nothing(product)
            maps = torch.from_numpy(np.ascontiguousarray(product)).to(images.device, images.dtype)
            attributions = (maps.unsqueeze(1) / images.shape[1]).expand(images.shape).contiguous()
        return (attributions,) if isinstance(inputs, tuple) else attributions

    def has_convergence_delta(self) -> bool:
        """Return False: these maps have no sum to converge to."""
        return False

    def get_name(self) -> str:
        """Return the method's name in tables."""
        return "refinecam"

    def _all_layers(self, images: Tensor) -> list[Any]:
        if self.layers is not None:
            return list(self.layers)
        model, _ = unwrapped(self.forward_func)
        while isinstance(model, QuestionModel):
            model, _ = unwrapped(model.model)
        stages = plugins.stages(model)
        if not stages and self.layer is None:
            by_grid = {layer.grid: layer.name for layer in grid_layers(model, images[:1])}
            if by_grid:
                return list(by_grid.values())[-LAYERS:]
        if not stages:
            raise ValueError(
                f"no plugin knows the stages of {type(model).__name__}; name the layers with layers=[...], the finest "
                "first"
            )
        inside = _inside(model, stages[-1], images)
        known = [stage + inside for stage in stages]
        if self.layer is None:
            return known[-LAYERS:]
        name = layer_name(model, self.layer) if isinstance(self.layer, nn.Module) else self.layer
        for position, names in enumerate(zip(stages, known, strict=True)):
            if name in names:
                return known[position:]
        raise ValueError(
            f"{name!r} is not a stage of {type(model).__name__}; give one of {', '.join(stages)}, or all layers with "
            "layers=[...]"
        )


def _warn_of_nothing(product: np.ndarray) -> None:
    empty = np.flatnonzero(~product.reshape(len(product), -1).any(1)).tolist()
    if empty:
        warnings.warn(
            f"refinecam's map of image(s) {empty} is zero everywhere: no position is positive at all layers. Give "
            "fewer layers=[...], or another method=",
            stacklevel=callers_level(),
        )


def _inside(model: nn.Module, last: str, images: Tensor) -> str:
    """Return where in the last stage patches still affect the answer, e.g. ".norm1"; "": in all of it."""
    found = resolve_layer(model, None, purpose="gradient", image=images.detach()[:1].clone()).layer
    return found.removeprefix(last) if isinstance(found, str) and found.startswith(f"{last}.") else ""
