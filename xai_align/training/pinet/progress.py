"""How far a fit is, for who watches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from xai_align.training.pinet.metric import metric_of
from xai_align.training.pinet.run import Run


@contextmanager
def progress(run: Run, steps: int, shown: bool) -> Iterator[Callable[[int], None]]:
    """Counts steps on a progress bar, if one is wanted."""
    if not shown or not run.accelerator.is_main_process:
        yield lambda epoch: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("fitting", total=steps * run.settings.epochs, completed=run.training.step)

        metric = metric_of(run.settings.loss.task).name

        def advance(epoch: int) -> None:
            last = run.training.history[-1] if run.training.history else {}
            known = "".join(f", {name} {last[name]:.4g}" for name in ("loss", metric) if name in last)
            bar.update(task, advance=1, description=f"epoch {epoch}/{run.settings.epochs}{known}")

        yield advance
