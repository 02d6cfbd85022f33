"""A network cut at a feature space, so that methods made for convolutions find ``[N, C, h, w]`` at a module there."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from xai_align._tools.replica import Replica
from xai_align.features.routes import route_through
from xai_align.features.spatial import layout_of, token_grid
from xai_align.hookspecs import FeatureSpace


class CutNetwork(nn.Module):
    """The model's own function, showing one tensor of a feature space to whoever hooks or replaces ``here``.

    What is shown is ``[N, C, h, w]`` in the image's order, whatever the layout: prefix tokens pass by unseen.
    It is a leaf, so gradients end there. What runs is a copy that shares the model's parameters, and the copy is no
    submodule: whatever is done to all modules of the cut network (``eval()``, ``zero_grad()``, replacing a layer)
    reaches neither.

    Args:
        model: the network.
        space: where it is cut.

    Attributes:
        here: the module whose output is shown.
        part: which tensor of the feature space is shown.
        parts: how many there are; known after a forward pass.
    """

    def __init__(self, model: nn.Module, space: FeatureSpace) -> None:
        super().__init__()
        self.here = nn.Identity()
        copy = Replica(model)
        self.space = copy.rebind(space)
        self.part, self.parts = 0, 0
        self.training = False
        self._model = (copy.module,)  # in a tuple, where PyTorch does not look for submodules

    def forward(self, images: Tensor, *extra: Any) -> Any:
        """The model's output for images ``[N, C, H, W]``.

        Raises:
            ValueError: the feature space has no place in an image, or its layer does not run once.
        """
        numbers = count()
        size = (images.shape[-2], images.shape[-1])

        def place(z: Tensor) -> Tensor:
            number = next(numbers)
            self.parts = number + 1
            if number != self.part:
                return z
            shown, back = as_raster(z.detach(), self.space, size)
            shown = self.here(shown.requires_grad_() if torch.is_grad_enabled() else shown)
            return back(shown.clone())  # the network may write into it

        return route_through(self._model[0], [self.space], (images,), extra).run(lambda _, z: place(z))


def as_raster(z: Tensor, space: FeatureSpace, image_size: tuple[int, int]) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """``z`` as ``[N, C, h, w]`` in the image's order, and the way back; prefix tokens are put back as they were.

    Raises:
        ValueError: it has neither the axes of a map nor those of tokens, or the tokens form no grid.
    """
    layout, prefix = layout_of(z, space), space.prefix_tokens
    if layout == "NCHW":
        return z, lambda x: x
    if layout == "NHWC":
        return z.permute(0, 3, 1, 2), lambda x: x.permute(0, 2, 3, 1)
    if layout == "NCL":
        shown, back = as_raster_of_tokens(z[:, :, prefix:], space, image_size)
        return shown, lambda x: torch.cat([z[:, :, :prefix], back(x)], dim=2)
    shown, back = as_raster_of_tokens(z[:, prefix:].transpose(1, 2), space, image_size)
    return shown, lambda x: torch.cat([z[:, :prefix], back(x).transpose(1, 2)], dim=1)


def as_raster_of_tokens(
    tokens: Tensor, space: FeatureSpace, image_size: tuple[int, int]
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Patch tokens ``[N, C, L]`` as ``[N, C, h, w]``, and the way back."""
    length = tokens.shape[2]
    rows, columns = token_grid(space, length, image_size)
    if space.to_raster is None:
        return tokens.unflatten(2, (rows, columns)), lambda x: x.flatten(2)
    # order[k]: which token lies at the k-th place of the raster
    order = space.to_raster(torch.arange(length, dtype=torch.float32, device=tokens.device)[None])[0].long()
    inverse = order.argsort()
    return tokens[:, :, order].unflatten(2, (rows, columns)), lambda x: x.flatten(2)[:, :, inverse]
