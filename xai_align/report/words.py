"""Sentences about a map: the positions and shares of the evidence for the answer and against it.

The regions are those of :mod:`xai_align.evaluation.salient_regions`; the words are in :mod:`xai_align.report.phrases`.
Every number in a text is one of its :class:`Words`, computed from the map.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from torch import Tensor

from xai_align.evaluation.salient_regions import SalientRegion, grid_labels, region_sums, salient_regions
from xai_align.report.number_format import number_format
from xai_align.report.phrases import ENGLISH, Phrases

if TYPE_CHECKING:
    from xai_align.report.record import Record

#: A region that spans this share of the picture's width, or height, is described as going across it.
SPANS = 2 / 3


@dataclass(frozen=True, kw_only=True)
class Words:
    """Sentences about one map.

    Attributes:
        text: the sentences, beginning with the question.
        regions: the regions that are mentioned, those for the answer first, each largest first.
        coverage: share of the evidence for the answer that they cover.
    """

    text: str
    regions: tuple[SalientRegion, ...]
    coverage: float


def words_of(
    record: Record,
    *,
    regions: Tensor | None = None,
    names: Mapping[int, str] | None = None,
    max_regions: int = 3,
    min_coverage: float = 0.05,
    phrases: Phrases = ENGLISH,
) -> Words:
    """Return sentences about a record's map. The same map always gives the same sentences.

    Args:
        record: the explanation of one image, from :func:`~xai_align.report.record.record_of`.
        regions: label of each pixel's region ``[H, W]``, such as superpixels or parts; None: an 8 x 8 grid. Pixels
            below 0 belong to none.
        names: name of each region, for masks of objects: "the head". Named regions are not merged.
        max_regions: largest number of regions for the answer; of those against it, the largest is described.
        min_coverage: regions with a smaller share of the evidence are left out.
        phrases: the language.

    Raises:
        ValueError: the record has no map, ``regions`` are not integers of the map's size, or a region has no name.

    Example::

        from xai_align import explain
        from xai_align.report.record import record_of

        explanation = explain(model, images[:1], 3)
        words_of(record_of(explanation, image="photo")).text  # "Why class 3? Of the evidence for class 3, 41 % ..."
    """
    if not record.map.numel():
        raise ValueError("the record has no map, so it has no sentences; make them before the map is dropped")
    if not bool(record.map.isfinite().all()):
        return Words(text=f"{record.question} {phrases.not_finite}", regions=(), coverage=0.0)
    if not bool(record.map.double().abs().sum().isfinite()):
        return Words(text=f"{record.question} {phrases.too_large}", regions=(), coverage=0.0)
    labels = grid_labels(*record.map.shape) if regions is None else regions
    unnamed = set(labels[labels >= 0].unique().tolist()) - set(names or ()) if names is not None else set()
    if unnamed:
        raise ValueError(f"region(s) {', '.join(map(str, sorted(unnamed)))} have no name; give one for each label")
    search = partial(salient_regions, labels=labels, joined=names is None, min_coverage=min_coverage)
    values = record.map.double()
    found = search(values, max_regions=max_regions)
    against = search(-values, max_regions=1) if record.signed else []
    against = [replace(region, total=-region.total) for region in against]
    told = found if names is not None or (found and found[0].stands_out) else found[:1]
    total = float(values.sum())
    rest = record.answer - total if record.is_decomposition else record.gap
    sums = (total, record.answer, rest) if record.values == "contributions" else ()
    number = number_format([*sums, *(region.total for region in (*told, *against))])
    say = _Sentences(record, names, phrases, number)
    by_region = region_sums(values, labels)
    for_somewhere, against_somewhere = bool((by_region > 0).any()), bool((by_region < 0).any())
    sentences = [record.question]
    if not bool((values != 0).any()):
        sentences.append(phrases.empty)
    else:
        sentences.append(say.on_evidence(told, for_somewhere))
        if record.signed:
            sentences.append(say.on_evidence_against(against, against_somewhere))
    sentences.append(say.on_sum())
    return Words(
        text=" ".join(filter(None, sentences)),
        regions=(*told, *against),
        coverage=sum(region.coverage for region in told),
    )


@dataclass(frozen=True)
class _Sentences:
    record: Record
    names: Mapping[int, str] | None
    phrases: Phrases
    number: Callable[[float], str]

    def on_evidence(self, found: Sequence[SalientRegion], somewhere: bool) -> str:
        """Return the sentence on the evidence for the answer; ``somewhere``: some region has a positive sum."""
        p = self.phrases
        has_evidence = self.record.values == "contributions" or self.record.signed
        what = p.evidence.format(side=self.side) if has_evidence else p.weight
        if not found:
            return self.without_find(what, somewhere)
        if self.names is None and not found[0].stands_out:
            return p.spread.format(what=what, region=self.region(found[0]))
        *before, last = map(self.region, found)
        regions = p.last.join([p.between.join(before), last]) if before else last
        return p.most.format(what=what, regions=regions)

    def without_find(self, what: str, somewhere: bool) -> str:
        """Return the sentence on evidence of which no region holds enough to be described."""
        p = self.phrases
        if not bool((self.record.map > 0).any()):
            return p.nothing_for.format(side=self.side)
        covered = self.names is None and self.record.signed  # named regions may leave out a part of the picture
        return p.thin.format(what=what) if somewhere or not covered else p.outweighed.format(side=self.side)

    def on_evidence_against(self, found: Sequence[SalientRegion], somewhere: bool) -> str:
        if not found and somewhere:
            return self.phrases.thin_against
        if not found:
            return "" if bool((self.record.map < 0).any()) else self.phrases.nothing_against
        return self.phrases.against.format(region=self.region(found[0]))

    def on_sum(self) -> str:
        record, p, number = self.record, self.phrases, self.number
        if record.values != "contributions":
            return ""
        on_picture = float(record.map.double().sum())
        numbers = {"contributions": number(on_picture), "answer": number(record.answer), "unit": self.unit}
        if record.is_decomposition:
            return p.decomposition.format(**numbers, rest=number(record.answer - on_picture))
        return p.total.format(**numbers, gap=number(record.gap))

    def region(self, one: SalientRegion) -> str:
        p = self.phrases
        counts = self.record.values == "contributions"
        words = {
            "share": self.percent(one.coverage),
            "area": self.percent(one.area),
            "amount": p.amount.format(sum=self.number(one.total), unit=self.unit) if counts else "",
        }
        if self.names is None:
            return p.region.format(place=self.place(one.mask), **words)
        return p.named.format(place=p.last.join(self.names[label] for label in one.labels), **words)

    def place(self, mask: Tensor) -> str:
        """Return the position of a region: one of nine parts, by its centre, or across the picture."""
        p = self.phrases
        thirds, wide = [], []
        for axis in (0, 1):
            hit = mask.any(1 - axis).nonzero().flatten()
            size = mask.shape[axis]
            wide.append(int(hit[-1] - hit[0]) + 1 > SPANS * size)
            centre = float(mask.nonzero()[:, axis].double().mean() + 0.5) / size
            thirds.append(min(int(3 * centre), 2))
        if all(wide):
            return p.everywhere
        if wide[0]:
            return p.columns[thirds[1]]
        return p.rows[thirds[0]] if wide[1] else p.places[3 * thirds[0] + thirds[1]]

    def percent(self, share: float) -> str:
        rounded = round(100 * share)
        return self.phrases.percent.format(rounded) if rounded else self.phrases.little

    @property
    def unit(self) -> str:
        return self.record.meaning.answer_unit

    @property
    def side(self) -> str:
        """Return the classes asked about, against the foils if there are any."""
        record, p = self.record, self.phrases
        side = p.either.join(map(record.meaning.name, record.targets))
        if record.meaning.kind == "regression":
            side = p.higher.format(side=side)
        if record.foils == ():
            return side
        foil = p.others if record.foils is None else p.either.join(map(record.meaning.name, record.foils))
        return p.rather.format(side=side, foil=foil) if record.targets else p.opposite.format(foil=foil)
