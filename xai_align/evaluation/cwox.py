"""CAUC and CDROP: the drop of a contrast while a map's salient part is deleted (CWOX; Xie et al., UAI 2023).

Both are pure functions of a curve of probabilities with the most relevant
features removed first, and of the share of the features that is salient. An
example with a constant map (NaN in its curve) scores NaN.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from xai_align._tools.checks import check_number
from xai_align.evaluation.class_sides import GroupOfEach, check_apart, group_of_each, probabilities_of, total
from xai_align.evaluation.maps_and_masks import pixel_maps

if TYPE_CHECKING:
    from xai_align.perturbation.curve import Curve


def cauc(curve: Curve, group: int | GroupOfEach, foils: int | GroupOfEach, *, salient: Tensor) -> Tensor:
    """Compute CWOX's contrastive area under the deletion curve, ``[N]`` float64, lower is better.

    ``s = p_c (1 - p_C')`` with ``p_c`` and ``p_C'`` the summed probabilities of the group and of its foils. CWOX
    adds up ``s`` after each of the ``n_d`` salient pixels and divides by the number ``n`` of all pixels; this is
    the area under ``s`` from 0 to ``n_d / n``, with ``s`` interpolated linearly between the curve's fractions.

    Args:
        curve: a curve whose fractions cover the salient part of every example. CWOX fills with the mean pixel.
        group: the target classes; an integer is a group of one.
        foils: the classes to contrast them with; an integer is a group of one.
        salient: ``[N]``: each example's ``n_d / n``, see :func:`salient_fraction`.

    Raises:
        ValueError: the curve ends too early, classes that the output does not have, empty or overlapping
            groups, a curve that is not of probabilities.
        TypeError: classes that are not integers.

    Example::

        curve = perturbation_curve(model, images, images.abs(), fractions=(0.25, 0.5, 0.75, 1.0), baselines="mean")
        cauc(curve, 281, 282, salient=salient_fraction(images.abs()))  # [2], lower is better
    """
    fractions, s = _contrast_score(curve, group, foils)
    return _up_to(fractions, s, salient)[1]


def cdrop(
    curve: Curve, group: int | GroupOfEach, foils: int | GroupOfEach, *, salient: Tensor, tau: float = 0.05
) -> Tensor:
    """Compute CWOX's drop of the contrastive score, ``[N]`` float64, higher is better.

    ``(s(x) - s(x with the salient part removed)) / log2(1 + max(n_d, tau n) / (tau n))``: a salient part
    larger than ``tau`` is penalised. CWOX's code averages the last three steps of its deletion;
    here ``s`` is the curve's value at ``n_d / n``.

    Args:
        curve: as for :func:`cauc`.
        group: as for :func:`cauc`.
        foils: as for :func:`cauc`.
        salient: as for :func:`cauc`.
        tau: the share of the features up to which the salient part is not penalised.

    Raises:
        ValueError: as for :func:`cauc`, or tau is out of range.
        TypeError: classes that are not integers.

    Example::

        curve = perturbation_curve(model, images, images.abs(), fractions=(0.25, 0.5, 0.75, 1.0), baselines="mean")
        cdrop(curve, 281, [282, 283], salient=salient_fraction(images.abs()))  # [2], higher is better
    """
    check_number("tau", tau, above=0, most=1)
    fractions, s = _contrast_score(curve, group, foils)
    drop = s[:, 0] - _up_to(fractions, s, salient)[0]
    return drop / torch.log2(1 + salient.to(drop).clamp(min=tau) / tau)


def salient_fraction(attributions: Tensor, *, delta: float = 0.5) -> Tensor:
    """Return the share of pixels with ``H >= min H + delta (max H - min H)``, ``[N]``, float64.

    NaN for a constant map.

    Args:
        attributions: ``[N, H, W]``, or ``[N, C, H, W]`` whose channels are summed.
        delta: threshold of the salient part, as a share of the map's range, in (0, 1].

    Raises:
        ValueError: another shape, values that are not finite, delta out of range.

    Example::

        salient_fraction(torch.tensor([[[0.0, 0.2], [0.6, 1.0]]]))  # [0.5]: two of four pixels are at least 0.5
    """
    check_number("delta", delta, above=0, most=1)
    h = pixel_maps(attributions).flatten(1)
    least, greatest = h.amin(1, keepdim=True), h.amax(1, keepdim=True)
    # not h >= min + delta (max - min): with delta 1, rounding could exclude the maximum itself
    share = (greatest - h <= (1 - delta) * (greatest - least)).double().mean(1)
    return share.masked_fill((greatest == least).squeeze(1), torch.nan)


def _contrast_score(curve: Curve, group: int | GroupOfEach, foils: int | GroupOfEach) -> tuple[Tensor, Tensor]:
    """Return fractions ``[1 + F]`` from 0 on, and ``s = p_c (1 - p_C')`` at them, ``[N, 1 + F]``."""
    clean, masked = probabilities_of(curve)
    c, others = group_of_each(group, clean, "the group"), group_of_each(foils, clean, "the group of foils")
    check_apart(c, others)
    p = torch.cat([clean[:, None], masked], dim=1)
    fractions = torch.cat([torch.zeros(1, dtype=torch.float64), curve.fractions.cpu()]).to(p.device)
    if curve.fractions[0] == 0:  # the clean input is already in the curve
        p, fractions = p[:, 1:], fractions[1:]
    return fractions, total(p, c) * (1 - total(p, others))


def _up_to(fractions: Tensor, s: Tensor, salient: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``s`` at the salient fractions ``[N]``, and the area under it up to there, interpolated linearly."""
    if not isinstance(salient, Tensor):
        raise TypeError(f"the salient fractions are a {type(salient).__name__}; give a tensor [N]")
    if salient.shape != s.shape[:1]:
        raise ValueError(f"the salient fractions have shape {list(salient.shape)}; give one for each, [{len(s)}]")
    f = salient.detach().to(s)
    if ((f <= 0) | (f > fractions[-1])).any():
        raise ValueError(
            f"the salient fractions are {f.tolist()[:5]}, the curve goes to {float(fractions[-1]):.3f}; "
            "they must be over 0, and the curve must reach them all"
        )
    after = torch.searchsorted(fractions, f).clamp(1, len(fractions) - 1)  # NaN sorts after the last
    left, right = fractions[after - 1], fractions[after]
    row = torch.arange(len(s), device=s.device)
    s_left, s_right = s[row, after - 1], s[row, after]
    s_here = s_left + (f - left) / (right - left) * (s_right - s_left)
    whole = torch.cat([s.new_zeros(len(s), 1), torch.cumulative_trapezoid(s, fractions)], dim=1)[row, after - 1]
    return s_here, whole + (f - left) * (s_left + s_here) / 2
