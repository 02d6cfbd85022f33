"""CCS, CGC, PGS, CGS: scores for contrastive and group questions (RFxG; Elisha et al., AAAI 2026, arXiv 2511.13081).

All are pure functions of a curve of probabilities with the most relevant
features removed first, at 0.1, 0.2, ..., 0.9 in the authors' code. An example
with a constant map (NaN in its curve) scores NaN.

Notation: ``x`` is the input, ``x_a`` the input with the share ``a`` of its
features removed and ``d_k(a) = p_k(x_a) - p_k(x)``. Two variants:

* "consistent" (default): the target class falls and its foils rise; higher
  is better. This is our interpretation: in the authors' code CGC and CGS add up
    both sides with the same sign and so measure no contrast.
* "published": the formulas of the authors' code, for comparison with it (used there
  with ``group_reduce="mean"``). CCS is then better when lower; CGC and CGS have
  no better direction, and CGS is 0 if two groups of equal size cover all classes.

Classes of a group are summed ("sum", default: ``d`` of the group's probability,
comparable between groups of different size) or averaged ("mean": at most
``1 / |G|``). The area is that under the curve over its own fractions, as in the
authors' code ("published"), or divided by their range ("normalised": the mean
height). A metric scores a map for the question given to it, which need not be
the question that the map was computed for.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor

from xai_align._tools.callers_level import callers_level
from xai_align._tools.checks import check_choice
from xai_align.evaluation.class_sides import (
    ClassOfEach,
    GroupOfEach,
    check_apart,
    class_of_each,
    first_of,
    group_of_each,
    probabilities_of,
    total,
)

if TYPE_CHECKING:
    from xai_align.perturbation.curve import Curve

Variant = Literal["consistent", "published"]
GroupReduce = Literal["sum", "mean"]
Area = Literal["published", "normalised"]


class ExhaustiveGroupsWarning(UserWarning):
    """Warning that two sides of a contrast cover all classes, so that the contrast adds nothing to one side's drop."""


def ccs(
    curve: Curve,
    target: ClassOfEach,
    foil: ClassOfEach,
    *,
    variant: Variant = "consistent",
    area: Area = "published",
) -> Tensor:
    """Compute the Contrastive Contrastivity Score, ``[N]`` float64: why class A and not class B?

    Consistent: the area under ``1/2 (-d_A + d_B)``; published: under ``p_A(x_a) - p_B(x_a)``, lower is better.

    Raises:
        ValueError: classes that the output does not have, A is B, a curve that is not of probabilities.
        TypeError: classes that are not integers.

    Example::

        curve = perturbation_curve(model, images, images.abs())  # 0.1, 0.2, ..., 0.9 of the pixels removed
        ccs(curve, 281, 282)  # [2], why 281 and not 282?
    """
    check_choice("variant", variant, get_args(Variant))
    clean, masked = probabilities_of(curve)
    a, b = class_of_each(target, clean, "target"), class_of_each(foil, clean, "foil")
    check_apart(a, b)
    _warn_if_all(a, b, clean)
    d = masked - clean[:, None]
    if variant == "published":
        return _area(curve, total(masked, a) - total(masked, b), area)
    return _area(curve, (total(d, b) - total(d, a)) / 2, area)


def cgc(
    curve: Curve,
    target: ClassOfEach,
    group: GroupOfEach,
    *,
    variant: Variant = "consistent",
    group_reduce: GroupReduce = "sum",
    members: Literal["others", "all"] = "others",
    area: Area = "published",
) -> Tensor:
    """Compute the Class Group Contrastivity, ``[N]`` float64: why class A and not the rest of its group G?

    Consistent: the area under ``1/2 (-d_A + R_{k in G, k != A} d_k)``, with R the sum or mean; published:
    under ``1/2 (R_{k in G, k != A} d_k + d_A)``. For a group of two the consistent variant is CCS.

    The group may be given with or without A: ``members="others"`` leaves A out, "all" takes the group as it is.

    Raises:
        ValueError: classes that the output does not have, a group of A alone, a curve that is not of probabilities.
        TypeError: classes that are not integers.

    Example::

        curve = perturbation_curve(model, images, images.abs())
        cgc(curve, 281, range(281, 286))  # [2], why 281 and not another of the group?
    """
    check_choice("variant", variant, get_args(Variant))
    check_choice("members", members, ("others", "all"))
    clean, masked = probabilities_of(curve)
    a, g = class_of_each(target, clean, "target"), group_of_each(group, clean, "the group")
    if members == "others":
        g = g & ~a
        if not g.any(1).all():
            raise ValueError(f"the group of example {first_of(~g.any(1))} is the target class alone; it has no rest")
    _warn_if_all(a, g, clean)
    d = masked - clean[:, None]
    d_a, rest = total(d, a), _reduced(d, g, group_reduce)
    return _area(curve, (rest + d_a if variant == "published" else rest - d_a) / 2, area)


def pgs(curve: Curve, group: GroupOfEach, *, group_reduce: GroupReduce = "sum", area: Area = "published") -> Tensor:
    """Compute the Pointwise Group Score, ``[N]`` float64, higher is better: why this group G?

    The area under ``R_{k in G} (p_k(x) - p_k(x_a))``, with R the sum or mean.

    Raises:
        ValueError: classes that the output does not have, an empty group, a curve that is not of probabilities.
        TypeError: classes that are not integers.

    Example::

        curve = perturbation_curve(model, images, images.abs())
        pgs(curve, range(281, 286))  # [2], why this group?
    """
    clean, masked = probabilities_of(curve)
    g = group_of_each(group, clean, "the group")
    return _area(curve, _reduced(clean[:, None] - masked, g, group_reduce), area)


def cgs(
    curve: Curve,
    group: GroupOfEach,
    foils: GroupOfEach,
    *,
    variant: Variant = "consistent",
    group_reduce: GroupReduce = "sum",
    area: Area = "published",
) -> Tensor:
    """Compute the Contrastive Group Score, ``[N]`` float64: why group G1 and not group G2?

    Consistent: the area under ``1/2 (-R_{k in G1} d_k + R_{j in G2} d_j)``, with R the sum or mean; published:
    under ``1/2 (R_{k in G1} d_k + R_{j in G2} d_j)``. Where the groups together cover all classes and the
    probabilities sum to one, the consistent variant (with sums) is PGS of G1, and a warning is given.

    Raises:
        ValueError: classes that the output does not have, empty or overlapping groups, a curve that is not
            of probabilities.
        TypeError: classes that are not integers.

    Example::

        curve = perturbation_curve(model, images, images.abs())
        cgs(curve, range(281, 286), foils=range(151, 269))  # [2], why a cat and not a dog?
    """
    check_choice("variant", variant, get_args(Variant))
    clean, masked = probabilities_of(curve)
    g1, g2 = group_of_each(group, clean, "the group"), group_of_each(foils, clean, "the group of foils")
    check_apart(g1, g2)
    _warn_if_all(g1, g2, clean)
    d = masked - clean[:, None]
    d_1, d_2 = _reduced(d, g1, group_reduce), _reduced(d, g2, group_reduce)
    return _area(curve, (d_2 + d_1 if variant == "published" else d_2 - d_1) / 2, area)


def _warn_if_all(one: Tensor, other: Tensor, clean: Tensor) -> None:
    apart_and_all = (one ^ other).all(1)
    if (apart_and_all & ((clean.sum(1) - 1).abs() < 1e-4)).any():
        warnings.warn(
            "the two sides of the contrast are all classes together, so one gains what the other "
            "loses: the score contains no more than the drop of one side (PGS); leave some classes on neither side",
            ExhaustiveGroupsWarning,
            stacklevel=callers_level(),
        )


def _reduced(values: Tensor, chosen: Tensor, group_reduce: GroupReduce) -> Tensor:
    check_choice("group_reduce", group_reduce, get_args(GroupReduce))
    summed = total(values, chosen)
    return summed / chosen.sum(1)[:, None] if group_reduce == "mean" else summed


def _area(curve: Curve, s: Tensor, area: Area) -> Tensor:
    """Return the trapezoid area of ``s [N, F]`` over the curve's fractions, ``[N]``."""
    check_choice("area", area, get_args(Area))
    fractions = curve.fractions.to(s)
    under = torch.trapezoid(s, fractions, dim=1)
    return under / (fractions[-1] - fractions[0]) if area == "normalised" else under
