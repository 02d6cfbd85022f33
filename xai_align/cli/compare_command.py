"""``xai-align compare``: methods, measured by metrics, on your images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from xai_align._tools.counted import counted
from xai_align._tools.files.references import typed_on_the_command_line
from xai_align.cli.shared_options import (
    BatchSize,
    Device,
    ModelFlags,
    ModelReference,
    Range,
    Recursive,
    Seed,
    TrustCode,
    out_path,
    split_names,
    with_model_flags,
)
from xai_align.cli.terminal import output, print_error, print_lines, print_notes, progress_bar, report_errors

if TYPE_CHECKING:
    from xai_align.comparison.result import Comparison

_NAMES = "NAME[,NAME...]"


@with_model_flags
def compare_command(
    model: ModelReference,
    images: Annotated[
        list[str],
        typer.Option(metavar="PATH", help="Image, folder, or pattern like 'a/*.jpg'; may be repeated."),
    ],
    methods: Annotated[
        list[str] | None,
        typer.Option(
            metavar=_NAMES,
            help="Methods; `xai-align methods` lists them. NAME@LAYER explains that layer. Default: the exact readout, "
            "some baseline methods, and a control.",
        ),
    ] = None,
    metrics: Annotated[
        list[str] | None, typer.Option(metavar=_NAMES, help="Metrics; `xai-align methods` lists them.")
    ] = None,
    question: Annotated[
        list[str] | None,
        typer.Option(metavar=_NAMES, help="Questions: why, why-not, why-not-rest, group, group-not. Default: why."),
    ] = None,
    classes: Annotated[
        list[str] | None,
        typer.Option(
            "--class", metavar="NAME|INDEX", help="The class to explain. Default: the predicted class of each image."
        ),
    ] = None,
    foils: Annotated[
        list[str] | None,
        typer.Option(
            "--not",
            metavar="NAME|INDEX",
            help="The class to explain against. Default: the runner-up, or the runner-up's group.",
        ),
    ] = None,
    groups: Annotated[
        str | None, typer.Option(metavar="FILE.json|wordnet|confusion", help="Groups of classes. Default: wordnet.")
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(metavar="METHOD", help="The method that the others are compared with. Default: the first."),
    ] = None,
    scores: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]FILE",
            help="Scores from outside (CSV, JSON, .npy, .npz), judged like a method; may be repeated.",
        ),
    ] = None,
    transfer_to: Annotated[
        str | None,
        typer.Option(metavar="REF", help="A second model, on which the explanations of the first are measured."),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(
            parser=out_path,
            metavar="FOLDER",
            help="Folder for values, tables, pictures and the page. An interrupted run is resumed.",
        ),
    ] = Path("xai-align-compare"),
    batch_size: BatchSize = 8,
    limit: Annotated[int | None, typer.Option(min=1, help="Use only this many images.")] = None,
    seed: Seed = 0,
    pictures: Annotated[int, typer.Option(min=0, help="Number of images to draw explanations of.")] = 6,
    device: Device = None,
    internal_batch_size: Annotated[
        int | None, typer.Option(min=1, help="Number of perturbed images in a batch; smaller values use less memory.")
    ] = None,
    table_format: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="parquet|csv",
            help="File format of the values of all images. Default: parquet if pyarrow is installed.",
        ),
    ] = None,
    recursive: Recursive = False,
    value_range: Range = None,
    *,
    model_flags: ModelFlags,
    trust_code: TrustCode = False,
) -> None:
    """Compare methods on images.

    Prints means with intervals; writes an HTML page and a table of all values.
    """
    from xai_align.comparison.processes import is_main_process
    from xai_align.report.compare import METRICS, compare

    with report_errors(), typed_on_the_command_line(), progress_bar() as bar:
        task = bar.add_task("comparing", total=None, visible=is_main_process())

        def show_progress(done: int, total: int, problems: Sequence[str]) -> None:
            bar.update(task, completed=done, total=total)
            for problem in problems if is_main_process() else ():
                print_error(bar.console, f"error: {problem}")

        comparison = compare(
            model,
            images,
            methods=split_names(methods) or None,
            metrics=split_names(metrics) or METRICS,
            question=split_names(question) or "why",
            classes=classes or (),
            foils=foils or (),
            groups=groups,
            reference=reference,
            scores=scores or (),
            transfer_to=transfer_to,
            out=out,
            batch_size=batch_size,
            limit=limit,
            seed=seed,
            pictures=pictures,
            device=device,
            internal_batch_size=internal_batch_size,
            table_format=table_format,
            recursive=recursive,
            value_range=value_range,
            trust=trust_code,
            model_options=model_flags.options(),
            progress=show_progress,
        )
    if is_main_process():  # in the others, an exit status other than 0 would make the launcher stop the rest
        _print_result(comparison, out)


def _print_result(comparison: Comparison, out: Path) -> None:
    from xai_align.cli.comparison_table import print_comparison

    console = output()
    print_lines(Console(stderr=True), (f"warning: {one}" for one in comparison.warnings), style="yellow")
    print_comparison(console, comparison)
    print_notes(console, comparison.notes)
    print_lines(console, ["", f"Page: {out / 'index.html'}"])
    if comparison.problems:
        count = len(comparison.problems)
        print_error(
            Console(stderr=True),
            f"{counted(count, 'problem')}; {out / 'results.json'} lists {'it' if count == 1 else 'all of them'}",
        )
        raise typer.Exit(1)
