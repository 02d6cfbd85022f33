"""Explain image files one by one, so that a failure is reported and the rest continue."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from xai_align._tools.devices import usable_device
from xai_align._tools.files.folder_lock import locked_folder
from xai_align._tools.files.legible import legible
from xai_align._tools.files.whole_file import write_whole
from xai_align._tools.logits import NoLogits
from xai_align._tools.random_weights import RANDOM
from xai_align.comparison.method_reference import MethodReference, check_layers, parse_methods
from xai_align.data.class_names import check_class, parse_sides, question_about
from xai_align.data.final_activation import check_outputs_are_logits
from xai_align.data.images import distinct_stems, expand_paths
from xai_align.data.model_picture import picture_of
from xai_align.data.output_description import (
    OutputDescription,
    describe_output,
    names_to_choose_from,
    output_notes,
)
from xai_align.data.prepared_image import prepared_image
from xai_align.data.value_range import ValueRange, check_range
from xai_align.explanation import explain, logits_of
from xai_align.features.head_input import HEAD
from xai_align.features.resolve_layer import resolve_layer
from xai_align.plugins import ModelOptions, default_method, load_model
from xai_align.question import Question, TargetError
from xai_align.report.record import Record, file_name, record_of, save_arrays, save_numbers

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from xai_align.hookspecs import LoadedModel
    from xai_align.report.page import Section, Shown

#: The page, in the folder of the other files.
PAGE = "index.html"
TITLE = "Why does the network answer this?"


@dataclass(frozen=True, kw_only=True)
class Task:
    """Images, model, methods and question of a run, checked as far as possible before the first image.

    ``layer`` is that of the methods that take one and name none.
    """

    paths: Sequence[Path]
    reference: str
    loaded: LoadedModel
    methods: Sequence[MethodReference]
    targets: Sequence[int]
    foils: Sequence[int] | None
    layer: str | None
    device: torch.device
    value_range: ValueRange | None = None

    @classmethod
    def prepare(
        cls,
        *,
        images: Sequence[str],
        model: str,
        methods: Sequence[str] | None = None,
        targets: Sequence[str] = (),
        foils: Sequence[str] = (),
        layer: str | None = None,
        device: str | None = None,
        recursive: bool = False,
        value_range: ValueRange | None = None,
        trust: bool = False,
        options: ModelOptions | None = None,
    ) -> Task:
        """Build the task from command-line arguments.

        Methods are written as in a comparison, ``NAME`` or ``NAME@LAYER``; without ``methods``, the exact readout is
        used; ``recursive``: search below folders; ``value_range``: the
        numbers that are black and white; ``trust`` and ``options``: see :func:`~xai_align.plugins.load_model`.

        Raises:
            ValueError: images, methods, model, device, layer or classes do not exist; the message
                names them and the alternatives.
        """
        value_range = check_range(value_range)
        paths = expand_paths(images, recursive=recursive)
        references = parse_methods([default_method()] if methods is None else methods)
        if layer is not None and not any(one.spec.takes_layer and one.layer is None for one in references):
            raise ValueError(f"none of {', '.join(map(str, references))} takes a layer; leave out --layer")
        where = usable_device(device)
        loaded = load_model(model, trust=trust, options=options)
        if layer not in (None, HEAD):
            resolve_layer(loaded.model, layer)
        check_layers(references, loaded.model)
        asked, against = parse_sides(targets, foils, names_to_choose_from(loaded))
        if asked:
            question_about(asked, against, predicted=asked[0])  # raises if the sides overlap
        loaded.model.to(where)
        return cls(
            paths=paths,
            reference=model,
            loaded=loaded,
            methods=references,
            targets=asked,
            foils=against,
            layer=layer,
            device=where,
            value_range=value_range,
        )

    @property
    def steps(self) -> int:
        """Number of explanations."""
        return len(self.paths) * len(self.methods)


@dataclass(frozen=True, kw_only=True)
class Result:
    """Result for one image and one or all methods: records without their arrays, or the problem as text."""

    steps: int
    records: Sequence[Record] = ()
    problem: str = ""
    shown: Sequence[Shown] = ()


def explain_files(task: Task, out: Path) -> Iterator[Result]:
    """Explain every image with every method; write ``NAME.METHOD.png``, ``.npz`` and ``.json`` to ``out``, and a page.

    The page holds the first images, as many as can be looked at; arrays are not kept, so that memory does not grow with
    the number of images.

    Raises:
        TargetError: a class is out of the model's range: no image can be explained.
        ValueError: the outputs are not logits, or not those of the stated kind or names. Or another run is writing to
            ``out``.
        OSError: ``out`` cannot be written to.
    """
    from xai_align.report.page import MOST_PHOTOGRAPHS, write_page

    sections: list[Section] = []
    records: list[Record] = []
    out.mkdir(parents=True, exist_ok=True)
    with locked_folder(out):
        checked = explained = 0
        for path, stem in zip(task.paths, distinct_stems(task.paths), strict=True):
            shown: list[Shown] = []
            try:
                inputs = prepared_image(path, task.loaded, task.value_range)[0][None].to(task.device)
                logits = logits_of(task.loaded.model, inputs, task.loaded.output_field)
            except NoLogits:  # of every image
                raise
            except Exception as error:  # preprocessing and model may raise anything; the other images continue
                said = _said(error)
                name = legible(path)
                yield Result(steps=len(task.methods), problem=said if said.startswith(name) else f"{name}: {said}")
                continue
            output = _described(task, logits)
            if not checked:
                check_outputs_are_logits(task.loaded, inputs)
                checked = True
            try:
                asked = task.targets or (output.predicted(logits[0]),)
                question = output.on_outputs(question_about(asked, task.foils, asked[0]))
            except TargetError as error:  # the predicted class is one of the foils
                yield Result(steps=len(task.methods), problem=f"{legible(path)}: {error}")
                continue
            for method in task.methods:
                result = _explain_one(task, inputs, output, question, method, path, out / stem)
                shown += result.shown
                if len(sections) < MOST_PHOTOGRAPHS:
                    records += result.records
                yield result
            explained += bool(shown)
            if shown and len(sections) < MOST_PHOTOGRAPHS:
                sections.append(_section(task, inputs, output, logits[0], path, shown))
        if sections:
            write_page(out / PAGE, sections, records, title=TITLE, lead=_lead(task, len(sections), explained))


def _explain_one(
    task: Task,
    inputs: Tensor,
    output: OutputDescription,
    question: Question,
    method: MethodReference,
    path: Path,
    stem: Path,
) -> Result:
    try:
        layer = method.layer or (task.layer if method.spec.takes_layer else None)
        field = task.loaded.output_field
        explanation = explain(task.loaded.model, inputs, question, method.name, layer=layer, output=field)
        notes = output_notes(task.loaded, output)
        record = record_of(explanation, image=legible(path.name), output=output, warnings=notes)
    except Exception as error:  # methods come from third parties and may raise anything; the others continue
        return Result(steps=1, problem=f"{legible(path)}: {method} failed: {_said(error)}")
    try:
        shown = _save(task, record, inputs, path, stem.with_name(f"{stem.name}.{file_name(method.name, layer)}"))
    except OSError:  # the folder cannot be written to: neither can the other images' files
        raise
    except Exception as error:
        return Result(steps=1, problem=f"{legible(path)}: {method} cannot be drawn or written: {_said(error)}")
    return Result(steps=1, records=[record.without_arrays()], shown=[shown])


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__


def _section(
    task: Task, inputs: Tensor, output: OutputDescription, logits: Tensor, path: Path, shown: Sequence[Shown]
) -> Section:
    """Return the page's section about one image; all of its maps are about one question."""
    from xai_align.report.page import Asked, Section
    from xai_align.report.thumbnail import photograph_of

    question = next((one.answer.question for one in shown if one.answer), "")
    return Section(
        title=legible(path.name),
        photograph=photograph_of(picture_of(inputs[0], task.loaded)),
        predictions=output.predictions(logits),
        questions=[Asked(text=question, shown=shown)],
    )


def _lead(task: Task, shown: int, explained: int) -> list[str]:
    """Return the sentences below the page's heading."""
    lead = [f"Model: {legible(task.reference)}."]
    if shown < explained:
        lead.append(f"The first {shown} of {explained} images; the files in this folder are of all of them.")
    return lead


def _save(task: Task, record: Record, inputs: Tensor, path: Path, base: Path) -> Shown:
    """Write the files of a record; return what the page shows of it."""
    from xai_align._tools.png import png
    from xai_align.report.overlay import photograph_and_overlay
    from xai_align.report.page import Shown
    from xai_align.report.page_answer import answer_of, overlay_of
    from xai_align.report.record_text import legend_text, sum_text, unit_of

    names = {suffix: base.with_name(f"{base.name}.{suffix}") for suffix in ("png", "npz", "json")}
    picture = picture_of(inputs[0], task.loaded)
    caption = f"{record.label}: {sum_text(record)}"
    caption += f"\n{legend_text(record)}"
    if task.loaded.random_weights:
        caption += f"\nwarning: {next((note for note in record.warnings if RANDOM in note), RANDOM)}"
    figure = photograph_and_overlay(
        picture, record.map, title=record.question, caption=caption, unit=unit_of(record), signed=record.signed
    )
    write_whole(names["png"], png(figure))
    save_arrays(record, names["npz"])
    answer = answer_of(record)
    save_numbers(
        replace(record, image=legible(path)),
        names["json"],
        model=task.reference,
        words=f"{record.question} {answer.words}",
        files={suffix: name.name for suffix, name in names.items() if suffix != "json"},
    )
    overlay = overlay_of(record, picture)
    return Shown(label=record.label, overlay=overlay, file=names["png"].name, answer=answer)


def _described(task: Task, logits: Tensor) -> OutputDescription:
    """Return the meaning of the outputs, of which the classes in question are some.

    Raises:
        ValueError: the outputs are not those of the stated kind, or of these class names.
        TargetError: a class is out of range.
    """
    output = describe_output(task.loaded, logits)
    for index in (*task.targets, *(task.foils or ())):
        check_class(index, output.sides)
    return output
