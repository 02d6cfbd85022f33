"""Sum of an answer, as a few terms: the strongest regions, the rest, the evidence against, the bias."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, NamedTuple

from xai_align._tools.sum_keeping import resize_keeping_sum

if TYPE_CHECKING:
    from xai_align.report.record import Record

#: Number of regions that have a term of their own.
TOP = 3
#: Regions along each side of the picture.
REGIONS = 3

#: Their names.
PLACES = (("top left", "top", "top right"), ("left", "middle", "right"), ("bottom left", "bottom", "bottom right"))

Kind = Literal["region", "rest", "against", "apart", "bias", "gap", "total"]


class Term(NamedTuple):
    """One term of the sum.

    ``box``: left, top, width and height of its region as shares of the picture; empty: it has none. ``share``: of the
    evidence for the answer, the sum of all regions with a positive one; None: it is evidence against, or not a region.
    """

    kind: Kind
    text: str
    value: float
    box: tuple[float, ...] = ()
    share: float | None = None


def sum_terms(record: Record) -> tuple[Term, ...]:
    """Return the terms of a record's answer; they sum to it. Empty for maps that don't add up to anything, or to no
    finite number.

    The picture is divided into 3 x 3 regions; a cell of the map that lies in several is divided by area. A region's
    term is the sum of the map over it: the three largest stand alone, the others are added up by sign. For a method
    without a decomposition, the last term is the gap between the map's sum and the answer.

    Example::

        [(term.text, term.value) for term in sum_terms(record)]
        # [("middle", 4.1), ("left", 2.0), ("top left", 1.2), ("other regions in favour", 3.1),
        #  ("all regions against", -1.3), ("bias", 0.3)]
    """
    regions = resize_keeping_sum((record.map if record.cells is None else record.cells).double(), (REGIONS, REGIONS))
    if record.values != "contributions" or not bool(regions.isfinite().all()):
        return ()
    ranked = sorted(enumerate(regions.flatten().tolist()), key=lambda pair: -pair[1])
    first = [(index, value) for index, value in ranked[:TOP] if value > 0]
    others = [value for _, value in ranked[len(first) :]]
    evidence = sum(value for _, value in ranked if value > 0)
    terms: list[Term] = []
    for index, value in first:
        row, column = divmod(index, REGIONS)
        box = (column / REGIONS, row / REGIONS, 1 / REGIONS, 1 / REGIONS)
        terms.append(Term("region", PLACES[row][column], value, box, min(value / evidence, 1.0)))
    rest, against = sum(value for value in others if value > 0), sum(value for value in others if value < 0)
    if rest:
        terms.append(Term("rest", "other regions in favour", rest, share=min(rest / evidence, 1.0)))
    if against:
        terms.append(Term("against", "all regions against", against))
    if record.prefix:
        terms.append(Term("apart", "tokens without a position", record.prefix))
    if record.around:
        terms.append(Term("apart", "evidence that bypasses the layer", record.around))
    if record.bias is None:
        terms.append(Term("gap", "not explained by the map", record.gap))
    else:
        terms.append(Term("bias", "bias", record.bias))
    return tuple(terms) if all(math.isfinite(term.value) for term in terms) and math.isfinite(evidence) else ()
