"""The command line: installed plugins and methods, a demo, explanations of your own images.

Each command only parses its options, calls the library, and shows the result.
Exit status: 0 all done; 1 some images or methods failed and were reported; 2 the
command itself was invalid.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from xai_align._tools.files.references import typed_on_the_command_line
from xai_align._tools.version import __version__
from xai_align.cli.compare_command import compare_command
from xai_align.cli.fit_align_command import fit_align_command
from xai_align.cli.fit_pinet_command import fit_pinet_command
from xai_align.cli.reference_options import MODEL_REFERENCES, TrustCode
from xai_align.cli.terminal import errors_in_words, output, progress_bar

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from xai_align.report.record import Record

app = typer.Typer(
    name="xai-align",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Aligned explanations: the prediction is the sum of its attributions.",
)


app.command("compare")(compare_command)
app.command("fit-pinet")(fit_pinet_command)
app.command("fit-align")(fit_align_command)


def main() -> None:
    """Run the command line."""
    app()


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"xai-align {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and stop."),
    ] = False,
) -> None:
    """Define the options of the program itself."""


@app.command("plugins")
def plugins_command() -> None:
    """Show every plugin: where it comes from, what it offers, and why it is not in use."""
    from xai_align.plugins import plugin_table

    rows = []
    for plugin in plugin_table():
        hooks = ", ".join(hook.removeprefix("xai_align_") for hook in plugin.hooks)
        rows.append((plugin.name, plugin.distribution, plugin.version, hooks, plugin.status, plugin.reason))
    _print_table(("plugin", "distribution", "version", "hooks", "status", "reason"), rows)


@app.command("methods")
def methods_command() -> None:
    """Show the attribution methods, metrics and training recipes that can be used by name."""
    from xai_align.plugins import attribution_methods, metrics, origin, training_recipes

    methods = [
        (name, spec.summary, origin(name).distribution, "yes" if spec.trains else "")
        for name, spec in attribution_methods().items()
    ]
    _print_table(("method", "what it is", "from", "trains"), methods)
    measures = [
        (name, spec.summary, origin(name, kind="metric").distribution, _BETTER[spec.higher_is_better])
        for name, spec in metrics().items()
    ]
    if measures:
        _print_table(("metric", "what it is", "from", "better"), measures)
    recipes = [
        (name, spec.summary, origin(name, kind="training_recipe").distribution)
        for name, spec in training_recipes().items()
    ]
    if recipes:
        _print_table(("training recipe", "what is learned", "from"), recipes)


_BETTER = {True: "higher", False: "lower"}


def _print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    table = Table()
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    output().print(table)


@app.command("demo")
def demo_command(
    out: Annotated[Path, typer.Option(help="Folder for the page, the pictures and the numbers.")] = Path(
        "xai-align-demo"
    ),
) -> None:
    """Explain the photographs that come with the package, with a pretrained network; write a page."""
    from xai_align.cli import demo
    from xai_align.cli.records_table import print_table
    from xai_align.report.words import footnotes, remarks

    with errors_in_words(), progress_bar() as progress:
        task = progress.add_task("explaining", total=demo.steps())
        records = demo.run_demo(out, done=lambda record: progress.advance(task))
    console = output()
    print_table(console, records)
    for note in [*footnotes(records), *remarks(records)]:
        console.print(note, style="dim", highlight=False)
    console.print(f"\nThe page: {out / 'index.html'}", highlight=False, soft_wrap=True)


@app.command("explain")
def explain_command(
    images: Annotated[list[str], typer.Argument(metavar="IMAGE...", help="Images, folders, patterns like 'a/*.jpg'.")],
    model: Annotated[
        str,
        typer.Option(metavar="REF", help=MODEL_REFERENCES),
    ],
    method: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[,NAME...]", help="Methods; `xai-align methods` shows them. Default: the exact readout."
        ),
    ] = None,
    classes: Annotated[
        list[str] | None,
        typer.Option(
            "--class", metavar="NAME|INDEX", help="Why this? Several: why this group? Default: the predicted."
        ),
    ] = None,
    foils: Annotated[
        list[str] | None,
        typer.Option("--not", metavar="NAME|INDEX", help="And why not that? 'others': all the other classes."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for pictures, arrays and numbers.")] = Path("xai-align-out"),
    layer: Annotated[
        str | None,
        typer.Option(metavar="NAME|input", help="Where to look in the network, for the methods that look at a layer."),
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ... Default: a GPU if there is one.")] = None,
    trust_code: TrustCode = False,
) -> None:
    """Explain images: a picture, the arrays (.npz) and every number (.json) for each image and method."""
    from xai_align.cli.explain_files import Task, explain_files
    from xai_align.cli.records_table import print_table
    from xai_align.report.words import footnotes, remarks

    complaints = Console(stderr=True)
    with errors_in_words(), typed_on_the_command_line():
        task = Task.prepare(
            images=images,
            model=model,
            methods=[name.strip() for one in method for name in one.split(",") if name.strip()] if method else None,
            targets=classes or (),
            foils=foils or (),
            layer=layer,
            device=device,
            trust=trust_code,
        )
    records: list[Record] = []
    failures = 0
    with errors_in_words(), progress_bar() as progress:
        bar = progress.add_task("explaining", total=task.steps)
        for result in explain_files(task, out):
            progress.advance(bar, result.steps)
            if result.problem:
                failures += result.steps
                progress.console.print(f"error: {escape(result.problem)}", style="red", highlight=False, soft_wrap=True)
            records.extend(result.records)
    if records:
        console = output()
        print_table(console, records)
        for note in [*footnotes(records), *remarks(records)]:
            console.print(note, style="dim", highlight=False)
        console.print(f"\nPictures, arrays and numbers: {out}", highlight=False, soft_wrap=True)
    if failures:
        complaints.print(f"{failures} of {task.steps} explanations were not made; see above", style="red")
        raise typer.Exit(1)
