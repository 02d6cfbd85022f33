"""``xai-align explain``: explanations of your own images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from xai_align._tools.counted import counted
from xai_align._tools.files.legible import legible
from xai_align._tools.files.references import typed_on_the_command_line
from xai_align.cli.shared_options import (
    Device,
    ModelFlags,
    ModelReference,
    Range,
    Recursive,
    TrustCode,
    out_path,
    split_names,
    with_model_flags,
)
from xai_align.cli.terminal import (
    output,
    print_error,
    print_warnings,
    progress_bar,
    report_errors,
    warnings_in_lines,
)

if TYPE_CHECKING:
    from xai_align.report.record import Record


@with_model_flags
def explain_command(
    images: Annotated[list[str], typer.Argument(metavar="IMAGE...", help="Images, folders, patterns like 'a/*.jpg'.")],
    model: ModelReference,
    method: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[,NAME...]",
            help="Methods; `xai-align methods` lists them. NAME@LAYER explains that layer. Default: the exact readout.",
        ),
    ] = None,
    classes: Annotated[
        list[str] | None,
        typer.Option(
            "--class",
            metavar="NAME|INDEX",
            help="The class to explain. Given several times: the group of these classes. Default: the predicted class.",
        ),
    ] = None,
    foils: Annotated[
        list[str] | None,
        typer.Option(
            "--not",
            metavar="NAME|INDEX",
            help="Explain the --class against this one; may be repeated. 'others': all other classes.",
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option(parser=out_path, metavar="FOLDER", help="Folder for the page, pictures, arrays and numbers.")
    ] = Path("xai-align-out"),
    layer: Annotated[
        str | None,
        typer.Option(metavar="NAME|input", help="The layer to explain, for methods that take one. Default: automatic."),
    ] = None,
    words: Annotated[bool, typer.Option("--words", help="Print each explanation in sentences, too.")] = False,
    recursive: Recursive = False,
    value_range: Range = None,
    device: Device = None,
    *,
    model_flags: ModelFlags,
    trust_code: TrustCode = False,
) -> None:
    """Explain images.

    Writes a picture, the arrays (.npz) and all numbers (.json) for each image and method, and an HTML page.
    """
    from xai_align._tools.files.writable_folder import check_folder_is_writable
    from xai_align.cli.explain_files import PAGE, Task, explain_files
    from xai_align.cli.records_table import print_records, print_words
    from xai_align.data.images import check_results_are_outside

    with report_errors(), typed_on_the_command_line():
        check_folder_is_writable(out)
        check_results_are_outside(out, images, recursive=recursive)
        task = Task.prepare(
            images=images,
            model=model,
            methods=split_names(method) if method else None,
            targets=classes or (),
            foils=foils or (),
            layer=layer,
            device=device,
            recursive=recursive,
            value_range=value_range,
            trust=trust_code,
            options=model_flags.options(),
        )
    print_warnings(task.loaded)
    records: list[Record] = []
    told: list[str] = []
    failures = 0
    complete = False
    try:
        with report_errors(), warnings_in_lines(UserWarning), progress_bar() as progress:
            bar = progress.add_task("explaining", total=task.steps)
            for result in explain_files(task, out):
                progress.advance(bar, result.steps)
                if result.problem:
                    failures += result.steps
                    print_error(progress.console, f"error: {result.problem}")
                records.extend(result.records)
                told.extend(one.answer.words for one in result.shown if one.answer)
            complete = True
    finally:  # what was done is shown, however the run ends
        if records:
            files = [f"Pictures, arrays and numbers: {legible(out)}"]
            print_records(output(), records, [*files, f"Page: {legible(out / PAGE)}"] if complete else files)
        if words:
            print_words(output(), records, told)
    if failures:
        print_error(
            Console(stderr=True),
            f"{failures} of {counted(task.steps, 'explanation')} failed; the "
            f"{'error is' if failures == 1 else 'errors are'} above",
        )
        raise typer.Exit(1)
