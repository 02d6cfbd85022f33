"""Progress bar of a fit, with the last epoch's loss and metric."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from xai_align._tools.progress import progress_bar
from xai_align.training.pinet.metric import metric_of
from xai_align.training.pinet.run import Run


@contextmanager
def progress(run: Run, steps: int, shown: bool) -> Iterator[Callable[[int], None]]:
    """Yield a function that counts one step of an epoch on the bar."""
    metric = metric_of(run.settings.loss.task).name
    shown = shown and run.accelerator.is_main_process
    total, done = steps * run.settings.epochs, run.training.step
    with progress_bar("fitting", total, shown=shown, done=done, timed="step") as bar:

        def advance(epoch: int) -> None:
            last = run.training.history[-1] if run.training.history else {}
            known = "".join(f", {name} {last[name]:.4g}" for name in ("loss", metric) if name in last)
            bar.describe(f"epoch {epoch}/{run.settings.epochs}{known}")
            bar.advance()

        yield advance
