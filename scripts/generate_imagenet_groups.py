"""Writes the table of ImageNet's class groups from WordNet 3.0's nouns.

    python scripts/generate_imagenet_groups.py data.noun imagenet_synsets.txt \\
        xai_align/data/imagenet_groups/hypernyms.tsv

``data.noun`` is part of WordNet 3.0 (Debian: the package ``wordnet-base``). The
other file names the classes by their wnids, one a line, in the order of the
network's outputs (timm ships it as ``data/_info/imagenet_synsets.txt``). A wnid
is ``n`` and the byte offset at which ``data.noun`` tells about the synset.
The same input gives the same bytes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

HEADER = """\
# Groups of ImageNet's 1000 classes: every WordNet 3.0 noun synset that covers two of them or more, narrow ones first.
# Written by scripts/generate_imagenet_groups.py. WordNet's licence is in LICENCE.md beside this file.
# wnid <tab> direct hypernyms <tab> names, with | between them <tab> class indices, from 0
"""


@dataclass(frozen=True)
class Synset:
    """A noun of WordNet: its names, and the wnids of the nouns directly above it."""

    names: tuple[str, ...]
    hypernyms: tuple[str, ...]


def parse_nouns(lines: Iterable[str]) -> dict[str, Synset]:
    """The synsets of ``data.noun`` by wnid; the format is that of WordNet's manual page wndb(5).

    ``offset lex_filenum n w_cnt word lex_id [word lex_id...] p_cnt [symbol offset pos source/target...] | gloss``,
    where ``w_cnt`` is hexadecimal and ``p_cnt`` decimal. Lines of the licence begin with a space.
    """
    synsets = {}
    for line in lines:
        if not line.strip() or line.startswith(" "):
            continue
        fields = line.split("|", 1)[0].split()
        count = int(fields[3], 16)
        names = tuple(word.replace("_", " ") for word in fields[4 : 4 + 2 * count : 2])
        pointers = fields[5 + 2 * count :]
        above = [
            f"n{offset}" for symbol, offset in zip(pointers[::4], pointers[1::4], strict=True) if symbol in ("@", "@i")
        ]
        synsets[f"n{fields[0]}"] = Synset(names, tuple(above))
    return synsets


def covered_classes(synsets: Mapping[str, Synset], class_wnids: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """For every synset at or above a class: the indices of the classes at or below it.

    Raises:
        ValueError: WordNet lacks a class, or a class is named twice.
    """
    missing = [wnid for wnid in class_wnids if wnid not in synsets]
    if missing:
        raise ValueError(f"{len(missing)} classes are not in data.noun, the first is {missing[0]}; is it WordNet 3.0?")
    if len(set(class_wnids)) < len(class_wnids):
        raise ValueError("a wnid stands for two classes")
    covered: dict[str, list[int]] = {}
    for index, wnid in enumerate(class_wnids):
        for synset in {wnid} | ancestors(synsets, wnid):
            covered.setdefault(synset, []).append(index)
    return {wnid: tuple(classes) for wnid, classes in covered.items()}


def ancestors(synsets: Mapping[str, Synset], wnid: str) -> set[str]:
    """Every synset above this one, on every path (WordNet is no tree)."""
    found: set[str] = set()
    waiting = [wnid]
    while waiting:
        new = set(synsets[waiting.pop()].hypernyms) - found
        found |= new
        waiting.extend(new)
    return found


def table(synsets: Mapping[str, Synset], class_wnids: Sequence[str]) -> str:
    """The table as text: groups of two classes or more, narrow before broad."""

    @cache
    def depth(wnid: str) -> int:
        return 1 + max(map(depth, synsets[wnid].hypernyms), default=0)

    groups = {wnid: classes for wnid, classes in covered_classes(synsets, class_wnids).items() if len(classes) > 1}
    # of two synsets with the same classes the deeper one is the narrower
    order = sorted(groups, key=lambda wnid: (len(groups[wnid]), -depth(wnid), wnid))
    rows = [
        "\t".join((wnid, ",".join(synsets[wnid].hypernyms), "|".join(synsets[wnid].names), ranges(groups[wnid])))
        for wnid in order
    ]
    return HEADER + "".join(f"{row}\n" for row in rows)


def ranges(indices: Sequence[int]) -> str:
    """Ascending indices in short: ``(1, 2, 3, 7)`` is ``"1-3,7"``."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][1] + 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def main(arguments: Sequence[str]) -> int:
    """Reads the two files, writes the table."""
    if len(arguments) != 3:
        print("usage: generate_imagenet_groups.py DATA_NOUN SYNSET_LIST TABLE", file=sys.stderr)
        return 2
    nouns, classes, target = map(Path, arguments)
    synsets = parse_nouns(nouns.read_text(encoding="utf-8").splitlines())
    target.write_bytes(table(synsets, classes.read_text(encoding="utf-8").split()).encode("utf-8"))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
