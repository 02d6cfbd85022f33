"""Stable ranking of features, shared by everything that removes or keeps them.

Features are positions (pixels, tokens) or the regions of a ``feature_mask``.
They are ranked by signed score, largest first; ties are ranked by their order
in the input (row by row; for regions, the smaller label first). Least
relevant first is the exact reverse of that order.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from xai_align._tools.callers_level import callers_level
from xai_align._tools.checks import check_finite, listed
from xai_align.pinet.rounding import wide

#: Above this share of tied features the ranking depends more on the tie-break than on the map.
MANY_TIES = 0.3


class TieWarning(UserWarning):
    """Warning that many features share their score, so that they are ranked by position and not by the map.

    Example::

        import warnings

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            perturbation_curve(model, images, images.abs().round())  # few different values
        caught[0].category  # TieWarning
    """


@dataclass(frozen=True)
class Ranking:
    """Ranks of the features of each example.

    Attributes:
        ranks: ``[N, *positions]``, int64: the rank of the feature at each position; 0 is the most relevant.
        counts: ``[N]``, int64: number of features of each example.
        scores: ``[N, P]``: the features' scores by rank, most relevant first; NaN after an example's last.
    """

    ranks: Tensor
    counts: Tensor
    scores: Tensor

    @property
    def is_constant(self) -> Tensor:
        """Examples without a ranking, because all their scores are equal: ``[N]``, bool."""
        last = self.scores.gather(1, (self.counts - 1)[:, None]).squeeze(1)
        return (self.counts > 1) & (self.scores[:, 0] == last)


def positions_of(shape: torch.Size | tuple[int, ...]) -> tuple[int, ...]:
    """Return the sizes of the axes of an input that attributions rank.

    ``[N, D]``: the D entries. ``[N, L, C]``: the L tokens. ``[N, C, H, W]`` (and
    more axes): the pixels, all channels of a pixel together.

    Raises:
        ValueError: the input has no axis other than the batch.
    """
    if len(shape) < 2:
        raise ValueError(f"the inputs have shape {list(shape)}; at least [N, D] is needed")
    return (shape[1],) if len(shape) <= 3 else tuple(shape[2:])


def over_channels(per_position: Tensor, num_axes: int) -> Tensor:
    """Return ``[N, *positions]`` with a channel axis of one where inputs with ``num_axes`` axes have theirs."""
    if num_axes == 2:
        return per_position
    return per_position.unsqueeze(-1 if num_axes == 3 else 1)


def position_scores(attributions: Tensor, inputs: Tensor) -> Tensor:
    """Return attributions as one score for each position, channels summed: ``[N, *positions]``.

    Args:
        attributions: in the inputs' shape, with one channel, or without a channel axis.
        inputs: ``[N, D]``, ``[N, L, C]`` or ``[N, C, H, W]``.

    Raises:
        TypeError: not a tensor.
        ValueError: another shape, or values that are not finite.
    """
    if not isinstance(attributions, Tensor):
        raise TypeError(f"the attributions are a {type(attributions).__name__}; give a torch tensor")
    positions = positions_of(inputs.shape)
    axis = -1 if inputs.dim() == 3 else 1
    one_channel = list(inputs.shape)
    one_channel[axis] = 1
    if list(attributions.shape) == [len(inputs), *positions]:
        scores = attributions
    elif inputs.dim() > 2 and list(attributions.shape) in (list(inputs.shape), one_channel):
        scores = wide(attributions).sum(axis)
    else:
        raise _wrong_shape(attributions, inputs)
    check_finite("the attributions", scores)
    return wide(scores.detach())


def rank(scores: Tensor, feature_mask: Tensor | None = None) -> Ranking:
    """Rank positions, or the regions of a feature mask by the sum of their positions' scores.

    Args:
        scores: ``[N, *positions]``, finite.
        feature_mask: integer labels of regions, ``[*positions]``, ``[1, *positions]`` or
            ``[N, *positions]`` (a channel axis of one, or labels repeated over channels as in Captum, are accepted).

    Raises:
        ValueError: the mask has another shape; TypeError: its labels are not integers.
    """
    flat = scores.flatten(1)
    if feature_mask is None:
        order = torch.sort(flat, descending=True, stable=True).indices
        counts = flat.new_full((len(flat),), flat.shape[1], dtype=torch.long)
        return Ranking(_inverse(order).reshape(scores.shape), counts, flat.gather(1, order))
    labels = _labels(feature_mask, scores)
    ranks: list[Tensor] = []
    ordered: list[Tensor] = []
    for row, label in zip(flat, labels, strict=True):
        names, region = torch.unique(label, return_inverse=True)
        total = row.new_zeros(len(names)).index_add_(0, region, row)
        order = torch.sort(total, descending=True, stable=True).indices
        ranks.append(_inverse(order[None])[0][region])
        ordered.append(total[order])
    numbers = [len(one) for one in ordered]
    most = max(numbers)
    padded = [torch.nn.functional.pad(one, (0, most - len(one)), value=float("nan")) for one in ordered]
    counts = flat.new_tensor(numbers, dtype=torch.long)
    return Ranking(torch.stack(ranks).reshape(scores.shape), counts, torch.stack(padded))


def descending_ranks(scores: Tensor) -> Tensor:
    """Return the ranks of scores ``[N, P]``, int64: 0 for the largest; ties are ranked in their order.

    Example::

        descending_ranks(torch.tensor([[0.1, 0.7, 0.7]]))  # [[2, 0, 1]]
    """
    check_finite("the scores", scores)
    return rank(scores).ranks


def tie_rate(attributions: Tensor, feature_mask: Tensor | None = None) -> Tensor:
    """Return the share of features whose score is shared with another feature, ``[N]``.

    Args:
        attributions: ``[N, *positions]``; for images with channels, ``[N, C, H, W]``, the channels are summed.
        feature_mask: as in :func:`rank`.

    Example::

        tie_rate(torch.tensor([[0.1, 0.7, 0.7, 0.3]]))  # [0.5]: two of four
    """
    check_finite("the attributions", attributions)
    scores = wide(attributions).sum(1) if attributions.dim() == 4 else wide(attributions)
    return _tied(rank(scores, feature_mask))


def warn_of_ties(ranking: Ranking, rows: Tensor | None = None) -> None:
    """Warn if more than :data:`MANY_TIES` of an example's features are tied.

    ``rows``: ``[N]``: indices of the examples in the caller's batch; None: they are all of it.
    """
    tied = _tied(ranking)
    many = (tied > MANY_TIES).nonzero().flatten()
    if len(many):
        named = many if rows is None else rows[many.to(rows.device)]
        warnings.warn(
            f"in example(s) {listed(named.tolist())} up to {float(tied.max()):.0%} of the features share their score "
            "with another; their order is that of the input. Rank regions (feature_mask=..., grid=...), or use a finer "
            "map",
            TieWarning,
            stacklevel=callers_level(),
        )


def _tied(ranking: Ranking) -> Tensor:
    same = ranking.scores[:, 1:] == ranking.scores[:, :-1]  # NaN never compares equal
    nothing = same.new_zeros(len(same), 1)
    tied = torch.cat([same, nothing], 1) | torch.cat([nothing, same], 1)
    return tied.sum(1) / ranking.counts


def _inverse(order: Tensor) -> Tensor:
    ranks = torch.empty_like(order)
    return ranks.scatter_(1, order, torch.arange(order.shape[1], device=order.device).expand_as(order))


def check_feature_mask(feature_mask: Tensor, scores: Tensor) -> None:
    """Raise if a feature mask does not fit scores ``[N, *positions]``, see :func:`rank`.

    Raises:
        TypeError, ValueError: it does not.
    """
    _labels(feature_mask, scores)


def _labels(feature_mask: Tensor, scores: Tensor) -> Tensor:
    """Return integer labels ``[N, P]``."""
    if not isinstance(feature_mask, Tensor) or feature_mask.is_floating_point() or feature_mask.is_complex():
        found = feature_mask.dtype if isinstance(feature_mask, Tensor) else type(feature_mask).__name__
        raise TypeError(f"the feature mask is {found}; give a tensor of integer labels")
    wanted, positions = tuple(scores.shape), tuple(scores.shape[1:])
    mask = feature_mask.to(scores.device)
    if tuple(mask.shape) == positions:
        mask = mask[None]
    elif mask.dim() == len(wanted) + 1:
        axis = -1 if len(positions) == 1 else 1
        if not (mask == mask.narrow(axis, 0, 1)).all():
            raise ValueError(
                "the feature mask differs between channels; a position with all its channels is one feature"
            )
        mask = mask.select(axis, 0)
    if tuple(mask.shape[1:]) != positions or len(mask) not in (1, wanted[0]):
        raise ValueError(
            f"the feature mask has shape {list(feature_mask.shape)}; "
            f"give {list(positions)}, {[1, *positions]} or {list(wanted)}"
        )
    return mask.expand(wanted).flatten(1)


def _wrong_shape(attributions: Tensor, inputs: Tensor) -> ValueError:
    positions = [len(inputs), *positions_of(inputs.shape)]
    return ValueError(
        f"the attributions have shape {list(attributions.shape)}, the inputs {list(inputs.shape)}; "
        f"give the inputs' shape, or one score for each position, {positions}"
    )
