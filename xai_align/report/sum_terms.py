"""The sum that makes an answer, as a few terms: the strongest regions, the rest, what speaks against, the bias."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from xai_align._tools.sum_keeping import resize_keeping_sum

if TYPE_CHECKING:
    from torch import Tensor

    from xai_align.report.record import Record

#: Number of regions that have a term of their own.
TOP = 3
#: Most regions along one side of the picture.
REGIONS = 7

Kind = Literal["region", "rest", "against", "apart", "bias", "gap"]


class Term(NamedTuple):
    """One term of the sum.

    ``box``: left, top, width and height of its region as shares of the picture; empty: it has none.
    """

    kind: Kind
    text: str
    value: float
    box: tuple[float, ...] = ()


def sum_terms(record: Record) -> tuple[Term, ...]:
    """Return the terms of a record's answer; they sum to it. Empty for maps that don't add up to anything.

    The picture is divided into at most 7 x 7 regions. A region's term is the sum of the map over it: the three
    largest stand alone, the others are added up by sign. For a method without a decomposition, the last term is what
    its map leaves unexplained.

    Example::

        [(term.text, term.value) for term in sum_terms(record)]
        # [("middle", 4.1), ("left", 2.0), ("top left", 1.2), ("all other regions for", 3.1),
        #  ("all regions against", -1.3), ("bias", 0.3)]
    """
    regions = _regions(record.map if record.cells is None else record.cells)
    if record.values != "contributions" or not bool(regions.isfinite().all()):
        return ()
    rows, columns = regions.shape
    ranked = sorted(enumerate(regions.flatten().tolist()), key=lambda pair: -pair[1])
    first = [(index, value) for index, value in ranked[:TOP] if value > 0]
    others = [value for _, value in ranked[len(first) :]]
    terms = []
    for index, value in first:
        row, column = divmod(index, columns)
        box = (column / columns, row / rows, 1 / columns, 1 / rows)
        terms.append(Term("region", _place(box), value, box))
    rest, against = sum(value for value in others if value > 0), sum(value for value in others if value < 0)
    terms += [Term("rest", "all other regions for", rest), Term("against", "all regions against", against)]
    if record.prefix:
        terms.append(Term("apart", "tokens without a position", record.prefix))
    if record.around:
        terms.append(Term("apart", "evidence that bypasses the layer", record.around))
    if record.bias is None:
        terms.append(Term("gap", "not explained by the map", record.gap))
    else:
        terms.append(Term("bias", "bias", record.bias))
    return tuple(terms)


def _regions(values: Tensor) -> Tensor:
    rows, columns = (min(length, REGIONS) for length in values.shape)
    return resize_keeping_sum(values.double(), (rows, columns))


def _place(box: tuple[float, ...]) -> str:
    """Return where the middle of a box lies in the picture, in words."""
    left, top, width, height = box
    across = ("left", "", "right")[min(int(3 * (left + width / 2)), 2)]
    down = ("top", "", "bottom")[min(int(3 * (top + height / 2)), 2)]
    return " ".join(part for part in (down, across) if part) or "middle"
