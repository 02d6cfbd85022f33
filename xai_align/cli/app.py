"""The command line: all commands, the longer ones from a file of their own.

Each command only parses its options, calls the library, and shows the result.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from xai_align._tools.version import __version__
from xai_align.cli.compare_command import compare_command
from xai_align.cli.explain_command import explain_command
from xai_align.cli.export_command import export_command
from xai_align.cli.fit_align_command import fit_align_command
from xai_align.cli.fit_epic_command import fit_epic_command
from xai_align.cli.fit_fei_command import fit_fei_command
from xai_align.cli.fit_pinet_command import fit_pinet_command
from xai_align.cli.serve_command import serve_command
from xai_align.cli.shared_options import out_path
from xai_align.cli.terminal import output, progress_bar, report_errors, writable_output

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

app = typer.Typer(
    name="xai-align",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Aligned explanations: the prediction is the sum of its attributions.",
    epilog="Exit status: 0: success; 1: some images or methods failed; 2: the command was invalid.",
)


def main() -> None:
    """Run the command line."""
    with writable_output():
        app()


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"xai-align {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit."),
    ] = False,
) -> None:
    """Define the options of the program itself."""


def demo_command(
    out: Annotated[
        Path, typer.Option(parser=out_path, metavar="FOLDER", help="Folder for the page, the pictures and the numbers.")
    ] = Path("xai-align-demo"),
) -> None:
    """Explain example photographs.

    Runs a pretrained network on the photographs that come with the package, and writes an HTML page.
    """
    from xai_align.cli import demo
    from xai_align.cli.records_table import print_records

    with report_errors(), progress_bar() as progress:
        task = progress.add_task("explaining", total=demo.steps())
        records = demo.run_demo(out, done=lambda record: progress.advance(task))
    print_records(output(), records, [f"Page: {out / 'index.html'}"])


def plugins_command() -> None:
    """List all plugins.

    Shows the distribution and version of each, the hooks it implements, and the reason if it is not used.
    """
    from xai_align.plugins import plugin_table

    rows = []
    for plugin in plugin_table():
        hooks = ", ".join(hook.removeprefix("xai_align_") for hook in plugin.hooks)
        rows.append((plugin.name, plugin.distribution, plugin.version, hooks, plugin.status, plugin.reason))
    _print_table(("plugin", "distribution", "version", "hooks", "status", "reason"), rows)


def methods_command() -> None:
    """List methods, metrics and training recipes.

    These names can be given to `explain`, `compare` and `fit-align`.
    """
    from xai_align.plugins import attribution_methods, metrics, origin, training_recipes

    methods = [
        (name, spec.summary, origin(name).distribution, "yes" if spec.trains else "")
        for name, spec in attribution_methods().items()
    ]
    _print_table(("method", "description", "from", "trains"), methods)
    measures = [
        (name, spec.summary, origin(name, kind="metric").distribution, _BETTER[spec.higher_is_better])
        for name, spec in metrics().items()
    ]
    if measures:
        _print_table(("metric", "description", "from", "better"), measures)
    recipes = [
        (name, spec.summary, origin(name, kind="training_recipe").distribution)
        for name, spec in training_recipes().items()
    ]
    if recipes:
        _print_table(("training recipe", "description", "from"), recipes)


_BETTER = {True: "higher", False: "lower", None: ""}


def _print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    table = Table()
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    output().print(table)


app.command("demo")(demo_command)
app.command("explain")(explain_command)
app.command("compare")(compare_command)
app.command("export")(export_command)
app.command("serve")(serve_command)
app.command("fit-pinet")(fit_pinet_command)
app.command("fit-align")(fit_align_command)
app.command("fit-epic")(fit_epic_command)
app.command("fit-fei")(fit_fei_command)
app.command("methods")(methods_command)
app.command("plugins")(plugins_command)
