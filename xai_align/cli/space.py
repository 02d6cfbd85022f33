"""Explanations in the browser: drop a picture, ask a question, see the page. An app of Gradio, here and on the hub."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from xai_align._tools.optional_package import optional_package
from xai_align.cli.explain_files import PAGE, Task, explain_files
from xai_align.comparison.method_reference import parse_methods
from xai_align.data.output_description import OutputDescription, describe_output
from xai_align.data.photographs import FOLDER
from xai_align.data.prepared_image import prepared_image
from xai_align.explanation import logits_of
from xai_align.plugins import ModelOptions, attribution_methods
from xai_align.question import TargetError

#: Questions by their text in the app.
WHY, WHY_NOT, WHY_GROUP, ALONE = "Why this class?", "Why this and not that?", "Why this group?", "Why nothing else?"
_HEIGHT = 900


def space(
    model: str,
    *,
    methods: Sequence[str] | None = None,
    device: str | None = None,
    trust: bool = False,
    options: ModelOptions | None = None,
) -> Any:
    """Return the app as ``gradio.Blocks``; its ``launch()`` serves it.

    Args:
        model: reference of the model, as in ``explain``.
        methods: names of the methods to choose from, of which the first is chosen at the start; None: the ones that a
            comparison runs by default, without controls.
        device: where the model runs; None: a GPU if there is one.
        trust: whether a model's folder may name code, which is then run.
        options: what is stated about the model, such as its class names.

    Raises:
        ModuleNotFoundError: Gradio is not installed.
        ValueError: there is no such model or method.

    Example::

        from xai_align.cli.space import space

        app = space("timm:test_resnet@random", methods=["pinet"])
        # app.launch()
    """
    with optional_package("serve", "gradio", "explanations in the browser"):
        import gradio
    if methods is None:
        methods = [name for name, spec in attribution_methods().items() if spec.by_default and not spec.control]
    photographs = sorted(FOLDER.glob("*.jpg"))
    task = Task.prepare(
        images=[str(photographs[0])], model=model, methods=methods, device=device, trust=trust, options=options
    )
    methods = list(map(str, task.methods))
    sides = _described(task, photographs[0]).sides
    names = task.loaded.class_names
    classes = [(names[index] if names else f"class {index}", index) for index in range(sides)]

    def ask(
        picture: str | None, question: str, targets: list[int], foils: list[int], chosen: list[str]
    ) -> tuple[str, str]:
        if picture is None:
            raise gradio.Error("Drop a picture first.")
        try:
            page, words = explained(task, Path(picture), question, targets, foils, chosen)
        except (ValueError, OSError) as error:
            raise gradio.Error(str(error), print_exception=False) from error
        frame = f'<iframe title="explanation" sandbox="allow-scripts" srcdoc="{escape(page)}" '
        return f'{frame}style="width:100%;height:{_HEIGHT}px;border:0"></iframe>', words

    with gradio.Blocks(title="xai-align") as app:
        gradio.Markdown(
            f"# Why does the network predict this?\nModel: `{model}`. The prediction is the sum of the map."
        )
        with gradio.Row():
            picture = gradio.Image(type="filepath", label="Picture", height=320)
            with gradio.Column():
                question = gradio.Radio([WHY, WHY_NOT, WHY_GROUP, ALONE], value=WHY, label="Question")
                targets = gradio.Dropdown(classes, multiselect=True, label="This (empty: what is predicted)")
                foils = gradio.Dropdown(classes, multiselect=True, label="Not that (empty: the runner-up)")
                chosen = gradio.CheckboxGroup(methods, value=methods[:1], label="Methods")
                button = gradio.Button("Explain", variant="primary")
        words, page = gradio.Markdown(), gradio.HTML()
        gradio.Examples([[str(one)] for one in photographs], [picture])
        button.click(ask, [picture, question, targets, foils, chosen], [page, words], api_name="explain")
    return app


def explained(
    task: Task, picture: Path, question: str, targets: Sequence[int], foils: Sequence[int], methods: Sequence[str]
) -> tuple[str, str]:
    """Return the page of one picture, and the maps in sentences.

    Args:
        task: the model and how it is loaded; its images, methods and question are replaced.
        picture: the file.
        question: one of the texts above.
        targets: classes that are asked about; none: the predicted one.
        foils: classes that the question contrasts with; none: the most probable other one.
        methods: references, written as in the task.

    Raises:
        ValueError: the picture cannot be read, or the question does not fit; the message says why.
    """
    if not methods:
        raise ValueError("choose a method")
    if question == WHY_GROUP and len(targets) < 2:
        raise ValueError("choose the classes of the group, two or more")
    logits = _logits(task, picture)
    output = describe_output(task.loaded, logits)
    order = output.scores(logits[0]).argsort(descending=True, stable=True).tolist()
    try:
        asked = list(targets) or [output.predicted(logits[0])]
    except TargetError as error:  # its message names an option of the command line
        raise ValueError("choose what the question is about; of these outputs, none is the predicted one") from error
    others = [index for index in order if index not in asked]
    if question in (WHY_NOT, ALONE) and not others:
        raise ValueError("every class is asked about, and none is left to compare with; choose fewer, or ask why")
    against: list[int] | None = []
    if question == WHY_NOT:
        against = list(foils) or others[:1]
    elif question == ALONE:
        against = None
    one = replace(task, paths=[picture], methods=parse_methods(methods), targets=asked, foils=against)
    with TemporaryDirectory() as folder:
        results = list(explain_files(one, Path(folder)))
        problems = [result.problem for result in results if result.problem]
        shown = [one for result in results for one in result.shown]
        told = [f"**{_plain(one.label)}**: {_plain(one.answer.words)}" for one in shown if one.answer]
        if not told:
            raise ValueError("; ".join(problems))
        return (Path(folder) / PAGE).read_text("utf-8"), "\n\n".join([*told, *map(_plain, problems)])


def _plain(text: str) -> str:
    """Return a text as Markdown that shows it as it is: names of classes and files may hold any signs."""
    return re.sub(r"([\\`*_\[\]<>&$#!|~])", r"\\\1", text)


def _described(task: Task, picture: Path) -> OutputDescription:
    return describe_output(task.loaded, _logits(task, picture))


def _logits(task: Task, picture: Path) -> Any:
    inputs = prepared_image(picture, task.loaded, task.value_range)[0][None].to(task.device)
    return logits_of(task.loaded.model, inputs, task.loaded.output_field)
