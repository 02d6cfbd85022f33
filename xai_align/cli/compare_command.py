"""``xai-align compare``: methods, measured by metrics, on your images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from xai_align._tools.files.references import typed_on_the_command_line
from xai_align.cli.reference_options import MODEL_REFERENCES, TrustCode
from xai_align.cli.terminal import errors_in_words, output, progress_bar

_NAMES = "NAME[,NAME...]"


def compare_command(
    model: Annotated[
        str,
        typer.Option(metavar="REF", help=MODEL_REFERENCES),
    ],
    images: Annotated[
        list[str], typer.Option(metavar="PATH", help="A folder, an image, a pattern like 'a/*.jpg'; may be repeated.")
    ],
    methods: Annotated[
        list[str] | None,
        typer.Option(metavar=_NAMES, help="Methods; `xai-align methods` shows them. NAME@LAYER: looking at a layer."),
    ] = None,
    metrics: Annotated[list[str] | None, typer.Option(metavar=_NAMES, help="Metrics; `xai-align methods` too.")] = None,
    question: Annotated[
        list[str] | None,
        typer.Option(metavar=_NAMES, help="why, why-not, why-not-rest, group, group-not. Default: why."),
    ] = None,
    classes: Annotated[
        list[str] | None,
        typer.Option("--class", metavar="NAME|INDEX", help="What to ask about. Default: each image's predicted class."),
    ] = None,
    foils: Annotated[
        list[str] | None,
        typer.Option(
            "--not", metavar="NAME|INDEX", help="What to ask against. Default: the runner-up, the next group."
        ),
    ] = None,
    groups: Annotated[
        str | None, typer.Option(metavar="FILE.json|wordnet|confusion", help="Groups of classes. Default: wordnet.")
    ] = None,
    reference: Annotated[
        str | None, typer.Option(metavar="METHOD", help="What the others are compared with. Default: the first method.")
    ] = None,
    transfer_to: Annotated[
        str | None, typer.Option(metavar="REF", help="A second model that judges the explanations of the first.")
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder for values, tables, pictures and page; a run that was stopped goes on.")
    ] = Path("xai-align-compare"),
    batch_size: Annotated[int, typer.Option(min=1, help="Images at once.")] = 8,
    limit: Annotated[int | None, typer.Option(min=1, help="No more images than these.")] = None,
    seed: Annotated[int, typer.Option(help="Of all that is random.")] = 0,
    pictures: Annotated[int, typer.Option(min=0, help="Of how many images pictures are made.")] = 6,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ... Default: a GPU if there is one.")] = None,
    internal_batch_size: Annotated[
        int | None, typer.Option(min=1, help="Perturbed images at once; less takes less memory.")
    ] = None,
    table_format: Annotated[
        str, typer.Option("--format", metavar="parquet|csv", help="How the values of all images are written.")
    ] = "parquet",
    trust_code: TrustCode = False,
) -> None:
    """Compare methods on images: means with intervals, an HTML page, every value in a file."""
    from xai_align.cli.comparison_table import print_comparison
    from xai_align.comparison.processes import is_main_process
    from xai_align.report.compare import METRICS, compare

    with errors_in_words(), typed_on_the_command_line(), progress_bar() as bar:
        task = bar.add_task("comparing", total=None, visible=is_main_process())

        def told(done: int, total: int, problems: Sequence[str]) -> None:
            bar.update(task, completed=done, total=total)
            for problem in problems if is_main_process() else ():
                bar.console.print(f"error: {escape(problem)}", style="red", highlight=False, soft_wrap=True)

        comparison = compare(
            model,
            images,
            methods=_split(methods) or None,
            metrics=_split(metrics) or METRICS,
            question=_split(question) or "why",
            classes=classes or (),
            foils=foils or (),
            groups=groups,
            reference=reference,
            transfer_to=transfer_to,
            out=out,
            batch_size=batch_size,
            limit=limit,
            seed=seed,
            pictures=pictures,
            device=device,
            internal_batch_size=internal_batch_size,
            table_format=table_format,
            trust=trust_code,
            progress=told,
        )
    if not is_main_process():  # an exit status other than 0 would make the launcher stop the others
        return
    terminal = output()
    print_comparison(terminal, comparison)
    for note in comparison.notes:
        terminal.print(f"note: {escape(note)}", style="dim", highlight=False, soft_wrap=True)
    terminal.print(f"\nThe page: {out / 'index.html'}", highlight=False, soft_wrap=True)
    if comparison.problems:
        words = f"{len(comparison.problems)} problems; all are named in {out / 'results.json'}"
        Console(stderr=True).print(words, style="red", highlight=False, soft_wrap=True)
        raise typer.Exit(1)


def _split(words: list[str] | None) -> list[str]:
    """Split ``["a,b", "c"]`` into ``["a", "b", "c"]``."""
    return [name.strip() for one in words or () for name in one.split(",") if name.strip()]
