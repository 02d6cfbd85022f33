"""A network with a feature space exposed at a module as ``[N, C, h, w]``, for methods designed for convolutions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from torch.utils.hooks import RemovableHandle

from xai_align._tools.replica import Replica
from xai_align.features.routes import find_layer, route_through
from xai_align.features.spatial import layout_of, token_grid
from xai_align.hookspecs import FeatureSpace


class CutNetwork(nn.Module):
    """The model's own function with one tensor of a feature space passed through the module ``here``.

    Methods hook or replace ``here``. It receives ``[N, C, h, w]`` in the image's order for any layout, without tokens
    that have no position. The tensor is a leaf, so gradients end there. A copy that shares the model's parameters is
    run, and it is not a submodule: operations on all modules of the cut network (``eval()``, ``zero_grad()``, replacing
    a layer) affect neither the copy nor the model.

    Args:
        model: the network.
        space: the feature space to expose.

    Attributes:
        here: the module that receives the tensor.
        part: index of the exposed tensor in the feature space.
        parts: number of tensors in the feature space; known after a forward pass.
    """

    def __init__(self, model: nn.Module, space: FeatureSpace) -> None:
        super().__init__()
        self.here = nn.Identity()
        copy = Replica(model)
        self.space = copy.rebind(space)
        self.part, self.parts = 0, 0
        self.training = False
        self._model = (copy.module,)  # in a tuple, so that PyTorch does not register it as a submodule
        self._again: list[RemovableHandle] = []

    def forward(self, images: Tensor, *extra: Any) -> Any:
        """Return the model's output for images ``[N, C, H, W]``.

        Raises:
            ValueError: the feature space has no spatial layout, or its layer does not run exactly once.
        """
        numbers = count()
        size = (images.shape[-2], images.shape[-1])
        put: list[Tensor] = []
        for handle in self._again:
            handle.remove()

        def place(z: Tensor) -> Tensor:
            number = next(numbers)
            self.parts = number + 1
            if number != self.part:
                put.append(z)
                return z
            shown, back = as_raster(z.detach(), self.space, size)
            shown = self.here(shown.requires_grad_() if torch.is_grad_enabled() else shown)
            put.append(back(shown.clone()))  # the network may write into it
            return put[-1]

        answer = route_through(self._model[0], [self.space], (images,), extra).run(lambda _, z: place(z))
        if self.space.split is None:
            self._again = self._put_again(put)
        return answer

    def _put_again(self, put: Sequence[Tensor]) -> list[RemovableHandle]:
        """Let the layer return the same tensors if it runs again, as in the backward pass of a checkpointed block."""
        if not isinstance(self.space.layer, str) or self.space.layer == "input":
            return []

        def again(module: nn.Module, args: Any, output: Any) -> Any:
            same = iter(put)
            return tree_map(lambda x: next(same) if isinstance(x, Tensor) and x.is_floating_point() else x, output)

        return [find_layer(self._model[0], self.space.layer).register_forward_hook(again)]


def as_raster(z: Tensor, space: FeatureSpace, image_size: tuple[int, int]) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Return ``z`` as ``[N, C, h, w]`` in the image's order, and the inverse, which restores other tokens.

    Raises:
        ValueError: it has neither the axes of a map nor those of tokens, or the tokens form no grid.
    """
    if z.dim() == 5:  # [N, C, d, h, w] of a volume
        return z, lambda x: x
    layout = layout_of(z, space)
    if layout == "NCHW":
        return z, lambda x: x
    if layout == "NHWC":
        return z.permute(0, 3, 1, 2), lambda x: x.permute(0, 2, 3, 1)
    if layout == "NCL":
        own = space.patches(z.shape[2])
        shown, back = as_raster_of_tokens(z[:, :, own], space, image_size)
        return shown, lambda x: torch.cat([z[:, :, : own.start], back(x), z[:, :, own.stop :]], dim=2)
    own = space.patches(z.shape[1])
    shown, back = as_raster_of_tokens(z[:, own].transpose(1, 2), space, image_size)
    return shown, lambda x: torch.cat([z[:, : own.start], back(x).transpose(1, 2), z[:, own.stop :]], dim=1)


def as_raster_of_tokens(
    tokens: Tensor, space: FeatureSpace, image_size: tuple[int, int]
) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Return patch tokens ``[N, C, L]`` as ``[N, C, h, w]``, and the inverse."""
    length = tokens.shape[2]
    rows, columns = token_grid(space, length, image_size)
    if space.to_raster is None:
        return tokens.unflatten(2, (rows, columns)), lambda x: x.flatten(2)
    # order[k]: index of the token at position k of the raster
    order = space.to_raster(torch.arange(length, dtype=torch.float32, device=tokens.device)[None])[0].long()
    inverse = order.argsort()
    return tokens[:, :, order].unflatten(2, (rows, columns)), lambda x: x.flatten(2)[:, :, inverse]
