"""HTML page of a comparison of methods: tables, curves, pictures, and the settings to reproduce it.

The page is a single file. It fetches nothing, and everything but sorting the
tables works without scripts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined

from xai_align._tools.files.whole_file import write_whole
from xai_align.comparison.intervals import DESCRIPTION, EQUAL
from xai_align.report.comparison_table import NOTHING, Table, comparison_table, verdict_notes
from xai_align.report.curve_figure import Panel, curve_panels
from xai_align.report.method_style import method_styles
from xai_align.report.thumbnail import Thumbnail, thumbnail

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
class Shown:
    """Picture on the page, without a thumbnail if the file is missing or damaged."""

    file: str
    small: Thumbnail | None


@dataclass(frozen=True, kw_only=True)
class Strip:
    """One question about one image: every method's picture in the order of the comparison, None if there is none."""

    text: str
    pictures: Sequence[tuple[str, Shown | None]]


@dataclass(frozen=True, kw_only=True)
class ImageRow:
    """Image with the methods' explanations for each question about it."""

    name: str
    photograph: Shown | None
    strips: Sequence[Strip]


@dataclass(frozen=True, kw_only=True)
class Block:
    """Numbers for one kind of question: the table, the curves, the methods highlighted in the curves."""

    text: str
    table: Table
    verdict_notes: Sequence[str]
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
    environment = Environment(
        loader=PackageLoader("xai_align.report"),
        autoescape=True,  # file and class names are the user's
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["address"] = lambda file: quote(PurePath(file).as_posix())
    environment.filters["parts"] = lambda name: re.findall(r"[^_@.]*[_@.]|[^_@.]+", name)  # a line may end after each
    styles = method_styles(comparison.methods, comparison.reference, comparison.controls)
    return environment.get_template("comparison.html").render(
        comparison=comparison,
        facts=_facts(comparison),
        interval=DESCRIPTION,
        equal=EQUAL if any(one.n > 1 and not math.isfinite(one.low) for one in comparison.summaries) else "",
        legends=_legends(comparison),
        styles=styles,
        style_of={style.method: style for style in styles},
        blocks=[_block(comparison, question) for question in comparison.questions],
        rows=_image_rows(comparison, folder),
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
        verdict_notes=verdict_notes(comparison, question),
        panels=curve_panels(curves, front=sorted(lit)),
        lit=lit,
    )


def _image_rows(comparison: Comparison, folder: Path) -> list[ImageRow]:
    by_image: dict[str, list[Picture]] = {}
    for picture in comparison.pictures:
        by_image.setdefault(picture.image, []).append(picture)
    return [_image_row(comparison, image, pictures, folder) for image, pictures in by_image.items()]


def _image_row(comparison: Comparison, image: str, pictures: Sequence[Picture], folder: Path) -> ImageRow:
    photograph = next((_shown(picture, folder) for picture in pictures if not picture.method), None)
    strips: dict[tuple[str, str], dict[str, Shown]] = {}
    for picture in pictures:
        if picture.method:
            strips.setdefault((picture.question, picture.question_text), {})[picture.method] = _shown(picture, folder)
    return ImageRow(
        name=PurePath(image).name,
        photograph=photograph,
        strips=[
            Strip(
                text=text or QUESTIONS.get(question, question),
                pictures=[(method, made.get(method)) for method in comparison.methods],
            )
            for (question, text), made in strips.items()
        ],
    )


def _shown(picture: Picture, folder: Path) -> Shown:
    return Shown(file=picture.file, small=thumbnail(folder / picture.file))


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
