"""Compare attribution methods on images, by metrics, with intervals.

Batches of images are explained and measured one after the other, each saved to
disk when it is done; several processes share them; an interrupted run is resumed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xai_align._tools.checks import check_integer
from xai_align._tools.files.folder_lock import locked_folder
from xai_align._tools.files.legible import legible
from xai_align._tools.files.writable_folder import check_folder_is_writable
from xai_align._tools.options import with_changes
from xai_align._tools.progress import progress_bar
from xai_align._tools.random_state import fixed_random_state, mixed_seed
from xai_align._tools.thread_state import restores_thread_state
from xai_align.comparison.batch import run_part
from xai_align.comparison.files import available_format, write_record, write_tables
from xai_align.comparison.method_reference import default_methods
from xai_align.comparison.options import CompareOptions, Progress
from xai_align.comparison.pictures import FOLDER as PICTURES
from xai_align.comparison.plan import Plan, prepare
from xai_align.comparison.processes import Process, this_process
from xai_align.comparison.result import Comparison
from xai_align.comparison.store import FolderStore, MemoryStore, Part
from xai_align.comparison.summary import ScoreTable
from xai_align.data.images import check_results_are_outside

if TYPE_CHECKING:
    from xai_align.explanation import Explanation
    from xai_align.hookspecs import LoadedModel

#: The default metrics.
METRICS = ("insertion", "deletion")


@restores_thread_state
def compare(
    model: str | LoadedModel,
    images: Sequence[str | Path] | str | Path,
    *,
    methods: Sequence[str] | str | None = None,
    metrics: Sequence[str] | str = METRICS,
    question: str | Sequence[str] = "why",
    out: str | Path | None = None,
    limit: int | None = None,
    seed: int = 0,
    show_progress: bool = False,
    options: CompareOptions | None = None,
    **changed: Any,
) -> Comparison:
    """Explain images with several methods, measure them by several metrics, return means with intervals.

    With ``out``, every batch is saved there as soon as it is done. Called again
    with the same settings, the saved batches are read and the rest is computed.
    Launched with ``accelerate launch`` or ``torchrun``, processes share the batches.

    Failures are listed in :attr:`Comparison.problems`, their values are NaN, and
    the run continues. The model is not changed.

    Args:
        model: a reference such as ``"timm:resnet50"``, or a loaded model.
        images: files, folders and patterns. Duplicates of a picture are counted once. A ``labels.json`` in
            their folder supplies labels and boxes, for the metrics that need boxes.
        methods: names, or ``"name@layer"`` for methods that take a layer. None: the ones that are registered as
            ``by_default``: the exact readout, two baselines and a control.
        metrics: names of metrics.
        question: one or several of ``why``, ``why-not``, ``why-not-rest``, ``group``, ``group-not``.
        out: the folder for parts, tables, pictures and page; None: nothing is written.
        limit: the largest number of images.
        seed: seed of everything that is random.
        show_progress: show a progress bar.
        options: everything else; None: the defaults of :class:`~xai_align.comparison.CompareOptions`.
        **changed: single fields of the options, e.g. ``reference="pinet"``.

    Raises:
        ValueError: something that was named does not exist or does not fit, found before anything is run; or ``out``
            holds a comparison with other settings, lies among the images, or another run is writing to it.
        OSError: ``out`` cannot be written to.

    Example::

        from xai_align.data.photographs import FOLDER

        model = "timm:mobilenetv3_small_050@random"
        found = compare(model, FOLDER, methods=["pinet", "random"], metrics=["average_drop"], limit=2)
        [(row.method, row.mean, row.low, row.high) for row in found.summaries]
    """
    chosen = with_changes(options, CompareOptions, changed, "compare")
    table_format = available_format(chosen.table_format)
    check_integer("seed", seed, least=0)
    given = [images] if isinstance(images, str | Path) else list(images)
    folder = None if out is None else Path(out)
    if folder is not None:
        check_folder_is_writable(folder)
        check_results_are_outside(folder, given, recursive=chosen.recursive, inner=[PICTURES])
    process = this_process(chosen.device)
    if out is None and process.world > 1:
        raise ValueError("several processes share their results through a folder; name one")
    with fixed_random_state(mixed_seed(seed)):  # loading a model may draw its initial weights
        plan = prepare(
            model,
            given,
            methods=default_methods() if methods is None else _listed(methods),
            metrics=_listed(metrics),
            question=question,
            limit=limit,
            seed=seed,
            options=chosen,
            device=process.device,
        )
    store = MemoryStore() if folder is None else FolderStore(folder, plan.settings)
    with locked_folder(folder if process.is_main else None):
        with progress_bar("comparing", None, shown=show_progress and process.is_main) as bar:
            listeners = [
                lambda done, total, problems: bar.move_to(done, total),
                *([] if chosen.progress is None else [chosen.progress]),
            ]
            _run_parts(plan, store, process, folder, listeners)
        scores = ScoreTable(plan)
        for part in _finished(plan, store):
            scores.add(part)
        comparison = scores.comparison(values_file="" if folder is None else f"values.{table_format}")
        if folder is not None and process.is_main:
            write_tables(_finished(plan, store), folder, table_format)
            write_record(comparison, folder)
            write_comparison_page(comparison, folder)
        process.wait()
    return comparison


def _listed(names: Sequence[str] | str) -> Sequence[str]:
    """Return names as a list; a single name may be given as a string."""
    return [names] if isinstance(names, str) else names


def _run_parts(
    plan: Plan, store: FolderStore | MemoryStore, process: Process, folder: Path | None, listeners: Sequence[Progress]
) -> None:
    """Run this process's share of the batches that are not done yet."""
    waiting = [number for number in range(plan.num_parts) if store.read(number) is None]
    damaged = {number for number in waiting if store.has_file(number)}
    process.wait()  # every process has checked before the first one writes
    if process.is_main:
        store.begin()
    process.wait()

    def describe(explanation: Explanation, position: int, image: str) -> str:
        from xai_align.report.page_answer import answer_json, answer_of
        from xai_align.report.record import record_of

        record = record_of(explanation, image=legible(image), output=plan.output, position=position)
        return answer_json(answer_of(record))

    shard = waiting[process.rank :: process.world]
    total, done = sum(map(plan.steps, shard)), 0

    def report(steps: int, problems: Sequence[str] = ()) -> None:
        nonlocal done
        done += steps
        for listener in listeners:
            listener(done, total, problems)

    for number in shard:
        part = run_part(plan, number, out=folder, advance=report, describe=describe)
        if number in damaged:
            part.notes["was computed again, because that part of an earlier run was damaged"] = len(part.images)
        store.write(part)
        report(0, part.problems)
    process.wait()


def _finished(plan: Plan, store: FolderStore | MemoryStore) -> Iterator[Part]:
    for number in range(plan.num_parts):
        part = store.read(number)
        if part is None:
            raise OSError(f"part {number} no longer exists; run the same command again to compute it")
        yield part


def write_comparison_page(comparison: Comparison, folder: Path) -> None:
    """Write ``index.html``; jinja2 and the figures are imported only now."""
    from xai_align.report import comparison_page

    comparison_page.write_comparison_page(comparison, folder)
