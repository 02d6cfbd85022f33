"""The maps of all classes at once, forward only, where the head is local."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from xai_align.hookspecs import FeatureSpace
from xai_align.pinet.accounts import wide
from xai_align.pinet.head_probe import is_affine
from xai_align.pinet.input_checks import check_inputs, check_logits, check_model, explained_failures
from xai_align.pinet.readout import Where, where_to_read
from xai_align.pinet.unwrapping import unwrapped
from xai_align.spatial import layout_of


@dataclass(frozen=True, kw_only=True)
class ClassReadout:
    """``logits == cells.sum() + bias`` for every class: for each of ``K`` classes what each cell of the grid adds.

    Attributes:
        logits: ``[N, K]``.
        cells: ``[N, K, P]``, the contribution of each of the ``P`` positions of the feature space, in its own order.
        bias: ``[K]``.
        completeness_error: ``[N, K]``.
        feature_space: where this was read.
    """

    logits: Tensor
    cells: Tensor
    bias: Tensor
    completeness_error: Tensor
    feature_space: FeatureSpace


class LocalReadout(nn.Module):
    """``x -> (logits [N, K], cells [N, K, P], bias [K])`` for a head that averages positions and is affine.

    Nothing but the model's own forward operations: it runs under
    ``inference_mode``, compiles, and exports. For such a head
    ``logits = mean_p A z_p + b``; the head itself, given one position at a
    time, computes ``A z_p + b``.

    Args:
        model: the network; used as it is, not copied.
        space: a feature space with a split.

    Raises:
        ValueError: the head is not affine, or does not treat all positions alike.
    """

    def __init__(self, model: nn.Module, space: FeatureSpace, z: Tensor) -> None:
        super().__init__()
        self.model = model
        self.training = model.training
        self._space = space
        self._layout = layout_of(z, space)
        assert space.split is not None
        self._features, self._head = space.split
        if not is_affine(model, self._head, z) or not self._treats_positions_alike(z):
            raise ValueError(
                f"the head behind '{space.layer}' is not an affine function of the mean over positions, "
                "so the maps of all classes cannot be had at once; ask about one class at a time with read_out"
            )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, contributions of each position to each class, and the bias of each class."""
        return self.account(self._features(x))

    def account(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The same from features that are there already."""
        positions = self._one_at_a_time(z)
        bias = self._head(torch.zeros_like(positions[:1]))[0]
        count = len(positions) // len(z)
        cells = (self._head(positions) - bias).unflatten(0, (len(z), count)).transpose(1, 2) / count
        return self._head(z), cells, bias

    def _one_at_a_time(self, z: Tensor) -> Tensor:
        """``[N, …]`` features to ``[N * P, …]`` features of one position each."""
        if self._layout == "NCHW":
            return z.flatten(2).transpose(1, 2).reshape(-1, z.shape[1], 1, 1)
        if self._layout == "NHWC":
            return z.reshape(-1, 1, 1, z.shape[-1])
        if self._layout == "NCL":
            return z.transpose(1, 2).reshape(-1, z.shape[1], 1)
        prefix = self._space.prefix_tokens
        patches = z[:, prefix:].reshape(-1, 1, z.shape[-1])
        # prefix tokens that the head does not read; if it does, the test of positions fails
        return nn.functional.pad(patches, (0, 0, prefix, 0))

    def _treats_positions_alike(self, z: Tensor) -> bool:
        with torch.inference_mode(False), torch.no_grad():
            random = torch.randn(z[:1].shape, dtype=z.dtype, generator=torch.Generator().manual_seed(0)).to(z.device)
            try:
                logits, cells, bias = self.account(random)
            except (RuntimeError, ValueError, AssertionError, IndexError):
                return False  # a head made for one size of map
        error = (cells.sum(-1) + bias - logits).abs().max()
        return bool(error <= 1e3 * torch.finfo(z.dtype).eps * (logits.abs().max() + cells.abs().sum(-1).max()))


def read_out_all_classes(model: nn.Module, inputs: Tensor, feature_space: Where = None) -> ClassReadout:
    """For every class at once, what each position of the feature space adds to its logit.

    One forward pass of the backbone and one of the head on single positions; no gradient.

    Raises:
        ValueError: the head is not local, or inputs or model are not fit for a readout.
    """
    model, own_place = unwrapped(model)
    check_model(model)
    check_inputs(model, (inputs,))
    space = where_to_read(model, own_place if feature_space is None else feature_space)
    if space.split is None:
        raise ValueError(
            f"the readout at '{space.layer}' is not local: all classes at once are for networks whose head is affine "
            "in a spatial feature map; ask about one class at a time with read_out"
        )
    with torch.no_grad(), explained_failures((inputs,)):
        z = space.split.features(inputs)
        if not isinstance(z, Tensor):
            raise ValueError(
                f"the feature space '{space.layer}' is {len(tree_leaves(z))} tensors; "
                "ask about one class at a time with read_out"
            )
        logits, cells, bias = LocalReadout(model, space, z).account(z)
    check_logits(logits)
    error = wide(cells).sum(-1) + wide(bias) - wide(logits)
    return ClassReadout(logits=logits, cells=cells, bias=bias, completeness_error=error, feature_space=space)
