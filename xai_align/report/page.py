"""Self-contained HTML page for many explanations: pictures, maps that can be explored, sums, all numbers.

The page is a single file that fetches nothing. Pictures and numbers are shown without scripts; with scripts, the maps
are drawn by the page, overlaid on the photograph, switched, and read cell by cell.
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from importlib.resources import files
from pathlib import PurePath
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from xai_align._tools.files.legible import legible
from xai_align._tools.files.plain_json import printable
from xai_align._tools.files.whole_file import write_whole
from xai_align.data.overlay import AGAINST, FOR, RANKED, STRONGEST
from xai_align.report.number_format import number_format
from xai_align.report.record_text import (
    COLUMNS,
    NUMBER_COLUMNS,
    footnotes,
    remarks,
    table_rows,
)
from xai_align.report.sum_terms import Term

if TYPE_CHECKING:
    from pathlib import Path

    from xai_align._tools.jpeg import SmallPicture
    from xai_align.data.colour_legend import Key
    from xai_align.report.page_answer import Answer
    from xai_align.report.record import Record

#: Most photographs on a page; beyond them it would be slow to open.
MOST_PHOTOGRAPHS = 64
#: First sentences of a page with exact decompositions.
HOW_TO_READ = (
    "Red is evidence for the answer, blue against it. The numbers are {unit}: the contributions of the "
    "regions and the bias add up to the prediction."
)


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One map of a question about a photograph.

    Attributes:
        label: method and layer.
        overlay: the map over the photograph; None: there is no picture.
        file: the picture's file, relative to the page; "": there is none.
        answer: numbers and values; None: only the picture is known.
        role: ``"reference"``, ``"control"`` or nothing.
    """

    label: str
    overlay: SmallPicture | None
    file: str = ""
    answer: Answer | None = None
    role: str = ""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A question about a photograph with its maps; ``kind``: the question without names of classes, if known."""

    text: str
    shown: Sequence[Shown]
    kind: str = ""


@dataclass(frozen=True, kw_only=True)
class Section:
    """Section of the page about one photograph.

    Attributes:
        title: the name of the image.
        photograph: the model's input; None: there is no picture.
        file: the photograph's file, relative to the page; "": there is none.
        predictions: name, probability (None: it has none) and logit of the most probable classes.
        questions: the questions with their maps.
        credit: author and licence.
    """

    title: str
    photograph: SmallPicture | None
    file: str = ""
    predictions: Sequence[tuple[str, float | None, float]] = ()
    questions: Sequence[Asked] = field(default_factory=tuple)
    credit: str = ""


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A term as a bar between the sums before and after it; ``left`` and ``width`` in percent."""

    kind: str
    text: str
    number: str
    left: float
    width: float
    box: str = ""
    share: str = ""


def render_page(
    sections: Sequence[Section], records: Sequence[Record] = (), *, title: str, lead: Sequence[str] = ()
) -> str:
    """Return the page as HTML.

    Args:
        sections: the photographs.
        records: whose numbers are listed in a table at the end; their arrays are not needed.
        title: the heading.
        lead: paragraphs below it.
    """
    return render(
        "page.html",
        sections,
        title=title,
        lead=lead,
        legends=legends(sections),
        columns=[(name, name in NUMBER_COLUMNS) for name in COLUMNS],
        rows=table_rows(records),
        footnotes=[*footnotes(records), *remarks(records)],
        warnings=list(dict.fromkeys(warning for record in records for warning in record.warnings)),
    )


def write_page(
    path: Path,
    sections: Sequence[Section],
    records: Sequence[Record] = (),
    *,
    title: str,
    lead: Sequence[str] = (),
) -> None:
    """Write :func:`render_page`'s page; an existing page is replaced when the new one is complete.

    Raises:
        OSError: it cannot be written; the message names the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, render_page(sections, records, title=title, lead=lead))


def render(template: str, sections: Sequence[Section], *, scripts: Sequence[str] = (), **values: Any) -> str:
    """Render a template that extends ``page.html``, with the viewers of these sections.

    Args:
        template: its name.
        sections: the photographs.
        scripts: further scripts, by file name.
        **values: further variables of the template.
    """
    environment = Environment(
        loader=PackageLoader("xai_align.report"),
        autoescape=True,  # file and class names are the user's
        finalize=lambda value: printable(value) if type(value) is str else value,  # they may hold control characters
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["address"] = lambda file: quote(PurePath(file).as_posix())
    environment.filters["parts"] = _breakable
    environment.filters["bars"] = bars
    environment.filters["predicted"] = _predicted
    environment.filters["about"] = _rounded_up
    answers = [one.answer for section in sections for asked in section.questions for one in asked.shown if one.answer]
    units = {answer.unit for answer in answers if answer.is_decomposition}
    numbers = {id(answer): position for position, answer in enumerate(answers)}
    environment.filters["number_of"] = lambda answer: numbers[id(answer)]
    at_once, later = _script("begin.js"), [_script(name) for name in ("page.js", *scripts)]
    return environment.get_template(template).render(
        sections=sections,
        how_to_read=HOW_TO_READ.format(unit=" or ".join(sorted(units))) if units else "",
        maps=_safe_json(_page_data(answers)),
        at_once=at_once,
        scripts=later,
        policy=" ".join(f"'sha256-{_digest(script)}'" for script in (at_once, *later)),
        **values,
    )


def legends(sections: Sequence[Section]) -> list[tuple[tuple[Key, ...], list[str]]]:
    """Return the colour legends of the maps on a page, each with the methods that it is of."""
    found: dict[tuple[Key, ...], list[str]] = {}
    for section in sections:
        for asked in section.questions:
            for one in asked.shown:
                methods = found.setdefault(one.answer.keys, []) if one.answer else []
                if one.answer and one.answer.method not in methods:
                    methods.append(one.answer.method)
    return list(found.items())


def bars(answer: Answer) -> list[Bar]:
    """Return the terms of an answer as bars, each from the sum of those before it, and the answer from 0."""
    sums = [0.0]
    for term in answer.terms:
        sums.append(sums[-1] + term.value)
    low, high = min(0.0, *sums, answer.answer), max(0.0, *sums, answer.answer)
    scale = 100 / ((high - low) or 1.0)
    number = number_format([answer.answer, *(term.value for term in answer.terms)])

    def bar(term: Term, start: float, sign: str) -> Bar:
        left = (min(start, start + term.value) - low) * scale
        return Bar(
            kind=term.kind,
            text=term.text,
            number=(sign if term.value > 0 else "") + number(term.value),
            left=left,
            width=abs(term.value) * scale,
            box=" ".join(f"{share:.4f}" for share in term.box),
            share="" if term.share is None else f"{100 * term.share:.0f} %",
        )

    found = [bar(term, start, "+") for term, start in zip(answer.terms, sums, strict=False)]
    return [*found, bar(Term("total", "the answer", answer.answer), 0.0, "")]


def _page_data(answers: Sequence[Answer]) -> dict[str, Any]:
    """Return the data of the page's script: the maps, and the colours of :mod:`~xai_align.data.overlay`."""
    maps = []
    for answer in answers:
        texts = [key.text for key in answer.keys]
        about: dict[str, Any] = {
            "signed": answer.signed,
            "unit": answer.unit,
            "positive": texts[0],
            "negative": texts[-1],
        }
        maps.append(about | ({} if answer.map is None else asdict(answer.map)))
    ramps = {"positive": FOR.tolist(), "negative": AGAINST.tolist(), "ranked": RANKED.tolist()}
    return {"ramps": ramps, "strongest": STRONGEST, "maps": maps}


def _safe_json(value: Any) -> Markup:
    """Return JSON for a script element: no character in it can end the element or begin another."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)


def _script(name: str) -> Markup:
    return Markup(files("xai_align.report").joinpath("templates", name).read_text("utf-8").strip())


def _digest(script: str) -> str:
    return b64encode(sha256(script.encode()).digest()).decode("ascii")


def _breakable(name: str) -> Iterator[str]:
    """Yield the parts of a name after which a line may end."""
    part = ""
    for sign in legible(name):
        part += sign
        if sign in "_@.":
            yield part
            part = ""
    if part:
        yield part


def _rounded_up(tolerance: float) -> str:
    """Format a tolerance with two digits, not less than it is with the rounding of the value that is shown."""
    return f"{1.1 * tolerance:.2g}".replace("-", "−")


def _predicted(predictions: Sequence[tuple[str, float | None, float]]) -> list[tuple[str, str]]:
    """Format predictions: a name with ``61.8 %, logit 9.384``, or with the value alone if it has no probability."""
    number = number_format(score for _, _, score in predictions)
    return [
        (name, number(score) if share is None else f"{100 * share:.1f} %, logit {number(score)}")
        for name, share, score in predictions
    ]
