"""Groups of ImageNet's 1000 classes by WordNet: dogs, terriers, birds, trucks.

A group is a synset of WordNet 3.0, identified by its wnid, because one English word
has several senses: "cat" is seven small cats or six big ones. A synset may be
below several others, so groups can overlap without one containing the other.
WordNet's licence is in ``LICENCE.md`` beside the table.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from xai_align._tools.counted import counted

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Number of ImageNet's classes, which the table has in the order of the network's outputs.
NUM_CLASSES = 1000
TABLE = Path(__file__).parent / "hypernyms.tsv"


@dataclass(frozen=True, kw_only=True)
class Hypernym:
    """WordNet synset that covers two or more ImageNet classes.

    Attributes:
        wnid: its name in ImageNet, ``n`` and eight digits.
        names: its English names, the usual one first.
        above: wnids of the synsets directly above it.
        classes: indices of the classes it covers, from 0, ascending.
    """

    wnid: str
    names: tuple[str, ...]
    above: tuple[str, ...]
    classes: tuple[int, ...]

    def __str__(self) -> str:
        """Return the usual name, the wnid and the size."""
        return f"{self.names[0]} ({self.wnid}, {counted(len(self.classes), 'class')})"


@cache
def hypernyms() -> Mapping[str, Hypernym]:
    """Return every group of the table by wnid, narrow ones first (of equally large ones the deeper first)."""
    lines = TABLE.read_text(encoding="utf-8").splitlines()
    rows = [_parsed(line) for line in lines if not line.startswith("#")]
    return MappingProxyType({row.wnid: row for row in rows})


def find_hypernym(wanted: str) -> Hypernym:
    """Find a group by wnid, or by an English name that only one group has. Case does not matter.

    Raises:
        ValueError: no group has this name, or more than one (the message lists them).
    """
    sought = wanted.strip().replace("_", " ").casefold()
    if sought in hypernyms():
        return hypernyms()[sought]
    meant = [group for group in hypernyms().values() if sought in map(str.casefold, group.names)]
    if len(meant) == 1:
        return meant[0]
    if meant:
        listed = ", ".join(
            f"{group.wnid} ({', '.join(group.names)}; {counted(len(group.classes), 'class')})" for group in meant
        )
        raise ValueError(f"'{wanted}' means {len(meant)} groups: {listed}; ask by wnid")
    raise ValueError(f"no group of ImageNet classes is called '{wanted}'{_suggestion(sought)}")


def default_group(index: int, *, at_least: int = 4) -> Hypernym:
    """Return the smallest group with a class and at least ``at_least`` members: "spitz" for a Samoyed (258).

    Raises:
        TypeError: the index is not an integer.
        ValueError: there is no such class, or no group that large.
    """
    if isinstance(index, bool) or not hasattr(index, "__index__"):
        raise TypeError(f"the class is {index!r}; give its index, an integer")
    if not 0 <= index < NUM_CLASSES:
        raise ValueError(f"class {index} is out of range; ImageNet has {NUM_CLASSES}, numbered 0 … {NUM_CLASSES - 1}")
    for group in hypernyms().values():  # narrow ones come first
        if len(group.classes) >= at_least and index in group.classes:
            return group
    raise ValueError(f"no group holds {at_least} of the {NUM_CLASSES} classes")


def default_foil(wnid: str, *, at_least: int = 4) -> Hypernym:
    """Return a foil group: a sibling with no class in common, "big cat" for "domestic cat".

    Siblings are directly below one hypernym: the narrowest one that has
    a sibling with ``at_least`` members. Of several siblings the one
    closest in size is returned, so that neither side has an advantage by size; then the
    first one in the table.

    Args:
        wnid: the group that the question is about, by wnid or by an unambiguous name.
        at_least: the smallest number of classes of the foil.

    Raises:
        ValueError: the group is not in the table, or has no sibling.
    """
    group = find_hypernym(wnid)
    above = _all_above(group)
    for parent in hypernyms().values():  # narrow ones come first
        if parent.wnid not in above:
            continue
        siblings = [
            other
            for other in hypernyms().values()
            if parent.wnid in other.above
            and len(other.classes) >= at_least
            and not set(other.classes) & set(group.classes)
        ]
        if siblings:
            return min(siblings, key=lambda other: abs(len(other.classes) - len(group.classes)))
    raise ValueError(f"no group of {at_least} classes or more stands beside {group}; name the foils yourself")


def _all_above(group: Hypernym) -> set[str]:
    """Return the wnids of every hypernym, on every path."""
    return set(group.above).union(*(_all_above(hypernyms()[wnid]) for wnid in group.above))


def _parsed(line: str) -> Hypernym:
    wnid, above, names, ranges = line.split("\t")
    runs = [[int(end) for end in run.split("-")] for run in ranges.split(",")]
    return Hypernym(
        wnid=wnid,
        names=tuple(names.split("|")),
        above=tuple(above.split(",")) if above else (),
        classes=tuple(index for run in runs for index in range(run[0], run[-1] + 1)),
    )


def _suggestion(sought: str) -> str:
    words = set(sought.split())
    close = [
        group for group in hypernyms().values() if any(words & set(name.casefold().split()) for name in group.names)
    ]
    return f"; did you mean {' or '.join(map(str, close[:3]))}?" if close else ""
