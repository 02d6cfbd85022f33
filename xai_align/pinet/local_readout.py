"""A head that averages positions, one position at a time: the local account without any gradient."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from xai_align.hookspecs import FeatureSpace
from xai_align.pinet.head_probe import is_affine, remembered
from xai_align.spatial import layout_of


class LocalReadout(nn.Module):
    """``x -> (logits [N, K], cells [N, K, P], bias [K])`` for an affine head that averages positions.

    Nothing but the model's own forward operations: it runs under
    ``inference_mode``, compiles without a break, and exports.

    Args:
        model: the network; used as it is, not copied.
        space: a feature space with a split.
        z: features of the shape to come, on which the head is tested.

    Raises:
        ValueError: the head is not affine, or does not treat all positions alike.
    """

    def __init__(self, model: nn.Module, space: FeatureSpace, z: Tensor) -> None:
        super().__init__()
        self.model = model
        self.training = model.training
        self._space = space
        assert space.split is not None
        if not is_affine(model, space.split.head, z) or not treats_positions_alike(model, space, z):
            raise ValueError(
                f"the head behind '{space.layer}' is not an affine function of the mean over positions; "
                "use read_out_all_classes, which takes any affine head"
            )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, contributions of each position to each class, and the bias of each class."""
        assert self._space.split is not None
        z = self._space.split.features(x)
        return self._space.split.head(z), *account_by_position(self._space, z)


def account_by_position(space: FeatureSpace, z: Tensor) -> tuple[Tensor, Tensor]:
    """Cells ``[N, K, P]`` and bias ``[K]`` of a head that averages positions.

    For such a head ``logits = mean_p A z_p + b``; given one position, it
    computes ``A z_p + b``, so that ``c_p = (head(z_p) - head(0)) / P``.
    """
    assert space.split is not None
    head = space.split.head
    positions = _one_at_a_time(space, z)
    bias = head(torch.zeros_like(positions[:1]))[0]
    count = positions.shape[0] // z.shape[0]
    return (head(positions) - bias).unflatten(0, (z.shape[0], count)).transpose(1, 2) / count, bias


def treats_positions_alike(model: nn.Module, space: FeatureSpace, z: Tensor) -> bool:
    """Whether an affine head is the mean over positions of what it makes of each: tested on random features."""
    return remembered(model, z, "positions alike", lambda: _treats_positions_alike(space, z))


def positions_last(z: Tensor, space: FeatureSpace) -> Tensor:
    """``[N, C, P]`` from any layout, prefix tokens first."""
    layout = layout_of(z, space)
    if layout == "NCHW":
        return z.flatten(2)
    if layout == "NHWC":
        return z.flatten(1, 2).transpose(1, 2)
    return z if layout == "NCL" else z.transpose(1, 2)


def _one_at_a_time(space: FeatureSpace, z: Tensor) -> Tensor:
    """``[N, …]`` features to ``[N * P, …]`` features of one position each, prefix tokens zero."""
    layout = layout_of(z, space)
    if layout == "NCHW":
        return z.flatten(2).transpose(1, 2).reshape(-1, z.shape[1], 1, 1)
    if layout == "NHWC":
        return z.reshape(-1, 1, 1, z.shape[-1])
    if layout == "NCL":
        return z.transpose(1, 2).reshape(-1, z.shape[1], 1)
    patches = z[:, space.prefix_tokens :].reshape(-1, 1, z.shape[-1])
    return nn.functional.pad(patches, (0, 0, space.prefix_tokens, 0))


def _treats_positions_alike(space: FeatureSpace, z: Tensor) -> bool:
    assert space.split is not None
    with torch.inference_mode(False), torch.no_grad():
        random = torch.randn(z[:1].shape, dtype=z.dtype, generator=torch.Generator().manual_seed(0)).to(z.device)
        try:
            logits = space.split.head(random)
            cells, bias = account_by_position(space, random)
        except (RuntimeError, ValueError, AssertionError, IndexError):
            return False  # a head made for maps of one size
    error = (cells.sum(-1) + bias - logits).abs().max()
    return bool(error <= 1e3 * torch.finfo(z.dtype).eps * (logits.abs().max() + cells.abs().sum(-1).max()))
