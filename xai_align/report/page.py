"""Self-contained HTML page for many explanations, with its pictures embedded."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined

from xai_align._tools.files.whole_file import write_whole
from xai_align.report.record_text import (
    COLUMNS,
    NUMBER_COLUMNS,
    colour_keys,
    exactness,
    footnotes,
    number,
    sum_text,
    table_row,
    totals,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from xai_align.report.record import Record


@dataclass(frozen=True, kw_only=True)
class Picture:
    """PNG picture: its bytes for the page, and the name of its file beside the page."""

    png: bytes
    file: str

    @property
    def uri(self) -> str:
        """Data URI of the picture."""
        return "data:image/png;base64," + b64encode(self.png).decode("ascii")


@dataclass(frozen=True, kw_only=True)
class Section:
    """Section of the page about one image.

    Attributes:
        title: the name of the image.
        photograph: the model's input.
        predictions: name, probability and logit of the most probable classes.
        answers: records with their pictures; consecutive ones with the same question share a heading.
        credit: author and licence.
    """

    title: str
    photograph: Picture
    predictions: Sequence[tuple[str, float, float]]
    answers: Sequence[tuple[Record, Picture]] = field(default_factory=tuple)
    credit: str = ""


def render_page(sections: Sequence[Section], *, title: str, lead: Sequence[str] = ()) -> str:
    """Return the page as HTML: per image the photograph and the explanations for each question; the table."""
    environment = Environment(
        loader=PackageLoader("xai_align.report"),
        autoescape=True,  # file and class names are the user's
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    records = [record for section in sections for record, _ in section.answers]
    return environment.get_template("page.html").render(
        title=title,
        lead=lead,
        sections=[_for_template(section) for section in sections],
        columns=[(name, name in NUMBER_COLUMNS) for name in COLUMNS],
        rows=[table_row(record) for record in records],
        footnotes=footnotes(records),
        legends=colour_keys(records),
    )


def write_page(path: Path, sections: Sequence[Section], *, title: str, lead: Sequence[str] = ()) -> None:
    """Write :func:`render_page`'s page and, beside it, its pictures as files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for section in sections:
        for picture in (section.photograph, *(picture for _, picture in section.answers)):
            write_whole(path.parent / picture.file, picture.png)
    write_whole(path, render_page(sections, title=title, lead=lead))


def _for_template(section: Section) -> dict[str, object]:
    questions: dict[str, list[dict[str, object]]] = {}
    for record, picture in section.answers:
        questions.setdefault(record.question, []).append(
            {
                "label": record.label,
                "picture": picture,
                "is_decomposition": record.is_decomposition,
                "sum_text": sum_text(record),
                "exactness": exactness(record),
                "totals": totals(record),
            }
        )
    return {
        "title": section.title,
        "credit": section.credit,
        "photograph": section.photograph,
        "predictions": [(name, f"{100 * share:.1f} %", number(logit)) for name, share, logit in section.predictions],
        "questions": [{"text": text, "answers": answers} for text, answers in questions.items()],
    }
