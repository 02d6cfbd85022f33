"""One answer on a page: a method's map for one question about one image, with its sum in words and in terms.

A comparison writes answers next to its pictures as JSON and reads them back when the page is made.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from xai_align._tools.files.fields import (
    check_fields,
    either,
    flag,
    listed,
    nothing,
    number,
    one_of,
    record,
    text,
    whole,
)
from xai_align._tools.files.plain_json import read_json
from xai_align.data.colour_legend import NAMES, Key, colour_legend
from xai_align.data.overlay import coloured, density
from xai_align.report.record_text import exactness, sum_text
from xai_align.report.stored_map import MOST_CELLS, StoredMap, stored_map
from xai_align.report.sum_terms import Term, sum_terms
from xai_align.report.thumbnail import thumbnail_of
from xai_align.report.words import words_of

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from xai_align._tools.jpeg import SmallPicture
    from xai_align.report.record import Record

_TEXT = text(r"[\s\S]*", longest=100_000, expected="a text")
_SIZE = number(0, 1)
_MAP = {
    **dict.fromkeys(("rows", "columns"), whole(1, 2 * MOST_CELLS)),
    **dict.fromkeys(("height", "width"), _SIZE),
    **dict.fromkeys(("scale", "low", "high"), number()),
    "data": text(r"[A-Za-z0-9+/]*={0,2}", longest=8 * MOST_CELLS**2, expected="base64"),
}
_TERM = record(
    {"kind": _TEXT, "text": _TEXT, "value": number(), "box": listed(_SIZE, 0, 4), "share": either(nothing, _SIZE)}
)
#: Schema of the file of an answer.
STORED = record(
    {
        **dict.fromkeys(("method", "layer", "question", "unit", "sum_text", "exactness", "words", "note"), _TEXT),
        **dict.fromkeys(("is_decomposition", "signed"), flag()),
        "answer": either(nothing, number()),
        "keys": listed(record({"colour": one_of(*NAMES), "text": _TEXT}), 1, 2),
        "terms": listed(_TERM),
        "map": either(nothing, record(_MAP)),
    }
)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Part of a record that a page shows.

    Attributes:
        method, layer, question: as in :class:`~xai_align.report.record.Record`; layer "": none.
        unit: the unit of a cell's value; "": it has none.
        answer: the question's answer from the logits; a file has null for one that is not finite.
        is_decomposition: whether the terms are the answer's exact decomposition.
        signed: whether values below zero are evidence against the answer.
        sum_text, exactness, note: see :mod:`~xai_align.report.record_text`.
        words: the map in sentences, see :mod:`~xai_align.report.words`.
        keys: meaning of the colours.
        terms: the sum; empty where the map doesn't add up to anything.
        map: the values; None: only a picture is left.
    """

    method: str
    layer: str
    question: str
    unit: str
    answer: float
    is_decomposition: bool
    signed: bool
    sum_text: str
    exactness: str
    words: str
    note: str
    keys: tuple[Key, ...]
    terms: tuple[Term, ...]
    map: StoredMap | None

    @property
    def label(self) -> str:
        """Method and layer: ``"pinet at input"``."""
        return f"{self.method} at {self.layer}" if self.layer else self.method


def answer_of(record: Record) -> Answer:
    """Return the part of a record that a page shows.

    Raises:
        ValueError: the map has no positions.
    """
    return Answer(
        method=record.method,
        layer=record.layer or "",
        question=record.question,
        unit=record.meaning.answer_unit if record.values == "contributions" else "",
        answer=record.answer,
        is_decomposition=record.is_decomposition,
        signed=record.signed,
        sum_text=sum_text(record),
        exactness=exactness(record),
        words=words_of(record).text.removeprefix(record.question).strip(),
        note=record.note,
        keys=colour_legend(record.values, signed=record.signed, regression=record.meaning.kind == "regression"),
        terms=sum_terms(record),
        map=stored_map(record.map, signed=record.signed, cells=record.cells),
    )


def overlay_of(record: Record, picture: NDArray[Any]) -> SmallPicture:
    """Return a thumbnail of the map over the picture ``[H, W, 3]``, for cards and for readers without scripts."""
    return thumbnail_of(coloured(picture, density(record.map, picture.shape[:2]), signed=record.signed))


def answer_json(answer: Answer) -> str:
    """Return an answer as JSON."""
    pairs = {"keys": [key._asdict() for key in answer.keys], "terms": [term._asdict() for term in answer.terms]}
    shown = {"answer": answer.answer if math.isfinite(answer.answer) else None}
    content = asdict(answer) | pairs | shown
    return json.dumps(content, ensure_ascii=False, allow_nan=False)


def read_answer(path: Path) -> Answer | None:
    """Return the answer in a file; None if there is none, or it is damaged."""
    try:
        found = read_json(path)
        check_fields(found, STORED, str(path))
    except ValueError:
        return None
    stored = found["map"]
    if stored is not None and len(stored["data"]) != 4 * ((stored["rows"] * stored["columns"] + 2) // 3):
        return None
    terms = tuple(Term(**(one | {"box": tuple(one["box"])})) for one in found["terms"])
    return Answer(
        **(
            found
            | {"answer": math.nan if found["answer"] is None else found["answer"]}
            | {"keys": tuple(Key(**key) for key in found["keys"]), "terms": terms}
            | {"map": None if stored is None else StoredMap(**stored)}
        )
    )
