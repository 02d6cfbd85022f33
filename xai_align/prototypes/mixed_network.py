"""A network with its channels mixed at a layer and the inverse folded into what follows: the same logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from xai_align._tools.replica import Replica
from xai_align.features.cut_network import as_raster
from xai_align.features.routes import route_through
from xai_align.features.unwrapping import unwrapped
from xai_align.pinet.all_classes import at_zero, jacobian_rows
from xai_align.pinet.head_probe import probe_head
from xai_align.pinet.rounding import wide
from xai_align.prototypes.fitting_space import space_of
from xai_align.prototypes.record import Prototypes


class MixedNetwork(nn.Module):
    """Module with the logits of ``model``, through mixed channels.

    The layer's map ``z`` is mixed to ``U z``, which passes through the submodule ``channels`` as ``[N, D, h, w]``, for
    methods that hook or replace a layer. Behind a head that averages positions and is affine, the inverse is folded
    into its weights, ``logits = A U^-1 mean(U z) + b``; behind other heads, such as one with a norm after pooling,
    ``U^-1`` is applied before the head. Tokens without a place in the image pass unchanged. The model's parameters are
    shared and not copied.

    Args:
        model: the network that the prototypes were fitted to.
        prototypes: the fitted prototypes.
        images: ``[N, C, H, W]``, used only for shape, dtype and device.

    Attributes:
        channels: module that receives the mixed map.
        folded: whether the inverse is folded into the head.

    Raises:
        ValueError: the prototypes are of another network, layer or size.

    Example::

        found = fit_prototypes(model, list(images), "head", prototypes=2)
        mixed = MixedNetwork(model, found, images)
        mixed(images)  # model(images)
    """

    mixing: Tensor
    inverse: Tensor
    weight: Tensor | None
    bias: Tensor | None

    def __init__(self, model: nn.Module, prototypes: Prototypes, images: Tensor) -> None:
        super().__init__()
        model, own = unwrapped(model)
        space, maps = space_of(model, prototypes, images, own)
        copy = Replica(model)
        self.channels = nn.Identity()
        self.training = False
        self._model = (copy.module,)  # in a tuple, so that PyTorch does not register it as a submodule
        self._space, self._output = copy.rebind(space), prototypes.output
        # the inverse of an ill-conditioned matrix would magnify rounding
        exact = wide(maps) if prototypes.kind == "invertible" else maps
        self.register_buffer("mixing", prototypes.matrix.to(exact))
        self.register_buffer("inverse", prototypes.inverse.to(exact))
        self.register_buffer("weight", None)
        self.register_buffer("bias", None)
        plain = not (space.prefix_tokens or space.suffix_tokens)
        split = self._space.split
        z = split.features(images[:1].clone()).detach() if split is not None and plain else None
        if z is not None and probe_head(model, self._space, z, space).averages_positions:
            self.weight, self.bias = self._fold(z, prototypes, images)

    @property
    def folded(self) -> bool:
        """Whether the inverse is folded into the head's weights."""
        return self.weight is not None

    def forward(self, images: Tensor) -> Any:
        """Return the logits for images ``[N, C, H, W]``."""
        size = (images.shape[-2], images.shape[-1])
        if self.weight is not None:
            z = as_raster(self._space.split.features(images.clone()), self._space, size)[0]  # type: ignore[union-attr]
            mixed = self.channels(_mixed(z, self.mixing))
            return (mixed.mean((2, 3)) @ self.weight.T + self.bias).to(z.dtype)

        def through(_: int, z: Tensor) -> Tensor:
            raster, back = as_raster(z, self._space, size)
            return back(_mixed(self.channels(_mixed(raster, self.mixing)), self.inverse).to(z.dtype))

        return route_through(self._model[0], [self._space], (images,), (), output=self._output).run(through)

    def _fold(self, z: Tensor, prototypes: Prototypes, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``A U^-1`` ``[K, D]`` and ``b`` ``[K]`` of a head ``A mean(z) + b``."""
        size = (images.shape[-2], images.shape[-1])
        rows = [as_raster(beta, self._space, size)[0].sum((2, 3)) for (beta,) in jacobian_rows(self._space, z)]
        weight = torch.cat(rows).double() @ prototypes.inverse.to(z.device)
        with torch.no_grad():
            bias = self._space.split.head(at_zero(z)[0])[0]  # type: ignore[union-attr]
        return weight.to(self.mixing).detach(), bias.to(self.mixing).detach()


def _mixed(maps: Tensor, matrix: Tensor) -> Tensor:
    """Return ``matrix @ z[p]`` at every position of ``maps [N, D, h, w]``."""
    return torch.einsum("ndhw,kd->nkhw", maps.to(matrix.dtype), matrix)
