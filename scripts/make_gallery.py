"""Make the pictures of the README and of docs/gallery.md from the package's photographs, and write that page.

    python scripts/make_gallery.py

Needs the extra ``demo``. The photographs' licences are in xai_align/data/photographs/LICENCES.md.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.textpath import TextPath
from numpy.typing import NDArray
from PIL import Image

from timm_align import efficientnet_lite0
from xai_align import Question, explain
from xai_align.data.model_picture import picture_of
from xai_align.data.overlay import coloured, density
from xai_align.data.photographs import FOLDER
from xai_align.data.prepared_image import prepared_image
from xai_align.report.record import Record, record_of
from xai_align.report.record_text import sum_text
from xai_align.report.words import words_of

DOCS = Path(__file__).resolve().parents[1] / "docs"
PICTURES = DOCS / "pictures"
#: Method, layer, title and what the picture is, for each column.
COLUMNS = (
    ("pinet", None, "exact readout", "decomposes the logit: every pixel is a term of the sum"),
    ("pinet", "head", "exact readout, local", "at the head: removing a cell lowers the logit by its contribution"),
    ("layer_grad_cam", None, "Grad-CAM", "ranks positions, the values have no unit"),
    ("integrated_gradients", None, "integrated gradients", "sums to the change from an image of zeros"),
)
WIDTH = 2.2  # inches of a panel
LINE = 0.15  # inches of a line of a title
FONT_SIZE = 8.5


def main() -> None:
    """Explain every photograph, draw it, and write the page."""
    warnings.simplefilter("ignore")
    PICTURES.mkdir(exist_ok=True)
    loaded = efficientnet_lite0.load()
    parts = [HEAD]
    for path in sorted(FOLDER.glob("*.jpg")):
        inputs = prepared_image(path, loaded, None)[0][None]
        order = loaded.model(inputs)[0].argsort(descending=True).tolist()
        picture = picture_of(inputs[0], loaded)
        why, why_not = Question.why(order[0]), Question.why_not(order[0], order[1])
        records = [_record(loaded, inputs, why, method, layer, path) for method, layer, *_ in COLUMNS]
        contrast = _record(loaded, inputs, why_not, "pinet", None, path)
        titles = [title for *_, title, _ in COLUMNS]
        name = _saved(path.stem, picture, [*records, contrast], [*titles, contrast.question])
        parts.append(_section(records[0], contrast, name))
        if path.stem == "chelsea":
            _saved("readme", picture, [records[0], records[2]], ["exact readout", "Grad-CAM"])
    (DOCS / "gallery.md").write_text("\n".join(parts), encoding="utf-8")


def _record(loaded, inputs, question, method, layer, path) -> Record:
    options = {"n_steps": 50, "internal_batch_size": 5} if method == "integrated_gradients" else {}
    found = explain(loaded.model, inputs, question, method, layer=layer, **options)
    return record_of(found, image=path.name, class_names=loaded.class_names)


def _saved(stem: str, picture, records: list[Record], titles: list[str]) -> str:
    shown = [picture] + [coloured(picture, density(one.map, picture.shape[:2]), signed=one.signed) for one in records]
    content = io.BytesIO()
    row_of_pictures(shown, ["photograph", *titles]).savefig(content, format="png", dpi=110)
    name = f"{stem}.jpg"
    Image.open(content).convert("RGB").save(PICTURES / name, quality=88, optimize=True)
    return name


def row_of_pictures(shown: Sequence[NDArray[Any]], titles: Sequence[str]) -> Figure:
    """Draw pictures side by side with titles within their own panel: in lines, and smaller if a word is long."""
    panel = 0.985 * WIDTH
    fitted = [_fitted(title, panel) for title in titles]
    above = 0.15 + LINE * max(text.count("\n") + 1 for text, _ in fitted)
    figure = Figure(figsize=(WIDTH * len(shown), WIDTH + above), facecolor="white")
    FigureCanvasAgg(figure)
    for number, (pixels, (text, size)) in enumerate(zip(shown, fitted, strict=True)):
        axes = figure.add_axes((number / len(shown), 0.0, 0.985 / len(shown), WIDTH / (WIDTH + above)))
        axes.imshow(pixels)
        axes.set_axis_off()
        axes.set_title(text, fontsize=size, pad=4, parse_math=False)
    return figure


def _fitted(title: str, width: float) -> tuple[str, float]:
    """Return the title in lines of at most this many inches, and the font size at which its longest word fits, too."""
    words = title.split()
    size = FONT_SIZE * min(1.0, width / max(_inches(word, FONT_SIZE) for word in words))
    lines = words[:1]
    for word in words[1:]:
        longer = f"{lines[-1]} {word}"
        lines = [*lines[:-1], longer] if _inches(longer, size) <= width else [*lines, word]
    return "\n".join(lines), size


def _inches(text: str, size: float) -> float:
    """Return the width of a text in inches, with two points to spare for the rounding of its letters to pixels."""
    extent = TextPath((0, 0), text.replace("$", r"\$"), size=size).get_extents()
    return (max(extent.x1, 0.0) + 2) / 72


def _section(record: Record, contrast: Record, name: str) -> str:
    return "\n".join(
        [
            f"## {record.image.partition('.')[0].capitalize()}",
            "",
            f"![{words_of(record).text}](pictures/{name})",
            "",
            f"- **{record.question}** `{sum_text(record).replace('−', '-')}`",
            f"- {words_of(record).text.partition('? ')[2]}",
            f"- **{contrast.question}** {words_of(contrast).text.partition('? ')[2]}",
            "",
        ]
    )


_TABLE = "\n".join(
    f"| {title} | `{method}{'@' + layer if layer else ''}` | {text} |" for method, layer, title, text in COLUMNS
)
HEAD = f"""# Gallery

EfficientNet-Lite0 with ImageNet weights on the photographs of the package, made by `python scripts/make_gallery.py`.
Red is evidence for the answer, blue against it; the strength of a colour is relative to the strongest in the same
picture. The sentences are generated from the maps ([in words](words.md)).

| column | method | the values |
|---|---|---|
{_TABLE}

The last column is the exact readout again, for the class against its runner-up. Licences and authors:
[photographs](../xai_align/data/photographs/LICENCES.md).
"""


if __name__ == "__main__":
    main()
