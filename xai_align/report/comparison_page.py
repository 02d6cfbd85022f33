"""HTML page of a comparison of methods: tables, sentences, curves, maps to explore, and the settings to reproduce it.

It extends the page of :mod:`~xai_align.report.page`. Everything but sorting the tables and exploring the maps works
without scripts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from xai_align._tools.files.whole_file import write_whole
from xai_align.comparison.best_methods import RULE, left_out_notes
from xai_align.comparison.intervals import DESCRIPTION, EQUAL
from xai_align.comparison.pictures import answer_file
from xai_align.report.comparison_sentences import metric_sentences
from xai_align.report.comparison_table import NOTHING, Table, comparison_table, verdict_notes
from xai_align.report.curve_figure import Panel, curve_panels
from xai_align.report.method_style import method_styles
from xai_align.report.page import MOST_PHOTOGRAPHS, Asked, Section, Shown, render
from xai_align.report.page_answer import read_answer
from xai_align.report.thumbnail import photograph, thumbnail

if TYPE_CHECKING:
    from xai_align.comparison.result import Comparison, Picture
    from xai_align.data.colour_legend import Key

#: Text for each kind of question.
QUESTIONS = {
    "why": "Why this class?",
    "why-not": "Why this class and not that one?",
    "why-not-rest": "Why this class and not the rest of its group?",
    "group": "Why this group of classes?",
    "group-not": "Why this group of classes and not that one?",
}
#: Text where the output is a number, of which "relative change" is measured.
WHY_THIS_NUMBER = "Why this output?"


@dataclass(frozen=True, kw_only=True)
class Block:
    """Numbers for one kind of question: the table, also in sentences, the curves, the methods highlighted in them."""

    text: str
    table: Table
    sentences: Sequence[str]
    notes: Sequence[str]
    panels: Sequence[Panel]
    lit: frozenset[str]


def write_comparison_page(comparison: Comparison, out: Path) -> Path:
    """Write ``index.html`` into the folder of a comparison, next to its other files.

    Args:
        comparison: the comparison to show; its picture files are read from ``out``.
        out: the folder.

    Returns:
        The page's path.
    """
    path = Path(out) / "index.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, render_comparison(comparison, Path(out)))
    return path


def render_comparison(comparison: Comparison, folder: Path) -> str:
    """Return the page as HTML, with pictures from ``folder``."""
    styles = method_styles(comparison.methods, comparison.reference, comparison.controls)
    roles = {style.method: style.role for style in styles}
    return render(
        "comparison.html",
        _sections(comparison, folder, roles),
        scripts=["comparison.js"],
        legends=_legends(comparison),
        drawn=len({picture.image for picture in comparison.pictures}),
        comparison=comparison,
        facts=_facts(comparison),
        best_rule=RULE,
        interval=DESCRIPTION,
        equal=EQUAL if any(one.n > 1 and not math.isfinite(one.low) for one in comparison.summaries) else "",
        styles=styles,
        style_of={style.method: style for style in styles},
        blocks=[_block(comparison, question) for question in comparison.questions],
        provenance=_plain(comparison.provenance),
    )


def _facts(comparison: Comparison) -> list[tuple[str, str]]:
    """Return the facts at the top of the page: model, images, methods, reference, date."""
    images = max((one.n + one.missing for one in comparison.summaries), default=0)
    given = [
        ("Model", _words(comparison.provenance.get("model"))),
        ("Images", str(images) if images else ""),
        ("Methods", f"{len(comparison.methods)}, each compared with {comparison.reference}"),
        ("Metrics", str(len(comparison.metrics))),
        ("Date", _date(_words(comparison.provenance.get("date")))),
    ]
    return [(name, value) for name, value in given if value]


def _legends(comparison: Comparison) -> list[tuple[Sequence[Key], list[str]]]:
    """Return the different colour legends, each with the methods whose pictures it is of."""
    found: dict[tuple[Key, ...], list[str]] = {}
    for method in comparison.methods:
        if method in comparison.colours:
            found.setdefault(comparison.colours[method], []).append(method)
    return list(found.items())


def _block(comparison: Comparison, question: str) -> Block:
    table = comparison_table(comparison, question)
    controls = {row.style.method for row in table.rows if row.style.role == "control"}
    lit = frozenset({comparison.reference, table.leader} | controls)
    regression = comparison.measured == "relative change"
    curves = [curve for curve in comparison.curves if curve.question == question]
    return Block(
        text=WHY_THIS_NUMBER if regression and question == "why" else QUESTIONS.get(question, question),
        table=table,
        sentences=metric_sentences(table, comparison.reference),
        notes=[*left_out_notes(comparison, question), *verdict_notes(comparison, question)],
        panels=curve_panels(curves, front=sorted(lit)),
        lit=lit,
    )


def _sections(comparison: Comparison, folder: Path, roles: Mapping[str, str]) -> list[Section]:
    by_image: dict[str, list[Picture]] = {}
    for picture in comparison.pictures:
        by_image.setdefault(picture.image, []).append(picture)
    first = list(by_image.items())[:MOST_PHOTOGRAPHS]
    return [_section(comparison, image, pictures, folder, roles) for image, pictures in first]


def _section(
    comparison: Comparison, image: str, pictures: Sequence[Picture], folder: Path, roles: Mapping[str, str]
) -> Section:
    """Return an image with, for each question about it, every method in the order of the comparison."""
    files: dict[tuple[str, str], dict[str, str]] = {}
    for picture in pictures:
        if picture.method:
            files.setdefault((picture.question, picture.question_text), {})[picture.method] = picture.file
    itself = next((picture.file for picture in pictures if not picture.method), "")
    return Section(
        title=PurePath(image).name,
        photograph=photograph(folder / itself) if itself else None,
        file=itself,
        questions=[
            Asked(
                text=text or QUESTIONS.get(kind, kind),
                kind=QUESTIONS.get(kind, kind),
                shown=[
                    _shown(method, made.get(method), folder, roles.get(method, "")) for method in comparison.methods
                ],
            )
            for (kind, text), made in files.items()
        ],
    )


def _shown(method: str, file: str | None, folder: Path, role: str) -> Shown:
    """Return a method's picture, without a thumbnail if the file is missing or damaged."""
    if file is None:
        return Shown(label=method, overlay=None, role=role)
    path = folder / file
    return Shown(label=method, overlay=thumbnail(path), file=file, answer=read_answer(answer_file(path)), role=role)


def _plain(value: Any) -> Any:
    """Convert nested values to text for the page; missing and non-finite values become a dash."""
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, Sequence | set | frozenset) and not isinstance(value, str | bytes):
        return [_plain(one) for one in (sorted(value, key=str) if isinstance(value, set | frozenset) else value)]
    return _words(value) or NOTHING


def _date(written: str) -> str:
    """Format ``2025-03-01T12:30:00+00:00`` as ``1 March 2025, 12:30 UTC``; other text is returned unchanged."""
    try:
        when = datetime.fromisoformat(written)
    except ValueError:
        return written
    return f"{when.day} {when:%B %Y}" + (f", {when:%H:%M %Z}".rstrip() if "T" in written or " " in written else "")


def _words(value: Any) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
