"""Phrases of the sentences about a map, for translation in one place."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Phrases:
    """Format strings of a language.

    Attributes:
        places: the nine positions of a region, row by row from the upper left.
        rows, columns: positions of a wide region, from the top, and of a tall one, from the left.
        everywhere: position of a region that is both wide and tall.
        percent, little: a share, and one that rounds to zero.
        amount: a sum in a unit.
        region, named: a region: its share, its position or name, its part of the picture, and ``amount`` if there is
            one.
        evidence, weight: the content of a map: contributions, or values whose sum has no meaning.
        most: sentence on the regions that stand out, largest first.
        spread, thin: sentence for a map in which no region stands out, with and without the largest region.
        against, nothing_against, nothing_for: sentences on the evidence against the answer, and on the absence of
            evidence against or for it.
        thin_against: sentence on evidence against of which no region holds enough to be described.
        outweighed: sentence for a map with evidence for the answer, but more evidence against it in every region.
        rather, others, either: the answer of a contrastive question, the foil of all other classes, and the separator
            of the classes of a group.
        opposite, higher: the answer of the question why not a class, and of a question about a regression.
        total, decomposition: the sum of a map that leaves a gap, and of one that decomposes the answer.
        empty, not_finite, too_large: sentences for a map of zeros, for one that contains NaN or infinity, and for one
            without a finite sum.
        between, last: separators between the parts of a list, and before its last one.
    """

    places: tuple[str, ...]
    rows: tuple[str, str, str]
    columns: tuple[str, str, str]
    everywhere: str
    percent: str
    little: str
    amount: str
    region: str
    named: str
    evidence: str
    weight: str
    most: str
    spread: str
    thin: str
    against: str
    nothing_against: str
    nothing_for: str
    thin_against: str
    outweighed: str
    rather: str
    others: str
    either: str
    opposite: str
    higher: str
    total: str
    decomposition: str
    empty: str
    not_finite: str
    too_large: str
    between: str
    last: str


ENGLISH = Phrases(
    places=(
        "in the upper left",
        "at the top",
        "in the upper right",
        "on the left",
        "in the centre",
        "on the right",
        "in the lower left",
        "at the bottom",
        "in the lower right",
    ),
    rows=("across the top", "across the middle", "across the bottom"),
    columns=("down the left side", "down the middle", "down the right side"),
    everywhere="over most of the picture",
    percent="{0} %",
    little="less than 1 %",
    amount="{sum} {unit}, ",
    region="{share} lies {place} ({amount}{area} of the picture)",
    named="{share} lies on {place} ({amount}{area} of the picture)",
    evidence="evidence for {side}",
    weight="weight of the map",
    most="Of the {what}, {regions}.",
    spread="The {what} is spread out, and no region stands out: at most {region}.",
    thin="The {what} is spread out, and no region stands out.",
    against="Of the evidence against it, {region}.",
    nothing_against="There is no evidence against it.",
    nothing_for="There is no evidence for {side} in the picture.",
    thin_against="The evidence against it is spread out, and no region stands out.",
    outweighed="In every region of the picture, the evidence against {side} outweighs the evidence for it.",
    rather="{side} rather than {foil}",
    others="any other",
    either=" or ",
    opposite="anything but {foil}",
    higher="a higher value of {side}",
    total="The map sums to {contributions} and the answer is {answer} {unit}: {gap} is not explained by the map.",
    decomposition="The picture contributes {contributions} and the terms without a position {rest}: {answer} {unit}.",
    empty="The map is zero everywhere.",
    not_finite="The map contains values that are not finite, and cannot be described.",
    too_large="The map's values are too large to be summed, and cannot be described.",
    between=", ",
    last=" and ",
)
