"""Phrases of the sentences on a map: the one place to translate."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Phrases:
    """Format strings of a language.

    Attributes:
        places: where a region lies: nine, row by row from the upper left.
        rows, columns: where a region lies that is wide, from the top, or tall, from the left; everywhere: both.
        percent, little: a share, and one that rounds to nothing.
        amount: a sum in a unit.
        region, named: a find: its share, its place or name, its part of the picture, and ``amount`` if there is one.
        evidence, weight: what a map holds: contributions, or values whose sum has no meaning.
        most, more: sentence of the largest find, and how the others follow it.
        spread, thin: sentence where nothing stands out, with the largest find, and without one.
        against, nothing_against, nothing_for: sentences on the evidence against the answer, or its absence.
        thin_against: sentence on evidence against without a find.
        outweighed: sentence where there is evidence for, and more against in every region.
        rather, others, either: the answer of a contrastive question, the foil of all other classes, one of a group.
        opposite, higher: the answer of the question why not a class, and of one about a number.
        total, decomposition: the sum, of a map that leaves a gap, and of one whose terms make the answer.
        empty, not_finite, too_large: sentences of a map of zeros, of one that holds NaN or infinity, and of one without
            a finite sum.
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
    more: str
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
    most="Of the {what}, {region}{more}.",
    more=", {region}",
    spread="The {what} is spread out and nothing stands out: at most {region}.",
    thin="The {what} is spread out and nothing stands out.",
    against="Of the evidence against it, {region}.",
    nothing_against="Nothing speaks against it.",
    nothing_for="Nothing in the picture speaks for {side}.",
    thin_against="The evidence against it is spread out and nothing stands out.",
    outweighed="Everywhere in the picture, the evidence against {side} outweighs the evidence for it.",
    rather="{side} rather than {foil}",
    others="any other",
    either=" or ",
    opposite="anything but {foil}",
    higher="a higher value of {side}",
    total="The map sums to {contributions}, the answer is {answer} {unit}: {gap} is not explained by the map.",
    decomposition="The picture adds {contributions} and what has no position in it {rest}: {answer} {unit}.",
    empty="The map is zero everywhere.",
    not_finite="The map holds values that are not finite, and says nothing.",
    too_large="The map's values are too large to be added up, and say nothing.",
    between=", ",
    last=" and ",
)
