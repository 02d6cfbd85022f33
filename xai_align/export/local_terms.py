"""A network with an affine head as a module that returns its logits and the maps of all classes, without gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from xai_align._tools.logits import select_logits
from xai_align._tools.replica import Replica
from xai_align.features.routes import find_layer
from xai_align.features.run_with_features import run_and_take_features
from xai_align.features.spatial import layout_of, token_grid
from xai_align.hookspecs import FeatureSpace
from xai_align.pinet.all_classes import at_zero, jacobian_rows
from xai_align.pinet.head_probe import Verdict
from xai_align.pinet.network.one_position import one_position_each, positions_last


class LocalTerms(nn.Module):
    """Module ``x -> {"logits": [N, K], "maps": [N, K, h, w], "bias": [K]}`` of a network with an affine head.

    For ``logit_k = sum over c, p of beta_kcp z_cp + b_k`` the maps are ``c_kp = sum_c beta_kcp z_cp``: head weights
    times features. ``beta`` and ``b`` do not depend on the image, and are computed once, here. A feature space of
    several tensors has ``maps_1``, ``maps_2`` … in place of ``maps``; one whose prefix tokens count has ``prefix``,
    ``[N, K]``.

    Args:
        network: the network on a CPU; a structural copy that shares its parameters is run.
        space: its feature space, with a split.
        z: features of some images of the size to be used later.
        verdict: the result of the head probe.
        image_size: rows and columns of the images.
        output: which of the network's outputs are the logits.

    Raises:
        ValueError: tokens form no grid.
    """

    bias: Tensor

    def __init__(
        self,
        network: nn.Module,
        space: FeatureSpace,
        z: Any,
        verdict: Verdict,
        image_size: tuple[int, int],
        output: str | int | None = None,
    ) -> None:
        super().__init__()
        copy = Replica(network)
        self.network = with_parameters(copy.module)
        self.training = False
        self._space, self._output = copy.rebind(space), output
        self._taken: list[Any] = []
        self._taking = _layer_to_take(self._space)
        if self._taking is not None:
            find_layer(self.network, self._taking).register_forward_hook(self._take)
        # a head that takes the mean over positions is known from one position
        one = one_position_each(self._space, z)[:1] if verdict.averages_positions else z
        betas = _coefficients(self._space, one)
        self.terms = nn.ModuleList(
            MapTerms(beta, leaf, space, image_size, averages=verdict.averages_positions)
            for beta, leaf in zip(betas, tree_leaves(z), strict=True)
        )
        count = len(self.terms)
        maps = ["maps"] if count == 1 else [f"maps_{number}" for number in range(1, count + 1)]
        self._has_prefix = any(part.prefix is not None for part in self.terms)
        #: Names of the outputs.
        self.outputs = ("logits", *maps, *(["prefix"] if self._has_prefix else []), "bias")
        with torch.no_grad():
            bias = self._space.split.head(at_zero(one)[0])[0]  # type: ignore[union-attr]
        self.register_buffer("bias", bias.clone(), persistent=False)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return logits, maps and bias of images ``[N, C, H, W]``."""
        logits, z = self._logits_and_features(images)
        leaves = [positions_last(leaf, self._space) for leaf in tree_leaves(z)]
        maps = [part(leaf) for part, leaf in zip(self.terms, leaves, strict=True)]
        prefix: list[Tensor] = []
        if self._has_prefix:
            parts = [part.of_prefix(leaf) for part, leaf in zip(self.terms, leaves, strict=True)]  # type: ignore[operator]
            prefix = [torch.stack(parts).sum(0)]
        return dict(zip(self.outputs, (logits, *maps, *prefix, self.bias), strict=True))

    def _logits_and_features(self, images: Tensor) -> tuple[Tensor, Any]:
        if self._taking is None:
            returned, z = run_and_take_features(self.network, self._space, [images], ())
            return select_logits(returned, self._output), z
        self._taken.clear()
        returned = self.network(images.clone())  # a forward pass may write to its inputs
        return select_logits(returned, self._output), self._taken.pop()

    def _take(self, module: nn.Module, args: Any, output: Any) -> None:
        self._taken.append(output)


class MapTerms(nn.Module):
    """Module from one tensor of features ``[N, C, P]``, tokens in their order, to maps ``[N, K, h, w]``.

    Args:
        beta: ``[K, C, P]``; ``[K, C, 1]``, between the other tokens, for a head that takes the mean over positions.
        z: the features, in their own layout.
        space: their feature space.
        image_size: rows and columns of the images.
        averages: whether the head takes the mean over positions.
    """

    beta: Tensor
    order: Tensor | None
    prefix: Tensor | None

    def __init__(
        self, beta: Tensor, z: Tensor, space: FeatureSpace, image_size: tuple[int, int], *, averages: bool
    ) -> None:
        super().__init__()
        self.training = False
        positions = positions_last(z, space).shape[-1]
        self.patches = space.patches(positions)
        cells = len(range(positions)[self.patches])
        rows, columns, order = _grid_of(z, space, cells, image_size)
        self.grid = (rows, columns)
        in_order = bool((order == torch.arange(cells)).all())
        # the mean over P positions of A z_p has beta_kcp = A_kc / P
        known = space.patches(beta.shape[-1])
        own = beta[..., known][..., 0] / cells if averages else beta[..., known][..., order].contiguous()
        beside = _beside(beta, known)
        self._keep("beta", own)
        self._keep("order", None if in_order else order)
        self._keep("prefix", beside if bool(beside.any()) else None)

    def forward(self, z: Tensor) -> Tensor:
        """Return maps ``[N, K, h, w]``."""
        cells = z[..., self.patches] if self.order is None else z[..., self.patches][..., self.order]
        # c_kp = sum_c beta_kcp z_cp
        terms = torch.einsum("kc,ncp->nkp" if self.beta.dim() == 2 else "kcp,ncp->nkp", self.beta, cells)
        return terms.unflatten(-1, self.grid)

    def of_prefix(self, z: Tensor) -> Tensor:
        """Return the contributions of tokens without a position in the image, ``[N, K]``."""
        if self.prefix is None:
            return z.new_zeros(z.shape[0], self.beta.shape[0])
        return torch.einsum("kcp,ncp->nk", self.prefix, _beside(z, self.patches))

    def _keep(self, name: str, tensor: Tensor | None) -> None:
        if tensor is None:  # torch.export counts buffers that are None as inputs
            setattr(self, name, None)
        else:
            self.register_buffer(name, tensor, persistent=False)


def _beside(z: Tensor, patches: slice) -> Tensor:
    """Return what lies before and behind the patches of ``[..., P]``."""
    return torch.cat([z[..., : patches.start], z[..., patches.stop :]], -1)


def _coefficients(space: FeatureSpace, z: Any) -> list[Tensor]:
    """Return ``beta`` of the head, ``[K, C, P]`` for each tensor of ``z``, prefix tokens first."""
    rows = [[positions_last(part, space) for part in parts] for parts in jacobian_rows(space, z)]
    return [torch.cat(parts) for parts in zip(*rows, strict=True)]


def with_parameters(module: nn.Module) -> nn.Module:
    """Return a replica with its tensors as parameters on the CPU, without gradient; memory on the CPU is shared."""
    made: dict[int, nn.Parameter] = {}
    for one in module.modules():
        for name, tensor in one._parameters.items():
            if tensor is not None:
                if id(tensor) not in made:
                    made[id(tensor)] = nn.Parameter(tensor.detach().cpu(), requires_grad=False)
                one._parameters[name] = made[id(tensor)]
        for name, buffer in one._buffers.items():
            if buffer is not None:
                one._buffers[name] = buffer.cpu()
    return module


def _layer_to_take(space: FeatureSpace) -> str | None:
    """Return the layer whose output is ``z``, for a split that copies the network whenever it runs."""
    assert space.split is not None
    owner = getattr(space.split.features, "__self__", None)
    return str(space.layer) if owner is not None and not isinstance(owner, nn.Module) else None


def _grid_of(leaf: Tensor, space: FeatureSpace, cells: int, image_size: tuple[int, int]) -> tuple[int, int, Tensor]:
    """Return rows, columns, and the cell that comes at each position of the raster."""
    order = torch.arange(cells)
    layout = layout_of(leaf, space)
    if layout in ("NCHW", "NHWC"):
        rows, columns = leaf.shape[2:] if layout == "NCHW" else leaf.shape[1:3]
        return rows, columns, order
    if space.to_raster is not None:
        order = space.to_raster(order[None].to(torch.float32))[0].long()
    return *token_grid(space, cells, image_size), order
